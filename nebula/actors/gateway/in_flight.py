"""One request in flight: the state machine that brings it to its end. Pure.

Theory of operation
===================

A client asks once; behind that, a gateway makes *attempts*. An attempt is one message to a router,
which passes it on to a replica, or to a replica that a router has lent (`leasing`). Its engine
answers with numbered pieces. An attempt may break off anywhere: a router dies with it, an engine
dies in the middle of a word, NATS loses a message. Then the gateway makes the next attempt, and the
client notices nothing. The rules for that are here; messages and how they travel are elsewhere.

*Events in, effects out.* `reacting.step` takes one event and the time, changes the request, and
returns what is to be done, as values. It reads no clock and sends nothing. Its shell (the
gateway's actor, or a simulated world) carries the effects out, in their order, and comes back with
what follows from them as further events. Two effects are answered: `LookUp` always by `LookedUp`,
after what was found came as pieces, and `AskText` always by `TextTold`. So nothing waits for ever.

*Phases.* A request is in one phase at a time, named by what has it::

    SENT          a router or lent replica, as far as is known: no one has confirmed it yet
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

*Two fast paths.* Nearly all events are plain pieces amid an answer: `InFlightRequest.pass_on` takes
those, in ANSWERING only, without moving a phase, and returns what the client gets.
`reacting.take_whole` takes answers that are a single piece, and moves to DONE. Both leave all that
is not so plain to `step`, which ignores what they have taken.

*Counters that all requests share*, how many wait to be taken on (`Admission.waiting`) and how many
each router has that were not taken yet (`Known.untaken`), rise with an attempt and fall once for
it: when it is taken, followed by another, or done. So do credits taken of leases, which are held
until the end.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct, field

from nebula.actors.gateway.admission import Admission
from nebula.actors.gateway.answer import Answer
from nebula.actors.gateway.early_pieces import EarlyPieces
from nebula.actors.gateway.fatal import Process
from nebula.actors.gateway.heartbeats import Heartbeats, Link
from nebula.actors.gateway.leasing import Direct, Leases
from nebula.events.inference import Piece, Request
from nebula.events.state import EMPTY, NameBinding, State


class Phase(StrEnum):
    """Where a request is; the theory of operation explains each phase."""

    SENT = "sent"
    QUEUED = "queued"
    TAKEN = "taken"
    ANSWERING = "answering"
    DETOKENIZING = "detokenizing"
    DONE = "done"

    __hash__ = str.__hash__  # an Enum's own is a function in Python, and TABLE is looked up often


class Search(StrEnum):
    """What is looked for in the data plane's stream.

    NOTHING: no look-up is under way. PERHAPS: pieces may have been missed. SURELY: at least one
    piece was sent and has not arrived.
    """

    NOTHING = "nothing"
    PERHAPS = "perhaps"
    SURELY = "surely"


_ANSWERING = Phase.ANSWERING


# Events


class PieceArrived(Struct, frozen=True):
    """A piece from a router or an engine has arrived, now or by a look-up."""

    piece: Piece


class LookedUp(Struct, frozen=True):
    """A look-up has ended; the pieces that it found came before."""


class TextTold(Struct, frozen=True):
    """An engine's answer to `AskText`: the text, or anything else if no engine has told it."""

    body: bytes


class NotSent(Struct, frozen=True):
    """NATS has not taken a message, and why. `too_large`: it never will."""

    why: str
    too_large: bool = False


class EngineAsks(Struct, frozen=True):
    """The engine of `replica` reports that it has this attempt, and how many pieces it has sent."""

    replica: str
    attempt: int
    pieces: int


class Reconnected(Struct, frozen=True):
    """NATS is back; whatever was sent meanwhile has been missed."""


class Ticked(Struct, frozen=True):
    """Some time has passed, or the state has changed."""


class ClientLeft(Struct, frozen=True):
    """The client is gone."""


class ClientTooSlow(Struct, frozen=True):
    """The client does not read, and more bytes wait for it than may."""


class CancelRequested(Struct, frozen=True):
    """An operator, `by` name, cancels the request."""

    by: str


class GatewayStops(Struct, frozen=True):
    """This gateway ends, and its grace period is over."""


class Stuck(Struct, frozen=True):
    """A step of the request has raised an exception, so it can't be watched any more."""


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
    | CancelRequested
    | GatewayStops
    | Stuck
)


# Effects. `id` is the request's, which all its attempts share.


class Send(Struct, frozen=True):
    """Send an attempt: `direct`ly, else to a router, "" for any. `after`: what broke the last."""

    id: str
    request: Request
    router: str
    after: str = ""
    direct: Direct | None = None


class Cancel(Struct, frozen=True):
    """Have every actor end the attempts with numbers below `below`. `note`: the reason."""

    id: str
    request: Request
    below: int
    note: bytes = b""


class LookUp(Struct, frozen=True):
    """Look for pieces in the data plane's stream, for at most `seconds`."""

    id: str
    seconds: float


class AskText(Struct, frozen=True):
    """Ask any engine of the model for the text of token ids. The request has no id yet."""

    id: str
    request: Request
    binding: NameBinding


class Deliver(Struct, frozen=True):
    """Deliver a piece to the client. A piece with `end` is the last."""

    id: str
    piece: Piece


class LetGo(Struct, frozen=True):
    """Deliver this piece instead of all pieces that wait for the client, and nothing after it."""

    id: str
    piece: Piece


class Forget(Struct, frozen=True):
    """The request is done: release what is held for it."""

    id: str


Effect: TypeAlias = Send | Cancel | LookUp | AskText | Deliver | LetGo | Forget


# Transitions

_P = Phase
_OPEN = (_P.SENT, _P.QUEUED, _P.TAKEN, _P.ANSWERING)
_BROKEN = frozenset({_P.SENT, _P.DETOKENIZING, _P.DONE})
"""Phases that a broken attempt can lead to."""

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
    **{
        (phase, event): frozenset({_P.DONE})
        for phase in (*_OPEN, _P.DETOKENIZING)
        for event in (CancelRequested, Stuck)
    },
}
"""For each phase and event, the phases that it may lead to.

An event without a row in a phase is ignored in it; DONE has no rows.
"""


class Surroundings(Struct):
    """What a gateway knows besides its requests, and the counters that they share."""

    state: State
    heartbeats: Heartbeats
    admission: Admission
    link: Link = Link()
    leases: Leases = field(default_factory=Leases)


class InFlightRequest(Struct, kw_only=True, eq=False):
    """The state of one request in flight. Times are seconds of one monotonic clock.

    `request`: the attempt that is under way; `answer` folds the pieces of all attempts. `idle`:
    seconds that an engine may stay silent; `deadline`: when the answer is no longer wanted.

    `began`: when the first attempt was sent, `sent_at`: this attempt; `first_at`: when the first
    piece for the client came, 0 before; `heard_at`: when the last piece or message about its answer
    came, `asked_at`: when its engine last asked about it; `orphaned_at`: since when neither a
    replica nor a queue has had the request; `waits_since`: since when its queue timeout counts;
    `unlined_at`: since when its router's heartbeats report no such request in its queue. `state`:
    what was known of the cluster when this attempt was sent, or when the engine that has it was
    first seen. `pid`: that engine's process, once known.

    `router`: where this attempt was sent, "" for any router; `tried`: the routers that did not take
    it in time. `untaken`: whether it counts among the attempts that its router has not taken yet.
    `direct`: its place at a replica that was lent. `accepted`: whether it no longer counts among
    those that wait to be taken. `attached`: whether its client waits; a resumable answer continues
    without.

    `lost`: how often it was sent without being taken, since an engine last had it; `resent`: number
    of attempts that followed a broken one; `fatal`: number of engines in a row that have failed
    with the request without an answer, where `counted` is the last attempt that was checked for
    that; `failed`: the processes of which it is known.

    `early`: pieces that came before missing ones. `looked_from`: the attempt, its pieces and
    `heard_at` when the look-up began. `asked_by`: the request that this one fetches a text for.
    """

    request: Request
    binding: NameBinding
    answer: Answer
    idle: float
    began: float
    phase: Phase = Phase.SENT
    search: Search = Search.NOTHING
    sent_at: float = 0.0
    first_at: float = 0.0
    heard_at: float = 0.0
    orphaned_at: float = 0.0
    waits_since: float = 0.0
    unlined_at: float | None = None
    asked_at: float = 0.0
    deadline: float | None = None
    pid: int | None = None
    router: str = ""
    tried: tuple[str, ...] = ()
    direct: Direct | None = None
    untaken: bool = False
    accepted: bool = False
    attached: bool = True
    lost: int = 0
    resent: int = 0
    state: State = EMPTY
    fatal: int = 0
    counted: int = 0
    failed: frozenset[Process] = frozenset()
    early: EarlyPieces = field(default_factory=EarlyPieces)
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
        """Fold a plain piece of an answer that has begun; return what the client gets of it.

        If it returns None, or sets `answer.broken`, hand the piece to `step`.
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
        """Move to a phase because of an event. Raise ValueError if `TABLE` has no such row."""
        if phase not in TABLE[self.phase, event]:
            raise ValueError(f"{self.id}: {event.__name__} can't lead from {self.phase} to {phase}")
        self.phase = phase
