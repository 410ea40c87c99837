"""A node's files from the wish to the disk: what is fetched, given up, fetched again, removed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from nebula.actors.node.policy.gate import Gate
from nebula.actors.node.policy.rules import NodePolicy
from nebula.actors.node.weights import fetching, manager
from nebula.actors.node.weights.download import Damaged
from nebula.actors.node.weights.fetching import Retries
from nebula.actors.node.weights.hub import Hub, Refused, Unreachable
from nebula.actors.node.weights.listing import Malformed
from nebula.actors.node.weights.manager import WeightsManager
from nebula.actors.node.weights.provision import Files
from nebula.actors.placement.decision import replicas_on
from nebula.actors.projection import Projection
from nebula.events.intents import (
    ModelLoadRequested,
    ModelUnloadRequested,
    WeightsRemoveRequested,
)
from nebula.events.vocabulary import (
    DownloadFinished,
    Event,
    ModelUnloaded,
)
from tests.unit.story import cluster

pytestmark = pytest.mark.anyio

HUB = "org/model"


class Machine:
    """A node's files, a hub that answers what a test says, and a log that takes what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, nodes: int = 1) -> None:
        self.story = cluster(**{f"n{number}": [80] for number in range(1, nodes + 1)})
        self.answers: list[Exception | None] = []
        """What each try to fetch ends with; further tries never end."""
        self.tries: list[Files] = []
        self.cancelled: list[Files] = []
        self.failures: list[tuple[str, float | None]] = []
        self.removed: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.endless: set[asyncio.Task[Any]] = set()
        self.blocked = asyncio.Event()
        self.now = 0.0
        monkeypatch.setattr(manager, "Bringing", lambda *_: self)
        monkeypatch.setattr(fetching, "_now", lambda: self.now)
        self.weights = WeightsManager(
            "n1",
            cast("Hub", SimpleNamespace(offline=False, remove=self.removed.append)),
            cast("Projection", self.story),
            tell=self.tell,
            spawn=self.spawn,
            wake=lambda: None,
            gate=Gate(NodePolicy()),
            retries=Retries(pause=1.0, longest=8.0, damaged=3),
        )

    async def bring(self, files: Files) -> None:
        self.tries.append(files)
        if not self.answers:
            task = asyncio.current_task()
            assert task is not None
            self.endless.add(task)
            self.blocked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(files)
                raise
        problem = self.answers.pop(0)
        if problem is not None:
            raise problem

    async def failed(self, source: str, reason: str, pause: float | None) -> None:
        self.failures.append((source, pause))

    async def abandoned(self, source: str) -> None:
        pass

    async def tell(
        self, identity: str, event: Event, cause: int | None, message_id: str | None = None
    ) -> int:
        self.story.given(identity, event)
        return self.story.state.seq

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(cast("Coroutine[Any, Any, None]", work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def works(self) -> None:
        """Let the node look at its files, and all that it begins go as far as it can."""
        state = self.story.state
        self.weights.work(state, replicas_on(state, "n1"), set(), self.now)
        while left := self.tasks - self.endless:
            blocked = asyncio.ensure_future(self.blocked.wait())
            await asyncio.wait({*left, blocked}, return_when=asyncio.FIRST_COMPLETED)
            self.blocked.clear()
            blocked.cancel()

    async def ends(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def waiting(self) -> frozenset[str]:
        """The replicas here that can't start before their files are there."""
        return self.weights.waiting(replicas_on(self.story.state, "n1"))

    def loads(self, identity: str = "chat", **fields: Any) -> None:
        event = ModelLoadRequested(HUB, memory="8GiB", **fields)
        self.story.given(identity, event).settles()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def test_replicas_wait_until_their_files_are_here_and_they_come_once(
    machine: Machine,
) -> None:
    machine.loads(replicas=2)
    assert machine.waiting == {"chat-0", "chat-1"}
    machine.answers = [None]
    await machine.works()
    assert (machine.waiting, machine.tries) == (frozenset(), [Files(HUB)])
    await machine.works()
    assert len(machine.tries) == 1


async def test_files_that_were_removed_are_here_no_more_and_are_fetched_again(
    machine: Machine,
) -> None:
    machine.loads()
    machine.answers = [None, None]
    await machine.works()
    machine.story.given("n1", DownloadFinished(HUB, 9, "", 1.0))
    machine.story.given("chat", ModelUnloadRequested(), ModelUnloaded())
    machine.story.given("n1", WeightsRemoveRequested(HUB))
    await machine.works()
    assert machine.removed == [HUB]
    assert HUB not in machine.story.state.nodes["n1"].weights
    machine.loads("again")
    assert machine.waiting == {"again-0"}
    await machine.works()
    assert (machine.waiting, len(machine.tries)) == (frozenset(), 2)


FOR_A_WHILE = Unreachable("no answer")


@pytest.mark.parametrize("wrong", [Damaged("other bytes"), Malformed("no list")])
async def test_files_that_are_wrong_three_times_in_a_row_are_given_up(
    machine: Machine, wrong: Exception
) -> None:
    machine.loads()
    machine.answers = [wrong, FOR_A_WHILE, wrong, FOR_A_WHILE, wrong]
    pauses = []
    for _ in range(5):
        await machine.works()
        pauses.append(machine.failures[-1][1])
        machine.now += 10.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, None]
    assert machine.story.replica().given_up
    assert machine.story.replica().reason.startswith("its files can't be fetched: ")


async def test_a_source_that_was_given_up_has_all_its_tries_again_once_it_is_asked_for_again(
    machine: Machine,
) -> None:
    machine.loads()
    wrong = Damaged("other bytes")
    for _ in range(2):
        machine.answers = [wrong] * 3
        for _ in range(3):
            assert not machine.story.replica().given_up
            await machine.works()
            machine.now += 10.0
        assert machine.story.replica().given_up
        machine.loads()
    assert [pause for _, pause in machine.failures] == [1.0, 2.0, None] * 2


async def test_files_that_come_in_the_end_have_all_their_tries_again(machine: Machine) -> None:
    machine.loads()
    wrong = Damaged("other bytes")
    machine.answers = [wrong, wrong, None]
    for _ in range(3):
        await machine.works()
        machine.now += 10.0
    machine.loads(options={"revision": "v2"})  # the same source, other files
    machine.answers = [wrong, wrong]
    for _ in range(2):
        await machine.works()
        machine.now += 10.0
    assert [pause for _, pause in machine.failures] == [1.0, 2.0, 1.0, 2.0]
    assert not machine.story.replica().given_up


async def test_a_hub_that_does_not_answer_is_asked_for_ever_with_growing_pauses(
    machine: Machine,
) -> None:
    machine.loads()
    machine.answers = [FOR_A_WHILE] * 9
    for _ in range(9):
        await machine.works()
        machine.now += 8.0
    assert [pause for _, pause in machine.failures] == [1.0, 2.0, 4.0, *[8.0] * 6]
    assert not machine.story.replica().given_up


async def test_a_source_is_tried_again_when_its_pause_is_over_and_not_before(
    machine: Machine,
) -> None:
    machine.loads()
    machine.answers = [FOR_A_WHILE, None]
    await machine.works()
    assert list(machine.weights.retries) == [1.0]
    machine.now = 0.9
    await machine.works()
    assert len(machine.tries) == 1
    machine.now = 1.0
    await machine.works()
    assert (len(machine.tries), list(machine.weights.retries)) == (2, [])


async def test_what_the_hub_refuses_is_given_up_at_once_for_this_node_s_replicas_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, nodes=2)
    machine.loads(replicas=2)
    machine.answers = [Refused("not for us")]
    await machine.works()
    assert machine.failures == [(HUB, None)]
    mine = machine.story.places()
    given_up = {each: machine.story.replica(each).given_up for each in mine}
    assert given_up == {each: place.startswith("n1") for each, place in mine.items()}


async def test_a_download_ends_when_its_model_is_unloaded(machine: Machine) -> None:
    machine.loads()
    await machine.works()
    machine.loads("other", options={"revision": "v2"})
    machine.story.given("chat", ModelUnloadRequested())
    await machine.works()
    assert machine.cancelled == [Files(HUB)]
    await machine.works()  # the other one's turn, once the first has let go of the source
    assert machine.tries == [Files(HUB), Files(HUB, "v2")]
    await machine.ends()


async def test_an_engine_does_not_ask_the_hub_without_the_token_of_its_node(
    machine: Machine,
) -> None:
    machine.loads()
    launch = machine.story.state.replicas["chat-0"].launch
    assert launch is not None
    environ = {"HF_TOKEN": "hidden", "PATH": "/bin"}
    weights = machine.weights
    weights.hub = cast("Hub", SimpleNamespace(chosen=False))
    assert weights.environment(environ, launch) == {"PATH": "/bin", "HF_HUB_OFFLINE": "1"}
    assert weights.environment({"PATH": "/bin"}, launch) == {"PATH": "/bin"}
    other = replace(launch, options={"tokenizer": "org/other"})
    assert weights.environment(environ, other) == {"PATH": "/bin"}
    weights.fetches = False
    assert weights.environment(environ, launch) == {"PATH": "/bin"}
