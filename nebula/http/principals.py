"""The principal of a request, and what it may ask for: the holder of an API key, or anyone."""

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from msgspec import Struct

from nebula.events import key_text
from nebula.events.key import INCLUDES, OF_KEY, Key
from nebula.events.key_events import Scope
from nebula.http.credentials import contradictory, key_in, owner
from nebula.http.errors import ApiError
from nebula.http.field_lines import FieldLines

ANONYMOUS = "anonymous"
"""The principal of a request without a key."""

STATE = "principal"
"""Where the state of an ASGI scope has the principal, or the error for its key."""

PRESENT = "present_principal"
"""Where the state of a WebSocket has a function that finds its principal anew."""

_REMEMBERED = 4096
"""Values of `Authorization` whose principal is remembered, at most."""

_MARK = key_text.MARK.encode()


_UNKNOWN = (
    "the API key is not valid: this cluster has not issued it, or it is not complete. A key has "
    "three parts, as nbl_ID_SECRET"
)
"""Said whether or not there is a key with that id: only a key's holder learns of it."""


class Principal(Struct, frozen=True, gc=False):
    """The caller of a request. `owner`: the owner of the answers. `scopes`: what it may ask for."""

    owner: str
    scopes: frozenset[Scope]
    key: Key | None = None

    @property
    def name(self) -> str:
        """What the log calls it, as `key:ci`."""
        return ANONYMOUS if self.key is None else f"{OF_KEY}{self.key.id}"

    @property
    def tenant(self) -> str:
        """The tenant of its key; "" for none."""
        return "" if self.key is None else self.key.tenant

    def may_use(self, model: str) -> bool:
        """Return whether it may use the model, adapter or alias with this name."""
        return self.key is None or self.key.may_use(model)


class KeyRing:
    """Recognizes the keys of requests. A key that is not valid costs a hash and leaves no trace.

    Args:
        keys: returns the keys as the log tells of them now.
        open_scopes: what a request may ask for without a key.
        now: the time in ns since the epoch.
    """

    def __init__(
        self,
        keys: Callable[[], Mapping[str, Key]],
        open_scopes: Iterable[Scope],
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._present = keys
        self._now = now
        self._open = frozenset(each for scope in open_scopes for each in INCLUDES[scope])
        self._known: dict[bytes, Principal] = {}
        self._keys: Mapping[str, Key] = {}

    def principal(self, headers: Mapping[bytes, bytes], lines: object = None) -> Principal:
        """Return the principal of a request. Raise ApiError 401 for a key that is not valid.

        `lines`: keep it with these FieldLines for `principal_again`, if it stays the same.
        """
        keys = self._present()
        if keys is not self._keys:
            self._keys = keys
            self._known.clear()
        if (b"x-api-key" in headers or b"api-key" in headers) and contradictory(headers, _MARK):
            text = "the header fields hold different API keys: send one"
            raise ApiError(400, text, code="different_keys")
        sent, lasts = headers.get(b"authorization", b""), True
        known = self._known.get(sent)
        if known is None:
            known, lasts = self._recognized(headers)
            if sent and lasts:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[sent] = known
        key = known.key
        if key is not None and (why := key.invalid(self._now())):
            raise _refused(f"the API key {key.prefix}… is {why}", f"key_{why}")
        if lasts and (key is None or not key.expires_ns) and type(lines) is FieldLines:
            lines.facts[self] = keys, known
        return known

    def principal_again(self, lines: object) -> Principal | None:
        """Return the principal that is known of fields which came before; None if it is not."""
        if type(lines) is not FieldLines:
            return None
        found: tuple[object, Principal] | None = lines.facts.get(self)
        return found[1] if found is not None and found[0] is self._present() else None

    def of_owner(self, owner: str) -> Principal:
        """Return the principal that owns something which was stored earlier. Raise ApiError 401."""
        if not owner.startswith(OF_KEY):
            if "infer" not in self._open:
                raise _refused("this was asked for without an API key", "missing_api_key")
            return Principal(owner, self._open)
        key = self._present().get(owner.removeprefix(OF_KEY))
        if key is None:
            raise _refused("the API key that asked for this is not known any more", "invalid_key")
        if why := key.invalid(self._now()):
            raise _refused(
                f"the API key {key.prefix}…, which asked for this, is {why}", f"key_{why}"
            )
        return self._with(key)

    def _recognized(self, headers: Mapping[bytes, bytes]) -> tuple[Principal, bool]:
        """Return the principal, and whether it stays the same until the keys change.

        Raise ApiError 401.
        """
        plain = key_in(headers).decode("latin-1")
        if not plain.startswith(key_text.MARK):
            return Principal(owner(headers), self._open), True
        key = self._keys.get(key_text.identity_in(plain))
        if key is None:
            raise _refused(_UNKNOWN)
        hashed = key_text.hashed(plain)
        if hmac.compare_digest(hashed, key.hash):
            return self._with(key), True
        if not (key.old_hash and hmac.compare_digest(hashed, key.old_hash)):
            raise _refused(_UNKNOWN)
        if self._now() >= key.old_until_ns:
            raise _refused(f"the API key was replaced by {key.prefix}…", "key_replaced")
        return self._with(key), False

    def _with(self, key: Key) -> Principal:
        scopes = frozenset(each for scope in key.scopes for each in INCLUDES[scope])
        return Principal(f"{OF_KEY}{key.id}", scopes | self._open, key)


def _refused(text: str, code: str = "invalid_api_key") -> ApiError:
    return ApiError(401, text, kind="authentication_error", code=code)


def principal_of(scope: Any) -> Principal:
    """Return the principal of a request of ASGI. Raise ApiError for a key that is not valid."""
    return _valid(scope["state"][STATE])


def _valid(found: object) -> Principal:
    if isinstance(found, ApiError):
        raise found
    return cast("Principal", found)


def caller(scope: Any) -> Principal | None:
    """Return the principal of a request; None if no key is ever asked for. Raise ApiError."""
    found = scope.get("state", {}).get(STATE)
    return None if found is None else _valid(found)


def tenant_of(scope: Any) -> str:
    """Return the tenant of a request's key; "" for none, and where no key is asked for."""
    found = caller(scope)
    return "" if found is None else found.tenant


def required(scope: Any, needed: Scope) -> Principal:
    """Return the principal of a request of ASGI that needs a scope.

    Raise ApiError: 401 without a valid key, 403 for a key without that scope, and what stood in
    the way of a check.
    """
    found = scope["state"][STATE]
    if type(found) is Principal and needed in found.scopes:
        return found
    return _having(_valid(found), needed)


def still_required(scope: Any, needed: Scope) -> Principal:
    """Return the principal that a connection of ASGI has by now. Raise ApiError as `required`."""
    return _having(_valid(scope["state"][PRESENT](scope)), needed)


def _having(principal: Principal, needed: Scope) -> Principal:
    if needed in principal.scopes:
        return principal
    if principal.key is None:
        raise _refused(
            f"this needs an API key with the scope {needed}: send it as `Authorization: Bearer "
            "KEY`. `nebula key issue ID` makes one, and `nebula up` has "
            "written one with all scopes to the file admin.key in its folder",
            "missing_api_key",
        )
    raise ApiError(
        403,
        f"the API key {principal.key.prefix}… has the scopes {', '.join(principal.key.scopes)}, "
        f"and this needs {needed}",
        kind="permission_error",
        code="missing_scope",
    )
