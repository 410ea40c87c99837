"""The command that asks for the same as an intent. Pure."""

from nebula.events.advised import command
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    EngineKillRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.history.load_command import load_words


def intent_command(state: State, identity: str, event: Event) -> str:
    """Return the command that asks for the same, as a shell takes it; empty if there is none."""
    words = _words(state, identity, event)
    return command(*words).strip("`") if words else ""


def _words(state: State, identity: str, event: Event) -> tuple[str, ...]:
    match event:
        case ModelLoadRequested():
            return load_words(identity, event)
        case ModelScaleRequested():
            return ("scale", identity, str(event.replicas))
        case ModelUnloadRequested():
            return ("unload", identity)
        case AdapterLoadRequested():
            return ("adapters", "load", identity, event.name, event.source)
        case AdapterUnloadRequested():
            return ("adapters", "unload", identity, event.name)
        case AliasRequested():
            shares = (f"{each.model}={each.weight}" for each in event.targets)
            mirror = ("--mirror", event.mirror) if event.mirror else ()
            return ("alias", _alias(state, identity, event.name), *shares, *mirror)
        case AliasRemoveRequested():
            return ("alias", _alias(state, identity, ""), "--remove")
        case EngineKillRequested():
            return ("kill", identity)
        case NodeDrainRequested():
            return ("drain", identity)
        case NodeUndrainRequested():
            return ("drain", identity, "--undo")
        case _:
            return ()


def _alias(state: State, identity: str, name: str) -> str:
    """Return the name by which the command finds an alias, or makes it."""
    known = state.aliases.get(identity)
    return known.name if known is not None else name or identity
