"""`nebula up` and single actors where something is in the way: they say what, and end."""

import socket
from functools import partial

import nats
import psutil
import pytest
from click.testing import CliRunner

from nebula.cli.main import main
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio


async def test_a_stream_that_is_configured_otherwise_is_refused_with_the_differences(
    own_cluster: Cluster,
) -> None:
    own_cluster.start("nats")
    client = await nats.connect(own_cluster.url(), max_reconnect_attempts=-1)
    await client.jetstream().add_stream(
        name="NEBULA_EVENTS", subjects=["nebula.events.>"], storage="memory", max_msgs=1000
    )
    await client.close()

    for name in ("gateway", "router", "node"):
        own_cluster.start(name)
    for name in ("gateway", "router", "node"):
        assert own_cluster.ended(name) == 78, "a supervisor must not try again"
    own_cluster.up(own_nats=False)
    assert own_cluster.ended("up") == 78
    for name in ("up", "gateway", "router", "node"):
        told = own_cluster.output(name)
        assert "stream NEBULA_EVENTS is not configured as Nebula needs it" in told
        assert "storage is memory, needed file" in told
        assert "max_msgs is 1000, needed 0" in told
        assert "deny_delete is 0, needed True" in told
        assert "Traceback" not in told
    said = await own_cluster.nebula("status")
    assert said.code == 78
    assert "storage is memory, needed file" in said.err


async def test_a_second_up_in_one_folder_is_refused_and_the_first_goes_on(
    own_cluster: Cluster,
) -> None:
    own_cluster.up("--no-node")
    await own_cluster.ready()
    nats_server = own_cluster.pid("nats-server")
    folder = own_cluster.folder / "home"
    own_cluster.up("--port", str(free_port()), "--nats-port", str(free_port()), name="up-2")
    assert own_cluster.ended("up-2") == 1
    told = own_cluster.output("up-2")
    assert f"runs a NATS server in {folder}/nats already: give another --folder" in told
    assert f"--nats {own_cluster.nats_url}" in told
    assert told.count("\n") == 1
    assert own_cluster.pid("nats-server") == nats_server
    await own_cluster.load("chat", stands="unschedulable")


async def test_an_up_after_kill_9_waits_for_the_nats_server_of_the_previous_one(
    own_cluster: Cluster,
) -> None:
    own_cluster.up("--no-node")
    await own_cluster.ready()
    nats_server = own_cluster.pid("nats-server")
    await own_cluster.load("chat", stands="unschedulable")
    own_cluster.kill("up")
    own_cluster.again("up")
    await own_cluster.ready()
    assert own_cluster.pid("nats-server") != nats_server
    assert not psutil.pid_exists(nats_server)
    assert set((await own_cluster.state()).models) == {"chat"}


async def test_a_port_that_is_taken_is_the_only_thing_said(own_cluster: Cluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", own_cluster.nats_port))
        taken.listen()
        own_cluster.up()
        assert own_cluster.ended("up") == 1
    assert own_cluster.output("up").count("\n") == 1
    assert f"something listens on port {own_cluster.nats_port}" in own_cluster.output("up")


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("up",), "--port"),
        (("up",), "--nats-port"),
        (("gateway",), "--port"),
        (("fork", __file__), "--port"),
        (("fork", __file__), "--nats-port"),
    ],
)
def test_a_port_that_is_none_is_refused_before_anything_starts(
    command: tuple[str, ...], option: str, port: str
) -> None:
    said = CliRunner().invoke(main, [*command, option, port])
    assert said.exit_code == 2
    assert f"'{option}': {port} is not in the range" in said.output


async def test_whichever_actor_dies_under_nebula_up_is_started_again_and_its_work_goes_on(
    own_cluster: Cluster,
) -> None:
    own_cluster.up()
    await own_cluster.ready()
    await own_cluster.load("chat", memory="64MiB")
    engine = await own_cluster.engine("chat-0")
    for actor in ("router", "node", "gateway"):
        died = own_cluster.pid(actor)
        own_cluster.kill(actor)
        await own_cluster.poll(partial(runs_again, own_cluster, actor, died), "another one runs")
        await own_cluster.ready()
        await own_cluster.load(f"after-{actor}", memory="64MiB")
        assert await own_cluster.engine("chat-0") == engine
        assert psutil.pid_exists(engine.pid)


async def runs_again(cluster: Cluster, actor: str, died: int) -> bool:
    try:
        return cluster.pid(actor) != died
    except LookupError:
        return False
