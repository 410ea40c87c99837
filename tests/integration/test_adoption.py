"""A node that starts again adopts its own engines alone, whatever the log says of them."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from nebula.actors.node import identity
from nebula.events.vocabulary import EngineFailed, EngineStarted, EngineStopped
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

SECRET = "what only the node's user may read"

Forge = Callable[[EngineStarted, Path, int], EngineStarted]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the node's user beside its engines."""
    process = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda true, file, _: replace(true, log_file=str(file)), "names a log file"),
        (
            lambda true, _, pid: replace(true, pid=pid, birth=identity.birth(pid)),
            "no mark that can be read",
        ),
        (lambda true, _, __: replace(true, port=1), "another port"),
    ],
    ids=["log file", "process", "port"],
)
async def test_a_forged_report_reads_no_file_and_ends_no_process_of_others(
    own_cluster: Cluster, stranger: subprocess.Popen[bytes], forge: Forge, reason: str
) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "gateway"):
        cluster.start(name)
    cluster.start("node", "--leave-engines")
    await cluster.ready()
    await cluster.load("chat")
    file = cluster.folder / "private.txt"
    file.write_text(SECRET + "\n")
    assert cluster.stop("node") == 0
    true = await cluster.logged(EngineStarted, "chat-0")
    async with cluster.joined() as projection:
        forged = forge(true, file, stranger.pid)
        seq = await projection.log.append("chat-0", forged, node="here")

    cluster.again("node")
    stopped = await cluster.logged(EngineStopped, "chat-0", after=seq)
    assert reason in stopped.reason
    new = await cluster.logged(EngineStarted, "chat-0", after=seq)
    await cluster.stands("chat")
    assert stranger.poll() is None
    assert identity.birth(true.pid) != true.birth, (
        "the engine of which nothing true is told is ended"
    )
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    psutil.Process(new.pid).kill()
    failed = await cluster.logged(EngineFailed, "chat-0", after=seq)
    assert SECRET not in "".join((failed.reason, *failed.log_tail))
