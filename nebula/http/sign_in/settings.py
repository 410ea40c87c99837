"""How a gateway lets people sign in: the provider, and what its groups may do. Pure."""

from urllib.parse import urlsplit

from msgspec import Struct

from nebula.http.origins import is_loopback
from nebula.http.sign_in.grants import Grant

LIFETIME = 8 * 3600.0
"""Seconds for which the key of a sign-in is valid."""

SCOPES = "openid email profile"
"""What is asked of a provider: that the person is named."""


class SignInSettings(Struct, frozen=True, kw_only=True):
    """A provider of OpenID Connect, and this cluster as its client.

    `secret`: "" for a public client. `device_client`: the client of `nebula login`.
    `groups_claim`: where ID tokens name a person's groups. `lifetime`: of keys, in seconds.
    """

    issuer: str
    client: str
    secret: str = ""
    device_client: str = ""
    scopes: str = SCOPES
    groups_claim: str = "groups"
    grants: tuple[Grant, ...] = ()
    lifetime: float = LIFETIME

    @property
    def client_of_devices(self) -> str:
        """The client of `nebula login`: its ID tokens are for that one."""
        return self.device_client or self.client


def safe_url(url: str) -> bool:
    """Return whether what is sent to a URL can't be read or changed on the way.

    It is https, or stays on this machine.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.username is not None or not host:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
