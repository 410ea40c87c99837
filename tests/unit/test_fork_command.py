"""`nebula fork`: what a sandbox takes over from the log that it goes on from, and what it leaves.

No process is started: `Sandbox` stands where they would be, and is ended once all was to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from msgspec.structs import replace

from nebula.cli import fork as command
from nebula.cli.fork import MOST_NODES
from nebula.events.memory import GIB
from nebula.events.values import Device
from nebula.events.version import VERSION
from nebula.events.vocabulary import (
    ClusterFounded,
    EngineStopped,
    NodeLost,
    NodeRegistered,
    NodeStopped,
)
from nebula.store import archive
from tests.unit.memory_cluster import MemoryLog, joined, says
from tests.unit.story import Story, gpus, load


class Sandbox:
    """The NATS server and the children of a fork, and what became of them."""

    url = "nats://sandbox"

    def __init__(self) -> None:
        self.started: dict[str, Sequence[str]] = {}
        self.stopped: list[str] = []
        self.told_to_end: Callable[[], None] = lambda: None

    def login(self, role: str) -> str:
        return f"file:{role}.json"

    async def start_server(self) -> None:
        self.started["nats-server"] = ()

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        role = name.partition("-")[0]
        wanted = {"NEBULA_NATS_URL": self.login(role)}  # never the cluster's own
        if role == "node":
            wanted["NEBULA_ENGINE_NATS_URL"] = self.login("engine")
        assert environment == wanted
        self.started[name] = arguments

    async def failure(self) -> None:
        self.told_to_end()
        await asyncio.Event().wait()

    async def stop(self, names: Sequence[str], patience: float) -> None:
        self.stopped += names

    async def stop_server(self) -> None:
        self.stopped.append("nats-server")


class Fork:
    """Forks stories, each into a sandbox of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._folder = folder
        self._patch = monkeypatch
        self.free = True
        self.sandbox = Sandbox()
        self.log = MemoryLog(Story())

    def __call__(self, story: Story, *options: str) -> Result:
        """Fork a story, and give what the command says."""
        self.sandbox = Sandbox()
        self.log = joined(self._patch, Story())
        file = self._folder / "log.jsonl"
        file.write_bytes(b"".join(archive.write(story.entries, story.state.seq)))

        async def opened(patience: float) -> object:
            return self.log.nats

        def on_stop(action: Callable[[], None]) -> None:
            self.sandbox.told_to_end = action

        for name, value in {
            "embedded": lambda folder, port: self.sandbox,
            "Supervisor": lambda folder, server: self.sandbox,
            "Connection": lambda url, name, role: SimpleNamespace(open=opened),
            "Log": lambda connection, **_: self.log,
            "_free": lambda port: self.free,
            "on_stop": on_stop,
        }.items():
            self._patch.setattr(command, name, value)
        return says("fork", str(file), "--folder", str(self._folder / "sandbox"), *options)

    @property
    def nodes(self) -> list[str]:
        """The nodes that were started."""
        return [each.removeprefix("node-") for each in self.sandbox.started if "node-" in each]

    def options(self, node: str) -> dict[str, list[str]]:
        """Return the options of a node's command, each with its values."""
        found: dict[str, list[str]] = {}
        arguments = list(self.sandbox.started[f"node-{node}"])
        for number, each in enumerate(arguments):
            if each.startswith("--"):
                name, equals, value = each.partition("=")
                found.setdefault(name, []).append(value if equals else arguments[number + 1])
        return found


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fork:
    return Fork(monkeypatch, tmp_path)


def founded() -> Story:
    return Story().given("lab", ClusterFounded("lab", VERSION))


def serving() -> Story:
    """Two models on two nodes; of three replicas two have an engine, one of which is not ready."""
    story = founded().given("alpha", gpus(80, 40, zone="a", rack="r1")).given("beta", gpus(80))
    story.given("chat", load(2, "8GiB")).given("code", load(1, "8GiB"))
    story.settles()
    return story.runs("chat-0").runs("code-0", ready=False)


def test_engines_of_the_original_are_let_go_and_only_those(fork: Fork) -> None:
    """A node that found them alive on this machine would adopt or end them."""
    story = serving()
    result = fork(story)
    assert result.exit_code == 0, result.output
    gone = EngineStopped("it stays with the original cluster", node="alpha")
    assert fork.log.appended == [
        (each, replace(gone, node=story.state.replicas[each].node)) for each in ("chat-0", "code-0")
    ]
    assert all(each.engine is None for each in fork.log.story.state.replicas.values())


def test_the_log_is_what_it_was_up_to_the_moment_that_it_goes_on_from(fork: Fork) -> None:
    story = serving()
    last = story.state.seq
    for options, seq in [((), last), (("--at", str(last - 2)), last - 2), (("--at", "3"), 3)]:
        result = fork(story, *options)
        assert result.exit_code == 0, result.output
        assert f"after event {seq} " in result.output
        assert fork.log.story.entries[:seq] == story.entries[:seq]
        assert len(fork.log.story.entries) == seq + len(fork.log.appended)


def test_every_node_that_is_there_is_started_with_its_devices_and_labels(fork: Fork) -> None:
    story = serving()
    mixed = NodeRegistered((Device(0, "cpu", "x86", 16 * GIB), Device(1, "gpu", "A", 8 * GIB)))
    story.given("gamma", mixed).given("bare", NodeRegistered(()))
    assert fork(story).exit_code == 0
    assert sorted(fork.nodes) == ["alpha", "beta", "gamma"]  # one without devices runs nothing
    assert fork.options("alpha")["--devices"] == [f"gpu:{80 * GIB},gpu:{40 * GIB}"]
    assert fork.options("alpha")["--label"] == ["rack=r1", "zone=a"]
    assert fork.options("alpha")["--name"] == ["alpha"]
    assert fork.options("gamma")["--devices"] == [f"cpu:{16 * GIB},gpu:{8 * GIB}"]
    assert "--label" not in fork.options("beta")


def test_a_node_that_was_lost_stays_lost_and_one_that_was_stopped_comes_back(fork: Fork) -> None:
    story = serving().given("alpha", NodeLost("silent"))
    assert fork(story).exit_code == 0
    assert fork.nodes == ["beta"]
    story = serving().given("alpha", NodeStopped())
    assert fork(story).exit_code == 0
    assert fork.nodes == ["alpha", "beta"]


def test_all_of_it_is_ended_at_the_end_and_the_server_last(fork: Fork) -> None:
    fork(serving())
    assert fork.sandbox.stopped == ["gateway", "node-alpha", "node-beta", "router", "nats-server"]
    assert set(fork.sandbox.stopped) == set(fork.sandbox.started)


@pytest.mark.parametrize(("count", "taken"), [(MOST_NODES, True), (MOST_NODES + 1, False)])
def test_a_sandbox_runs_so_many_nodes_and_no_more(fork: Fork, count: int, taken: bool) -> None:
    story = founded()
    for number in range(count):
        story.given(f"n{number}", gpus(8))
    result = fork(story)
    assert (result.exit_code == 0, len(fork.nodes) == count) == (taken, taken)
    assert taken or f"a sandbox runs {MOST_NODES} at most" in result.output
    assert taken or not fork.sandbox.started


def test_a_file_that_is_damaged_starts_nothing(fork: Fork) -> None:
    story = serving()
    story.entries[3] = replace(story.entries[3], seq=9)
    result = fork(story)
    assert result.exit_code == 1
    assert "log.jsonl" in result.output
    assert not fork.sandbox.started


def test_an_event_that_no_server_takes_starts_nothing(fork: Fork) -> None:
    story = serving().publish("nebula.events.model." + 4000 * "x" + ".Nonsense", b"{}")
    result = fork(story)
    assert result.exit_code == 1
    assert "is not a subject of the log" in result.output
    assert not fork.sandbox.started


def test_what_is_in_the_way_is_named_and_nothing_is_started(fork: Fork, tmp_path: Path) -> None:
    fork.free = False
    result = fork(serving(), "--port", "8123")
    assert "something listens on port 8123 already: give another --port" in result.output
    assert (result.exit_code, fork.sandbox.started) == (1, {})
    fork.free = True
    (tmp_path / "sandbox" / "nats").mkdir(parents=True)
    result = fork(serving())
    assert "holds a NATS store already: give another --folder" in result.output
    assert (result.exit_code, fork.sandbox.started) == (2, {})
