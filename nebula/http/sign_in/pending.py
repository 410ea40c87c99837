"""A sign-in of a browser between its departure to the provider and its return. Pure.

The browser itself carries it, so that any gateway can take its return: one random text in a cookie,
of which `state`, `nonce` and the verifier of PKCE (RFC 7636) are made. It needs no signature: it
holds nothing that its owner may not know or choose, and what another puts into a browser's cookie
leads no further than that browser's own sign-in would.
"""

import base64
import hashlib
import hmac
import re
from urllib.parse import urlsplit

from msgspec import Struct

SECONDS = 600
"""Seconds for a person to sign in."""

SEED_BYTES = 32
"""Random bytes of a sign-in."""

LONGEST = 2000
"""Characters of a path to which a browser returns, at most."""

_FORM = re.compile(r"([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]*)")
_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")


class Pending(Struct, frozen=True):
    """A sign-in that is under way. `then`: the path to which the browser goes after it."""

    seed: str
    then: str

    @property
    def state(self) -> str:
        """What the provider hands back: it shows that this browser has begun."""
        return self._made_for("state")

    @property
    def nonce(self) -> str:
        """What the ID token has to repeat."""
        return self._made_for("nonce")

    @property
    def verifier(self) -> str:
        """What proves to the provider that the code is used by the gateway that asked for it."""
        return self._made_for("verifier")

    def cookie(self) -> str:
        """Return it as the value of a cookie."""
        return f"{self.seed}.{_encoded(self.then.encode())}"

    def answers(self, state: str) -> bool:
        """Return whether a provider's answer with this state belongs to it."""
        return hmac.compare_digest(state.encode(), self.state.encode())

    def _made_for(self, purpose: str) -> str:
        return _encoded(hmac.digest(self.seed.encode(), purpose.encode(), hashlib.sha256))


def begun(seed: bytes, then: str) -> Pending:
    """Return a sign-in, by SEED_BYTES random bytes."""
    return Pending(_encoded(seed), then)


def carried(cookie: str, default: str) -> Pending | None:
    """Return the sign-in that a cookie carries; None if it carries none."""
    found = _FORM.fullmatch(cookie)
    if found is None:
        return None
    try:
        then = base64.urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4)).decode()
    except ValueError:
        return None
    return Pending(found[1], own_path(then, default))


def own_path(text: str, default: str) -> str:
    """Return a path of this gateway with its query, or `default` for anything that leads away."""
    if len(text) > LONGEST or _PATH.fullmatch(text) is None:
        return default
    parts = urlsplit(text)
    return default if parts.scheme or parts.netloc else text


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
