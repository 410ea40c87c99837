"""The owner of a request: a hash of its API key, which is not stored. Pure."""

import hashlib
from collections.abc import Mapping

_KEYS = (b"authorization", b"x-api-key", b"api-key")
"""Fields that hold a key: of most APIs, of Anthropic's, and of Azure's. The first counts."""


def owner(headers: Mapping[bytes, bytes]) -> str:
    """Return a hash of a request's API key, "" if it has none. The key is not verified."""
    for name in _KEYS:
        if name in headers:
            return hashlib.blake2b(headers[name], digest_size=8).hexdigest()
    return ""


def message_id(owner: str, key: str, number: int = 0) -> str:
    """Return the message id of an owner's intent, by its `Idempotency-Key`.

    It begins with a prefix of its own, so that no client can use an id of an actor.
    `number`: the place of the intent among those of one request.
    """
    of = f"{owner}\n{number}\n{key}".encode()
    return f"http-{hashlib.blake2b(of, digest_size=16).hexdigest()}"
