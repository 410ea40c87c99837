"""Laws of a request in flight that hold whatever happens to it, in whatever order.

Each step is something that really happens: an engine says its next piece, which is heard, or only
stored, or lost for good; engines and routers come, go and fall silent; NATS is away; time passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.gateway import reacting, timeouts
from nebula.actors.gateway.core import IDLE
from nebula.actors.gateway.in_flight import (
    TABLE,
    CancelRequested,
    Deliver,
    Event,
    Forget,
    InFlightRequest,
    LetGo,
    LookUp,
    NotSent,
    Phase,
    PieceArrived,
    Search,
    Send,
    Stuck,
    Surroundings,
    TextTold,
)
from nebula.events.failures import Failure
from nebula.events.inference import Piece, Request, UnderWay
from nebula.openai.chunks import CHAT
from tests.simulation.answers import streamed
from tests.unit.flights import JSON, REQUEST, STREAM, Flights, chat, serving
from tests.unit.vllm_stream import Engine

TOKENS = [b"On", b"ce \xf0\x9f", b"\x8c", b"\x99", b" up", b"on\xc3", b"\xa4 ", b"ti", b"me"]
WHOLE = b"".join(TOKENS).decode()
ENDS = (Failure.ENGINE_FAILED, Failure.ENGINE_STOPPED, Failure.OTHER_PLAN, Failure.OTHER_VERSION)
ERROR = b'data: {"error":{"message":"CUDA error","code":500}}\n\n'
Act: TypeAlias = tuple[str, int]

ACTS = (
    "says",
    "says",
    "says",
    "says",
    "says unheard",
    "loses",
    "repeats",
    "says late",
    "says backwards",
    "fails",
    "answers 500",
    "queues",
    "takes",
    "asks",
    "restarts",
    "passes",
    "passes long",
    "falls silent",
    "nats dies",
    "nats returns",
    "nats refuses",
    "stream is slow",
    "looks",
    "is asked for text",
)
"""What can happen, the usual more often."""

LEAVES = ("leaves", "reads too slowly", "is cancelled", "stops", "is stuck")


class World:
    """A request, the engine that has it, and what happens to both."""

    def __init__(self, request: Request) -> None:
        self.flights = Flights(serving(2))
        self.flights.later(1.0, alive=["router-1", "router-2", "chat-0", "chat-1"])
        self.client = self.flights.ask(request)
        self.streams = request.path == CHAT
        self.size = 1
        self.pid = 20
        self._attempt = 0
        self._left: list[Piece] = []
        self._said: list[Piece] = []
        self._old: list[Piece] = []

    @property
    def replica(self) -> str:
        """The replica that has the attempt: one and the other by turns."""
        return f"chat-{self._attempt % 2}"

    def _follow(self) -> None:
        """Let an engine have the newest attempt, and no earlier one."""
        request = [each for each in self.flights.requests if each.id == "r"][-1]
        if request.attempt == self._attempt:
            return
        self._old += self._said
        self._attempt, self._said = request.attempt, []
        self._left = answer(request, self.replica, self.size)

    def let(self, act: Act) -> None:
        """Let something happen; what makes no sense now does nothing."""
        self._follow()
        what, number = act
        flights = self.flights
        match what:
            case "says" | "says unheard" | "loses" if self._left and flights.connected:
                piece = self._left.pop(0)
                self._said.append(piece)
                flights.says(piece, lost=what != "says", kept=what != "loses")
            case "says backwards" if len(self._left) > 3 and flights.connected:
                some, self._left = self._left[:3], self._left[3:]
                if number % 2 and self.streams:
                    some[2] = replace(some[2], body=ERROR)
                    self._left.clear()
                self._said += some
                flights.says(*reversed(some))
            case "repeats" if self._said:
                flights.hears("r", self._said[number % len(self._said)])
            case "says late" if self._old:
                flights.hears("r", self._old[number % len(self._old)])
            case "fails":
                failed = Piece(len(self._said), end=True, failure=ENDS[number % len(ENDS)])
                self._say(replace(failed, replica=self.replica))
            case "answers 500" if not self._said:
                self._say(
                    Piece(0, b"{}", status=500, content_type=JSON, replica=self.replica, end=True)
                )
            case "queues":
                self._tell(Piece(-1, queued="router-1"))
            case "takes":
                self._tell(Piece(-1, replica=self.replica))
            case "asks":
                flights.asks(self.replica, r=UnderWay(self._attempt, len(self._said)))
            case "restarts":
                self.pid += 1
                flights.restarts(self.replica, self.pid)
            case "passes":
                alive = ["router-1", "router-2", "chat-0", "chat-1"][number % 5 :]
                flights.later(0.3 * number, alive=alive)
            case "passes long":
                flights.later(6.0, alive=["router-2", "chat-0", "chat-1"][number % 4 :])
            case "falls silent":
                flights.later(12.0, alive=["router-1"])
            case "nats dies":
                flights.nats_dies()
            case "nats returns":
                flights.nats_returns()
            case "nats refuses":
                flights.refuses = NotSent("full") if number % 2 else None
            case "stream is slow":
                flights.answers = not flights.answers
            case "looks":
                flights.looks()
            case "is asked for text":
                self._tell_text(exactly=number % 3 > 0)
            case "leaves":
                flights.leaves()
            case "reads too slowly":
                flights.reads_too_slowly()
            case "is cancelled":
                flights.happens("r", CancelRequested("key:ops"))
            case "stops":
                flights.stops()
            case "is stuck":
                flights.happens("r", Stuck())

    def _tell(self, piece: Piece) -> None:
        """Publish which router or replica has the attempt."""
        if self.flights.connected:
            self.flights.hears("r", replace(piece, attempt=self._attempt))

    def _say(self, piece: Piece) -> None:
        """Publish the last piece of the attempt."""
        if self.flights.connected:
            self._left.clear()
            self.flights.says(replace(piece, attempt=self._attempt))

    def _tell_text(self, *, exactly: bool) -> None:
        for request in self.flights.requests:
            if request.path == "/detokenize" and request.id in self.flights.core.flights:
                told = Engine(TOKENS).detokenize(request.body) if exactly else b"{}"
                whole = Piece(
                    0,
                    told,
                    status=200,
                    content_type=JSON,
                    replica="chat-1",
                    end=True,
                    attempt=request.attempt,
                )
                self.flights.says(whole, to=request.id)

    def ends(self) -> None:
        """Let time pass until nothing can be waited for any more."""
        end = self.flights.now + max(IDLE, REQUEST.patience) + 60.0
        while self.flights.core.flights and self.flights.now < end:
            self.flights.later(5.0, alive=["router-1", "chat-0", "chat-1"])


def answer(request: Request, replica: str, size: int) -> list[Piece]:
    """What an engine answers to an attempt, several tokens at a time."""
    if request.path != CHAT and not request.continues:
        head = Piece(0, WHOLE[:4].encode(), status=200, content_type=JSON, replica=replica)
        pieces = [head, Piece(1, WHOLE[4:].encode())]
    else:
        events = Engine(TOKENS, created=request.attempt).stream(
            request.path, request.body, lambda: size
        )
        pieces = [Piece(chunk, event) for chunk, event in enumerate(events)]
        head = replace(pieces[0], status=200, content_type=STREAM, replica=replica)
        pieces[0] = replace(head, continues=request.continues)
    pieces[-1] = replace(pieces[-1], end=True)
    return [replace(each, attempt=request.attempt) for each in pieces]


def said(pieces: Iterable[Piece], *, streams: bool) -> str:
    """The text that a client has of an answer."""
    body = b"".join(piece.body for piece in pieces if not piece.failure)
    return streamed(body) if streams else body.decode()


def judge(world: World, *, streams: bool) -> None:
    """Look whether all laws hold, now that it is over."""
    flights, client = world.flights, world.client
    given = list(client.given)
    assert flights.core.flights == {}, "every request ends, those that ask for a text included"
    assert sorted(flights.forgotten) == sorted(set(flights.forgotten)), "and once"
    ends = [piece for piece in given if piece.end]
    assert ends == given[-1:] or client.gone, "its client hears of one end, and nothing after it"
    status = given[0].status if given else 0
    if status == 200 or not status:
        text = said(given, streams=streams)
        assert WHOLE.startswith(text), "no word twice, and none missing"
        if not (ends and ends[-1].failure) and not client.gone:
            assert text == WHOLE, "an answer without a failure is whole"
    for piece in ends:
        assert not piece.failure or piece.failure in list(Failure), "a failure has a name"
    attempts = [each.attempt for each in flights.requests if each.id == "r"]
    assert attempts == list(range(1, len(attempts) + 1)), "one attempt follows another"
    assert flights.admission.waiting == 0, "none counts as waiting to be taken on"
    assert [each.untaken for each in flights.heartbeats.routers()] in ([0, 0], [0]), "nor as sent"
    assert client.flight.early == {}
    assert client.flight.early.size == 0
    last = max(n for n, each in enumerate(flights.effects) if each.id == "r")
    assert isinstance(flights.effects[last], Forget), "nothing is done for a request that is over"


def play(request: Request, acts: Sequence[Act], size: int) -> World:
    """Let all of it happen, and what must follow."""
    world = World(request)
    world.size = size
    for act in acts:
        world.let(act)
    world.ends()
    return world


acts = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 11)), max_size=50)
leaving = st.one_of(st.none(), st.tuples(st.sampled_from(LEAVES), st.just(0)))
sizes = st.integers(1, 3)


@settings(max_examples=300, deadline=None)
@given(acts, leaving, sizes, st.booleans())
@example([("says", 0)] * 3 + [("fails", 0), ("is asked for text", 0)], None, 2, True)
def test_a_stream_ends_once_with_all_of_its_text_or_a_named_failure(
    happens: list[Act], leaves: Act | None, size: int, keep: bool
) -> None:
    if leaves is not None:
        happens.insert(len(happens) // 2, leaves)
    world = play(replace(chat(), keep=keep), happens, size)
    judge(world, streams=True)


@settings(max_examples=150, deadline=None)
@given(acts, leaving, st.floats(0.5, 60.0))
def test_an_answer_in_one_body_does_so_too_and_in_time(
    happens: list[Act], leaves: Act | None, timeout: float
) -> None:
    if leaves is not None:
        happens.insert(len(happens) // 2, leaves)
    world = World(replace(REQUEST, timeout=timeout))
    began = world.flights.now
    for act in happens:
        world.let(act)
        late = world.flights.now - began - timeout
        assert world.client.flight.done or late < 1.0, "no request outlives its time"
    world.ends()
    judge(world, streams=False)


@settings(max_examples=150, deadline=None)
@given(acts, sizes)
@example([("says", 0), ("says", 0), ("loses", 0), ("says", 0), ("passes", 1)], 2)
def test_what_is_looked_up_or_asked_is_asked_once_at_a_time(happens: list[Act], size: int) -> None:
    world = World(chat())
    world.size = size
    flight = world.client.flight
    for act in happens:
        world.let(act)
        looking = [identity for identity, _ in world.flights.looking if identity == "r"]
        assert len(looking) <= 1
        if not flight.done:
            assert bool(looking) == (flight.search is not Search.NOTHING)
        asking = [each for each in world.flights.core.flights.values() if each.asked_by == "r"]
        assert len(asking) == (flight.phase is Phase.DETOKENIZING), "and only while it is needed"
        if flight.early and world.flights.connected:
            assert flight.search is not Search.NOTHING, "early pieces wait for one"


# The table


class _Noted:
    """Notes which rows of the table are used, and how."""

    def __init__(self) -> None:
        self.used: set[tuple[Phase, type[Event], Phase]] = set()
        self._step = reacting.step

    def step(
        self, flight: InFlightRequest, event: Event, now: float, around: Surroundings
    ) -> object:
        before = flight.phase
        effects = self._step(flight, event, now, around)
        if (before, type(event)) in TABLE:
            self.used.add((before, type(event), flight.phase))
        else:
            assert flight.phase is before, "an event without a row means nothing"
            assert effects == []
        return effects


def test_every_row_of_the_table_is_used_and_no_other_transition_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted = _Noted()
    monkeypatch.setattr(reacting, "step", noted.step)
    for who in ("passes", "queues", "takes", "says"):
        play(chat(), [("loses", 0), (who, 0), ("says", 0), ("looks", 0)] * 4, 1)
        for leaves in LEAVES:
            play(chat(), [(who, 0), (leaves, 0)], 1)
    for seed in range(1500):
        rng = Random(seed)
        # A few kinds at a time come to strange places sooner than all of them ("swarm testing").
        few = ["says", *rng.sample(sorted(set(ACTS)), rng.randint(3, 9))]
        happens = [(rng.choice(few), rng.randrange(12)) for _ in range(rng.randint(1, 60))]
        if rng.random() < 0.5:
            happens.insert(rng.randrange(len(happens)), (rng.choice(LEAVES), 0))
        request = rng.choice((REQUEST, chat(), replace(chat(), keep=True)))
        play(replace(request, timeout=rng.choice((None, 9.0))), happens, rng.randint(1, 3))
    for row, follow in TABLE.items():
        reached = {after for phase, event, after in noted.used if (phase, event) == row}
        assert reached, f"nothing leads through {row}"
        assert reached | {row[0]} == follow | {row[0]}, f"of {row}"


def test_no_event_leads_out_of_the_end() -> None:
    assert [row for row in TABLE if row[0] is Phase.DONE] == []


def test_a_transition_that_the_table_does_not_have_is_refused() -> None:
    flight = Flights().ask().flight
    with pytest.raises(ValueError, match="TextTold can't lead from detokenizing to queued"):
        replaced(flight, Phase.DETOKENIZING).move(Phase.QUEUED, TextTold)


def replaced(flight: InFlightRequest, phase: Phase) -> InFlightRequest:
    flight.phase = phase
    return flight


def test_the_fast_path_takes_only_what_needs_no_effect() -> None:
    flights = Flights()
    flight = flights.ask().flight
    now = flights.now
    assert flight.pass_on(0, 1, b"x", now) is None, "not before the answer has begun"
    flights.says(answer(REQUEST, "chat-0", 1)[0])
    assert flight.phase is Phase.ANSWERING
    assert flight.pass_on(1, 2, b"x", now) is None
    assert flight.pass_on(0, 1, b"x", now) is None, "nor what was there already"
    assert flight.pass_on(2, 1, b"x", now) is None, "nor what is early"
    given = flight.pass_on(1, 1, b"x", now + 1)
    assert given is not None
    assert (given.body, flight.heard_at) == (b"x", now + 1)
    before = list(flights.effects)
    flights.happens("r", PieceArrived(Piece(1, b"x")))
    assert flights.effects == before, "what it took means nothing to `step`"


@settings(max_examples=80, deadline=None)
@given(
    acts,
    leaving,
    st.integers(1, 2),
    st.sampled_from([REQUEST, chat(), replace(REQUEST, keep=True)]),
)
def test_short_ways_lead_where_the_long_one_does(
    happens: list[Act], leaves: Act | None, size: int, request: Request
) -> None:
    if leaves is not None:
        happens.insert(len(happens) // 2, leaves)
    short, long = World(request), World(request)
    short.size = long.size = size
    long.flights.short_ways = False
    for act in happens:
        short.let(act)
        long.let(act)
        assert outcome(short) == outcome(long)
    short.ends()
    long.ends()
    assert outcome(short) == outcome(long)


def outcome(world: World) -> tuple[object, ...]:
    """Return all that can be seen of a request: of its state, its answer, and what it has done."""
    flights, flight = world.flights, world.client.flight
    answer = flight.answer
    given = [
        (piece.body, piece.status, piece.content_type, piece.end, piece.failure, piece.replica)
        for piece in world.client.given
    ]
    return (
        *(
            given,
            [type(each) for each in flights.effects if not isinstance(each, Deliver)],
            flights.forgotten,
            flights.cancels,
        ),
        *(flight.phase, flight.heard_at, flight.first_at, flight.untaken, flight.accepted),
        *(answer.complete, answer.failure, answer.begun, answer.replica, answer.version),
        *(answer.tokens, answer.streaming, answer.pieces, flights.admission.waiting, flight.tried),
        *(sorted(flights.core.flights), [each.untaken for each in flights.heartbeats.routers()]),
    )


def test_every_look_up_has_an_end() -> None:
    flights = Flights()
    flights.answers = False
    flights.ask()
    flights.says(Piece(1, b"early"), kept=False)
    (look_up,) = [each for each in flights.effects if isinstance(each, LookUp)]
    assert timeouts.LOOK_UP[0] <= look_up.seconds <= timeouts.LOOK_UP[1]
    assert [type(each) for each in flights.effects if isinstance(each, Deliver | LetGo)] == []
    assert [type(each) for each in flights.effects] == [Send, LookUp]
