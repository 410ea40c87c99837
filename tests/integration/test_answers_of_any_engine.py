"""Whatever an engine answers, and however it sends it: its clients get the same through Nebula."""

import asyncio
import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.asking import CHAT
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

ENGINE = Path(__file__).with_name("scripted_engine.py")
JSON, EVENTS = [("content-type", "application/json")], [("content-type", "text/event-stream")]
TEXTS = ("", " héllo", "日本語", "😀", ' "quoted"', "\\n\\n", " x" * 300)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with such an engine."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))

    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", memory="64MiB")

    try:
        for name in ("nats", "router", "gateway"):
            cluster.start(name)
        cluster.start("node", "--engine-command", f"{sys.executable} {ENGINE}")
        asyncio.run(load())
        yield cluster
    finally:
        cluster.close()


def stream(line_end: str = "\n", field: str = "data: ", comment: str = "") -> bytes:
    """A chat's stream as some server writes it."""
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"chat","choices":['
    deltas = [{"role": "assistant", "content": ""}, *({"content": text} for text in TEXTS)]
    coded = [json.dumps(delta, ensure_ascii=False) for delta in deltas]
    events = [f'{head}{{"index":0,"delta":{each},"finish_reason":null}}]}}' for each in coded]
    lines = [f"{comment}{field}{event}\n\n" for event in (*events, "[DONE]")]
    return "".join(lines).replace("\n", line_end).encode()


def cut(whole: bytes, size: int) -> list[bytes | None]:
    """An answer's parts of so many bytes, each sent in a turn of its own."""
    parts: list[bytes | None] = []
    for at in range(0, len(whole), size):
        parts += [whole[at : at + size], None]
    return parts


async def asked(
    http: httpx.AsyncClient,
    status: int,
    fields: list[tuple[str, str]],
    parts: list[bytes | None],
    *,
    streams: bool,
) -> tuple[int, str | None, bytes]:
    """What a client gets of an answer: its status, its type, its body."""
    coded = [None if part is None else base64.b64encode(part).decode() for part in parts]
    prompt = json.dumps([status, fields, coded])
    body = {"model": "chat", "messages": [{"role": "user", "content": prompt}], "stream": streams}
    answer = await http.post(CHAT, json=body)
    return answer.status_code, answer.headers.get("content-type"), answer.content


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(
    "answer",
    [
        stream(),
        stream(line_end="\r\n"),
        stream(line_end="\r"),
        stream(field="data:"),
        stream(comment=": alive\n"),
        stream(comment=": alive\n\n"),
        stream(comment="event: message\nid: 7\n"),
    ],
    ids=["vLLM's", "CRLF", "CR", "no blank", "glued comments", "comments", "types and ids"],
)
async def test_a_stream_is_the_same_in_whatever_form_and_pieces_it_comes(
    engines: Cluster, answer: bytes, size: int
) -> None:
    async with engines.http() as http:
        given = await asked(http, 200, EVENTS, cut(answer, size), streams=True)
    assert given == (200, "text/event-stream", answer)


WHOLE = b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
REFUSED = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("status", "fields", "parts"),
    [
        (200, JSON, [WHOLE]),
        (200, [], [WHOLE]),
        (200, JSON, [b"", WHOLE[:9], None, b"", None, WHOLE[9:]]),
        (200, JSON, []),
        (200, [("content-type", "text/html; charset=latin-1")], [b"<p>\xe9</p>"]),
        (201, JSON, [b"x" * 3_000_000, None, b"y" * 3_000_000]),
        (204, [], []),
        (400, JSON, [REFUSED]),
        (400, JSON, [REFUSED[:9], None, REFUSED[9:]]),
        (404, [("content-type", "text/html")], [b"<h1>not here</h1>"]),
        (429, JSON, [b'{"later', None, b'":true}', b" "]),
        (500, [("content-type", "text/html")], [b"<h1>oops</h1>"]),
    ],
)
async def test_any_other_answer_is_the_same_as_from_the_engine_itself(
    engines: Cluster,
    status: int,
    fields: list[tuple[str, str]],
    parts: list[bytes | None],
    streams: bool,
) -> None:
    async with engines.http() as http, await engines.engine_http("chat-0") as engine:
        own = await asked(engine, status, fields, parts, streams=streams)
        for _ in range(2):  # the second time its head came before
            assert await asked(http, status, fields, parts, streams=streams) == own


async def test_a_stream_of_many_megabytes_at_once_is_not_broken_off(engines: Cluster) -> None:
    answer = stream() * 2000
    async with engines.http() as http:
        given = await asked(http, 200, EVENTS, [answer], streams=True)
    assert given == (200, "text/event-stream", answer)
