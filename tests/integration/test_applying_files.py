"""The cluster in a file, at a real cluster: planned in a pull request, and applied later."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from nebula.events.intents import ModelScaleRequested
from nebula.store import credentials
from tests.integration.cluster import Cluster, Told

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        await cluster.load("chat", memory="64MiB")

    asyncio.run(load())


async def dumped(cluster: Cluster, folder: Path) -> Path:
    told = await cluster.nebula("dump")
    assert told.code == 0, told.err
    file = folder / "cluster.yaml"
    file.write_text(told.out)
    return file


async def applied(cluster: Cluster, file: Path, *options: str) -> Told:
    return await cluster.nebula("apply", "-f", str(file), *options)


async def test_a_planned_change_is_refused_once_another_one_came_and_applied_once_planned_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The flow of a pull request: plan, another change, refused, plan again, applied."""
    file = await dumped(cluster, tmp_path)
    memory = file.read_text()
    file.write_text(memory.replace("memory: 64MiB", "memory: 64MiB\n    replicas: 2"))

    first = json.loads((await applied(cluster, file, "--plan", "--json")).out)
    assert [each["replica"] for each in first["plan"]["effects"]] == ["chat-1"]
    assert first["appended"] == []

    other = await cluster.nebula("alias", "best", "chat")
    assert other.code == 0
    seq = await cluster.last_seq()
    refused = await applied(cluster, file, "--at", str(first["at"]), "--yes")
    assert refused.code == 3
    assert "alias best: " in refused.err
    assert "by cli:" in refused.err
    assert f"has changed since the plan on event {first['at']}" in refused.err
    assert await cluster.last_seq() == seq

    again = json.loads((await applied(cluster, file, "--plan", "--json")).out)
    assert again["at"] > first["at"]
    done = await applied(cluster, file, "--at", str(again["at"]), "--yes")
    assert done.code == 0, done
    assert "chat-1 is placed on here" in done.out
    assert "applied: its last event is " in done.out
    [record] = await cluster.records(ModelScaleRequested)
    assert record.by.startswith("cli:")
    assert (await cluster.replica("chat-1")).serving

    once_more = await applied(cluster, file, "--yes")
    assert once_more.code == 0
    assert "the cluster is as the file says" in once_more.out
    assert [each.seq for each in await cluster.records(ModelScaleRequested)] == [record.seq]


async def test_two_files_that_are_applied_at_the_same_time_do_not_mix(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Both have seen the same plan: one is applied, the other one is told of it."""
    file = await dumped(cluster, tmp_path)
    text = file.read_text()
    files = []
    for number in (1, 2):
        files.append(tmp_path / f"{number}.yaml")
        lines = f"limits:\n  tenants:\n    lab:\n      in_flight: {number}\n"
        files[-1].write_text(text + lines)
    seq = await cluster.last_seq()
    ended = await asyncio.gather(
        *(applied(cluster, each, "--at", str(seq), "--yes", "--no-wait") for each in files)
    )
    assert sorted(each.code for each in ended) == [0, 3]
    [winner] = [number for number, each in enumerate(ended, 1) if each.code == 0]
    limits = (await cluster.state()).limits["tenant.lab"]
    assert limits.in_flight == winner


async def test_what_differs_is_told_with_the_person_behind_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = await dumped(cluster, tmp_path)
    assert (await cluster.nebula("diff", "-f", str(file), "--prune")).code == 0
    asked = await cluster.nebula("alias", "best", "chat=3", "--json")
    seq = json.loads(asked.out)["seq"]
    told = await cluster.nebula("diff", "-f", str(file))
    assert told.code == 1
    first, second = told.out.splitlines()[:2]
    assert first.startswith("~ aliases.best.targets: ")
    assert f"since event {seq}, " in second
    assert "AliasRequested, by cli:" in second


async def test_what_the_file_does_not_have_is_removed_with_prune(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = await dumped(cluster, tmp_path)
    await cluster.load("poet", memory="64MiB")
    told = await applied(cluster, file, "--prune", "--yes")
    assert told.code == 0, told
    assert "poet-0 on here ends: its model is unloaded" in told.out
    assert "poet" not in (await cluster.state()).models
    assert (await cluster.nebula("diff", "-f", str(file), "--prune")).code == 0


async def test_a_cluster_that_is_not_there_is_no_difference(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = await dumped(cluster, tmp_path)
    told = await cluster.nebula("diff", "-f", str(file), nats="nats://127.0.0.1:1")
    assert told.code == 3


async def test_a_user_that_may_only_look_may_plan_and_not_apply(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = await dumped(cluster, tmp_path)
    text = re.sub(r"    replicas: \d+\n", "", file.read_text())
    file.write_text(text.replace("memory: 64MiB\n", "memory: 64MiB\n    replicas: 3\n", 1))
    seq = await cluster.last_seq()
    viewer = f"file:{credentials.file_of(cluster.folder / 'home' / 'nats', 'viewer')}"
    planned = await cluster.nebula("apply", "-f", str(file), "--plan", nats=viewer)
    assert planned.code == 0, planned
    assert "chat: replicas: " in planned.out
    differs = await cluster.nebula("diff", "-f", str(file), nats=viewer)
    assert differs.code == 1, differs
    cluster.refused_users = ("viewer",)
    refused = await cluster.nebula("apply", "-f", str(file), "--yes", nats=viewer)
    assert refused.code == 78, refused
    assert "which the role operator may" in refused.err
    assert await cluster.last_seq() == seq
