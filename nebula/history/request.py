"""The way of one request through the cluster, from the messages that were kept of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from nebula.events import envelope, piece_envelope
from nebula.events.advised import command
from nebula.events.evolve_adapter import serves
from nebula.events.failures import FINISHED, Failure, read_note, words
from nebula.events.inference import Form, Piece
from nebula.events.state import Model, Replica, State
from nebula.history import choice

_MILLISECOND = 10**6
_NAMED = 16
"""Candidates that are listed, at most."""


class Message(Protocol):
    """What is known of a message: `time` is in ns since the epoch, `size` is its body's bytes.

    Only bodies that say why a request ended are needed; others may be missing.
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
    """A request's way in steps; `headline` says how it ended.

    `others`: earlier requests that had the same id of their caller's.
    """

    headline: str
    steps: tuple[Step, ...]
    others: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, request: str, said: Sequence[Message], state: State, others: Sequence[str] = ()
    ) -> "RequestStory":
        """Return a request's way; `state` is the cluster's present state, to compare with."""
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
        steps = sorted(way.steps, key=lambda step: step.time)
        return cls(headline, tuple(steps), tuple(others))


class _Way:
    """The way so far, and what is known of the running attempt."""

    def __init__(self, state: State) -> None:
        self.steps: list[Step] = []
        self.end = ""
        self._state = state
        self._attempt = 0
        self._tried: dict[str, None] = {}
        self._asked = self._queued = self._replica = self._broken = self._bound = self._direct = ""
        self._size = self._begun = 0
        self._given_up = False

    def _tell(self, message: Message, text: str, reasons: Sequence[str] = ()) -> None:
        self.steps.append(Step(message.time, text, tuple(reasons)))

    def _ends(self, message: Message, text: str, reasons: Sequence[str] = ()) -> None:
        self.end = text
        self._tell(message, text, reasons)

    def asked(self, message: Message) -> None:
        """Read a request by a gateway, or one that a router passed on at its end."""
        headers = message.headers
        self._bound = _bound(headers)
        attempt = _number(headers.get(envelope.ATTEMPT, "1"))
        if attempt <= self._attempt:
            router = self._queued or "a router"
            self._tell(message, f"{router} ended, and passed it on to the other routers")
            return
        gateway = headers.get(envelope.GATEWAY, "a gateway")
        router = _router(message.subject)
        through = f", through {router}" if router else ""
        if attempt == 1 or not self._attempt:
            self._tell(message, f"{gateway} asked for {_wish(message)}{through}")
        else:
            how: dict[str, str] = {
                Form.CONTINUED: " for the rest of the answer",
                Form.RESTARTED: " for the answer from its start",
            }
            again = how.get(headers.get(envelope.CONTINUES, ""), "")
            why = self._why_again(headers.get(envelope.AVOID, ""))
            text = f"{gateway} asked again{again}, attempt {attempt}{through}"
            self._tell(message, text, [why])
        self._attempt, self._asked = attempt, router
        self._queued = self._replica = self._broken = self._direct = self.end = ""
        self._given_up = False

    def _why_again(self, failed: str) -> str:
        if failed and self._broken:
            return f"{failed} had it: {self._broken}"
        if failed and failed == self._direct and not self._replica:
            return f"{failed} had not confirmed it"
        if failed:
            return (
                f"{failed} had it: its engine was gone or silent, or a part of its answer was lost"
            )
        if self._queued:
            return f"{self._queued}, which had queued it, fell silent"
        if self._asked:
            return f"neither {self._asked} nor a replica had confirmed it"
        return "no router or replica had confirmed it"

    def routed(self, message: Message) -> None:
        """Read that a router has sent it to a replica."""
        _, _, _, model_id, replica = message.subject.split(".")
        self._tried[replica] = None
        routed = envelope.read_routed(message.headers)
        if routed is not None and routed.gateway:
            self._directly(message, routed.gateway)
            self._direct = replica
        if routed is None:
            self._tell(message, f"sent to {replica}")
            return
        model = self._state.models.get(model_id)
        limit = model.spec.max_in_flight if model is not None else None
        reasons = choice.reasons(routed.candidates, replica, limit)
        if model is not None and len(routed.candidates) < _NAMED:
            known = {each.replica for each in routed.candidates}
            reasons += _unable(self._state, model, known, _adapter(message.headers))
        waited = f" after {_duration(routed.waited)} in its queue" if routed.waited else ""
        text = f"{routed.router} sent it to {replica}{waited}, as of event {routed.seq}"
        if routed.gateway:
            lent = f"under a lease of {routed.router}, as of event {routed.seq}"
            text = f"{routed.gateway} sent it to {replica} itself, {lent}"
        self._tell(message, text, reasons)

    def _directly(self, message: Message, gateway: str) -> None:
        """Read a first attempt that no router has had."""
        self._bound = _bound(message.headers)
        self._attempt = _number(message.headers.get(envelope.ATTEMPT, "1"))
        self._tell(message, f"{gateway} asked for {_wish(message)}")

    def cancelled(self, message: Message) -> None:
        """Read a cancellation: its client disconnected, or its gateway gives the reason."""
        if message.body.isdigit():
            return  # of earlier attempts: the retry is already in the story
        if not message.size:
            self._ends(
                message,
                ("its client disconnected: the router or engine that had it was told to stop"),
            )
            return
        word, rest = read_note(message.body)
        cause = rest.decode(errors="replace")
        self._given_up = word != FINISHED
        match word:
            case "":
                self._ends(message, "it was cancelled")
            case "finished":
                size = self._size + len(rest)
                self._ends(message, f"answered: {size} bytes; its gateway wrote what was missing")
            case Failure.CANT_CONTINUE:
                broken, _, reason = cause.partition(": ")
                why = f"{words(broken).history}, and {words(word).history}: {reason}"
                self._ends(message, f"given up: {why}")
            case Failure.FATAL:
                how = (
                    f"{command('why', 'replica', each)} tells how its engine ended"
                    for each in self._tried
                )
                self._ends(message, f"given up: {words(word).history}", tuple(how))
            case _:
                seen = f": {cause}" if cause else ""
                self._ends(message, f"given up: {words(word).history}{seen}")

    def answered(self, message: Message) -> None:
        """Read a piece: the story tells which replica has it, and the first and the last piece."""
        piece = piece_envelope.read(message.headers, message.body)
        if piece is None or piece.attempt < self._attempt or (self.end and not self._given_up):
            return
        if self._given_up:
            self._after_all(message, piece)
            return
        if piece.chunk < 0:
            if piece.queued:
                self._queued = piece.queued
                self._tell(message, f"it waits in {piece.queued}'s queue{self._bound}")
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
        """Read the end of an answer that a resuming gateway, but not its engine, had given up."""
        self._size += message.size
        if piece.end and not piece.failure:
            self._given_up = False
            self._ends(message, f"answered after all: {self._size} bytes")

    def _head(self, piece: Piece) -> str:
        if piece.continues:
            return f"{self._replica} continues the answer"
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
            case Failure.REFUSED:
                why = f": {message.body.decode(errors='replace')}" if message.body else ""
                self._ends(message, f"refused by a router: HTTP {piece.status}{why}")
            case failure:
                said = words(failure)
                self._broken = said.attempt or self._broken
                self._ends(message, said.ended.format(engine=engine) or f"ended: {failure}")


def _wish(message: Message) -> str:
    headers = message.headers
    wish = f"model {message.subject.split('.')[3]}: {headers.get(envelope.PATH)}"
    adapter = _adapter(headers)
    if adapter:
        wish += f" with adapter {adapter!r}"
    wish += f", {headers.get(envelope.SIZE, message.size)} bytes"
    if envelope.PRIORITY in headers:
        wish += f", priority {headers[envelope.PRIORITY]}"
    if envelope.TIMEOUT in headers:
        wish += f", within {headers[envelope.TIMEOUT]} s"
    if envelope.KEEP in headers:
        wish += ", to be resumable"
    if envelope.SLACK in headers:
        wish += ", in spare capacity"
    if envelope.CALLER_IDS in headers:
        wish += f"; its caller calls it {headers[envelope.CALLER_IDS].replace(' ', ' and ')}"
    return wish


def _bound(headers: Mapping[str, str]) -> str:
    """Return for how long a request may wait in a line, and which option says so."""
    patience, timeout = (
        _seconds(headers.get(key, "")) for key in (envelope.PATIENCE, envelope.TIMEOUT)
    )
    if timeout is not None and (patience is None or timeout < patience):
        return f", for {timeout:.0f} s at most (its X-Request-Timeout)"
    return "" if patience is None else f", for {patience:.0f} s at most (--load-timeout)"


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _router(subject: str) -> str:
    """Return the router that a request was sent to; "" if any router could take it."""
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


def _unable(state: State, model: Model, known: set[str], adapter: str) -> list[str]:
    return [
        f"not {replica.id}: it could not take it then; now it is {_word(model, replica, adapter)}"
        for replica in state.replicas_of(model)
        if replica.id not in known
    ]


def _word(model: Model, replica: Replica, adapter: str) -> str:
    status = replica.adapters.get(adapter)
    if replica.serving and adapter and not serves(status, model.offers.get(adapter)):
        other = status is not None and status.loaded
        return f"ready with{' another version of' if other else 'out'} adapter {adapter!r}"
    return "retired" if replica.retired else replica.phase
