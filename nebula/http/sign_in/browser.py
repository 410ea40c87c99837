"""Signing in with a browser: the authorization code flow with PKCE."""

import secrets
from collections.abc import Mapping
from typing import Any, Literal

from litestar import Request, Response, get
from litestar.datastructures import Cookie

from nebula.actors.gateway.actor import Gateway
from nebula.http.errors import ApiError
from nebula.http.sign_in import cookies, page, pending
from nebula.http.sign_in.pending import Pending
from nebula.http.sign_in.provider import Provider
from nebula.http.sign_in.refusals import NotSignedIn
from nebula.http.sign_in.routes import FAILURES, configured, refused
from nebula.http.sign_in.sessions import SignedIn, signed_in


@get("/login")
async def begin(
    request: Request[Any, Any, Any], sign_in: Provider | None, root: str
) -> Response[str]:
    """Send a browser to the provider, to sign in there."""
    from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # here with the provider
    from authlib.oauth2.rfc7636 import create_s256_code_challenge

    provider = configured(sign_in)
    settings, headers = provider.settings, dict(request.scope["headers"])
    try:
        redirect = _redirect(headers, root)
        metadata = await provider.metadata()
    except (ApiError, *FAILURES) as error:
        return _failed(error, root)
    then = pending.own_path(request.query_params.get("next", ""), f"{root}/docs")
    begun = pending.begun(secrets.token_bytes(pending.SEED_BYTES), then)
    where = prepare_grant_uri(
        metadata.authorization_endpoint,
        settings.client,
        "code",
        redirect,
        settings.scopes,
        begun.state,
        nonce=begun.nonce,
        code_challenge=create_s256_code_challenge(begun.verifier),
        code_challenge_method="S256",
    )
    carrying = _cookie(headers, cookies.SIGN_IN, begun.cookie(), pending.SECONDS, "lax")
    return Response(
        "", status_code=303, headers={**page.HEADERS, "location": where}, cookies=[carrying]
    )


@get("/login/callback")
async def call_back(
    request: Request[Any, Any, Any], gateway: Gateway, sign_in: Provider | None, root: str
) -> Response[str]:
    """Take a browser back from the provider, and let it hold a session's key in a cookie."""
    provider = configured(sign_in)
    headers = dict(request.scope["headers"])
    query = request.query_params
    told = {name: query.get(name, "") for name in ("state", "code", "iss", "error")}
    try:
        redirect = _redirect(headers, root)
        carried = pending.carried(cookies.named(headers, cookies.SIGN_IN)[1], f"{root}/docs")
        person = await _person(request, gateway, provider, carried, told, redirect)
    except (ApiError, *FAILURES) as error:
        return _failed(error, root)
    assert carried is not None
    lifetime = int(provider.settings.lifetime)
    return Response(
        page.welcome(person.name, carried.then),
        media_type="text/html",
        headers=page.HEADERS,
        cookies=[
            _cookie(headers, cookies.SESSION, person.secret, lifetime, "strict"),
            _cookie(headers, cookies.SIGN_IN, "", 0, "lax"),
        ],
    )


async def _person(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    provider: Provider,
    carried: Pending | None,
    told: Mapping[str, str],
    redirect: str,
) -> SignedIn:
    """Return what the person at a browser that comes back gets. Raise ApiError, FAILURES."""
    if carried is None or not carried.answers(told["state"]):
        raise NotSignedIn(
            "this browser has not begun this sign-in, or began it more than ten minutes ago, or "
            "began another one since"
        )
    settings = provider.settings
    if told["iss"] not in ("", settings.issuer):  # RFC 9207
        raise NotSignedIn("iss: the answer comes from another provider")
    if told["error"] or not told["code"]:
        raise NotSignedIn(f"the provider says: {told['error'][:200] or 'no code'}")
    token = await provider.redeemed(told["code"], carried.verifier, redirect)
    claims = await provider.checked(token, settings.client, carried.nonce)
    return await signed_in(request, gateway, settings, claims, token)


def _redirect(headers: Mapping[bytes, bytes], root: str) -> str:
    return f"{cookies.address_of(headers, root)}/login/callback"


def _cookie(
    headers: Mapping[bytes, bytes],
    name: str,
    value: str,
    seconds: int,
    site: Literal["lax", "strict"],
) -> Cookie:
    secure = cookies.is_https(headers)
    return Cookie(
        key=(cookies.SECURE if secure else "") + name,
        value=value,
        path="/",
        max_age=seconds,
        secure=secure,
        httponly=True,
        samesite=site,
    )


def _failed(error: Exception, root: str) -> Response[str]:
    told = error if isinstance(error, ApiError) else refused(error)
    return Response(
        page.failure(str(told), f"{root}/login"),
        status_code=told.status,
        media_type="text/html",
        headers={**page.HEADERS, **told.headers},
    )
