"""One API key in the state of the cluster. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from msgspec import Struct

from nebula.events.key_events import Scope
from nebula.events.usage_limits import NO_LIMITS, UsageLimits

INCLUDES: dict[Scope, frozenset[Scope]] = {
    "infer": frozenset({"infer"}),
    "view": frozenset({"view"}),
    "operate": frozenset({"operate", "view"}),
    "admin": frozenset({"admin", "operate", "view", "infer"}),
}
"""The scopes that each scope includes."""


class Key(Struct, frozen=True, gc=False, kw_only=True):
    """An API key, of which only a hash is known.

    `prefix`: its first characters, for recognition. `models`: names of models with `*` for any
    text. `old_hash` is valid until `old_until`, after a rotation. Times are in ns since the epoch,
    0 for none. `changed`: the sequence of its last event.
    """

    id: str
    hash: str
    scopes: tuple[Scope, ...]
    name: str = ""
    prefix: str = ""
    models: tuple[str, ...] = ("*",)
    tenant: str = ""
    limits: UsageLimits = NO_LIMITS
    expires_ns: int = 0
    issued_ns: int = 0
    revoked_ns: int = 0
    reason: str = ""
    old_hash: str = ""
    old_until_ns: int = 0
    changed: int = 0

    @property
    def expires(self) -> str:
        """When it stops being valid, as ISO 8601 in UTC; "" for never."""
        if not self.expires_ns:
            return ""
        text = datetime.fromtimestamp(self.expires_ns // 10**9, UTC).isoformat()
        return text.replace("+00:00", "Z")

    def invalid(self, now: int) -> str:
        """Return why it is not valid at a time (ns since the epoch), in a word; "" if it is."""
        if self.revoked_ns:
            return "revoked"
        return "expired" if self.expires_ns and now >= self.expires_ns else ""

    def has(self, scope: Scope) -> bool:
        """Return whether it has a scope, perhaps within a larger one."""
        return any(scope in INCLUDES[each] for each in self.scopes)

    def may_use(self, name: str) -> bool:
        """Return whether it may use the model, adapter or alias with this name."""
        models = self.models
        if name in models or "*" in models:
            return True
        return any(_matches(pattern, name) for pattern in models)


def key_of(keys: Mapping[str, Key], user: str) -> Key | None:
    """Return the key that made a request, by the request's `user`; None for none."""
    mark, _, identity = user.partition("/")[0].partition(":")
    return keys.get(identity) if mark == "key" else None


OF_KEY = "key:"
"""What the user of a request begins with that was made with a key of the log."""


def tenant_of(keys: Mapping[str, Key], user: str) -> str:
    """Return the tenant whose key made a request, by the request's `user`; "" for none."""
    key = key_of(keys, user)
    return key.tenant if key is not None else ""


def _matches(pattern: str, name: str) -> bool:
    return "*" in pattern and fnmatchcase(name, pattern.replace("[", "[[]").replace("?", "[?]"))
