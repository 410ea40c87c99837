"""What an API key may do now, in words, and what to do about it. Pure."""

from nebula.events.advised import command
from nebula.events.key import Key
from nebula.events.state import State
from nebula.history.subject import Verdict


def keys_called(state: State, reference: str) -> list[Key]:
    """Return the key with an id, or else all with that name, the newest first."""
    if reference in state.keys:
        return [state.keys[reference]]
    named = (key for key in state.keys.values() if key.name == reference)
    return sorted(named, key=lambda key: key.issued_ns, reverse=True)


def key_verdict(key: Key, now: int | None) -> Verdict:
    """Return how a key stands at a time (ns since the epoch), None for a log of the past."""
    name = f"key {key.id}" + (f" ({key.name})" if key.name else "")
    if key.revoked_ns:
        because = f": {key.reason}" if key.reason else ""
        return Verdict(f"{name} is revoked{because}")
    if now is not None and key.invalid(now):
        renews = command("key", "change", key.id, "--expires", "30d")
        return Verdict(f"{name} has expired, on {key.expires}", f"{renews} makes it valid again.")
    expires = f", until {key.expires}" if key.expires else ""
    models = ", ".join(key.models) or "no model"
    return Verdict(f"{name} is valid{expires}: {', '.join(key.scopes)}; models: {models}")
