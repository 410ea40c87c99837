"""`nebula up` and single actors where something is in the way: they say what, and end."""

from functools import partial

import nats
import psutil
import pytest

from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_a_stream_that_is_configured_otherwise_is_refused_with_the_differences(
    own_cluster: Cluster,
) -> None:
    own_cluster.start("nats")
    client = await nats.connect(own_cluster.nats_url, max_reconnect_attempts=-1)
    await client.jetstream().add_stream(
        name="NEBULA_EVENTS", subjects=["nebula.events.>"], storage="memory", max_msgs=1000
    )
    await client.close()

    for name in ("gateway", "router", "node"):
        own_cluster.start(name)
    for name in ("gateway", "router", "node"):
        assert own_cluster.ended(name) == 78, "a supervisor must not try again"
    own_cluster.up(own_nats=False)
    assert own_cluster.ended("up") == 1
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
