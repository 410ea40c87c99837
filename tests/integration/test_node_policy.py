"""A node refuses what its owner's policy does not allow, and tells the cluster so."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import psutil
import pytest

from nebula.actors.node.engine_sockets import place
from nebula.events.state import State
from tests.engines import socket_of_engine
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_a_refused_load_says_why_and_how_to_allow_it(own_cluster: Cluster) -> None:
    own_cluster.up()
    await own_cluster.ready()
    for line, words in (
        (("--option", "trust-remote-code=true"), "--allow-option trust-remote-code"),
        (("--env", "LD_PRELOAD=/tmp/x.so"), "--allow-env LD_PRELOAD"),
    ):
        told = await own_cluster.nebula("load", "simulated", "--id", "bad", "--wait", *line)
        assert told.code != 0
        said = " ".join((told.out + told.err).split())
        assert "this node's policy does not allow" in said
        assert words in said
        assert not own_cluster.engine_processes()
        why = await own_cluster.nebula("why", "bad")
        assert words in " ".join(why.out.split())
    failed = (await own_cluster.state()).replicas["bad-0"]
    assert failed.given_up, "no restart helps"
    await own_cluster.load("good", options={"simulate-tokens": 3})


async def test_a_folder_of_the_system_is_not_looked_at(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    own_cluster.up()
    await own_cluster.ready()
    link = tmp_path / "link"
    link.symlink_to("/etc")

    def refused(state: State) -> bool:
        model = state.models["bad"]
        return "policy does not allow" in model.unschedulable

    for source in ("/etc", "/root/.ssh", "/no/../etc", str(link)):
        await own_cluster.load("bad", source=source, stands="unschedulable")
        state = await own_cluster.until(refused, "the node refuses the folder")
        assert source in state.models["bad"].unschedulable


async def test_an_adapter_from_elsewhere_is_refused(own_cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    own_cluster.up("--allow-source", "simulated")
    await own_cluster.ready()
    await own_cluster.load("chat", lora=True)
    async with own_cluster.http() as http:
        wish = {"name": "more", "source": str(tmp_path / "adapter")}
        answer = await http.post("/admin/models/chat/adapters", json=wish)
        assert answer.status_code == 202, answer.text

    def refused(state: State) -> bool:
        status = state.replicas["chat-0"].adapters.get("more")
        return status is not None and "--allow-source" in status.reason

    await own_cluster.until(refused, "the adapter is refused")


async def test_an_engine_gets_no_credentials_of_its_node(
    own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "NEBULA_SECRET", "DATABASE_URL"):
        monkeypatch.setenv(name, "hidden")
    own_cluster.up()
    await own_cluster.ready()
    await own_cluster.load("chat")
    engine = (await own_cluster.engine("chat-0")).pid
    environ = psutil.Process(engine).environ()
    assert "hidden" not in environ.values()
    assert environ["PATH"]


async def test_an_engine_that_a_new_policy_refuses_is_not_adopted(own_cluster: Cluster) -> None:
    for name in ("nats", "router", "gateway"):
        own_cluster.start(name)
    own_cluster.start("node", "--leave-engines", "--allow-env", "MINE")
    await own_cluster.ready()
    await own_cluster.load("chat", env={"MINE": "1"})
    own_cluster.stop("node")
    own_cluster.start("node-2")
    await own_cluster.stands("chat", "failed")
    assert not own_cluster.engine_processes()


async def test_an_engine_listens_on_a_socket_of_its_nodes_user_and_on_no_port(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "gateway"):
        cluster.start(name)
    cluster.start("node", "--leave-engines")
    await cluster.ready()
    await cluster.load("chat")
    engine = await cluster.engine("chat-0")
    socket = Path(socket_of_engine(engine.pid, engine.port))
    assert private(socket)
    assert not listening(engine.pid)
    async with await cluster.engine_http("chat-0") as http:
        assert (await http.get("/health")).status_code == 200
    # The next process of the node finds it there.
    cluster.stop("node")
    cluster.start("node-2")
    await cluster.until(lambda state: not state.nodes["here"].away, "the node is back")
    await cluster.load("chat", options={"simulate-tokens": 3}, stands="")

    def replaced(state: State) -> bool:
        return [replica.id for replica in state.replicas.values()] == ["chat-1"]

    await cluster.until(replaced, "another replica is in its place")
    assert not private(socket), "it was replaced"
    assert await cluster.engine_says("chat-1")
    cluster.stop("node-2")
    assert not private(socket.parent)


async def test_engines_listen_on_ports_where_the_owner_wants_it(own_cluster: Cluster) -> None:
    own_cluster.up("--engine-listen", "port")
    await own_cluster.ready()
    await own_cluster.load("chat")
    engine = await own_cluster.engine("chat-0")
    assert listening(engine.pid) == {engine.port}


async def test_an_engine_on_a_port_demands_the_key_that_its_node_made(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "gateway"):
        cluster.start(name)
    cluster.start("node", "--leave-engines", "--engine-listen", "port")
    await cluster.ready()
    await cluster.load("chat")
    await cluster.load("other")
    engine, other = await cluster.engine("chat-0"), await cluster.engine("other-0")
    file = place(cluster.folder / "home" / "nodes" / "here") / f"{engine.port}.key"
    key = file.read_text()
    assert private(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in " ".join(psutil.Process(engine.pid).cmdline())
    assert key not in cluster.last_words()
    own = {"authorization": f"Bearer {key}"}
    tried: tuple[tuple[int, dict[str, str], int], ...] = (
        (engine.port, {}, 401),
        (engine.port, {"authorization": "Bearer none"}, 401),
        (engine.port, {**own, "origin": "http://127.0.0.1"}, 403),
        (other.port, own, 401),
        (engine.port, own, 200),
    )
    for port, headers, status in tried:
        async with cluster.http(port) as http:
            for path in ("/metrics", "/health", "/v1/models", "/simulate"):
                answer = await http.get(path, headers=headers)
                assert answer.status_code == status, (path, headers, answer)
    # The next process of the node finds the key, and removes it with the engine.
    cluster.stop("node")
    cluster.start("node-2", "--engine-listen", "port")

    async def adopted() -> bool:
        return "adopted chat-0" in cluster.output("node-2")

    await cluster.poll(adopted, "the engine is adopted")
    await cluster.load("more")
    assert (await cluster.engine("chat-0")).pid == engine.pid
    assert cluster.stop("node-2") == 0
    assert not private(file)


def private(path: Path) -> bool:
    """Return whether there is something that only its user may reach."""
    return path.exists() and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def listening(pid: int) -> set[int]:
    """Return the TCP ports on which a process listens."""
    return {
        found.laddr.port
        for found in psutil.Process(pid).net_connections("tcp")
        if found.status == psutil.CONN_LISTEN
    }


async def test_a_fork_takes_what_the_real_nodes_took(own_cluster: Cluster, tmp_path: Path) -> None:
    own_cluster.up("--allow-option", "trust-remote-code")
    await own_cluster.ready()
    await own_cluster.load("chat", options={"trust-remote-code": True})
    log = tmp_path / "log.jsonl"
    assert (await own_cluster.nebula("export", str(log))).code == 0
    assert own_cluster.stop("up") == 0
    (tmp_path / "sandbox").mkdir()
    with contextlib.closing(Cluster(tmp_path / "sandbox")) as sandbox:
        sandbox.fork(log)
        await sandbox.ready()
        await sandbox.stands("chat")


async def test_a_policy_that_makes_no_sense_ends_the_node(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("colour = []")
    told = await own_cluster.nebula("node", "--policy", str(policy))
    assert told.code == 78
    assert "unknown field `colour`" in told.err
