"""The paths by which people sign in: for `nebula login`, and the end of a session."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.events.advised import command
from nebula.events.key_events import KeyRevoked
from nebula.http.errors import ApiError, unavailable
from nebula.http.inference import Limits
from nebula.http.intents import read_intent, submitted
from nebula.http.principals import principal_of
from nebula.http.sign_in import cookies, persons
from nebula.http.sign_in.fetching import ProviderFailed
from nebula.http.sign_in.provider import Provider, TooBusy
from nebula.http.sign_in.refusals import NotSignedIn
from nebula.http.sign_in.sessions import SignedIn, signed_in


class TokenPresented(Struct, frozen=True, forbid_unknown_fields=True):
    """What proves at a gateway that a person has signed in at the provider."""

    id_token: str


class LoginSettings(Struct, frozen=True):
    """Where `nebula login` lets a person sign in."""

    issuer: str
    client: str
    scopes: str


class LoggedOut(Struct, frozen=True):
    """The key of a session was revoked; `id` is "" if there was none."""

    id: str


def configured(sign_in: Provider | None) -> Provider:
    """Return the provider. Raise ApiError 404 where there is none."""
    if sign_in is None:
        raise ApiError(
            404,
            "this gateway has no single sign-on: --oidc-issuer names a provider. "
            "`nebula key issue ID` makes an API key",
            code="no_single_sign_on",
        )
    return sign_in


def refused(error: Exception) -> ApiError:
    """Return the answer for a sign-in that failed."""
    match error:
        case TooBusy():
            return unavailable("too many sign-ins are under way")
        case ProviderFailed():
            return ApiError(
                502,
                f"the provider of the single sign-on fails: {error}",
                kind="service_unavailable",
                code="provider_failed",
            )
        case _:
            return ApiError(401, str(error), kind="authentication_error", code="not_signed_in")


FAILURES = (NotSignedIn, ProviderFailed, TooBusy)


@get("/login/settings")
async def show_settings(sign_in: Provider | None) -> LoginSettings:
    """Return the provider at which `nebula login` signs a person in."""
    settings = configured(sign_in).settings
    return LoginSettings(settings.issuer, settings.client_of_devices, settings.scopes)


@post("/login/token", status_code=201, request_max_body_size=None)
async def take_token(
    request: Request[Any, Any, Any], gateway: Gateway, limits: Limits, sign_in: Provider | None
) -> SignedIn:
    """Return a short-lived key for the ID token of a person who has signed in."""
    provider = configured(sign_in)
    given, _ = await read_intent(request, gateway, limits, TokenPresented, optional=False)
    try:
        claims = await provider.checked(given.id_token, provider.settings.client_of_devices)
    except FAILURES as error:
        raise refused(error) from error
    return await signed_in(request, gateway, provider.settings, claims, given.id_token)


@post("/logout", status_code=200)
async def log_out(request: Request[Any, Any, Any], gateway: Gateway) -> Response[LoggedOut]:
    """Revoke the key of the sign-in that asks for it, and clear the browser's cookie."""
    name, _ = cookies.named(dict(request.scope["headers"]), cookies.SESSION)
    secure = name.startswith(cookies.SECURE)
    gone = Cookie(key=name, value="", path="/", max_age=0, secure=secure, httponly=True)
    revoked = await _revoked(request, gateway)
    return Response(LoggedOut(revoked), cookies=[gone] if name else [])


async def _revoked(request: Request[Any, Any, Any], gateway: Gateway) -> str:
    """Revoke the key of a session and return its id; "" if there is none. Raise ApiError."""
    try:
        key = principal_of(request.scope).key
    except ApiError as error:
        if error.status != 401:
            raise
        key = None
    if key is None:
        return ""
    if not persons.of_a_person(key.id):
        raise ApiError(
            400,
            f"the API key {key.prefix}… does not come from a sign-in: "
            f"{command('key', 'revoke', key.id)} revokes it",
            code="no_session",
        )
    await submitted(request, gateway, key.id, KeyRevoked("logged out"))
    return key.id
