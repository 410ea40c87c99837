"""A gateway's requests in flight, with everybody they deal with, and time that passes when told to.

Nothing runs here beside the core: effects are carried out at once, by hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from nebula.actors.attribution import SUBJECT_OF
from nebula.actors.gateway.admission import Admission
from nebula.actors.gateway.answer import prepared
from nebula.actors.gateway.core import IDLE, RequestsInFlight
from nebula.actors.gateway.heartbeats import Heartbeats, Link
from nebula.actors.gateway.in_flight import (
    Cancel,
    ClientLeft,
    ClientTooSlow,
    Deliver,
    Effect,
    Event,
    Forget,
    GatewayStops,
    InFlightRequest,
    LetGo,
    LookedUp,
    LookUp,
    NotSent,
    PieceArrived,
    Reconnected,
    Send,
    Surroundings,
    Ticked,
)
from nebula.actors.gateway.timeouts import TICK
from nebula.events import subjects
from nebula.events.heartbeats import QueueLength, ReplicaHeartbeat, RouterHeartbeat
from nebula.events.inference import Piece, Request, StillWanted, UnderWay
from nebula.events.state import NameBinding
from nebula.events.vocabulary import EngineReady, EngineStarted
from nebula.openai.chunks import CHAT
from tests.unit.story import Story, cluster, load
from tests.unit.vllm_stream import Engine

STREAM = "text/event-stream"
JSON = "application/json"
REQUEST = Request("r", "gw", "chat", "/v1/completions", b"{}")
TOKENS = [b"Once", b" upon", b" a", b" time"]


class Client:
    """The client of a request: what it was given, and what its gateway knows of the request."""

    def __init__(self, flight: InFlightRequest) -> None:
        self.flight = flight
        self.given: deque[Piece] = deque()
        self.gone = False

    def next(self) -> Piece:
        """Read one piece, which must be there."""
        return self.given.popleft()

    def ended(self) -> list[Piece]:
        """Read all that there is, which must be the end."""
        pieces: list[Piece] = []
        while not pieces or not pieces[-1].end:
            pieces.append(self.next())
        assert not self.given, "an answer ends once"
        return pieces


class Flights:
    """A gateway `gw`, the cluster that it sees, and everybody that talks to it."""

    def __init__(self, story: Story | None = None) -> None:
        self.story = story or serving()
        self.now = 1000.0
        self.connected = True
        self._connected_at = 0.0
        self._lost_at: float | None = None
        self.heartbeats = Heartbeats(lambda: self.now)
        self.admission = Admission()
        around = Surroundings(self.story.state, self.heartbeats, self.admission)
        self._asking = 0
        self.core = RequestsInFlight(around, self._new_id)
        self.clients: dict[str, Client] = {}
        self.requests: list[Request] = []
        self.addressees: list[str] = []
        """The routers that requests were sent to, in order; "" for any of them."""
        self.cancels: list[bytes] = []
        """The cancellations that were sent, in order, as they say what is to end."""
        self.effects: list[Effect] = []
        self.forgotten: list[str] = []
        self.kept: dict[str, list[Piece]] = {}
        """What the data plane's stream holds."""
        self.keeps = self.answers = self.short_ways = True
        self.refuses: NotSent | None = None
        self.looking: list[tuple[str, float]] = []
        self.line: QueueLength | None = QueueLength(1, 0.5)
        """What routers tell of their lines."""

    def _new_id(self) -> str:
        self._asking += 1
        return f"asking-{self._asking}"

    def ask(self, request: Request = REQUEST, *, idle: float = IDLE) -> Client:
        """Let a client ask."""
        self._look_around()
        send = self.core.begin(request, NameBinding("chat"), self.now, idle=idle)
        client = self.clients[request.id] = Client(self.core.flights[request.id])
        self.perform([send])
        return client

    def happens(self, identity: str, event: Event) -> None:
        """Let an event happen to a request, if it is in flight."""
        flight = self.core.flights.get(identity)
        if flight is not None:
            self._look_around()
            self.perform(self.core.happened(flight, event, self.now))

    def _look_around(self) -> None:
        self.core.around.state = self.story.state
        self.core.around.link = Link(self.connected, self._connected_at, self._lost_at)

    def perform(self, effects: Iterable[Effect]) -> None:
        """Carry out what is to be done; a look-up is answered at once if the stream `answers`."""
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case Send(id=identity, request=request, router=router):
                    if self.refuses is not None:
                        self.happens(identity, self.refuses)
                    else:
                        self.requests.append(request)
                        self.addressees.append(router)
                case Cancel(below=below, note=note):
                    self.cancels.append(note if below >= 2**31 else b"%d" % below)
                case Deliver(id=identity, piece=piece):
                    self._give(identity, piece)
                case LetGo(id=identity, piece=piece):
                    self.clients[identity].given.clear()
                    self._give(identity, piece)
                case LookUp(id=identity, seconds=seconds):
                    self.looking.append((identity, self.now + seconds))
                case Forget(id=identity):
                    self.forgotten.append(identity)

    def _give(self, identity: str, piece: Piece) -> None:
        client = self.clients[identity]
        assert not client.gone, "nothing is given to one that has left"
        client.given.append(piece)

    def looks(self) -> None:
        """Let all look-ups end that can: those to which the stream answers, or whose time is up."""
        while self.looking:
            identity, until = self.looking[0]
            if not self.answers and self.now < until:
                return
            self.looking.pop(0)
            for piece in self.kept.get(identity, ()) if self.keeps and self.answers else ():
                self.hears(identity, piece)
            self.happens(identity, LookedUp())

    def hears(self, identity: str, piece: Piece) -> None:
        """Let the gateway hear a piece, as its shell takes it."""
        flight = self.core.flights.get(identity)
        if flight is None:
            return
        if self.short_ways and piece.end and self.core.take_whole(flight, piece, self.now):
            if flight.attached:
                self.perform([Deliver(identity, piece)])
            self.perform([Forget(identity)])
            return
        given = None
        if self.short_ways and not (piece.end or piece.failure):
            given = flight.pass_on(piece.chunk, piece.attempt, piece.body, self.now)
        if given is not None and flight.attached:
            self._give(identity, given)
        if given is None or flight.answer.broken is not None:
            self.happens(identity, PieceArrived(piece))

    def says(self, *pieces: Piece, to: str = "r", kept: bool = True, lost: bool = False) -> None:
        """Publish an answer; the stream keeps it, and unless it is lost the gateway hears it."""
        for piece in pieces:
            if kept:
                self.kept.setdefault(to, []).append(piece)
            if not lost:
                self.hears(to, piece)

    def later(self, seconds: float, *, alive: Sequence[str] = ()) -> None:
        """Let time pass; engines and routers that are `alive` say so each second, and at its end.

        It passes in steps between which the gateway looks at its requests, as it does.
        """
        end = self.now + seconds
        while self.now < end:
            second = min(self.now + 1.0, end)
            while self.now < second:
                self.now = min(self.now + TICK, second)
                if self.now == second:
                    for name in alive:
                        self.beats(name)
                self.looks()
                self.ticks()

    def ticks(self) -> None:
        """Let the gateway look at all requests, as it does when time passes or the log changes."""
        for identity in list(self.core.flights):
            self.happens(identity, Ticked())

    def beats(self, name: str) -> None:
        """Let a router or an engine say that it lives, which is heard unless NATS is away."""
        if not self.connected:
            return
        if name.startswith("router"):
            queues = {"chat": self.line} if self.line is not None else {}
            status = RouterHeartbeat(name, queues, addressed=not name.endswith("old"))
            subject = subjects.router_status(status.router).encode()
            self.heartbeats.on_router(subject, b"", msgspec.json.encode(status))
            return
        engine = self.story.state.replicas[name].engine
        assert engine is not None
        said = ReplicaHeartbeat(replica=name, pid=engine.pid, running=1, version=1, context=1000)
        subject = SUBJECT_OF[ReplicaHeartbeat](said).encode()
        self.heartbeats.on_replica(subject, b"", msgspec.json.encode(said))

    def restarts(self, replica: str, pid: int = 8) -> None:
        """Let another engine take the place of a replica's, as the log has it."""
        version = self.story.state.replicas[replica].version
        self.story.given(replica, EngineStarted(pid, 2.0, 8001, "/log", version), EngineReady())
        self.ticks()

    def asks(self, replica: str, **pieces: int | UnderWay) -> dict[str, int]:
        """Let an engine ask which of its requests are wanted; return which are not."""
        under_way = {
            each: UnderWay(1, told) if isinstance(told, int) else told
            for each, told in pieces.items()
        }
        self._look_around()
        asking = StillWanted(replica, under_way)
        unwanted, effects = self.core.still_wanted(asking, self.now)
        self.perform(effects)
        return unwanted

    def leaves(self, identity: str = "r") -> None:
        """Let a client go away."""
        self.clients[identity].gone = True
        self.clients[identity].given.clear()
        self.happens(identity, ClientLeft())

    def reads_too_slowly(self, identity: str = "r") -> None:
        """Let more wait for a client than may."""
        self.happens(identity, ClientTooSlow())

    def stops(self) -> None:
        """Let the gateway end."""
        for identity in list(self.core.flights):
            self.happens(identity, GatewayStops())

    def nats_dies(self) -> None:
        """Let the connection get lost."""
        self.connected, self._lost_at = False, self.now

    def nats_returns(self) -> None:
        """Let it come back; what was looked for then is found before anything else happens."""
        self.connected, self._lost_at, self._connected_at = True, None, self.now
        self.heartbeats.restart()
        for identity in list(self.core.flights):
            self.happens(identity, Reconnected())
        self.looks()


def serving(replicas: int = 2) -> Story:
    """A cluster in which so many replicas of `chat` serve."""
    story = cluster(alpha=[80]).given("chat", load(replicas, "8GiB"))
    story.settles()
    for number in range(replicas):
        story.runs(f"chat-{number}")
    return story


def chat(identity: str = "r", **fields: object) -> Request:
    """A chat whose answer streams."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body = msgspec.json.encode({**asked, "max_tokens": 50, **fields})
    return prepared(Request(identity, "gw", "chat", CHAT, body))


def stream(
    request: Request, number: int, replica: str, tokens: Sequence[bytes] = TOKENS
) -> list[Piece]:
    """The pieces of what an engine answers to a request."""
    events = Engine(list(tokens), created=number).stream(request.path, request.body)
    pieces = [Piece(chunk, event, attempt=request.attempt) for chunk, event in enumerate(events)]
    pieces[0] = replace(
        pieces[0], status=200, content_type=STREAM, replica=replica, continues=request.continues
    )
    pieces[-1] = replace(pieces[-1], end=True)
    return pieces


def text(given: Iterable[Piece]) -> bytes:
    """All bytes of an answer."""
    return b"".join(piece.body for piece in given)


def words(given: Iterable[Piece]) -> str:
    """The text of a chat's stream, which must be whole, and one answer."""
    events = text(given).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events[:-2]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
