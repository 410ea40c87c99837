"""Draws new API keys."""

import secrets

from nebula.events import key_text
from nebula.events.key_text import NewKey


def new_key(identity: str) -> NewKey:
    """Return a new key with an id."""
    return key_text.made(identity, secrets.token_bytes(key_text.SECRET_BYTES))
