"""A NATS server that is there and is not as Nebula needs it: refused with what to set."""

from __future__ import annotations

import pytest

from nebula.store.server import binary
from tests.integration.asking import CHAT, chat, error, said
from tests.integration.cluster import Cluster
from tests.integration.test_deleted_folders import not_ready

pytestmark = pytest.mark.anyio

JETSTREAM = 'jetstream {{ store_dir: "{folder}/jetstream" }}\n'
SMALL = JETSTREAM + "max_payload: 4096\n"
LOCKED = JETSTREAM + "authorization {{ user: a, password: b }}\n"


def configure(cluster: Cluster, text: str = JETSTREAM) -> None:
    """Write the configuration of a NATS server of the cluster's own."""
    at = f'listen: "127.0.0.1:{cluster.nats_port}"\n'
    (cluster.folder / "nats.conf").write_text(at + text.format(folder=cluster.folder))


def run_nats(cluster: Cluster, text: str = JETSTREAM) -> None:
    """Run it."""
    configure(cluster, text)
    cluster.program("nats", binary(), "-c", str(cluster.folder / "nats.conf"))


async def told_by_up(cluster: Cluster, words: str) -> None:
    """Wait until `nebula up` says so."""

    async def so() -> bool:
        return words in cluster.output("up")

    await cluster.poll(so, f"`up` says {words!r}")


async def test_a_server_that_takes_small_messages_only_is_refused_at_the_start(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    run_nats(cluster, SMALL)
    cluster.up(own_nats=False)
    assert cluster.ended("up") == 1
    out = cluster.output("up")
    assert "takes messages of 4,096 bytes" in out
    assert "max_payload: 8MB" in out


async def test_what_nats_lacks_after_a_restart_is_told_and_forgotten_when_it_is_there(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    run_nats(cluster)
    cluster.up(own_nats=False)
    await cluster.ready()
    await cluster.load("chat")
    async with cluster.http() as http:
        for text, words, served in (
            (SMALL, "set max_payload: 8MB", 503),
            ("", f"JetStream is not enabled on 127.0.0.1:{cluster.nats_port}", 200),
            (LOCKED, "it wants a user and password", 503),
        ):
            cluster.kill("nats")
            run_nats(cluster, text)
            await not_ready(cluster, http, words)
            await told_by_up(cluster, words)
            answer = await http.post(CHAT, json=chat("chat", max_tokens=1))
            assert answer.status_code == served
            if served == 503:
                assert "-" not in error(answer, 503)["message"], "no bound below nothing"
        cluster.kill("nats")
        run_nats(cluster)
        await cluster.ready()
        assert said(await http.post(CHAT, json=chat("chat", max_tokens=1))) == "hello"
    for log in (cluster.folder / "home" / "logs").glob("*.log"):
        lines = [line for line in log.read_text().splitlines() if "JetStream is not" in line]
        assert len(lines) <= 3, lines
