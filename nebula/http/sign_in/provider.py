"""A gateway's view of its provider: addresses and keys, kept for a while, and codes redeemed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from nebula.http.sign_in.discovery import Metadata, discovered
from nebula.http.sign_in.fetching import ProviderFailed, asked
from nebula.http.sign_in.refusals import NotSignedIn, UnknownKey
from nebula.http.sign_in.settings import SignInSettings

if TYPE_CHECKING:
    import httpx
    from joserfc.jwk import KeySet

KEPT = 3600.0
"""Seconds for which addresses and keys are kept."""

PAUSE = 30.0
"""Seconds between two looks for a key that is not known, at least."""

AT_A_TIME = 32
"""Requests to the provider at a time; more sign-ins are refused."""

WHOLE = 20.0
"""Seconds for all requests of a step together, and for those of others that it waits for."""

T = TypeVar("T")


class TooBusy(Exception):
    """So many sign-ins are under way that another one has to wait."""


class Provider:
    """Asks a provider of OpenID Connect."""

    def __init__(
        self,
        settings: SignInSettings,
        client: "httpx.AsyncClient | None" = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        from nebula.http.sign_in import id_token  # Authlib, which gateways without sign-in spare

        self.settings = settings
        self._id_token = id_token
        self._client = client
        self._now = now
        self._metadata: Metadata | None = None
        self._keys: KeySet | None = None
        self._stale = 0.0
        self._keys_stale = 0.0
        self._next_look = 0.0
        self._asking = 0
        self._lock = asyncio.Lock()

    async def metadata(self) -> Metadata:
        """Return the provider's addresses. Raise ProviderFailed, TooBusy."""
        return await self._bounded(self._discover)

    async def checked(self, token: str, client: str, nonce: str = "") -> Mapping[str, Any]:
        """Return the claims of an ID token. Raise NotSignedIn, ProviderFailed, TooBusy."""
        issuer, now = self.settings.issuer, int(time.time())
        keys = await self._bounded(self._known_keys)
        try:
            return self._id_token.checked(token, keys, issuer, client, now, nonce=nonce)
        except UnknownKey:
            newer = await self._bounded(lambda: self._newer_keys(keys))
            if newer is keys:
                raise
            return self._id_token.checked(token, newer, issuer, client, now, nonce=nonce)

    async def redeemed(self, code: str, verifier: str, redirect: str) -> str:
        """Return the ID token for a code. Raise NotSignedIn, ProviderFailed, TooBusy."""
        settings = self.settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "client_id": settings.client,
            "code_verifier": verifier,
        }
        user = (settings.client, settings.secret) if settings.secret else None

        async def ask() -> tuple[int, dict[str, Any]]:
            where = (await self._discover()).token_endpoint
            return await asked(self._http(), where, form, user=user)

        status, told = await self._bounded(ask)
        if status >= 500:
            raise ProviderFailed(f"the provider answers {status}")
        token = told.get("id_token")
        if status != 200 or not isinstance(token, str):
            why = str(told.get("error_description") or told.get("error") or f"status {status}")
            raise NotSignedIn(f"the provider does not take the code: {why[:200]}")
        return token

    def _http(self) -> "httpx.AsyncClient":
        if self._client is None:
            import httpx  # which gateways without sign-in spare

            self._client = httpx.AsyncClient(follow_redirects=False)
        return self._client

    async def _bounded(self, ask: Callable[[], Awaitable[T]]) -> T:
        if self._asking >= AT_A_TIME:
            raise TooBusy
        self._asking += 1
        try:
            async with asyncio.timeout(WHOLE):
                return await ask()
        except TimeoutError as error:
            raise ProviderFailed(f"it has not answered within {WHOLE:g} s") from error
        finally:
            self._asking -= 1

    async def _discover(self) -> Metadata:
        async with self._lock:
            if self._metadata is None or self._now() >= self._stale:
                self._metadata = await discovered(self._http(), self.settings.issuer)
                self._stale = self._now() + KEPT
            return self._metadata

    async def _known_keys(self) -> "KeySet":
        metadata = await self._discover()
        async with self._lock:
            if self._keys is None or self._now() >= self._keys_stale:
                await self._fetch_keys(metadata)
            assert self._keys is not None
            return self._keys

    async def _newer_keys(self, than: "KeySet") -> "KeySet":
        """Return the keys that the provider has now, looked up once in PAUSE seconds."""
        metadata = await self._discover()
        async with self._lock:
            assert self._keys is not None
            if self._keys is than and self._now() >= self._next_look:
                self._next_look = self._now() + PAUSE
                await self._fetch_keys(metadata)
            return self._keys

    async def _fetch_keys(self, metadata: Metadata) -> None:
        status, told = await asked(self._http(), metadata.jwks_uri)
        if status != 200:
            raise ProviderFailed(f"{metadata.jwks_uri} answers {status}")
        try:
            self._keys = self._id_token.key_set(told)
        except ValueError as error:
            raise ProviderFailed(f"{metadata.jwks_uri}: {error}") from error
        self._keys_stale = self._now() + KEPT
