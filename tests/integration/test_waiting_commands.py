"""Commands that wait for what does not come, or while the world around them goes away."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from nebula.events.vocabulary import EngineStarted, ModelAssigned, NodeRegistered
from nebula.store import streams
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio

SHORT = """
import sys
from nebula.cli import meanwhile, progress
from nebula.cli.main import main
progress.QUIET, progress.NATS_AWAY, meanwhile.FIRST = 0.5, 1.0, 0.0
main(sys.argv[1:], prog_name="nebula")
"""
"""The command line, which is patient for seconds where it is for a minute."""


@asynccontextmanager
async def command(
    cluster: Cluster, *arguments: str
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """Run a command without a terminal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SHORT, *arguments, "--nats", cluster.nats_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def end(process: asyncio.subprocess.Process) -> tuple[int, list[str]]:
    """Wait for a command's end; return its exit code and the lines that it has told people."""
    async with asyncio.timeout(PATIENCE):
        _, told = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in told, told.decode()
    return process.returncode, told.decode().splitlines()


async def forget_heartbeats(cluster: Cluster) -> None:
    """Do what a minute would do."""
    async with cluster.joined() as projection:
        await projection.log.connection.client.jetstream().purge_stream(streams.STATUS)


LOAD = ("load", "simulated", "--id", "slow", "--memory", "128MiB")


async def test_a_command_that_waits_for_a_router_when_there_is_none_says_so(
    own_cluster: Cluster,
) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    own_cluster.kill("router")
    await forget_heartbeats(own_cluster)
    async with command(own_cluster, *LOAD) as process:
        code, lines = await end(process)
    assert code == 1
    assert any("waits for a router to place it" in line for line in lines)
    assert lines[-2] == (
        "slow: no router has been heard from for a minute: start one with "
        f"`nebula router --nats {own_cluster.nats_url}`"
    )
    assert re.fullmatch(
        r"slow is not waited for any longer; the request is event \d+ of the log and still counts",
        lines[-1],
    )


async def test_a_command_that_waits_for_a_node_that_is_dead_says_so(own_cluster: Cluster) -> None:
    own_cluster.start("nats")
    own_cluster.start("router", "--lost-after", "0")
    own_cluster.start("gateway")
    await own_cluster.ready()
    own_cluster.start("node")
    await own_cluster.logged(NodeRegistered, "here")
    own_cluster.kill("node")
    await forget_heartbeats(own_cluster)
    async with command(own_cluster, *LOAD) as process:
        code, lines = await end(process)
    assert code == 1
    assert lines[-2] == (
        "slow: nothing has been heard from node here for a minute: see that "
        f"`nebula node --name here --nats {own_cluster.nats_url}` runs there"
    )


async def test_a_command_amid_whose_wait_nats_goes_away_says_so_without_a_traceback(
    own_cluster: Cluster,
) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    async with command(own_cluster, *LOAD, "--option", "simulate-start=60") as process:
        await own_cluster.logged(EngineStarted, "slow-0")
        own_cluster.kill("nats")
        code, lines = await end(process)
    assert code == 1
    assert f"nebula: nebula command: lost NATS at {own_cluster.nats_url}" in lines
    assert lines[-2].startswith(
        f"slow: no NATS server answers at {own_cluster.nats_url}: nothing listens there, for "
    )
    assert re.fullmatch(
        r"slow is not waited for any longer; the request is event \d+ of the log and still counts",
        lines[-1],
    )


@pytest.mark.parametrize("what", [("load",), ("unload",), ("drain",)])
async def test_a_wait_that_is_interrupted_ends_with_one_line(
    own_cluster: Cluster, what: tuple[str]
) -> None:
    own_cluster.start_all()
    await own_cluster.ready()
    lines = {
        "load": (*LOAD, "--option", "simulate-start=60"),
        "unload": ("unload", "slow"),
        "drain": ("drain", "here"),
    }
    if what != ("load",):
        stubborn = {"simulate-start": 60}
        own_cluster.start("router-2")
        await own_cluster.load("slow", stands="loading", options=stubborn)
        await own_cluster.logged(EngineStarted, "slow-0")
        own_cluster.kill("node")
    async with command(own_cluster, *lines[what[0]]) as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            await process.stderr.readline()  # of what it waits for
        process.send_signal(signal.SIGINT)
        code, told = await end(process)
    assert code == 130
    assert "is not waited for any longer; " in told[-1]


async def test_why_names_the_silent_actor_instead_of_asking_to_wait(
    own_cluster: Cluster,
) -> None:
    own_cluster.start("nats")
    own_cluster.start("router", "--lost-after", "0")
    own_cluster.start("gateway")
    await own_cluster.ready()
    own_cluster.start("node")
    await own_cluster.logged(NodeRegistered, "here")
    own_cluster.kill("node")
    await own_cluster.nebula(*LOAD, "--no-wait")
    await own_cluster.logged(ModelAssigned, "slow")
    await forget_heartbeats(own_cluster)
    for line in (("why", "slow"), ("why", "slow-0"), ("why", "replica", "slow-0")):
        told = (await own_cluster.nebula(*line)).out.splitlines()[-1]
        assert told == (
            "What to do: Nothing has been heard from node here for a minute: see that "
            "`nebula node --name here` runs there."
        )
