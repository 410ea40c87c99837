"""The text of an API key: `nbl_ID_SECRET`, and what of it the log holds. Pure."""

import base64
import hashlib
import re

from msgspec import Struct

SECRET_BYTES = 32
"""Random bytes of a key: so many that a plain hash is enough to hide them."""

MARK = "nbl_"
"""How every key begins."""

_FORM = re.compile(rf"{MARK}([A-Za-z0-9_-]{{1,128}})_[A-Za-z0-9_-]{{43}}")
_SHOWN = 6
"""Characters of the secret by which its holder recognizes a key."""
_SHOWN_ID = 32
"""Characters of the id in a prefix: one that is as long as a key would be hidden as a secret."""


class NewKey(Struct, frozen=True):
    """A key that was made now: its text for its holder, its hash and prefix for the log.

    `prefix` has the first characters of its id and of its secret.
    """

    text: str
    hash: str
    prefix: str


def made(identity: str, secret: bytes) -> NewKey:
    """Return the key with an id and SECRET_BYTES random bytes."""
    encoded = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    text = f"{MARK}{identity}_{encoded}"
    begin = identity if len(identity) <= _SHOWN_ID else f"{identity[: _SHOWN_ID - 2]}.."
    return NewKey(text, hashed(text), f"{MARK}{begin}_{encoded[:_SHOWN]}")


def hashed(text: str) -> str:
    """Return the hash of a key that the log holds: SHA-256, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def identity_in(text: str) -> str:
    """Return the id within a key's text; "" if it does not have the form of a key."""
    found = _FORM.fullmatch(text)
    return "" if found is None else found[1]
