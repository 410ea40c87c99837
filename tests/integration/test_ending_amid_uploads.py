"""What clients get whose request is not whole yet when `nebula up` is told to stop."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.cluster import Cluster
from tests.integration.wire import Answer, Wire, request

pytestmark = pytest.mark.anyio

CHAT = "POST /v1/chat/completions HTTP/1.1"
LOAD = "POST /admin/models HTTP/1.1"
SIZED, CODED = "Content-Length: 100000", "Transfer-Encoding: chunked"

UPLOADS = {
    "drips": (request(CHAT, SIZED) + b"{", b"x"),
    "drips chunks": (request(CHAT, CODED) + b"1\r\n{\r\n", b"1\r\nx\r\n"),
    "falls silent": (request(CHAT, SIZED) + b"{", b""),
    "falls silent after 100": (request(CHAT, SIZED, "Expect: 100-continue"), b""),
    "has asked for a change": (request(LOAD, SIZED) + b"{", b"x"),
    "sends half a chunk's size": (request(CHAT, CODED) + b"1", b""),
    "is compressed": (request(CHAT, SIZED, "Content-Encoding: gzip") + b"\x1f\x8b", b""),
    "stands in line": (request() + request(CHAT, SIZED) + b"{", b""),
}


@contextlib.contextmanager
def dripping(wires: dict[str, Wire]) -> Iterator[None]:
    """Send on for those that do."""
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.2):
            for name, wire in wires.items():
                with contextlib.suppress(OSError):
                    wire.send(UPLOADS[name][1])

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_request_that_is_not_whole_gets_a_503_and_the_gateway_ends(
    own_cluster: Cluster, signals: int
) -> None:
    cluster = own_cluster
    cluster.up("--grace", "3" if signals == 1 else "60")
    await cluster.ready()

    def ask() -> dict[str, Answer]:
        with contextlib.ExitStack() as kept:
            wires = {name: kept.enter_context(Wire(cluster.port)) for name in UPLOADS}
            for name, wire in wires.items():
                wire.send(UPLOADS[name][0])
            assert wires["stands in line"].answer().status == 200
            kept.enter_context(dripping(wires))
            # They are in hand once a request that came later is answered.
            with Wire(cluster.port) as later:
                assert later.ask(request()).status == 200
            for number in range(signals):
                time.sleep(0.3 if number else 0)  # the kernel makes one of two at once
                os.kill(cluster.pid("up"), signal.SIGINT)
            return {name: wire.answer() for name, wire in wires.items()}

    answers = await asyncio.to_thread(ask)
    for name, answer in answers.items():
        assert answer.status == 503, name
        assert answer.error["message"] == "the gateway is stopping", name
        assert answer.error["code"] == "unavailable"
        assert answer.fields["connection"] == "close"
        assert answer.fields["retry-after"] == "1"
    assert answers["falls silent after 100"].interim == (100,)
    await asyncio.to_thread(cluster.ended, "up", 40)
    assert "gateway did not end" not in cluster.output("up")
