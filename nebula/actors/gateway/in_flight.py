"""One request in flight: the state machine that brings it to its end. Pure.

Theory of operation
===================

A client asks once; behind that, a gateway makes *attempts*. An attempt is one message to a router,
which passes it on to a replica, whose engine answers with numbered pieces. An attempt may break off
anywhere: a router dies with it, an engine dies in the middle of a word, NATS loses a message. Then
the gateway makes the next attempt, and the client is to notice nothing. The rules of that game are
here; what travels, and on what, is elsewhere.

*Events in, effects out.* `reacting.step` takes one event and the time, changes the request, and
returns what is to be done, as values. It reads no clock and sends nothing. Its shell (the
gateway's actor, or a simulated world) carries the effects out, in their order, and comes back with
what follows from them as further events. Two effects are answered: `LookUp` always by `LookedUp`,
after what was found came as pieces, and `AskText` always by `TextTold`. So nothing waits for ever.

*Phases.* A request is in one phase at a time, named by what has it::

    SENT          a router, as far as is known: no one has confirmed this attempt yet
    QUEUED        a router has said that the request waits in its line
    TAKEN         a replica has said that it has the request
    ANSWERING     pieces of this attempt's answer have come
    DETOKENIZING  nothing: the attempt is over before its end, and what the client has of it is in
                  doubt, until an engine has told the text of the last token ids
    DONE          nothing: the client has all of the answer, or the failure; it has no way out

The usual way is SENT, (QUEUED,) TAKEN, ANSWERING, DONE. An attempt that breaks off leads back to
SENT, with the next attempt, as long as that makes sense; or through DETOKENIZING to SENT; or to
DONE. `TABLE` has every transition there is: `InFlightRequest.move` refuses all others, so a new
event or a new way through the phases must be entered there first.

*Searching* goes on beside the phases: at most one look-up is under way, and `Search` says what for.
Pieces that came early, before those that are missing, are kept meanwhile.

*The fast path.* Nearly all events are plain pieces: the next one of an answer that has begun, and
not its last. `InFlightRequest.pass_on` takes just those. It may be called in ANSWERING only, moves
no phase, needs no effect, and returns what the client gets. It returns None for all that is not so
plain, which `step` must have then. To offer `step` a piece that `pass_on` has taken is harmless.

*Counters that all requests share*, how many wait to be taken on (`Admission.waiting`) and how many
each router has that were not taken yet (`Known.untaken`), rise with an attempt and fall once for
it: when it is taken, followed by another, or done.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct, field

from nebula.actors.gateway.admission import Admission
from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.heartbeats import Heartbeats
from nebula.events.inference import Piece, Request
from nebula.events.state import NameBinding, State

MAX_EARLY = 4096
"""Pieces that are kept while those before them are looked for."""

MAX_EARLY_BYTES = 16 * 1024 * 1024
"""Bytes of such pieces: two of the largest messages that NATS carries."""


class Phase(StrEnum):
    """What has a request; the theory of operation explains each phase."""

    SENT = "sent"
    QUEUED = "queued"
    TAKEN = "taken"
    ANSWERING = "answering"
    DETOKENIZING = "detokenizing"
    DONE = "done"

    __hash__ = str.__hash__  # an Enum's own is a function in Python, and TABLE is looked up often


class Search(StrEnum):
    """What is looked for in the data plane's stream.

    NOTHING: no look-up is under way. PERHAPS: pieces may be there that were not heard. SURELY: at
    least one that was not heard has been sent.
    """

    NOTHING = "nothing"
    PERHAPS = "perhaps"
    SURELY = "surely"


_ANSWERING = Phase.ANSWERING


# Events


class PieceArrived(Struct, frozen=True):
    """A router or an engine says something, now or, where it was looked up, earlier."""

    piece: Piece


class LookedUp(Struct, frozen=True):
    """A look-up has ended: what it found came before, as pieces."""


class TextTold(Struct, frozen=True):
    """What an engine answered to `AskText`: the text, or anything else where none has told it."""

    body: bytes


class NotSent(Struct, frozen=True):
    """NATS has not taken what `Send` was to send, and why; `too_large`: it never will."""

    why: str
    too_large: bool = False


class EngineAsks(Struct, frozen=True):
    """The engine of `replica` has this attempt, and has sent so many pieces of its answer."""

    replica: str
    attempt: int
    pieces: int


class Reconnected(Struct, frozen=True):
    """NATS was away, and is back: what was said meanwhile was not heard."""


class Ticked(Struct, frozen=True):
    """Some time has passed, or the log has changed."""


class ClientLeft(Struct, frozen=True):
    """The client is gone."""


class ClientTooSlow(Struct, frozen=True):
    """More waits for the client than may, as it does not read."""


class GatewayStops(Struct, frozen=True):
    """This gateway ends, and its grace is over."""


class Stuck(Struct, frozen=True):
    """The request can't be watched: a step of it has raised an exception."""


Event: TypeAlias = (
    PieceArrived
    | LookedUp
    | TextTold
    | NotSent
    | EngineAsks
    | Reconnected
    | Ticked
    | ClientLeft
    | ClientTooSlow
    | GatewayStops
    | Stuck
)


# Effects. `id` is the request's, which all its attempts share.


class Send(Struct, frozen=True):
    """Send an attempt to a router, or where it is "" to any. `after`: what broke the last one."""

    id: str
    request: Request
    router: str
    after: str = ""


class Cancel(Struct, frozen=True):
    """Have all end the attempts of a request that are below a number. `note`: why, for all."""

    id: str
    request: Request
    below: int
    note: bytes = b""


class LookUp(Struct, frozen=True):
    """Look for pieces in the data plane's stream, for so many seconds at most."""

    id: str
    seconds: float


class AskText(Struct, frozen=True):
    """Ask any engine of the model for the text of token ids. The request has no id yet."""

    id: str
    request: Request
    binding: NameBinding


class Deliver(Struct, frozen=True):
    """Deliver a piece to the client. The piece that ends the answer is the last one."""

    id: str
    piece: Piece


class LetGo(Struct, frozen=True):
    """Deliver this piece in place of all pieces that wait for the client, and nothing after it."""

    id: str
    piece: Piece


class Forget(Struct, frozen=True):
    """The request is done: what is held for it is not needed any more."""

    id: str


Effect: TypeAlias = Send | Cancel | LookUp | AskText | Deliver | LetGo | Forget


# Transitions

_P = Phase
_OPEN = (_P.SENT, _P.QUEUED, _P.TAKEN, _P.ANSWERING)
_BROKEN = frozenset({_P.SENT, _P.DETOKENIZING, _P.DONE})
"""Where an attempt that has broken off leads."""

TABLE: Mapping[tuple[Phase, type[Event]], frozenset[Phase]] = {
    # What is said of an attempt moves it forward, or shows that it has broken off.
    (_P.SENT, PieceArrived): frozenset({_P.QUEUED, _P.TAKEN, _P.ANSWERING}) | _BROKEN,
    (_P.QUEUED, PieceArrived): frozenset({_P.QUEUED, _P.TAKEN, _P.ANSWERING}) | _BROKEN,
    (_P.TAKEN, PieceArrived): frozenset({_P.TAKEN, _P.ANSWERING}) | _BROKEN,
    (_P.ANSWERING, PieceArrived): frozenset({_P.ANSWERING}) | _BROKEN,
    # What was looked for and is not there is lost; with time, an attempt proves lost, and a request
    # hopeless. Where nothing has come of an attempt, what the client has is in no doubt.
    **{
        (phase, event): frozenset({phase, _P.SENT, _P.DONE})
        for phase in (_P.SENT, _P.QUEUED, _P.TAKEN)
        for event in (LookedUp, Ticked)
    },
    (_P.ANSWERING, LookedUp): frozenset({_P.ANSWERING}) | _BROKEN,
    (_P.ANSWERING, Ticked): frozenset({_P.ANSWERING}) | _BROKEN,
    # An engine that asks, and NATS that is back, start a look-up at most.
    **{(phase, EngineAsks): frozenset({phase}) for phase in _OPEN},
    **{(phase, Reconnected): frozenset({phase}) for phase in _OPEN},
    (_P.SENT, NotSent): frozenset({_P.DONE}),
    # While nothing has the request, pieces and questions tell of an attempt that is over.
    (_P.DETOKENIZING, LookedUp): frozenset({_P.DETOKENIZING}),
    (_P.DETOKENIZING, Ticked): frozenset({_P.DETOKENIZING, _P.DONE}),
    (_P.DETOKENIZING, TextTold): _BROKEN,
    # A resumable answer goes on without its client, and without its gateway's last words.
    **{
        (phase, event): frozenset({phase, _P.DONE})
        for phase in (*_OPEN, _P.DETOKENIZING)
        for event in (ClientLeft, ClientTooSlow, GatewayStops)
    },
    **{(phase, Stuck): frozenset({_P.DONE}) for phase in (*_OPEN, _P.DETOKENIZING)},
}
"""For each phase and event, the phases that it may lead to. An event that a phase has no row for
means nothing in it, and is passed over: no row is for DONE."""


class Link(Struct, frozen=True):
    """The connection to NATS: whether it is there, and since when (it is there, or was lost)."""

    connected: bool = True
    connected_at: float = 0.0
    lost_at: float | None = None


class Surroundings(Struct):
    """What a gateway knows beside its requests, and what they share."""

    state: State
    heartbeats: Heartbeats
    admission: Admission
    link: Link = Link()


class InFlightRequest(Struct, kw_only=True, eq=False):
    """What is known of one request in flight. Times are seconds of one monotonic clock.

    `request`: the attempt that is under way; `answer` folds the pieces of all attempts. `idle`:
    seconds that an engine may stay silent; `deadline`: when the answer is no longer wanted.

    `began`: when the first attempt was sent, `sent_at`: this one; `heard_at`: when something of its
    answer was heard last, `asked_at`: when its engine last asked about it; `orphaned_at`: since
    when neither a replica nor a line has had the request; `waits_since`: since when its patience
    counts; `unlined_at`: since when its router's heartbeats tell of no such request in its line.
    `state_time`: of the last event (ns) that was known when this attempt was sent.

    `pid`: of the engine that has it, once that is known. `router`: where this attempt was sent, ""
    for any router; `tried`: the routers that did not have it taken in time. `untaken`: it counts
    among the attempts that its router has and that were not taken yet. `accepted`: it counts no
    longer among those that wait to be taken on. `attached`: its client waits; a resumable answer
    goes on without.

    `lost`: how often it was sent without being taken, since an engine had it; `resent`: attempts
    that followed one that broke; `fatal`: engines in a row that have failed with the request and
    said nothing, where `counted` is the last attempt that was looked at for that.

    `early`: pieces that came before those that are missing. `looked_from`: the attempt, its pieces
    and `heard_at` when the look-up began. `asked_by`: the request that this one asks for text for.
    """

    request: Request
    binding: NameBinding
    answer: Answer
    idle: float
    began: float
    phase: Phase = Phase.SENT
    search: Search = Search.NOTHING
    sent_at: float = 0.0
    heard_at: float = 0.0
    orphaned_at: float = 0.0
    waits_since: float = 0.0
    unlined_at: float | None = None
    asked_at: float = 0.0
    deadline: float | None = None
    pid: int | None = None
    router: str = ""
    tried: tuple[str, ...] = ()
    untaken: bool = False
    accepted: bool = False
    attached: bool = True
    lost: int = 0
    resent: int = 0
    state_time: int = 0
    fatal: int = 0
    counted: int = 0
    early: dict[int, Piece] = field(default_factory=dict)
    early_bytes: int = 0
    looked_from: tuple[int, int, float] = (0, 0, 0.0)
    asked_by: str = ""

    @property
    def id(self) -> str:
        """The request's id, which all attempts share."""
        return self.request.id

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.phase is Phase.DONE

    def pass_on(self, chunk: int, attempt: int, body: bytes, now: float) -> Piece | None:
        """Take a plain piece of an answer that has begun, and return what the client gets of it.

        That is the fast path: a piece that is not the last one, and says nothing but its `chunk`
        and `attempt`. Where it returns None, or `answer.broken` is set, `step` must have the piece.
        """
        answer = self.answer
        if (
            self.phase is not _ANSWERING
            or chunk != answer.pieces
            or attempt != answer.attempt
            or self.early
            or self.asked_by
        ):
            return None
        self.heard_at = now
        return answer.pass_on(body)

    def move(self, phase: Phase, event: type[Event]) -> None:
        """Go on to a phase because of an event. Raises ValueError where `TABLE` has no such row."""
        if phase not in TABLE[self.phase, event]:
            raise ValueError(f"{self.id}: {event.__name__} can't lead from {self.phase} to {phase}")
        self.phase = phase

    def keep_early(self, piece: Piece) -> bool:
        """Keep a piece while those before it are looked for; False where it is one too many."""
        known = self.early.get(piece.chunk)
        self.early_bytes += len(piece.body) - (len(known.body) if known is not None else 0)
        self.early[piece.chunk] = piece
        return len(self.early) <= MAX_EARLY and self.early_bytes <= MAX_EARLY_BYTES

    def take_early(self, chunk: int) -> Piece | None:
        """Return the piece of that number, if it was kept."""
        piece = self.early.pop(chunk, None)
        if piece is not None:
            self.early_bytes -= len(piece.body)
        return piece

    def drop_early(self) -> None:
        """Keep no pieces any more."""
        self.early.clear()
        self.early_bytes = 0
