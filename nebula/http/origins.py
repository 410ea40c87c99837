"""Which hosts and origins a request may name, so that no web page can abuse its visitor. Pure.

A browser runs on its user's machine and in its user's network, so the sender's address proves
nothing. But a browser names the page that sends a request: `Origin` and `Sec-Fetch-Site`
(https://fetch.spec.whatwg.org/#origin-header, https://www.w3.org/TR/fetch-metadata/). A page whose
own name was made to resolve to this machine (DNS rebinding) is its own origin; the name in `Host`
reveals it. Programs that are not browsers send neither header.
"""

from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from nebula.events.endpoints import ENDPOINTS
from nebula.events.key_events import Scope

_DEFAULT_PORTS = {"http": "80", "https": "443"}

_UNREGISTRABLE = (".localhost", ".local", ".internal", ".home.arpa")
"""Endings of names that can't be registered: RFC 6761, 6762, 8375, and ICANN's `.internal`."""

_OWN_SITES = (b"same-origin", b"none")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class BadHost(ValueError):
    """A text is not a host with or without a port."""


class Doors(Struct, frozen=True):
    """Which pages may use a gateway from a browser, and under which names the gateway is known.

    `bound`: the address that it listens on. `hosts`: further names, as `--allowed-host` gives them:
    NAME, NAME:PORT, `*.NAME` for all below it, `*` for any. `origins`: pages of other origins that
    may use paths below /v1, each as `plain_origin` returns it, or `*`. `root`: the prefix of
    the gateway's paths as a proxy shows them. `open_scopes`: what a request may ask for without a
    key.
    """

    bound: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    root: str = ""
    open_scopes: tuple[Scope, ...] = ("infer",)


def parse_host(text: str) -> tuple[str, str]:
    """Split `Host` into a lower-case name without brackets or final dot, and a port or "".

    Raise BadHost for text that RFC 9110 (7.2) does not allow.
    """
    text = text.strip(" \t").lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        try:
            IPv6Address(name)
        except AddressValueError as error:
            raise BadHost(text) from error
        if not bracket or (rest and not rest.startswith(":")):
            raise BadHost(text)
        port = rest[1:]
    else:
        name, _, port = text.partition(":")
        name = name.removesuffix(".")
        if not name or not _NAME.issuperset(name):
            raise BadHost(text)
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise BadHost(text)
    return name, port


def host_allowed(doors: Doors, host: str) -> bool:
    """Return whether a gateway answers requests with this `Host`. Raise BadHost.

    A gateway on loopback answers to loopback's names only. On other addresses it answers to all
    names that no outsider can make resolve to it: addresses, names without a dot, and names of
    local networks.
    """
    name, port = parse_host(host)
    address = _address(name)
    if name == "localhost" or (address is not None and _is_loopback(address)):
        return True
    if any(_matches(each, name, port) for each in doors.hosts):
        return True
    if is_loopback(doors.bound):
        return False
    own = doors.bound.lower().removesuffix(".")
    local = "." not in name or name.endswith(_UNREGISTRABLE)
    return address is not None or local or name == own


def own_origin(doors: Doors, origin: str, host: str) -> bool:
    """Return whether an origin is the gateway's own: that of `host`, or of an allowed host.

    `host` is the request's, which was already checked. A proxy that ends TLS changes the scheme, so
    schemes are not compared.
    """
    parts = _split(origin)
    if parts is None:
        return False
    default = _DEFAULT_PORTS[parts.scheme]
    try:
        name, port = parse_host(parts.netloc)
        asked, asked_port = parse_host(host)
    except BadHost:
        return False
    port = port or default
    if name == asked and port == (asked_port or default):
        return True
    named = (each for each in doors.hosts if "*" not in each)
    return any(_authority(each, default) == (name, port) for each in named)


def let_in(doors: Doors, origin: str, path: str) -> bool:
    """Return whether a page of another, allowed origin may request a path: those of models only.

    `*` includes `null`, which any page can send: a file, a sandboxed frame.
    """
    if not doors.origins or not for_clients(path):
        return False
    return "*" in doors.origins or origin.lower() in doors.origins


def for_clients(path: str) -> bool:
    """Return whether a path is for clients of models: below /v1, without leaving it by `..`, or
    another one that engines answer.
    """
    if path in ENDPOINTS:
        return True
    return (path == "/v1" or path.startswith("/v1/")) and "/../" not in path and "/./" not in path


def plain_origin(text: str) -> str:
    """Return an allowed origin as a browser writes it. Raise ValueError that says what is wrong.

    Browsers leave out a default port. Pages within programs have schemes of their own, such as
    `tauri://localhost` and `chrome-extension://ID`.
    """
    if text == "*":
        return text
    origin = text.lower().removesuffix("/")
    scheme, separator, host = origin.partition("://")
    wrong = (
        f"{text!r} is not an origin: write https://NAME, with :PORT if it is not the usual, or *"
    )
    if not (scheme and separator and host) or not scheme.replace("-", "").isalnum():
        raise ValueError(wrong)
    try:
        name, port = parse_host(host)
    except BadHost as error:
        raise ValueError(wrong) from error
    shown = f"[{name}]" if ":" in name else name
    return (
        f"{scheme}://{shown}:{port}"
        if port not in ("", _DEFAULT_PORTS.get(scheme))
        else (f"{scheme}://{shown}")
    )


def site_allowed(site: bytes) -> bool:
    """Return whether `Sec-Fetch-Site` means the gateway's own page, or no page at all."""
    return site in _OWN_SITES


def is_loopback(host: str) -> bool:
    """Return whether an address or name to listen on is reachable from this machine only."""
    name = host.lower().strip("[]").removesuffix(".")
    address = _address(name)
    return name == "localhost" if address is None else _is_loopback(address)


def objection_to_host(text: str) -> str:
    """Return what is wrong with an allowed host, "" if nothing."""
    bare = text.removeprefix("*.")
    if text == "*":
        return ""
    try:
        parse_host(bare)
    except BadHost:
        return f"{text!r} is not a host: write NAME, NAME:PORT, *.NAME or *, without http://"
    return ""


def _matches(allowed: str, name: str, port: str) -> bool:
    if allowed == "*":
        return True
    wanted, wanted_port = parse_host(allowed.removeprefix("*."))
    if wanted_port and wanted_port != port:
        return False
    return name.endswith(f".{wanted}") if allowed.startswith("*.") else name == wanted


def _authority(host: str, default: str) -> tuple[str, str]:
    name, port = parse_host(host)
    return name, port or default


def _split(origin: str) -> SplitResult | None:
    """Return the parts of an origin; None for `null` and for schemes other than http and https."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    plain = parts.scheme in _DEFAULT_PORTS and parts.netloc
    return parts if plain and not (parts.path or parts.query or parts.fragment) else None


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _is_loopback(address: IPv4Address | IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address.is_loopback or (mapped is not None and mapped.is_loopback)
