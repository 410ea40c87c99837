"""One realtime session as its gateway sees it: what follows from what each side says. Pure.

`step` takes a session and an event, and returns the session and what is to be done. A session is
OPENING until an engine has accepted it, OPEN while messages go both ways, and then OVER, which it
never leaves.

OpenAI's events: https://platform.openai.com/docs/api-reference/realtime-server-events; vLLM's:
vllm/entrypoints/speech_to_text/realtime/protocol.py, version 0.32.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from nebula.events.frames import Frame
from nebula.events.reading import UNREADABLE

NORMAL = 1000
GOING_AWAY = 1001
UNKNOWN = 1005
POLICY = 1008
INTERNAL = 1011
RESTART = 1012
TRY_LATER = 1013
"""Close codes of RFC 6455, 7.4.1, and of IANA's registry."""

_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
_REASON = 123
"""Bytes of a close frame's reason at most (RFC 6455, 5.5)."""

_UPDATE = b"session.update"
_fields = msgspec.json.Decoder(dict[str, Raw])


class Phase(StrEnum):
    """Where a session is."""

    OPENING = "opening"
    OPEN = "open"
    OVER = "over"


class Session(Struct, frozen=True):
    """A session: the name that its client asked for, and the engine's name of the same model."""

    asked: str
    own: str
    phase: Phase = Phase.OPENING


# Events


class Accepted(Struct, frozen=True):
    """An engine has accepted the session."""


class ClientSaid(Struct, frozen=True):
    """The client has sent a message."""

    frame: Frame


class EngineSaid(Struct, frozen=True):
    """The engine has sent a message, or has closed the session."""

    frame: Frame


class ClientGone(Struct, frozen=True):
    """The client has closed the session, or has vanished."""


class Ended(Struct, frozen=True):
    """The session ends here, and why: a close code, and words for the client."""

    code: int
    message: str
    kind: str = "server_error"
    reason: str = "session_ended"


Event: TypeAlias = Accepted | ClientSaid | EngineSaid | ClientGone | Ended


# Effects


class Accept(Struct, frozen=True):
    """Tell the client that the session is open."""


class ToEngine(Struct, frozen=True):
    """Send a message to the engine."""

    frame: Frame


class ToClient(Struct, frozen=True):
    """Send a message to the client."""

    frame: Frame


class Close(Struct, frozen=True):
    """Close the client's side."""

    code: int
    reason: str


Effect: TypeAlias = Accept | ToEngine | ToClient | Close


def step(session: Session, event: Event) -> tuple[Session, tuple[Effect, ...]]:
    """Return what becomes of a session by an event, and what is to be done, in its order."""
    over = replace(session, phase=Phase.OVER)
    match session.phase, event:
        case Phase.OVER, _:
            return session, ()
        case _, ClientGone():
            return over, ()
        case Phase.OPENING, Accepted():
            return replace(session, phase=Phase.OPEN), (Accept(),)
        case Phase.OPENING, Ended():
            return over, ()  # its client gets an answer of HTTP
        case Phase.OPEN, ClientSaid(frame=frame):
            return session, (_from_client(session, frame),)
        case Phase.OPEN, EngineSaid(frame=frame):
            if frame.kind != "close":
                return session, (ToClient(frame),)
            code = frame.code if frame.code in _SENDABLE else NORMAL
            return over, (Close(code, short(frame.data.decode(errors="replace"))),)
        case Phase.OPEN, Ended(code=code, message=message, kind=kind, reason=reason):
            said = error_event(message, kind, reason)
            return over, (ToClient(said), Close(code, short(message)))
    return session, ()


def _from_client(session: Session, frame: Frame) -> Effect:
    """Return what becomes of a client's message: `session.update` may name the session's model.

    vLLM ends a session for bytes, or for half a character, and so does not get them.
    """
    if not _is_object(frame):
        text = "a message must be a JSON object, as text"
        return ToClient(error_event(text, "invalid_request_error", "invalid_event"))
    named = model_of(frame)
    if named is None or named == session.own:
        return ToEngine(frame)
    if named == session.asked:
        return ToEngine(Frame("text", with_model(frame.data, session.own)))
    text = f"this session is for the model {session.asked!r}: open another one for {named[:200]!r}"
    return ToClient(error_event(text, "invalid_request_error", "model_mismatch"))


def _is_object(frame: Frame) -> bool:
    try:
        return frame.kind == "text" and isinstance(_fields.decode(frame.data), dict)
    except UNREADABLE:
        return False


def model_of(frame: Frame) -> str | None:
    """Return the model that a `session.update` names; None for all other messages."""
    if frame.kind != "text" or _UPDATE not in frame.data:
        return None
    try:
        fields = _fields.decode(frame.data)
        if msgspec.json.decode(fields.get("type", b"null")) != _UPDATE.decode():
            return None
        named = msgspec.json.decode(fields.get("model", b"null"))
    except UNREADABLE:
        return None
    return named if isinstance(named, str) else None


def with_model(text: bytes, name: str) -> bytes:
    """Return a `session.update` with another model, and any other message as it is."""
    if model_of(Frame("text", text)) is None:
        return text
    fields = _fields.decode(text)
    return msgspec.json.encode({**fields, "model": name})


def error_event(message: str, kind: str, code: str) -> Frame:
    """Return OpenAI's event for an error."""
    error = {"type": kind, "code": code, "message": message, "param": None, "event_id": None}
    event = {"type": "error", "event_id": "event_nebula", "error": error}
    return Frame("text", msgspec.json.encode(event))


def short(reason: str) -> str:
    """Return as much of a reason as a close frame takes."""
    encoded = reason.encode()
    if len(encoded) <= _REASON:
        return reason
    return encoded[: _REASON - 3].decode(errors="ignore") + "…"
