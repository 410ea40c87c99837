"""Signs a person in at a provider from a terminal (RFC 8628), and hands the ID token in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx
import msgspec
from msgspec import Meta, Struct

from nebula.events.reading import UNREADABLE
from nebula.http.sign_in.discovery import discovered
from nebula.http.sign_in.fetching import ProviderFailed, asked
from nebula.http.sign_in.settings import safe_url

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SLOWER = 5.0
"""Seconds that are added to the pause between two questions if the provider says `slow_down`."""

LONGEST = 1800.0
"""Seconds to wait for a person, whatever the provider says."""


class NotLoggedIn(Exception):
    """The sign-in failed; the text says why."""


class Client(Struct, frozen=True):
    """Where to sign in: what a gateway says."""

    issuer: str
    client: str
    scopes: str


class Authorization(Struct, frozen=True):
    """What a person has to do, and how the program asks whether it is done."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str = ""
    expires_in: float = LONGEST
    interval: Annotated[float, Meta(ge=0.0, le=60.0)] = 5.0


async def id_token(
    http: httpx.AsyncClient,
    client: Client,
    tell: Callable[[Authorization], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> str:
    """Return the ID token of the person who signs in. Raise NotLoggedIn, ProviderFailed.

    `tell` tells the person where to sign in.
    """
    metadata = await discovered(http, client.issuer)
    where = metadata.device_authorization_endpoint
    if not where:
        raise NotLoggedIn(f"{client.issuer} has no device flow: sign in with a browser")
    status, told = await asked(http, where, {"client_id": client.client, "scope": client.scopes})
    if status != 200:
        raise NotLoggedIn(f"{client.issuer} does not start the sign-in: {_why(status, told)}")
    try:
        authorization = msgspec.convert(told, Authorization)
    except msgspec.ValidationError as error:
        raise ProviderFailed(f"{where} does not answer as RFC 8628 says: {error}") from error
    tell(authorization)
    pause = authorization.interval
    left = min(authorization.expires_in, LONGEST)
    form = {"grant_type": GRANT, "device_code": authorization.device_code}
    while left > 0:
        await sleep(pause)
        left -= max(pause, 0.1)
        status, told = await asked(
            http, metadata.token_endpoint, {**form, "client_id": client.client}
        )
        match told.get("error"):
            case "authorization_pending":
                continue
            case "slow_down":
                pause += SLOWER
            case "access_denied":
                raise NotLoggedIn("the sign-in was refused")
            case "expired_token":
                break
            case _:
                token = told.get("id_token")
                if status != 200 or not isinstance(token, str):
                    raise NotLoggedIn(f"the sign-in at {client.issuer} fails: {_why(status, told)}")
                return token
    raise NotLoggedIn("the code has expired: start again")


def _why(status: int, told: dict[str, Any]) -> str:
    return str(told.get("error_description") or told.get("error") or f"status {status}")[:200]


async def logged_in(gateway: str, tell: Callable[[Authorization], None]) -> dict[str, Any]:
    """Sign in for a gateway; return what it answers, with the key as `secret`. Raise as above."""
    async with httpx.AsyncClient() as http:
        told = await _of_gateway(http, "GET", f"{gateway}/login/settings")
        try:
            client = msgspec.convert(told, Client)
        except msgspec.ValidationError as error:
            raise NotLoggedIn(f"{gateway} is not a gateway of Nebula: {error}") from error
        if not safe_url(client.issuer):
            raise NotLoggedIn(f"{gateway} names the provider {client.issuer!r}, which is not https")
        token = await id_token(http, client, tell)
        return await _of_gateway(http, "POST", f"{gateway}/login/token", json={"id_token": token})


async def logged_out(gateway: str, key: str) -> None:
    """Revoke a key at its gateway. Raise NotLoggedIn if the gateway does not say so."""
    async with httpx.AsyncClient() as http:
        await _of_gateway(
            http, "POST", f"{gateway}/logout", headers={"authorization": f"Bearer {key}"}
        )


async def _of_gateway(
    http: httpx.AsyncClient, method: str, url: str, **more: Any
) -> dict[str, Any]:
    """Return a gateway's JSON answer. Raise NotLoggedIn with what it says."""
    try:
        answer = await http.request(method, url, timeout=60.0, **more)
        told = msgspec.json.decode(answer.content, type=dict[str, Any])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotLoggedIn(f"{url} can't be reached: {error or type(error).__name__}") from error
    except UNREADABLE as error:
        raise NotLoggedIn(f"{url} does not answer as a gateway does, with JSON") from error
    if answer.is_success:
        return told
    said = told.get("error")
    words = said.get("message") if isinstance(said, dict) else None
    raise NotLoggedIn(str(words or f"{url} answers {answer.status_code}"))
