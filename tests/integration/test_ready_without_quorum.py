"""/ready of a gateway whose own NATS server answers, and whose log has lost its quorum."""

import json
import os
import signal

import httpx
import pytest

from nebula.store.server import binary
from tests.integration.asking import error
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

NOTICED_WITHIN = 12.0
"""Nine by docs/limits.md, and a little for a machine that is busy."""


def start_three(cluster: Cluster) -> None:
    """Start a NATS cluster of three; the first listens where the actors look for it."""
    routes = [free_port() for _ in range(3)]
    ports = [cluster.nats_port, free_port(), free_port()]
    others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    for number in range(3):
        folder = cluster.folder / f"n{number + 1}"
        folder.mkdir()
        (folder / "nats.conf").write_text(
            f'server_name: n{number + 1}\nlisten: "127.0.0.1:{ports[number]}"\n'
            "max_payload: 8MB\n"
            f"jetstream {{ store_dir: {json.dumps(str(folder))}, max_memory_store: 1GB }}\n"
            f'cluster {{ name: three, listen: "127.0.0.1:{routes[number]}"\n'
            f"  no_advertise: true, routes: [{others}] }}\n"
        )
        cluster.program(f"nats-{number + 1}", binary(), "-c", str(folder / "nats.conf"))


async def test_without_the_logs_quorum_a_gateway_is_not_ready_and_says_why(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    start_three(cluster)
    cluster.start("router", "--stream-replicas", "3")
    cluster.start("gateway", "--stream-replicas", "3")
    async with cluster.http() as http:

        async def ready() -> bool:
            try:
                return (await http.get("/ready")).status_code == 200
            except httpx.ConnectError:
                return False

        async def says_why() -> bool:
            answer = await http.get("/ready")
            return answer.status_code == 503 and "the log" in error(answer, 503)["message"]

        await cluster.poll(ready, "the gateway is ready", 40)
        for name in ("nats-2", "nats-3"):
            os.kill(cluster.pid(name), signal.SIGSTOP)
        await cluster.poll(says_why, "/ready tells that the log has no quorum", NOTICED_WITHIN)
        refused = await http.put("/admin/aliases/a", json={"targets": [{"model": "chat"}]})
        assert "nothing was recorded" in error(refused, 503)["message"]
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/admin/state")).status_code == 200
        for name in ("nats-2", "nats-3"):
            os.kill(cluster.pid(name), signal.SIGCONT)
        await cluster.poll(ready, "it is ready again", 40)
