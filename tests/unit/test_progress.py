"""What `nebula load` and `scale` wait for, and what they say when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from msgspec.structs import replace
from rich.console import Console

from nebula.actors.projection import Projection
from nebula.cli import drain, meanwhile, models, progress
from nebula.cli.progress import Patience
from nebula.events.evolve import evolve
from nebula.events.intents import (
    AdapterLoadRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.state import EMPTY, State
from nebula.events.values import Autoscale
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    DownloadFailed,
    EngineFailed,
    Event,
    NodeLost,
)
from nebula.history import leaving, outcome
from nebula.store.connection import Connection
from nebula.store.log import Log
from tests.unit.story import Story, cluster, gpus, load, messages

pytestmark = pytest.mark.anyio

Happening = Callable[[], object]


class Told(Projection):
    """A story of which one more thing happens each time a command waits for it to go on."""

    def __init__(self, story: Story, *happenings: Happening) -> None:
        super().__init__(Log(Connection("nats://nowhere", "test")))
        self.story = story
        self.left = list(happenings)
        self.state = story.state

    def changed(self) -> Coroutine[Any, Any, object]:
        return self._happen()

    async def _happen(self) -> None:
        assert self.left, "it waits for more than there will be"
        self.left.pop(0)()
        self.state = self.story.state
        await asyncio.sleep(0)


def folded(story: Story, seq: int) -> State:
    """Fold the first entries of a story."""
    state = EMPTY
    for record in story.log[:seq]:
        state = evolve(state, record)
    return state


async def follow(story: Story, *happenings: Happening) -> tuple[bool, str]:
    """Return whether it was served in the end, and the last line that was said."""
    told = Told(story, *happenings)
    said = StringIO()
    served = await progress.follow(told, "chat", Console(file=said, width=200))
    assert not told.left, "it did not wait for what was still to come"
    return served, said.getvalue().splitlines()[-1]


def served(lora: bool | None = None) -> Story:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", lora=lora))
    story.settles()
    return story.runs("chat-0")


async def test_what_serves_already_is_told_so_once_a_router_has_answered() -> None:
    story = served().given("chat", load(1, "8GiB"))
    assert await follow(story, story.settles) == (True, "chat is ready: 1 of 1 replicas already")


async def test_with_another_launch_the_old_engine_is_not_taken_for_the_new_one() -> None:
    story = served()
    story.given("chat", replace(load(1, "8GiB"), options={"max-model-len": 4096}))
    ended = await follow(story, story.settles, lambda: story.runs("chat-1"), story.settles)
    assert ended == (True, "chat is ready: 1 of 1 replicas after 4 s")


async def test_a_change_that_was_rolled_back_is_told_and_no_success() -> None:
    story = served()
    story.given("chat", replace(load(1, "8GiB"), options={"max-model-len": 4096}))
    ended = await follow(
        story,
        story.settles,
        lambda: story.runs("chat-1", ready=False).gives_up("chat-1"),
        story.settles,
    )
    assert ended == (
        False,
        "chat was rolled back to what last worked: chat-1 was given up: ValueError: no; "
        "1 of 1 replicas serve as before",
    )


async def test_the_last_words_of_a_change_that_failed_outlive_its_replica() -> None:
    story = served().given("chat", replace(load(1, "8GiB"), options={"max-model-len": 4096}))
    last = EngineFailed("ValueError: no", 1, ("Traceback", "ValueError: no"), attempt=3)
    told = Told(
        story,
        story.settles,
        lambda: story.runs("chat-1", ready=False).given("chat-1", last),
        story.settles,
    )
    said = StringIO()
    assert not await progress.follow(told, "chat", Console(file=said, width=200))
    assert said.getvalue().splitlines()[:3] == [
        "The last lines of chat-1 (alpha):",
        "  Traceback",
        "  ValueError: no",
    ]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (
            load(1, "8GiB", on_request=True),
            "chat is asleep: it has no engine until the first request for it comes",
        ),
        (
            load(autoscale=Autoscale(0, 2), memory="8GiB"),
            "chat is ready: 1 of 1 replicas after 3 s",
        ),
        (load(0, "8GiB"), "chat is idle: it has 0 replicas, `nebula scale chat 1` starts one"),
        (
            load(0, "8GiB", autoscale=Autoscale(0, 2)),
            "chat is idle: it has no engine until the first request for it comes",
        ),
    ],
)
async def test_what_is_to_have_no_replicas_says_what_starts_it(
    wish: ModelLoadRequested, words: str
) -> None:
    story = cluster(alpha=[80]).given("chat", wish)
    runs = [lambda: story.runs("chat-0")] if story.model().wanted else []
    assert await follow(story, story.settles, *runs) == (True, words)


async def test_what_serves_and_can_not_be_as_asked_for_says_both() -> None:
    story = served().given("chat", ModelScaleRequested(20))
    runs = (lambda n=n: story.runs(f"chat-{n}") for n in range(1, 9))
    said = StringIO()
    told = Told(story, story.settles, *runs)
    assert not await progress.follow(told, "chat", Console(file=said, width=200))
    how, then = said.getvalue().splitlines()
    assert how.startswith(
        "chat is not as requested, 9 of 20 replicas serve: 11 of 20 replicas not placed: "
    )
    assert (
        then
        == "It is started as soon as there is a place for it. `nebula why chat` tells what to do."
    )


async def test_what_has_failed_before_is_not_what_was_asked_for_now() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    story.runs("chat-0", ready=False).gives_up("chat-0").given("chat", ModelScaleRequested(1))
    ended = await follow(story, story.settles, lambda: story.runs("chat-0"))
    assert ended == (True, "chat is ready: 1 of 1 replicas after 3 s")


async def test_an_adapter_has_taken_the_time_until_it_was_in_place() -> None:
    story = served(lora=True).given("chat", AdapterLoadRequested("poet", "/poet"))
    ended = await follow(story, lambda: story.given("chat-0", AdapterLoaded("poet", "/poet")))
    assert ended == (True, "chat is ready: 1 of 1 replicas after 1 s, with poet")


async def test_a_model_that_lacks_an_adapter_is_not_told_as_ready() -> None:
    story = served(lora=True).given("chat", AdapterLoadRequested("poet", "/poet"))
    failed = AdapterLoadFailed("poet", "/poet", "no such folder")
    told = Told(story, lambda: story.given("chat-0", failed))
    said = StringIO()
    assert not await progress.follow(told, "chat", Console(file=said, width=200))
    assert said.getvalue().splitlines() == [
        "chat is incomplete: adapter poet is on 0 of 1 replicas: chat-0 on alpha: no such folder",
        "`nebula why chat` tells what to do.",
    ]


async def test_a_download_that_fails_and_is_tried_again_is_told_once() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    source = story.model().spec.source

    def fails() -> object:
        return story.given("alpha", DownloadFailed(source, "the line is down", 8.0))

    told = Told(story, story.settles, fails, fails, lambda: story.runs("chat-0"))
    said = StringIO()
    assert await progress.follow(told, "chat", Console(file=said, width=200))
    lines = said.getvalue().splitlines()
    assert lines[0] == "alpha could not fetch its files and tries again: the line is down"
    assert lines[1:] == ["chat is ready: 1 of 1 replicas after 5 s"]


async def test_a_command_does_not_wait_for_what_is_left_on_a_lost_node_alone() -> None:
    story = served().given("alpha", NodeDrainRequested(), NodeLost())
    said = StringIO()
    assert not await drain.emptied(Told(story), "alpha", Console(file=said, width=200))
    assert said.getvalue().startswith("alpha is lost: what runs there is unknown")
    story.given("chat", ModelUnloadRequested())
    assert not await models.gone(Told(story), Console(file=said, width=200), "chat", 1)
    assert "chat stays unloading. Start `nebula node --name alpha`" in said.getvalue()
    left = story.state.seq + 1
    assert leaving.unloading(story.state, "chat", left).progress == outcome.Progress.PENDING, (
        "not yet folded"
    )
    story.given("alpha", gpus(80))
    assert leaving.unloading(story.state, "chat", 1).progress == outcome.Progress.PENDING, (
        "it is back"
    )
    told = Told(story, lambda: story.stops("chat-0"), story.settles)
    assert await models.gone(told, Console(file=said, width=200), "chat", 1)


# What can't come is not waited for


async def said_of(story: Story, *happenings: Happening, **about: Any) -> tuple[bool, list[str]]:
    """Follow what the last event asked for; return whether it is there, and all that was said."""
    wish = outcome.asked(story.state, "chat", story.state.seq, **about)
    told = Told(story, *happenings)
    said = StringIO()
    there = await progress.follow(told, "chat", Console(file=said, width=200), wish)
    assert not told.left, "it did not wait for what was still to come"
    return there, said.getvalue().splitlines()


def two(lora: bool | None = None) -> Story:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB", lora=lora))
    story.settles()
    return story.runs("chat-0")


async def test_one_replica_is_given_up_and_the_other_serves() -> None:
    story = two()
    ended = await said_of(story, lambda: story.runs("chat-1", ready=False).gives_up("chat-1"))
    assert ended == (
        False,
        [
            "chat is not as requested, 1 of 2 replicas serve: "
            "chat-1 on alpha gave up after 3 attempts: ValueError: no",
            "`nebula why chat` tells what to do.",
        ],
    )


async def test_one_is_given_up_while_another_may_still_come_which_is_told_at_once() -> None:
    story = cluster(alpha=[80]).given("chat", load(2, "8GiB"))
    story.settles()
    there, lines = await said_of(
        story,
        lambda: story.runs("chat-0", ready=False).gives_up("chat-0"),
        lambda: story.runs("chat-1"),
    )
    assert not there
    assert lines[0] == "chat-0 on alpha failed and is not tried again: ValueError: no"


async def test_an_adapter_does_not_wait_for_a_replica_that_was_given_up() -> None:
    story = two(lora=True)
    story.runs("chat-1", ready=False).gives_up("chat-1")
    story.given("chat", AdapterLoadRequested("poet", "/poet"))
    there, [line, todo] = await said_of(
        story, lambda: story.given("chat-0", AdapterLoaded("poet", "/poet")), adapter="poet"
    )
    assert there
    assert line == (
        "chat is ready: 1 of 2 replicas after 1 s, with poet; "
        "chat-1 on alpha gave up after 3 attempts: ValueError: no"
    )
    assert todo == "`nebula why chat` tells what to do."


async def test_a_node_is_lost_and_there_is_room_nowhere_else() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    there, lines = await said_of(story, lambda: story.given("alpha", NodeLost()), story.settles)
    assert not there
    assert lines[0].startswith("chat is unschedulable: 1 of 1 replicas not placed: ")


@pytest.mark.parametrize(
    ("meanwhile", "words"),
    [
        (ModelUnloadRequested(), "chat was unloaded by a later request"),
        (ModelScaleRequested(2), "chat is ready, but not as this command asked: "),
    ],
)
async def test_something_else_is_requested_meanwhile(meanwhile: Event, words: str) -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))

    def other() -> None:
        story.given("chat", meanwhile).settles()
        for replica in list(story.state.replicas):
            story.runs(replica)

    there, lines = await said_of(story, other)
    assert not there
    assert lines[-1].startswith(words)


async def test_unloaded_is_not_said_of_what_was_asked_for_again() -> None:
    story = served().given("chat", ModelUnloadRequested())
    seq = story.state.seq
    told = Told(story, lambda: story.given("chat", load(1, "8GiB")))
    said = StringIO()
    assert not await models.gone(told, Console(file=said, width=200), "chat", seq)
    assert said.getvalue() == "chat stays: it was requested again\n"


async def test_a_node_does_not_get_empty_where_what_replaces_its_replica_is_given_up() -> None:
    story = served().given("beta", gpus(80)).given("alpha", NodeDrainRequested())

    def fails() -> None:
        story.settles()
        story.runs("chat-1", ready=False).gives_up("chat-1").settles()

    told = Told(story, fails)
    said = StringIO()
    assert not await drain.emptied(told, "alpha", Console(file=said, width=200))
    assert "chat-1 on beta gave up after 3 attempts: ValueError: no" in said.getvalue()
    assert "alpha stays draining: what is left there (chat-0) moves as soon as it can" in (
        said.getvalue()
    )


# A wait begins after its own event


async def test_what_was_there_before_an_event_says_nothing_of_what_it_asked_for() -> None:
    story = served().given("chat", ModelScaleRequested(3))
    wish = outcome.asked(story.state, "chat", story.state.seq)
    for before in range(1, wish.seq):
        state = folded(story, before)
        assert outcome.outcome(state, wish).progress == outcome.Progress.PENDING
    assert outcome.outcome(story.state, wish).progress == outcome.Progress.PENDING


async def test_fewer_replicas_are_there_once_the_others_have_gone() -> None:
    story = cluster(alpha=[80]).given("chat", load(3, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").runs("chat-2").given("chat", ModelScaleRequested(1))
    ended = await said_of(
        story, story.settles, lambda: story.stops("chat-1"), lambda: story.stops("chat-2")
    )
    assert ended == (True, ["chat is ready: 1 of 1 replicas after 3 s"])


async def test_another_source_of_an_adapter_is_not_there_because_the_previous_one_is() -> None:
    story = served(lora=True).given("chat", AdapterLoadRequested("poet", "/poet"))
    story.given("chat-0", AdapterLoaded("poet", "/poet"))
    story.given("chat", AdapterLoadRequested("poet", "/other"))
    ended = await said_of(
        story,
        lambda: story.given("chat-0", AdapterUnloaded("poet")),
        lambda: story.given("chat-0", AdapterLoaded("poet", "/other")),
        adapter="poet",
    )
    assert ended == (True, ["chat is ready: 1 of 1 replicas after 2 s, with poet"])


@given(messages)
def test_whatever_is_coming_names_the_actor_that_brings_it_about(
    said: list[tuple[str, bytes]],
) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
        for identity in story.state.models:
            wish = outcome.Asked(identity, 0, 0)
            found = outcome.outcome(story.state, wish)
            assert (found.progress == outcome.Progress.PENDING) == bool(found.coming)
            assert found.text
            gone = leaving.unloading(story.state, identity, 0)
            assert (gone.progress == outcome.Progress.PENDING) == bool(gone.coming)
        for node in story.state.nodes:
            empty = leaving.emptying(story.state, node)
            assert (empty.progress == outcome.Progress.PENDING) == bool(empty.coming)


# No actor is there to bring it about


async def test_a_wait_ends_if_no_actor_that_could_bring_it_about_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nobody(connection: Connection, awaited: Sequence[outcome.Coming]) -> str:
        return f"{awaited[0].node} has not been heard from for a minute"

    monkeypatch.setattr(progress, "silent", nobody)
    monkeypatch.setattr(progress, "QUIET", 0.0)
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    story.settles()
    there, lines = await said_of(story, lambda: None, lambda: None)
    assert not there
    assert lines == [
        "chat: alpha has not been heard from for a minute",
        f"chat is not waited for any longer; the request is event {story.state.seq} of the log and "
        "still counts",
    ]


async def test_a_wait_ends_where_nats_is_away_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "NATS_AWAY", 0.0)
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB"))
    there, lines = await said_of(story, lambda: None)
    assert not there
    assert lines[0] == "chat: the connection to NATS is lost, for 0 s"


class Waited:
    """A wait by a clock of its own, for a cluster in which nothing happens unless it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.checks = 0
        self.connection = SimpleNamespace(connected=True, trouble="")
        monkeypatch.setattr(Patience, "_now", staticmethod(lambda: self.now))
        monkeypatch.setattr(progress, "silent", self.silent)
        self.patience = Patience(
            cast(
                "Any",
                SimpleNamespace(
                    changed=self.changed, log=SimpleNamespace(connection=self.connection)
                ),
            )
        )

    async def changed(self) -> None:
        pass

    async def silent(self, *_: object) -> str:
        self.checks += 1
        return ""

    async def later(self, seconds: float, seen: object) -> None:
        self.now += seconds
        await self.patience.change((), seen)


async def test_whether_actors_live_is_asked_after_a_minute_without_news_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = Waited(monkeypatch)
    for seconds, seen, checks in (
        (progress.QUIET - 1, "one", 0),
        (progress.QUIET - 1, "one", 0),
        (2, "one", 1),
        (progress.QUIET - 1, "one", 1),
        (2, "two", 1),
        (progress.QUIET - 1, "two", 1),
        (2, "two", 2),
    ):
        await waited.later(seconds, seen)
        assert waited.checks == checks
    assert waited.patience.waited == waited.now - 1000.0


async def test_nats_may_be_away_for_so_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = Waited(monkeypatch)
    for number in range(3):
        waited.connection.connected = False
        await waited.later(progress.NATS_AWAY - 1, number)
        waited.connection.connected = True
        await waited.later(1, number)
    waited.connection.connected = False
    await waited.later(progress.NATS_AWAY, "last")
    with pytest.raises(progress.Lost, match="the connection to NATS is lost, for 31 s"):
        await waited.later(1, "last")


@pytest.mark.parametrize(
    ("state", "so"), [(outcome.Progress.FULFILLED, True), (outcome.Progress.IMPOSSIBLE, False)]
)
async def test_what_is_settled_is_told_and_so_is_whether_it_came_about(
    state: outcome.Progress, so: bool
) -> None:
    said = StringIO()
    found = outcome.Outcome(state, "how it is")
    console = Console(file=said, width=200)
    assert await progress.settled(Told(served()), console, "x", lambda _: found, 7) is so
    assert said.getvalue().splitlines()[-1] == "how it is"


def test_without_a_terminal_a_wait_is_told_less_and_less_often() -> None:
    said = StringIO()
    with meanwhile.Meanwhile(Console(file=said, width=200), "chat") as line:
        for second in range(200):
            line.update("chat: chat-0 on n1 is starting [1/2]", float(second))
    told = [each.rpartition("(")[2] for each in said.getvalue().splitlines()]
    assert told == ["5 s)", "15 s)", "35 s)", "75 s)", "135 s)", "195 s)"]
    assert "[1/2]" in said.getvalue()


async def test_a_folder_without_a_model_is_not_said_to_be_only_out_of_room() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    story.given("n1", DownloadFailed("/m", "/m does not hold a model: it has no config.json"))
    story.settles()
    _, text = await follow(story)
    assert text == (
        "It is not started before a node finds a model there. `nebula why chat` tells what to do."
    )
    full = cluster(n1=[4]).given("chat", load(1, "8GiB"))
    full.settles()
    _, text = await follow(full)
    assert text.startswith("It is started as soon as there is a place for it. ")
