"""What all tests may ask for: an event loop, a real nats-server, and a connection and log on it."""

import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from nebula.store.connection import Connection
from nebula.store.log import Log
from nebula.store.server import EmbeddedServer
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.integration.collector import Collector

PATIENCE = 10.0
Connect = Callable[[str], Awaitable[Connection]]


# Machines are busy, so there is no deadline; the suite has a timeout. `make unit` takes `quick`.
settings.register_profile("nebula", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=15)
settings.load_profile("nebula")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in what nohup or a shell's `&` starts: the processes under test would not be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while the tests are collected, and never look at them again.

    Thousands of tests and all modules last to the end. Every full collection would go through them
    in vain, which took a tenth of the time of the unit tests.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module")
def collector() -> "Iterator[Collector]":
    """A collector of spans that the tests of a module share."""
    from tests.integration.collector import Collector  # OpenTelemetry is needed here only

    made = Collector()
    yield made
    made.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A nats-server of the test's own, in an empty folder; the test may kill and restart it."""
    server = EmbeddedServer(tmp_path / "nats", free_port())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def connect(nats_server: EmbeddedServer) -> AsyncIterator[Connect]:
    """Open further connections, which are closed after the test: `await connect("second")`."""
    async with contextlib.AsyncExitStack() as opened:

        async def connect(name: str) -> Connection:
            connection = await Connection(nats_server.url, name).open(patience=PATIENCE)
            opened.push_async_callback(connection.close)
            return connection

        yield connect


@pytest.fixture
async def connection(connect: Connect) -> Connection:
    return await connect("test")


@pytest.fixture
async def log(connection: Connection) -> Log:
    """The log on `nats_server`, its streams created."""
    return await Log(connection).open(patience=PATIENCE)
