"""One request and its answer: what an application reads of the one, and the bytes of the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from litestar.types import Message, Receive, Scope, Send

from nebula.http.errors import ApiError
from nebula.http.server.cycle import DRAINED, LINES, Cycle, whole_of

pytestmark = pytest.mark.anyio

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Line:
    """A connection that notes what a cycle does to it."""

    congested = False
    fields = b""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.taken: list[int] = []
        self.broken: list[bool] = []
        self.done: list[Cycle] = []

    @property
    def text(self) -> bytes:
        return b"".join(self.written)

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def write_now(self, data: bytes) -> None:
        self.written.append(data)

    def break_off(self, *, evident: bool) -> None:
        self.broken.append(evident)

    async def writable(self) -> None:
        raise AssertionError("nothing is in the way")

    def wants_body(self) -> None:
        """Read on."""

    def took(self, size: int) -> None:
        self.taken.append(size)

    def answered(self, cycle: Cycle) -> None:
        self.done.append(cycle)


def cycle(line: Line, method: str = "POST", **fields: object) -> Cycle:
    scope = {"type": "http", "method": method, "path": "/", "headers": [], "state": {}}
    given = {"keep_alive": True, "remaining": 0, **fields}
    return Cycle(line, scope, **given)  # type: ignore[arg-type]


def app(
    *messages: dict[str, object], then: Exception | None = None
) -> Callable[..., Awaitable[None]]:
    """Answer with messages, and end with an exception."""

    async def answers(_: Scope, __: Receive, send: Send) -> None:
        for message in messages:
            await send(message)  # type: ignore[arg-type]
        if then is not None:
            raise then

    return answers


def start(status: int = 200, **fields: str) -> dict[str, object]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return {"type": "http.response.start", "status": status, "headers": named}


def part(body: bytes, *, more: bool = False) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}


# The body


async def test_a_client_that_waits_for_it_is_told_once_to_go_on() -> None:
    line = Line()
    reading = cycle(line, remaining=10, expects=True)
    first = asyncio.ensure_future(reading.receive())
    await asyncio.sleep(0)
    assert line.written == [CONTINUE]
    reading.feed(b"01234")
    assert await first == {"type": "http.request", "body": b"01234", "more_body": True}
    second = asyncio.ensure_future(reading.receive())
    await asyncio.sleep(0)
    reading.feed(b"56789")
    reading.end_body()
    assert await second == {"type": "http.request", "body": b"56789", "more_body": False}
    assert line.written == [CONTINUE]


async def test_each_byte_is_counted_as_taken_once() -> None:
    line = Line()
    reading = cycle(line, remaining=None)
    for size in (3, 4):
        reading.feed(b"x" * size)
        await reading.receive()
        assert reading.waiting == 0
    reading.end_body()
    assert (await reading.receive())["type"] == "http.request"
    assert line.taken == [3, 4, 0]
    assert reading.received == 7


@pytest.mark.parametrize(("unread", "kept"), [(DRAINED, True), (DRAINED + 1, False)])
async def test_the_connection_is_kept_if_little_enough_is_still_to_arrive(
    unread: int, kept: bool
) -> None:
    line = Line()
    answering = cycle(line, remaining=unread + 20)
    answering.feed(b"x" * 20)
    await answering.run(app(start(content_length="2"), part(b"ok")))
    assert answering.keep_alive is kept
    assert (b"connection: close" in line.text) is not kept


@pytest.mark.parametrize("fields", [{"remaining": None}, {"remaining": 5, "expects": True}])
async def test_a_body_that_may_never_end_or_begin_costs_the_connection(
    fields: dict[str, Any],
) -> None:
    answering = cycle(Line(), **fields)
    await answering.run(app(start(content_length="2"), part(b"ok")))
    assert not answering.keep_alive


async def test_a_client_that_has_left_amid_its_body_is_told_from_one_that_waits() -> None:
    left, waits = cycle(Line(), remaining=5), cycle(Line(), remaining=5)
    left.feed(b"xx")
    left.leave()
    assert await left.receive() == {"type": "http.disconnect"}
    waits.feed(b"xxxxx")
    waits.end_body()
    waits.leave()
    assert (await waits.receive())["type"] == "http.request"
    assert await waits.receive() == {"type": "http.disconnect"}


# The answer


async def test_an_answer_of_known_length_is_that_long() -> None:
    line = Line()
    await cycle(line).run(app(start(content_length="5"), part(b"he", more=True), part(b"llo")))
    head, _, body = line.text.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"hello"
    assert len(line.done) == 1


@pytest.mark.parametrize(
    "parts", [[part(b"hell")], [part(b"hello!")], [part(b"hello!", more=True)]]
)
async def test_an_answer_of_another_length_than_it_says_is_broken_off(
    parts: list[dict[str, object]],
) -> None:
    line = Line()
    await cycle(line).run(app(start(content_length="5"), *parts))
    assert line.broken == [True]
    assert not line.done


async def test_an_answer_of_unknown_length_comes_in_chunks_and_ends_with_an_empty_one() -> None:
    line = Line()
    await cycle(line).run(app(start(), part(b"", more=True), part(b"hello", more=True), part(b"")))
    head, _, body = line.text.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"5\r\nhello\r\n0\r\n\r\n"


async def test_http_1_0_knows_no_chunks_and_the_end_of_the_connection_ends_the_answer() -> None:
    line = Line()
    old = cycle(line, http_1_0=True)
    await old.run(app(start(), part(b"hello", more=True), part(b"")))
    head, _, body = line.text.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"chunked" not in head
    assert body == b"hello"
    assert not old.keep_alive


async def test_http_1_0_keeps_a_connection_whose_answer_says_its_length() -> None:
    line = Line()
    old = cycle(line, http_1_0=True)
    await old.run(app(start(content_length="5"), part(b"hello")))
    assert b"connection: keep-alive" in line.text
    assert old.keep_alive


@pytest.mark.parametrize(
    ("method", "status", "said"),
    [("HEAD", 200, True), ("GET", 304, True), ("GET", 204, False), ("HEAD", 204, False)],
)
async def test_answers_without_content_send_none(method: str, status: int, said: bool) -> None:
    line = Line()
    silent = cycle(line, method)
    await silent.run(app(start(status, content_length="5"), part(b"hello")))
    head, _, body = line.text.partition(b"\r\n\r\n")
    assert (b"content-length: 5" in head) is said
    assert body == b""
    assert silent.keep_alive


# Faults


async def test_a_fault_before_an_answer_is_an_error_and_amid_one_it_is_broken_off() -> None:
    early, late = Line(), Line()
    await cycle(early).run(app(then=ApiError(418, "no")))
    assert early.text.startswith(b"HTTP/1.1 418 ")
    assert not early.broken
    await cycle(late).run(app(start(), part(b"x", more=True), then=ApiError(418, "no")))
    assert late.text.count(b"HTTP/1.1 ") == 1
    assert late.broken == [True], "a client sees by its chunks that it is not whole"


async def test_an_answer_that_would_look_whole_is_broken_off_with_a_reset() -> None:
    line = Line()
    old = cycle(line, http_1_0=True)
    await old.run(app(start(), part(b"x", more=True), then=ValueError("no")))
    assert line.broken == [False]


async def test_no_answer_is_an_error_unless_its_client_has_gone() -> None:
    line, gone, left = Line(), Line(), Line()
    await cycle(line).run(app())
    assert line.text.startswith(b"HTTP/1.1 500 ")
    away = cycle(gone)
    away.disconnect()
    await away.run(app())
    assert (gone.text, gone.broken) == (b"", [])
    away = cycle(left)
    away.leave()
    await away.run(app())
    assert (left.text, left.broken) == (b"", [True])


async def test_what_an_application_says_to_one_that_is_gone_is_dropped() -> None:
    line = Line()
    away = cycle(line)
    away.disconnect()
    await away.run(app(start(), part(b"x")))
    assert line.written == []


@pytest.mark.parametrize("fields", [{"x": "a\nb"}, {"x": "a\0b"}, {"a b": "c"}, {"a:": "c"}])
async def test_no_field_can_smuggle_another_one(fields: dict[str, Any]) -> None:
    line = Line()
    await cycle(line).run(app(start(**fields), part(b"x")))
    assert line.text.startswith(b"HTTP/1.1 500 ")
    assert b"a\nb" not in line.text


async def test_an_answer_names_its_request_once() -> None:
    line = Line()
    await cycle(line).run(app(start(x_request_id="r1", content_length="0"), part(b"")))
    assert line.text.count(b"\r\nx-request-id: ") == 1
    assert b"\r\nx-request-id: r1\r\n" in line.text
    nameless = Line()
    await cycle(nameless).run(app(start(content_length="0"), part(b"")))
    assert nameless.text.count(b"\r\nx-request-id: ") == 1


async def test_the_time_counts_from_the_requests_end() -> None:
    whole, half = Line(), Line()
    complete = cycle(whole)
    complete.end_body()
    for each in (complete, cycle(half)):
        await each.run(app(start(content_length="0"), part(b"")))
    assert re.search(rb"\r\nopenai-processing-ms: \d+\r\n", whole.text)
    assert b"openai-processing-ms" not in half.text


TYPED = (b"content-type", b"application/json")


def by_name(text: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Return the status line, the fields but for times, and the body."""
    head, _, body = text.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    fields.pop(b"openai-processing-ms")
    return status, fields, body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "named",
    [{}, {b"x-request-id": b"mine"}, {b"x-client-request-id": b"c"}, {b"x-request-id": b"\n"}],
)
@pytest.mark.parametrize("told", [None, b"x-ratelimit-limit-requests: 5\r\n"])
async def test_an_answer_sent_as_a_whole_is_as_one_sent_in_parts(
    path: str, named: dict[bytes, bytes], told: bytes | None
) -> None:
    async def answered(*, whole: bool) -> tuple[bytes, dict[bytes, bytes], bytes]:
        line = Line()
        one = cycle(line, remaining=1)
        one.scope["path"], one.scope["headers"] = path, list(named.items())
        if told is not None:
            one.scope["state"][LINES] = lambda: told
        one.feed(b"x")
        one.end_body()
        if whole:
            assert one.send_whole(201, b"abc", TYPED[1], b'{"a":1}')
        else:
            fields = [(b"x-request-id", b"abc"), TYPED, (b"content-length", b"7")]
            await one.send({"type": "http.response.start", "status": 201, "headers": fields})
            await one.send({"type": "http.response.body", "body": b'{"a":1}', "more_body": False})
        assert line.done == [one]
        assert one.complete
        return by_name(line.text)

    assert await answered(whole=True) == await answered(whole=False)


async def test_what_cannot_be_sent_as_a_whole_is_left_to_the_usual_way() -> None:
    late, old, head = (
        cycle(Line(), remaining=1),
        cycle(Line(), http_1_0=True),
        cycle(Line(), "HEAD"),
    )
    last, gone, slow = cycle(Line(), keep_alive=False), cycle(Line()), cycle(Line())
    gone.disconnect()
    slow._line.congested = True
    for each in (old, head, last, gone, slow):
        each.end_body()
    for each in (late, old, head, last, gone, slow):
        assert not each.send_whole(200, b"abc", TYPED[1], b"")
    named = cycle(Line())
    named.end_body()
    assert not named.send_whole(200, b"a\r\nb: c", TYPED[1], b"")
    assert not named.send_whole(204, b"abc", TYPED[1], b"")


async def test_only_a_cycle_s_own_send_sends_an_answer_as_a_whole() -> None:
    one = cycle(Line())

    async def counted(message: Message) -> None:
        await one.send(message)

    assert whole_of(one.send) == one.send_whole
    assert whole_of(counted) is None
