"""The way of one request through the cluster, told from the messages that were kept of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from nebula.events import inference
from nebula.events.inference import Routed
from nebula.events.state import Model, Replica, State

_MILLISECOND = 10**6


class Message(Protocol):
    """What is known of a message: `time` in ns since the epoch, `size` of its body in bytes."""

    @property
    def time(self) -> int:
        """When it was stored."""

    @property
    def subject(self) -> str:
        """Where it was published."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""

    @property
    def size(self) -> int:
        """Bytes of its body."""


class Step(Struct, frozen=True):
    """Something that happened to the request at `time` (ns), and why."""

    time: int
    text: str
    reasons: tuple[str, ...] = ()


class RequestStory(Struct, frozen=True):
    """A request's way in steps; `headline` says how it ended."""

    headline: str
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, request: str, said: Sequence[Message], state: State) -> "RequestStory":
        """Tell a request's way; `state` is the cluster's now, for what became of it since."""
        steps: list[Step] = []
        answer: list[Message] = []
        for message in said:
            kind = message.subject.split(".")[2]
            if kind == "requests":
                steps.append(_asked(message))
            elif kind == "replicas":
                steps.append(_routed(message, state))
            elif kind == "cancel":
                steps.append(
                    Step(message.time, "its client went away: the engine was told to stop")
                )
            elif kind == "responses":
                answer.append(message)
        ending = _answer(answer)
        steps += ending
        steps.sort(key=lambda step: step.time)
        if not ending:
            headline = f"request {request} has no answer yet"
        else:
            headline = f"request {request}: {ending[-1].text}"
        return cls(headline, tuple(steps))


def _asked(message: Message) -> Step:
    headers = message.headers
    gateway = headers.get(inference.GATEWAY, "a gateway")
    text = (
        f"{gateway} asked for model {message.subject.split('.')[3]}: {headers.get(inference.PATH)}"
    )
    adapter = _adapter(headers)
    if adapter:
        text += f" with adapter {adapter!r}"
    return Step(message.time, f"{text}, {message.size} bytes")


def _adapter(headers: Mapping[str, str]) -> str:
    try:
        return bytes.fromhex(headers.get(inference.ADAPTER, "")).decode()
    except ValueError:
        return ""


def _routed(message: Message, state: State) -> Step:
    _, _, _, model_id, replica = message.subject.split(".")
    routed = inference.read_routed(message.headers)
    if routed is None:
        return Step(message.time, f"sent to {replica}")
    reasons = [_candidate(routed, replica, each) for each in routed.candidates]
    model = state.models.get(model_id)
    if model is not None:
        known = {each.replica for each in routed.candidates}
        reasons += _unable(state, model, known, _adapter(message.headers))
    text = f"{routed.router} sent it to {replica}, as of event {routed.seq}"
    return Step(message.time, text, tuple(reasons))


def _candidate(routed: Routed, chosen: str, each: inference.Candidate) -> str:
    load = f"{each.in_flight} in flight"
    if each.replica == chosen:
        return f"{each.replica} was chosen: {load}"
    best = next((other for other in routed.candidates if other.replica == chosen), None)
    if each.avoided:
        return f"not {each.replica}: it had failed, stood still or was not heard from ({load})"
    if best is not None and each.in_flight > best.in_flight:
        return f"not {each.replica}: {load}"
    return f"not {each.replica}: as good ({load}), but it was not its turn"


def _unable(state: State, model: Model, known: set[str], adapter: str) -> list[str]:
    return [
        f"not {replica.id}: it was not ready for this (now it is {_word(replica, adapter)})"
        for replica in state.replicas_of(model)
        if replica.id not in known
    ]


def _word(replica: Replica, adapter: str) -> str:
    status = replica.adapters.get(adapter)
    if replica.serving and adapter and (status is None or not status.loaded):
        return f"ready without adapter {adapter!r}"
    return "retired" if replica.retired else replica.phase


def _answer(messages: Sequence[Message]) -> list[Step]:
    """Tell an answer by what matters: who took it, the first piece, and the end."""
    steps: list[Step] = []
    size = 0
    begun = 0
    for message in messages:
        piece = inference.read_piece(message.headers, b"")
        if piece is None:
            continue
        size += message.size
        if piece.chunk < 0 and not piece.failure:
            steps.append(Step(message.time, f"{piece.replica} has taken it"))
        elif piece.status and not piece.end:
            begun = message.time
            steps.append(Step(message.time, f"the answer began: HTTP {piece.status}"))
        if piece.end:
            steps.append(Step(message.time, _end(piece, size, message.time, begun)))
    return steps


def _end(piece: inference.Piece, size: int, time: int, begun: int) -> str:
    match piece.failure:
        case "":
            status = f"HTTP {piece.status}, " if piece.status else ""
            took = f" in {(time - begun) / _MILLISECOND:.0f} ms" if begun else ""
            return f"answered: {status}{size} bytes{took}"
        case inference.REFUSED:
            return f"refused by a router: HTTP {piece.status}"
        case inference.ENGINE_FAILED:
            return f"failed: the engine of {piece.replica or 'its replica'} failed on the way"
        case inference.ENGINE_STOPPED:
            return f"ended: the engine of {piece.replica or 'its replica'} was stopped"
        case other:
            return f"ended: {other}"
