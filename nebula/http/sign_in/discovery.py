"""The document in which a provider tells its addresses (OpenID Connect Discovery)."""

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from nebula.http.sign_in.fetching import PATIENCE, ProviderFailed, asked
from nebula.http.sign_in.settings import safe_url

if TYPE_CHECKING:
    import httpx


class Metadata(Struct, frozen=True):
    """The addresses of a provider; "" for what it does not offer."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    device_authorization_endpoint: str = ""


async def discovered(
    client: "httpx.AsyncClient", issuer: str, patience: float = PATIENCE
) -> Metadata:
    """Return what a provider tells of itself. Raise ProviderFailed."""
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    status, told = await asked(client, url, patience=patience)
    if status != 200:
        raise ProviderFailed(f"{url} answers {status}")
    try:
        found = msgspec.convert(told, Metadata)
    except msgspec.ValidationError as error:
        raise ProviderFailed(f"{url} is not a valid discovery document: {error}") from error
    if found.issuer != issuer:
        raise ProviderFailed(f"{url} is of the issuer {found.issuer[:200]!r}, not {issuer!r}")
    for name in msgspec.structs.asdict(found):
        where = getattr(found, name)
        if where and not safe_url(where):
            raise ProviderFailed(f"{url}: {name} {where[:200]!r} is not an https address")
    return found
