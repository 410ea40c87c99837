"""The fold of a key's events: what it may do, and whether it is valid."""

from datetime import UTC, datetime

from msgspec.structs import replace

from nebula.events import usage_limits
from nebula.events.key import Key
from nebula.events.key_events import KeyChanged, KeyIssued, KeyRevoked
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.vocabulary import KeyEvent

VALID = 10_000
"""Number of keys that may be valid at a time."""

REMEMBERED = 1_000
"""Number of revoked keys that the state keeps; the log has all."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def key_objection(state: State, identity: str, event: KeyEvent) -> str | None:
    """Return why an event of a key is rejected."""
    known = state.keys.get(identity)
    if isinstance(event, KeyIssued):
        if known is not None:
            return f"there is already a key {identity!r}"
        if state.valid_keys >= VALID:
            return f"{VALID:,} keys are valid, as many as may be"
    else:
        if known is None:
            return f"there is no key {identity!r}"
        if known.revoked_ns:
            return f"key {identity!r} is revoked, for good"
    if isinstance(event, KeyRevoked):
        return None
    if len(set(event.scopes)) < len(event.scopes):
        return "scopes: one of them stands there twice"
    return usage_limits.problem(event.limits)


def fold_key(state: State, record: Record, event: KeyEvent) -> State:
    """Fold a valid event of a key."""
    match event:
        case KeyIssued():
            key = Key(
                id=record.id,
                hash=event.hash,
                prefix=event.prefix,
                scopes=event.scopes,
                issued_ns=record.time,
            )
            state = replace(state, valid_keys=state.valid_keys + 1)
            return _with(state, _with_rights(key, event), record)
        case KeyChanged():
            return _with(state, _changed(state.keys[record.id], event, record.time), record)
        case KeyRevoked(reason=reason):
            key = replace(state.keys[record.id], revoked_ns=record.time, reason=reason)
            state = replace(state, valid_keys=state.valid_keys - 1)
            return _without_oldest(_with(state, key, record))


def _with(state: State, key: Key, record: Record) -> State:
    return replace(state, keys=state.keys.insert(key.id, replace(key, changed=record.seq)))


def _with_rights(key: Key, event: KeyIssued | KeyChanged) -> Key:
    return replace(
        key,
        name=event.name,
        scopes=event.scopes,
        models=event.models,
        tenant=event.tenant,
        limits=event.limits,
        expires_ns=_nanoseconds(event.expires),
    )


def _changed(key: Key, event: KeyChanged, time: int) -> Key:
    changed = _with_rights(key, event)
    if not event.hash or event.hash == key.hash:
        return changed
    overlap = int(event.overlap * 1e9)
    return replace(
        changed,
        hash=event.hash,
        prefix=event.prefix,
        old_hash=key.hash if overlap else "",
        old_until_ns=time + overlap if overlap else 0,
    )


def _nanoseconds(moment: datetime | None) -> int:
    """Return a time in ns since the epoch, at least 1; 0 for none."""
    if moment is None:
        return 0
    since = moment - _EPOCH
    return max(1, (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000)


def _without_oldest(state: State) -> State:
    """Forget the keys that were revoked longest ago, beyond those that are remembered."""
    if len(state.keys) - state.valid_keys <= REMEMBERED:
        return state
    revoked = sorted((each.changed, each.id) for each in state.keys.values() if each.revoked_ns)
    keys = state.keys
    for _, identity in revoked[:-REMEMBERED]:
        keys = keys.discard(identity)
    return replace(state, keys=keys)
