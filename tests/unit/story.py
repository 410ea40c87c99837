"""A log in memory for given/when/then: every entry goes through its bytes, as on the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from nebula.actors.placement.decision import Decision, decide
from nebula.events import record
from nebula.events.evolve import evolve
from nebula.events.folding import fold
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.memory import GIB
from nebula.events.record import Entry, Record
from nebula.events.state import EMPTY, Engine, Model, Replica, State
from nebula.events.values import Adapter, Assignment, Autoscale, Device, Target, Weights
from nebula.events.version import VERSION, reporter
from nebula.events.vocabulary import (
    REPORTS,
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    ClusterFounded,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStarted,
    EngineStopped,
    Event,
    EventRejected,
    ModelAssigned,
    ModelMeasured,
    ModelRolledBack,
    ModelScaled,
    ModelSlept,
    ModelUnloaded,
    ModelUnschedulable,
    ModelWoken,
    NodeDeregistered,
    NodeHeard,
    NodeLost,
    NodeRegistered,
    NodeStopped,
    NodeSuspected,
)

SECOND = 10**9
ROUNDS = 100
"""More decisions in a row than any state here may call for."""


class Unsettled(AssertionError):
    """Decisions that lead to ever new decisions."""


class Story:
    """What has happened so far, and the state that it folds to."""

    def __init__(self) -> None:
        self.state: State = EMPTY
        self.log: list[Record] = []
        self.entries: list[Entry] = []

    def publish(self, subject: str, payload: bytes, headers: Mapping[str, str] = {}) -> Story:
        """Append any message, as `nats pub` does."""
        seq = self.state.seq + 1
        block = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        raw = f"NATS/1.0\r\n{block}\r\n".encode() if headers else b""
        self.entries.append(Entry(seq, seq * SECOND, subject, raw, payload))
        self.log.append(record.read_entry(self.entries[-1]))
        self.state = evolve(self.state, self.log[-1])
        return self

    def append(
        self, identity: str, event: Event, cause: int | None = None, basis: int | None = None
    ) -> Story:
        """Append an event with the headers that an actor gives it."""
        headers = record.headers_for(event)
        if cause is not None:
            headers[record.CAUSE_HEADER] = str(cause)
        if basis is not None:
            headers[record.BASIS_HEADER] = str(basis)
        subject = record.subject_of(identity, event, self._reporter(identity, event))
        return self.publish(subject, record.encode(event), headers)

    def _reporter(self, identity: str, event: Event) -> str:
        """Return the node that has a reason to report an event, as a subject names it."""
        held, nodes = self.state.replicas.get(identity), sorted(self.state.nodes)
        node = getattr(event, "node", "") or (held.node if held is not None else "".join(nodes[:1]))
        return reporter(self.state, event, node)

    def given(self, identity: str, *events: Event) -> Story:
        """Append events of one aggregate."""
        for event in events:
            self.append(identity, event)
        return self

    def decides(self) -> tuple[Decision, ...]:
        """Append what a router decides once, and give it."""
        basis = self.state.seq
        decisions = decide(self.state)
        for each in decisions:
            self.append(each.id, each.event, each.cause, basis)
        return decisions

    def settles(self) -> list[Event]:
        """Append what a router decides until nothing is left to decide, and give all of it."""
        events: list[Event] = []
        for _ in range(ROUNDS):
            decisions = self.decides()
            if not decisions:
                return events
            events += [each.event for each in decisions]
        raise Unsettled(events[-3:])

    def runs(self, replica: str, *, ready: bool = True) -> Story:
        """Let a node start a replica's engine as it is planned now."""
        planned = self.state.replicas[replica]
        self.given(replica, EngineStarted(7, 1.0, 8001, "/log", planned.version))
        return self.given(replica, EngineReady()) if ready else self

    def stops(self, replica: str) -> Story:
        """Let a node end a replica's engine."""
        return self.given(replica, EngineStopped("told to"))

    def fails(self, replica: str) -> Story:
        """Its engine has died, and is started again soon."""
        return self.given(replica, EngineFailed("killed", -9, retry_in=1.0))

    def gives_up(self, replica: str) -> Story:
        """Let a node give a replica up."""
        return self.given(replica, EngineFailed("ValueError: no", 1, attempt=3))

    def at(self, seq: int) -> State:
        """Return the state as it was with the event of a sequence."""
        return fold(EMPTY, self.log[:seq])

    def model(self, identity: str = "chat") -> Model:
        """Return a model as it is now."""
        return self.state.models[identity]

    def replica(self, identity: str = "chat-0") -> Replica:
        """Return a replica as it is now."""
        return self.state.replicas[identity]

    def engine(self, identity: str = "chat-0") -> Engine:
        """Return a replica's engine, which is there."""
        engine = self.state.replicas[identity].engine
        assert engine is not None
        return engine

    def places(self, identity: str = "chat") -> dict[str, str]:
        """Return where a model's replicas are planned: replica -> "node/device"."""
        return {
            place.replica: "+".join(f"{place.node}/{device}" for device in place.devices)
            for place in self.model(identity).assignments
        }


def gpus(*gib: float, **labels: str) -> NodeRegistered:
    """Register GPUs of so many GiB."""
    return NodeRegistered(
        tuple(Device(index, "gpu", "H100", int(each * GIB)) for index, each in enumerate(gib)),
        labels=labels,
    )


def promised(state: State) -> dict[tuple[str, int], int]:
    """Sum what replicas hold of each device, those that still end too."""
    sums: dict[tuple[str, int], int] = {}
    for replica in state.replicas.values():
        for index in replica.devices:
            sums[replica.node, index] = sums.get((replica.node, index), 0) + replica.memory
    return sums


def cluster(**nodes: Sequence[float]) -> Story:
    """Begin with nodes that have GPUs of so many GiB: `cluster(alpha=[80])`."""
    story = Story()
    for node, devices in nodes.items():
        story.given(node, gpus(*devices))
    return story


def load(replicas: int = 1, memory: str | None = None, **fields: Any) -> ModelLoadRequested:
    """Ask for a model."""
    return ModelLoadRequested("/m", replicas=replicas, memory=memory, **fields)


_model_ids = st.sampled_from(["a", "b", "b-0"])
_node_ids = st.sampled_from(["n1", "n2"])
_replica_ids = st.one_of(st.just("a-0"), st.builds("{}-{}".format, _model_ids, st.integers(0, 3)))
_names = st.sampled_from(["sql", "poet", "a"])
_sources = st.sampled_from(["/x", "/y"])
_counts = st.integers(0, 3)
_versions = st.integers(0, 4)
_sizes = st.integers(0, 16).map(lambda gib: gib * GIB)
_memory = st.one_of(st.none(), st.integers(1, 12).map("{}GiB".format))
_devices = st.lists(
    st.builds(Device, st.integers(0, 2), st.just("gpu"), st.just("x"), _sizes), max_size=3
).map(tuple)


def _places(replicas: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Assignment, ...]]:
    place = st.builds(
        Assignment,
        replicas,
        _node_ids,
        st.lists(st.integers(0, 2), min_size=1, max_size=2).map(tuple),
        _sizes,
        _versions,
    )
    return st.lists(place, max_size=3, unique_by=lambda each: each.replica).map(tuple)


def _plans_of(model: str) -> st.SearchStrategy[tuple[str, Event]]:
    places = _places(st.builds("{}-{}".format, st.just(model), st.integers(0, 3)))
    return st.tuples(st.just(model), st.builds(ModelAssigned, _versions, places))


intents: st.SearchStrategy[tuple[str, Event]] = st.one_of(
    st.tuples(
        _model_ids,
        st.one_of(
            st.builds(
                ModelLoadRequested,
                _sources,
                st.sampled_from(["", "a", "name"]),
                st.sampled_from(["chat", "embedding"]),
                _counts,
                st.lists(st.builds(Adapter, _names, _sources), max_size=1).map(tuple),
                st.sampled_from([None, None, True, False]),
                _memory,
                st.sampled_from([{}, {}, {"seed": 1}, {"port": 1}, {"tensor-parallel-size": 2}]),
                policy=st.sampled_from(["spread", "binpack"]),
                labels=st.sampled_from([{}, {}, {}, {"zone": "a"}]),
                apart=st.sampled_from([(), (), (), ("a",), ("b",)]),
                node=st.sampled_from(["", "", "", "n1"]),
                devices=st.sampled_from([(), (), (), (0,)]),
                autoscale=st.sampled_from([None, None, Autoscale(1, 2)]),
                on_request=st.sampled_from([False, False, True]),
            ),
            st.builds(ModelScaleRequested, _counts),
            st.just(ModelUnloadRequested()),
            st.builds(AdapterLoadRequested, _names, _sources),
            st.builds(AdapterUnloadRequested, _names),
        ),
    ),
    st.tuples(_node_ids, st.sampled_from([NodeDrainRequested(), NodeUndrainRequested()])),
    st.tuples(
        st.sampled_from(["prod", "b"]),
        st.one_of(
            st.builds(
                AliasRequested,
                st.lists(
                    st.builds(Target, st.sampled_from(["a", "sql", "gone"]), _counts),
                    min_size=1,
                    max_size=3,
                ).map(tuple),
                st.sampled_from(["", "poet", "name"]),
                st.sampled_from(["", "a"]),
                st.sampled_from([None, None, 0, 3]),
            ),
            st.just(AliasRemoveRequested()),
        ),
    ),
)
"""Events that anyone may publish, about few enough aggregates that they meet."""

facts: st.SearchStrategy[tuple[str, Event]] = st.one_of(
    st.tuples(
        _replica_ids,
        st.one_of(
            st.builds(
                EngineStarted,
                st.just(7),
                st.just(1.0),
                st.just(8001),
                st.just("/log"),
                _versions,
            ),
            st.just(EngineReady()),
            st.just(EngineStalled(30.0, 2, 270.0)),
            st.just(EngineResumed(40.0)),
            st.builds(
                EngineFailed,
                st.just("ValueError: no"),
                attempt=st.integers(1, 3),
                retry_in=st.sampled_from([None, 0.0, 4.0]),
            ),
            st.just(EngineStopped()),
            st.builds(AdapterLoaded, _names, _sources),
            st.builds(AdapterLoadFailed, _names, _sources, st.just("too large")),
            st.builds(AdapterUnloaded, _names),
        ),
    ),
    st.tuples(
        _model_ids, st.builds(ModelMeasured, _sources, _sizes, _counts, st.integers(0, 9999))
    ),
    st.tuples(
        _node_ids,
        st.one_of(
            st.builds(
                NodeRegistered,
                _devices,
                labels=st.sampled_from([{}, {"zone": "a"}]),
                weights=st.sampled_from([(), (Weights("/x", GIB),)]),
                measures=st.sampled_from([False, False, True]),
                engine_version=st.sampled_from(["", "1", "2"]),
            ),
            st.just(NodeSuspected()),
            st.just(NodeHeard()),
            st.just(NodeLost()),
            st.builds(NodeStopped, st.sampled_from([0, 2, 9])),
            st.just(NodeDeregistered()),
        ),
    ),
)
"""What actors report, also in orders in which no actor would."""

plans: st.SearchStrategy[tuple[str, Event]] = st.one_of(*map(_plans_of, ("a", "b")))
"""Plans that name replicas of their own model, as every plan should."""

decisions_by_hand: st.SearchStrategy[tuple[str, Event]] = st.one_of(
    plans,
    st.tuples(
        _model_ids,
        st.one_of(
            st.builds(ModelAssigned, _versions, _places(_replica_ids)),
            st.builds(ModelUnschedulable, st.just("because"), _counts),
            st.just(ModelUnloaded()),
            st.builds(ModelScaled, _counts),
            st.sampled_from([ModelSlept(), ModelWoken(), ModelRolledBack()]),
        ),
    ),
    st.tuples(st.integers(0, 20).map(str), st.just(EventRejected("s", "r"))),
)

_raw = st.tuples(
    st.sampled_from(
        [
            "nebula.events.model.a.ModelLoadRequested",
            "nebula.events.model.a.ModelScaleRequested",
            "nebula.events.model.a.Nonsense",
            "nebula.events.node.a.ModelLoadRequested",
            "nebula.events.replica.a-0.EngineStarted",
            "nebula.events.replica.a-0.EngineReady.n2",
            "nebula.events.model.a.ModelLoadRequested.n1",
            "nebula.events.what",
        ]
    ),
    st.sampled_from([b"", b"{}", b"[", b"\xff", b'{"source":1}', b'{"replicas":2,"x":1}']),
)


def message(identity: str, event: Event) -> tuple[str, bytes]:
    """Return what is published for an event, by node n1 if it is a report: (subject, payload)."""
    node = "n1" if type(event).__name__ in REPORTS else ""
    return record.subject_of(identity, event, node), record.encode(event)


_messages = st.one_of(intents, facts).map(lambda pair: message(*pair))
_by_hand = decisions_by_hand.map(lambda pair: message(*pair))
_anything = st.one_of(_messages, _messages, _messages, _by_hand, _raw)
_UNDER_WAY = [
    message("c1", ClusterFounded("lab", VERSION)),
    message("n1", gpus(16)),
    message("a", load(lora=True)),
    message("a", ModelAssigned(1, (Assignment("a-0", "n1", (0,), GIB, 1),))),
    message("a-0", EngineStarted(7, 1.0, 8001, "/log", plan=1)),
    message("b", load()),
]

messages = st.one_of(
    st.lists(_anything, max_size=30),
    st.lists(_anything, min_size=5, max_size=30).map(lambda said: [*_UNDER_WAY, *said]),
)
"""Anything that may be said: (subject, payload), decisions by hand and nonsense too.

Half of it is said to a cluster that has models already: from nothing, chance alone hardly ever
gets as far as an engine.
"""

fair_messages = st.lists(_messages, max_size=30)
"""What may be said where all decisions are the router's own."""


def serving_chat(**fields: int) -> Story:
    """Begin with a node on which the model `chat` serves, loaded with some fields."""
    story = cluster(n1=[80]).given("chat", load(memory="8GiB", **fields))
    story.settles()
    for replica in story.model("chat").replicas:
        story.runs(replica)
    return story
