"""The owner of a request: a hash of its API key, which is not stored. Pure."""

import hashlib
from collections.abc import Mapping

_KEYS = (b"x-api-key", b"api-key")
"""Fields that hold nothing but a key: Anthropic's, and Azure's. `Authorization` goes before."""

FIELDS = (b"authorization", *_KEYS)
"""The fields that may hold a key. Each may occur once: a proxy may look at the first of two."""

_BEARER = b"Bearer "
_OF_BROWSERS = b"openai-insecure-api-key."
"""How OpenAI's clients in browsers, which can't set fields of a WebSocket, name their key."""


def owner(headers: Mapping[bytes, bytes]) -> str:
    """Return a hash of a request's API key, "" if it has none. The key is not verified.

    A key has one owner, whichever field it came in: its holder may send it in any of them. Other
    credentials, such as a name with a password, have owners that no key has.
    """
    known = _credentials(headers)
    return hashlib.blake2b(known, digest_size=8).hexdigest() if known else ""


def key_in(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the API key of a request; b"" if it has none."""
    known = _credentials(headers)
    return known.removeprefix(_BEARER) if known.startswith(_BEARER) else b""


def contradictory(headers: Mapping[bytes, bytes], mark: bytes) -> bool:
    """Return whether two fields hold different keys of Nebula's, which begin with `mark`."""
    known = _credentials({b"authorization": headers.get(b"authorization", b"")})
    keys = {
        known.removeprefix(_BEARER),
        *(headers[each].strip() for each in _KEYS if each in headers),
    }
    return len({each for each in keys if each.startswith(mark)}) > 1


def _credentials(headers: Mapping[bytes, bytes]) -> bytes:
    known = _authorization(headers[b"authorization"]) if b"authorization" in headers else b""
    if not known:
        key = _key(headers)
        known = _BEARER + key if key else b""
    return known


def _authorization(value: bytes) -> bytes:
    """Return a scheme and its credentials; b"" for none. A lone word is a key.

    The case of a scheme and the number of spaces behind it mean nothing (RFC 9110 11.1, 11.4).
    """
    scheme, space, credentials = value.strip().partition(b" ")
    if not space:
        return _BEARER + scheme if scheme and scheme.lower() != b"bearer" else b""
    return b"%b %b" % (scheme.capitalize(), credentials.strip())


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    for name in _KEYS:
        if name in headers and (key := headers[name].strip()):
            return key
    for offer in headers.get(b"sec-websocket-protocol", b"").split(b","):
        if offer.strip().startswith(_OF_BROWSERS):
            return offer.strip().removeprefix(_OF_BROWSERS)
    return b""


def message_id(owner: str, key: str, number: int = 0) -> str:
    """Return the message id of an owner's intent, by its `Idempotency-Key`.

    It begins with a prefix of its own, so that no client can use an id of an actor.
    `number`: the place of the intent among those of one request.
    """
    of = f"{owner}\n{number}\n{key}".encode()
    return f"http-{hashlib.blake2b(of, digest_size=16).hexdigest()}"
