"""Keys of people who have signed in: their ids, and which of them are revoked. Pure."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from nebula.events.key import Key
from nebula.events.plain_text import one_line

MOST = 10
"""Valid keys of one person; a new one takes the place of the oldest."""

EXPIRED_AT_A_TIME = 8
"""Expired keys, of whomever, that a sign-in revokes: they count among those that may be valid."""

_FORM = re.compile(r"person-([0-9a-f]{16})-[0-9a-f]{16}")
_NAME = re.compile(r"[^!-~]")
_LONGEST = 200


def key_id(issuer: str, subject: str, token: str) -> str:
    """Return the id of the key that an ID token leads to: one token, one key.

    What the signature covers counts, since some signatures can be written in two ways.
    """
    signed = token.rpartition(".")[0]
    who = f"{issuer}\n{subject}"
    return f"person-{_short(who)}-{_short(signed)}"


def of_a_person(identity: str) -> bool:
    """Return whether a key's id is that of a person's key."""
    return _FORM.fullmatch(identity) is not None


def name_of(claims: Mapping[str, Any]) -> str:
    """Return how a person is called: by the verified address, else by the subject."""
    email = claims.get("email")
    verified = isinstance(email, str) and claims.get("email_verified") in (True, "true")
    return one_line(str(email if verified else claims["sub"]), _LONGEST)


def principal(name: str) -> str:
    """Return the principal of a sign-in, as events tell it."""
    return "person:" + _NAME.sub("?", name)


def surplus(keys: Mapping[str, Key], newest: str, now: int) -> dict[str, str]:
    """Return the keys to revoke after a sign-in with the key `newest`, each with the reason."""
    persons = [each for each in keys.values() if not each.revoked_ns and of_a_person(each.id)]
    expired = [each.id for each in persons if each.invalid(now)]
    mine = newest.rpartition("-")[0] + "-"
    valid = [each for each in persons if each.id.startswith(mine) and not each.invalid(now)]
    valid.sort(key=lambda each: (each.id != newest, -each.issued_ns, each.id))
    return {
        **dict.fromkeys(sorted(expired)[:EXPIRED_AT_A_TIME], "expired"),
        **{each.id: f"{MOST} newer sign-ins of the same person" for each in valid[MOST:]},
    }


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
