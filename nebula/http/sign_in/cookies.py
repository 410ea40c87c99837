"""The cookies of a browser: what carries its sign-in, and the session's key. Pure.

Over https their names begin with `__Host-`, so that no other host can set them. Without it they
count on this machine only, where a key travels no further.
"""

from collections.abc import Mapping

from nebula.http.credentials import key_in
from nebula.http.errors import ApiError
from nebula.http.origins import BadHost, Doors, is_loopback, own_origin, parse_host

SIGN_IN = "nebula-sign-in"
SESSION = "nebula-key"
SECURE = "__Host-"

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))


def address_of(headers: Mapping[bytes, bytes], root: str) -> str:
    """Return the gateway's address as the browser knows it. Raise ApiError where it is not safe."""
    host = headers.get(b"host", b"").decode("latin-1")
    if is_https(headers):
        return f"https://{host}{root}"
    if on_this_machine(headers):
        return f"http://{host}{root}"
    raise ApiError(
        400,
        "signing in needs https, or a browser on the gateway's machine: a key would travel in "
        "clear. A proxy with TLS says so with X-Forwarded-Proto: https",
        code="insecure",
    )


def is_https(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a proxy says that the browser asked over https."""
    return headers.get(b"x-forwarded-proto", b"").partition(b",")[0].strip() == b"https"


def on_this_machine(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request names the gateway by an address of its own machine."""
    try:
        return is_loopback(parse_host(headers.get(b"host", b"").decode("latin-1"))[0])
    except BadHost:
        return False


def named(headers: Mapping[bytes, bytes], name: str) -> tuple[str, str]:
    """Return the full name and the value of a cookie; "" for both if there is none that counts."""
    found: dict[str, str] = {}
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        key, _, value = part.strip().partition("=")
        found.setdefault(key, value)
    for full in (SECURE + name, name):
        if found.get(full) and (full != name or on_this_machine(headers)):
            return full, found[full]
    return "", ""


def with_session(
    method: str, headers: Mapping[bytes, bytes], doors: Doors
) -> Mapping[bytes, bytes]:
    """Return a request's headers with the key of its session, if no other key is sent.

    Raise ApiError 403 unless it comes from one of the gateway's own pages: a browser sends cookies
    on behalf of others too. `method`: "" for a WebSocket.
    """
    if key_in(headers):
        return headers
    _, key = named(headers, SESSION)
    if not key:
        return headers
    origin = headers.get(b"origin")
    own = origin is not None and own_origin(
        doors, origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")
    )
    if not own and (origin is not None or method not in _SAFE):
        raise ApiError(
            403,
            "a session's cookie counts for requests of this gateway's own pages only, which name "
            "it as their Origin. Programs send a key as `Authorization: Bearer KEY`",
            kind="permission_error",
            code="foreign_origin",
        )
    return {**headers, b"authorization": b"Bearer " + key.encode("latin-1")}
