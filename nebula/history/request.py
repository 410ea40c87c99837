"""The way of one request through the cluster, told from the messages that were kept of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from nebula.actors.router.routing import CACHE_FULL, doubtful
from nebula.events import envelope, inference
from nebula.events.inference import Candidate, Piece, Routed
from nebula.events.state import Model, Replica, State

_MILLISECOND = 10**6
_NAMED = 16
"""Candidates that a router names at most."""

_BROKEN = {
    inference.ENGINE_FAILED: "the engine failed",
    inference.ENGINE_STOPPED: "the engine was stopped",
    inference.OTHER_PLAN: "it was sent for an older plan than the engine's",
    "gap": "a part of the answer was lost",
}
_GIVEN_UP = {
    **_BROKEN,
    "not-taken": "no router or replica took it in time",
    "idle": "its engine said nothing for too long",
    "overdue": "the time for it was over",
    "nats-lost": "the connection to NATS was lost",
    "too-slow": "its client read too slowly",
    "fatal": "engines in a row failed with it and said nothing: it may be what ends them",
}
"""What a gateway says with a cancellation, in words."""


_DOUBTS = {
    inference.FAILED: "it has failed different requests since its last success",
    inference.TRIED: "it has failed this very request before",
    inference.SILENT: "it is not heard from",
    inference.STALLED: "it has requests and stands still",
}
_DOUBT = "it had failed, stood still or was not heard from"


class Message(Protocol):
    """What is known of a message: `time` in ns since the epoch, `size` of its body in bytes.

    Of the bodies only those are needed that say why a request ended; others may be missing.
    """

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
    def body(self) -> bytes:
        """Its body, or nothing."""

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
        way = _Way(state)
        for message in said:
            match message.subject.split(".")[2]:
                case "requests":
                    way.asked(message)
                case "replicas":
                    way.routed(message)
                case "cancel":
                    way.cancelled(message)
                case "responses":
                    way.answered(message)
                case _:
                    continue
        headline = (
            f"request {request}: {way.end}" if way.end else f"request {request} has no answer yet"
        )
        return cls(headline, tuple(sorted(way.steps, key=lambda step: step.time)))


class _Way:
    """What has been told so far; what is known of the attempt that is under way."""

    def __init__(self, state: State) -> None:
        self.steps: list[Step] = []
        self.end = ""
        self._state = state
        self._attempt = 0
        self._asked = self._queued = self._replica = self._broken = ""
        self._size = self._begun = 0
        self._given_up = False

    def _tell(self, message: Message, text: str, reasons: Sequence[str] = ()) -> None:
        self.steps.append(Step(message.time, text, tuple(reasons)))

    def _ends(self, message: Message, text: str) -> None:
        self.end = text
        self._tell(message, text)

    def asked(self, message: Message) -> None:
        """A gateway has asked, or asked again, or a router that ended has passed it on."""
        headers = message.headers
        attempt = _number(headers.get(envelope.ATTEMPT, "1"))
        if attempt <= self._attempt:
            router = self._queued or "a router"
            self._tell(message, f"{router} ended, and handed it over to the others")
            return
        gateway = headers.get(envelope.GATEWAY, "a gateway")
        router = _router(message.subject)
        through = f", through {router}" if router else ""
        if attempt == 1 or not self._attempt:
            self._tell(message, f"{gateway} asked for {_wish(message)}{through}")
        else:
            how = {"rest": " for the rest of the answer", "again": " for the answer from its start"}
            again = how.get(headers.get(envelope.CONTINUES, ""), "")
            why = self._why_again(headers.get(envelope.AVOID, ""))
            text = f"{gateway} asked again{again}, attempt {attempt}{through}"
            self._tell(message, text, [why])
        self._attempt, self._asked = attempt, router
        self._queued = self._replica = self._broken = self.end = ""
        self._given_up = False

    def _why_again(self, failed: str) -> str:
        if failed and self._broken:
            return f"{failed} had it: {self._broken}"
        if failed:
            return (
                f"{failed} had it: its engine was gone or silent, or a part of its answer was lost"
            )
        if self._queued:
            return f"{self._queued}, in whose line it waited, was not heard from any more"
        if self._asked:
            return f"neither {self._asked} nor a replica had said that it has it"
        return "no router or replica had said that it has it"

    def routed(self, message: Message) -> None:
        """A router has sent it to a replica."""
        _, _, _, model_id, replica = message.subject.split(".")
        routed = envelope.read_routed(message.headers)
        if routed is None:
            self._tell(message, f"sent to {replica}")
            return
        model = self._state.models.get(model_id)
        limit = model.spec.max_in_flight if model is not None else None
        reasons = [_candidate(routed, replica, each, limit) for each in routed.candidates]
        if model is not None and len(routed.candidates) < _NAMED:
            known = {each.replica for each in routed.candidates}
            reasons += _unable(self._state, model, known, _adapter(message.headers))
        waited = f" after {_duration(routed.waited)} in its line" if routed.waited else ""
        text = f"{routed.router} sent it to {replica}{waited}, as of event {routed.seq}"
        self._tell(message, text, reasons)

    def cancelled(self, message: Message) -> None:
        """Its client has left, or its gateway has ended it, and says why."""
        if message.body.isdigit():
            return  # of earlier attempts: that it was asked again is told already
        if not message.size:
            self._ends(message, "its client went away: whoever had it was told to stop")
            return
        word, _, cause = message.body.decode(errors="replace").partition(": ")
        self._given_up = word != "finished"
        match word:
            case "":
                self._ends(message, "it was cancelled")
            case "finished":
                size = self._size + len(cause.encode())
                self._ends(message, f"answered: {size} bytes; its gateway wrote what was missing")
            case "cant-continue":
                broken, _, reason = cause.partition(": ")
                broken = _BROKEN.get(broken, broken)
                self._ends(message, f"given up: {broken}, and it can't go on elsewhere: {reason}")
            case _:
                seen = f": {cause}" if cause else ""
                self._ends(message, f"given up: {_GIVEN_UP.get(word, word)}{seen}")

    def answered(self, message: Message) -> None:
        """A router or an engine has said something; told is who has it, the first, and the end."""
        piece = envelope.read_piece(message.headers, message.body)
        if piece is None or piece.attempt < self._attempt or (self.end and not self._given_up):
            return
        if self._given_up:
            self._after_all(message, piece)
            return
        if piece.chunk < 0:
            if piece.queued:
                self._queued = piece.queued
                self._tell(message, f"it waits in {piece.queued}'s line")
            else:
                self._replica = piece.replica
                self._tell(message, f"{piece.replica} has taken it")
            return
        self._replica = piece.replica or self._replica
        if piece.chunk == 0 and not piece.continues and not piece.failure:
            self._size, self._begun = 0, message.time
        self._size += message.size
        if piece.status and not piece.end:
            self._tell(message, self._head(piece))
        if piece.end:
            self._last(message, piece)

    def _after_all(self, message: Message, piece: Piece) -> None:
        """A gateway that resumed it had given it up, its engine not: the end is what it came to."""
        self._size += message.size
        if piece.end and not piece.failure:
            self._given_up = False
            self._ends(message, f"answered after all: {self._size} bytes")

    def _head(self, piece: Piece) -> str:
        if piece.continues:
            return f"{self._replica} goes on with the answer"
        return f"the answer began: HTTP {piece.status}"

    def _last(self, message: Message, piece: Piece) -> None:
        engine = f"the engine of {self._replica or 'its replica'}"
        match piece.failure:
            case "":
                if piece.status >= 500:
                    self._broken = f"it answered with HTTP {piece.status}"
                status = f"HTTP {piece.status}, " if piece.status else ""
                took = message.time - self._begun
                lasted = f" in {took / _MILLISECOND:.0f} ms" if took else ""
                self._ends(message, f"answered: {status}{self._size} bytes{lasted}")
            case inference.REFUSED:
                why = f": {message.body.decode(errors='replace')}" if message.body else ""
                self._ends(message, f"refused by a router: HTTP {piece.status}{why}")
            case inference.ENGINE_FAILED:
                self._broken = "its engine failed"
                self._ends(message, f"failed: {engine} failed on the way")
            case inference.ENGINE_STOPPED:
                self._broken = "its engine was stopped"
                self._ends(message, f"ended: {engine} was stopped")
            case inference.OTHER_PLAN:
                self._broken = "its engine runs for a newer plan than the router knew"
                self._ends(message, f"sent back: {engine} runs for a newer plan")
            case inference.ENGINE_TIMED_OUT:
                self._ends(message, "ended: the time for it was over")
            case other:
                self._ends(message, f"ended: {other}")


def _wish(message: Message) -> str:
    headers = message.headers
    wish = f"model {message.subject.split('.')[3]}: {headers.get(envelope.PATH)}"
    adapter = _adapter(headers)
    if adapter:
        wish += f" with adapter {adapter!r}"
    wish += f", {message.size} bytes"
    if envelope.PRIORITY in headers:
        wish += f", priority {headers[envelope.PRIORITY]}"
    if envelope.TIMEOUT in headers:
        wish += f", within {headers[envelope.TIMEOUT]} s"
    if envelope.KEEP in headers:
        wish += ", to be resumable"
    return wish


def _router(subject: str) -> str:
    """Return the router that a request was sent to; "" for one that any router could take."""
    return subject.split(".", 4)[4] if subject.count(".") > 3 else ""


def _adapter(headers: Mapping[str, str]) -> str:
    try:
        return bytes.fromhex(headers.get(envelope.ADAPTER, "")).decode()
    except ValueError:
        return ""


def _number(text: str) -> int:
    return int(text) if len(text) < 10 and text.isascii() and text.isdigit() else 1


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _candidate(routed: Routed, chosen: str, each: Candidate, limit: int | None) -> str:
    """Say why this candidate was or was not chosen, by the rules of `routing.choose`."""
    facts = _facts(each)
    if each.replica == chosen:
        return f"{each.replica} was chosen: {facts}{_despite(routed, each)}"
    best = next((other for other in routed.candidates if other.replica == chosen), None)
    if each.avoided and (best is None or doubtful(each) > doubtful(best)):
        return f"not {each.replica}: {_DOUBTS.get(each.doubt, _DOUBT)} ({facts})"
    if limit is not None and each.in_flight >= limit:
        return f"not {each.replica}: it has its fill ({facts})"
    if best is None:
        return f"not {each.replica}: {facts}"
    if each.prefix > best.prefix:
        why = "its cache is full" if each.cache >= CACHE_FULL else "it is clearly busier"
        return f"not {each.replica}: {why} ({facts})"
    if best.prefix > each.prefix:
        return f"not {each.replica}: {chosen} has seen more of the prompt ({facts})"
    if each.load > best.load:
        return f"not {each.replica}: it is busier ({facts})"
    return f"not {each.replica}: as good ({facts}), but the draw fell on {chosen}"


def _despite(routed: Routed, chosen: Candidate) -> str:
    """Say why a replica was chosen that is avoided."""
    if not chosen.avoided:
        return ""
    better = any(doubtful(each) < doubtful(chosen) for each in routed.candidates)
    why = "those to be preferred have their fill" if better else "no better one is left"
    return f", although {_DOUBTS.get(chosen.doubt, _DOUBT)}: {why}"


def _facts(each: Candidate) -> str:
    facts = f"{each.in_flight} in flight"
    if each.waiting:
        facts += f", {each.waiting} held back by its engine"
    if each.cache:
        facts += f", cache {each.cache:.0%} full"
    if each.prefix:
        facts += f", {each.prefix} bytes of the prompt seen"
    return facts


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
