"""What a sign-in ends in: a short-lived API key, issued as any other key is."""

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.new_keys import new_key
from nebula.events.key_events import KeyIssued, KeyRevoked
from nebula.http.errors import ApiError
from nebula.http.intents import submitted
from nebula.http.sign_in import persons
from nebula.http.sign_in.grants import granted, groups_in
from nebula.http.sign_in.settings import SignInSettings
from nebula.http.views import KeyView, key_view

log = logging.getLogger(__name__)


class SignedIn(Struct, frozen=True):
    """A person has signed in: `secret` is the key, which is shown this once."""

    id: str
    secret: str
    name: str
    rights: KeyView


async def signed_in(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    settings: SignInSettings,
    claims: Mapping[str, Any],
    token: str,
) -> SignedIn:
    """Issue the key of a person, by the claims of an ID token. Raise ApiError.

    An ID token leads to one key. Beyond the most keys of one person the oldest are revoked.
    """
    name = persons.name_of(claims)
    rights = granted(groups_in(claims, settings.groups_claim), settings.grants)
    if rights is None:
        raise ApiError(
            403,
            f"{name} is in no group that may use this cluster. The claim {settings.groups_claim!r} "
            "names the groups, and --oidc-grant of the gateway says what each may do",
            kind="permission_error",
            code="no_grant",
        )
    identity = persons.key_id(settings.issuer, claims["sub"], token)
    by = persons.principal(name)
    if identity in gateway.projection.state.keys:
        raise used()
    new = new_key(identity)
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=settings.lifetime)
    event = KeyIssued(
        new.hash, rights.scopes, name, new.prefix, tenant=rights.tenant, expires=expires
    )
    try:
        await submitted(request, gateway, identity, event, by=by)
    except ApiError as error:
        if identity in gateway.projection.state.keys:  # by the same token at another gateway
            raise used() from error
        raise
    await _revoke_surplus(request, gateway, identity, by)
    key = gateway.projection.state.keys[identity]
    return SignedIn(identity, new.text, name, key_view(key))


def used() -> ApiError:
    """Return the error for an ID token that was handed in before."""
    return ApiError(
        401,
        "this ID token was used already: sign in again",
        kind="authentication_error",
        code="id_token_used",
    )


async def _revoke_surplus(
    request: Request[Any, Any, Any], gateway: Gateway, newest: str, by: str
) -> None:
    """Revoke what the new key takes the place of; what fails is left to the next sign-in."""
    surplus = persons.surplus(gateway.projection.state.keys, newest, time.time_ns())
    for identity, reason in surplus.items():
        try:
            await submitted(request, gateway, identity, KeyRevoked(reason), by=by)
        except ApiError as error:
            log.warning("key %s is not revoked: %s", identity, error)
