"""The engine that stands in for vLLM in benchmarks: its answers' format, and when it sends them."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.data_plane import report, works
from benchmarks.data_plane.figures import Measured
from benchmarks.data_plane.standin import WORDS, Engine
from nebula.engines.simulated_answers import Answer

BODY = {"model": "m", "max_tokens": 4}


class Sent:
    """What an app sends of one answer: all parts, and those of each turn of the event loop."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.turns: list[int] = []
        self.status = 0

    async def send(self, message: Any) -> None:
        """Take a message of the app."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        if not self.turns or self.turns[-1] == 0:
            asyncio.get_running_loop().call_soon(lambda: self.turns.append(0))
            self.turns.append(0)
        self.turns[-1] += message["body"].count(b'"content":" ')
        self.parts.append(message["body"])

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the events of a stream."""
        lines = b"".join(self.parts).split(b"\n\n")
        return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


async def asked(engine: Engine, path: str, **body: Any) -> Sent:
    """Ask an engine once."""
    sent = Sent()
    scope = {"type": "http", "method": "POST", "path": path}

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    await engine(scope, receive, sent.send)
    return sent


async def chatted(engine: Engine, word: str, **more: Any) -> Sent:
    """Ask for a stream."""
    said = [{"role": "user", "content": f"{word} one two"}]
    path = "/v1/chat/completions"
    return await asked(engine, path, **{**BODY, "messages": said, "stream": True, **more})


@pytest.fixture
def engine() -> Engine:
    """Return an engine whose steps take no time."""
    return Engine(["m"], ["adapter"], step=0.0)


def keys(value: Any) -> Any:
    """Return the keys of nested objects."""
    if isinstance(value, dict):
        return {name: keys(each) for name, each in value.items()}
    return [keys(each) for each in value[:1]] if isinstance(value, list) else None


@pytest.mark.parametrize("wanted", [None, [1, 2]])
@pytest.mark.anyio
async def test_chunks_have_the_fields_of_the_simulated_engine(
    engine: Engine, wanted: list[int] | None
) -> None:
    sent = await chatted(engine, "all", return_token_ids=wanted is not None)
    like = Answer(
        chat=True,
        id="chatcmpl-1",
        created=1,
        model="m",
        tokens=WORDS[:4],
        finish_reason="length",
        prompt_tokens=2,
        prompt_ids=wanted,
    )
    events = [*like.opening(), *like.events()]
    assert [keys(each) for each in sent.events][1:] == [
        keys(json.loads(each[6:])) for each in events
    ][1:]
    assert keys(sent.events[0]) | {"prompt_text": None} == keys(json.loads(events[0][6:]))
    assert b"".join(sent.parts).endswith(b"data: [DONE]\n\n")
    assert "".join(each["choices"][0]["delta"]["content"] for each in sent.events) == " ".join(
        WORDS[:4]
    )


@pytest.mark.anyio
async def test_all_chunks_come_in_one_turn_where_that_is_asked_for(engine: Engine) -> None:
    sent = await chatted(engine, "all")
    assert [count for count in sent.turns if count] == [3]  # the first has no space before it


@pytest.mark.anyio
async def test_one_chunk_comes_in_each_turn(engine: Engine) -> None:
    sent = await chatted(engine, "turn")
    assert [count for count in sent.turns if count] == [1, 1, 1]


@pytest.mark.anyio
async def test_streams_get_their_tokens_in_the_same_steps(engine: Engine) -> None:
    order: list[str] = []

    async def watched(name: str) -> None:
        class Noted(Sent):
            async def send(self, message: Any) -> None:
                if b'"content":' in message.get("body", b"") and b'"role"' not in message["body"]:
                    order.append(name)

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions"}
        said = [{"role": "user", "content": "step one"}]
        body = json.dumps({**BODY, "messages": said, "stream": True}).encode()

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        await engine(scope, receive, Noted().send)

    await asyncio.gather(*(watched(name) for name in "abc"))
    steps = [set(order[number : number + 3]) for number in range(0, len(order), 3)]
    assert steps == [{"a", "b", "c"}] * 4


@pytest.mark.anyio
async def test_a_whole_answer_and_its_usage(engine: Engine) -> None:
    sent = await chatted(engine, "all", stream=False)
    answer = json.loads(sent.parts[0])
    assert answer["choices"][0]["message"]["content"].split() == WORDS[:4]
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.anyio
async def test_an_unknown_model_is_not_found_and_an_adapter_is(engine: Engine) -> None:
    assert (await chatted(engine, "all", model="other")).status == 404
    sent = await chatted(engine, "all", model="adapter")
    assert sent.events[0]["model"] == "adapter"


@pytest.mark.anyio
async def test_a_stream_ends_where_its_client_is_gone(engine: Engine) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "turn"}], "stream": True}
    asked_for = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> Any:
        return asked_for.pop()

    async def send(message: Any) -> None:
        raise OSError("gone")

    await engine({"type": "http", "method": "POST", "path": "/v1/chat/completions"}, receive, send)


def measured(rate: float, cpu: float) -> Measured:
    """Return a measurement of a work with rates."""
    figures = {"rate": rate, "cpu": cpu, "p50": 1.0, "p99": 2.0, "p99.9": 3.0}
    return Measured(figures, 0, 100, 1600, {"gateway": cpu / 10})


def rows(work: Any, rates: dict[str, Sequence[float]]) -> list[report.Row]:
    """Return a row for each way."""
    return [
        report.Row(work, way, [measured(rate, 1.0) for rate in each], [])
        for way, each in rates.items()
    ]


def test_a_way_is_compared_with_the_peer_that_is_fastest_at_each_work() -> None:
    one, other = works.chosen(["chat", "answer-8k"], [8])
    told = report.fastest(
        [
            *rows(one, {"nebula": [90, 120], "smg": [100, 100], "slow": [10, 10]}),
            *rows(other, {"nebula": [50, 50], "smg": [10, 10], "slow": [25, 25]}),
        ],
        "nebula",
        ["smg", "slow"],
    )
    assert "| chat | 8 | smg | 1.05 (0.9 to 1.2) |" in told
    assert "| answer-8k | 8 | slow | 2 (2 to 2) |" in told


def test_works_of_one_connection_are_there_once() -> None:
    chosen = works.chosen(["single", "chat"], [1, 8])
    assert [(work.name, work.connections) for work in chosen] == [
        ("single", 1),
        ("chat", 1),
        ("chat", 8),
    ]
