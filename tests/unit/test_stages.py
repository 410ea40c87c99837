"""Which stage of its start an engine has reached, read off its log."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from nats.errors import NoRespondersError

from nebula.actors.node.log_reading import LogReply, LogRequest
from nebula.cli import stages
from nebula.cli.stages import LONGEST, Stages, stage
from nebula.events.intents import ModelScaleRequested
from tests.unit.story import cluster, load


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ""),
        (["nebula: an engine starts here, for chat-0"], ""),
        (
            ["(EngineCore pid=7) INFO 11-28 07:11:54 [loader.py:314] Loading weights took 2 s"],
            "Loading weights took 2 s",
        ),
        (
            ["INFO:     Waiting for application startup.", "", "  "],
            "Waiting for application startup.",
        ),
        (["loading: 10 %\rloading: 40 %"], "loading: 40 %"),
        (["(APIServer pid=7) INFO 11-28 07:11:54 [a.py:1] Route: /v1", "-----"], "Route: /v1"),
        (["loading weights", "capturing graphs"], "capturing graphs"),
        (["loading weights", "nebula: it was ended", "---"], "loading weights"),
        (["\x1b[32mall is\x1b[0m well"], "all is well"),
    ],
)
def test_the_last_words_of_a_start_are_its_stage(lines: list[str], words: str) -> None:
    assert stage(lines) == words


def test_a_stage_is_one_short_line() -> None:
    assert len(stage(["word " * 100])) == LONGEST


class Nodes:
    """The nodes of a cluster, which read the logs of their engines."""

    def __init__(self, **logs: str) -> None:
        self.logs = logs
        self.asked: list[str] = []
        self.again = asyncio.Event()
        """Set once they are asked a second time."""

    async def request(self, _: str, body: bytes, *, timeout: float) -> object:
        assert timeout == stages.ANSWER
        asked = msgspec.json.decode(body, type=LogRequest)
        if asked.replica in self.asked:
            self.again.set()
        self.asked.append(asked.replica)
        text = self.logs.get(asked.replica.replace("-", "_"))
        if text is None:
            raise NoRespondersError
        return SimpleNamespace(data=msgspec.json.encode(LogReply(text)))


@pytest.mark.anyio
async def test_of_a_model_the_stage_of_an_engine_that_starts_and_is_to_stay_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "EVERY", 0.0)
    story = cluster(n1=[80]).given("chat", load(3, "8GiB"))
    story.settles()
    for replica, ready in (("chat-0", True), ("chat-1", False), ("chat-2", False)):
        story.runs(replica, ready=ready)
    story.given("other", load(1, "8GiB")).settles()
    story.runs("other-0", ready=False)
    story.given("chat", ModelScaleRequested(2)).settles()
    assert [each.id for each in story.state.replicas.values() if each.retired] == ["chat-2"]
    nodes = Nodes(chat_0="serves", chat_1="first\nloads", chat_2="ends", other_0="compiles")
    log = SimpleNamespace(connection=SimpleNamespace(client=nodes))
    known = Stages(cast("Any", SimpleNamespace(state=story.state, log=log)))
    assert known.of("chat") == ""
    async with known:
        await nodes.again.wait()
    assert (known.of("chat"), known.of("other"), known.of("gone")) == ("loads", "compiles", "")
    assert set(nodes.asked) == {"chat-1", "other-0"}
