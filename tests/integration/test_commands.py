"""The `nebula` command against a running cluster, and against one that is not there."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.adapters import trained
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import PATIENCE, Cluster

pytestmark = pytest.mark.anyio


class Answer:
    """What a command has left: exit code, stdout, stderr."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


async def nebula(cluster: Cluster, *arguments: str) -> Answer:
    """Run one command to its end."""
    line = [sys.executable, "-m", "nebula.cli.main", *arguments, "--nats", cluster.nats_url]
    ran = await asyncio.to_thread(
        subprocess.run,
        line,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "nebula/cli" not in ran.stderr, f"a traceback: {ran.stderr}"
    return Answer(ran)


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        for name in ("poet", "lawyer"):
            trained(cluster.folder / name)
        await cluster.load("base", name="A/Base", lora=True)

    asyncio.run(load())


async def test_load_waits_until_the_model_is_served_and_unload_until_it_is_gone(
    cluster: Cluster,
) -> None:
    line = ("load", "simulated", "--id", "mine", "--memory", "512MiB")
    options = ("--option", "simulate-start=0.5", "--option", "simulate_tokens=2")
    loaded = await nebula(cluster, *line, *options, "--env", "SOME=red")
    assert loaded.code == 0, loaded.err
    assert "mine is ready" in loaded.err
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("mine"))) == "hello hello"
    spec = (await cluster.state()).models["mine"].spec
    assert spec.options == {"simulate-start": 0.5, "simulate_tokens": 2}
    assert spec.env == {"SOME": "red"}

    unloaded = await nebula(cluster, "unload", "mine")
    assert (unloaded.code, unloaded.out) == (0, "mine: unloaded\n")
    assert "mine" not in (await cluster.state()).models
    again = await nebula(cluster, "unload", "mine")
    assert again.code == 1
    assert "there is no model 'mine'" in again.err
    assert "base" in again.err, "it says which there are"


async def test_load_without_waiting_gives_the_event_s_sequence(cluster: Cluster) -> None:
    line = ("load", "simulated", "--id", "later", "--memory", "512MiB", "--no-wait")
    asked = await nebula(cluster, *line, "--json")
    assert asked.json["id"] == "later"
    [record] = [r for r in await cluster.records() if r.seq == asked.json["seq"]]
    assert record.id == "later"
    assert "asked for, event" in (await nebula(cluster, *line)).out
    await cluster.stands("later")
    gone = await nebula(cluster, "unload", "later", "--json")
    assert gone.json["id"] == "later"


async def test_load_of_what_fails_ends_with_the_engine_s_reason_and_exit_code_1(
    cluster: Cluster,
) -> None:
    bad = ("--option", "simulate-exit-at-start=3", "--memory", "512MiB")
    failed = await nebula(cluster, "load", "simulated", "--id", "bad", *bad)
    assert failed.code == 1
    assert "bad is failed" in failed.err
    assert "ValueError: The simulated engine was told to fail at its start." in failed.err
    shown = await nebula(cluster, "status")
    assert "gave up after 2 attempts" in shown.out
    assert "needs you: bad is failed" in shown.out
    assert "told to fail at its start" in shown.out
    assert (await nebula(cluster, "unload", "bad")).code == 0


async def test_a_folder_that_is_not_there_is_named_whole(cluster: Cluster) -> None:
    bad = ("--memory", "512MiB")
    failed = await nebula(cluster, "load", "./nowhere", "--id", "bad", *bad)
    assert failed.code == 1
    assert f"there is no {Path.cwd()}/nowhere on this node" in failed.err
    assert (await nebula(cluster, "unload", "bad")).code == 0


async def test_loading_what_is_there_already_tells_so(cluster: Cluster) -> None:
    line = ("load", "simulated", "--id", "twice", "--memory", "512MiB")
    first = await nebula(cluster, *line, "--option", "simulate-start=1.2")
    assert re.search(r"twice is ready: 1 of 1 replicas after [1-9]\d* s", first.err)
    second = await nebula(cluster, *line, "--option", "simulate-start=1.2")
    assert "twice is ready: 1 of 1 replicas already" in second.err
    assert (await nebula(cluster, "unload", "twice")).code == 0


REFUSED = [
    (("--memory", "lots"), 1, "memory: 'lots' is no amount"),
    (("--option", "port=1"), 1, "options: 'port' is set by Nebula itself"),
    (("--option", "nothing"), 2, "--option 'nothing': write it as KEY="),
    (("--env", "NEBULA_X=1"), 1, "env: 'NEBULA_X' can't be set"),
    (("--id", "a b"), 2, "--id 'a b': use letters"),
    (("--id", "x" * 129), 2, "128 at most"),
    (("--adapter", "x="), 2, "the source must not be empty"),
    (("--name", "A/Base"), 1, "'A/Base' is already the name of model 'base'"),
    (("--adapter", "x=./x", "--no-lora"), 1, "adapters: given together with lora: false"),
    (("--task", "painting"), 2, "'painting' is not one of"),
    (("--replicas", "-1"), 2, "-1 is not in the range"),
    (("--name", "x" * 257), 2, "256"),
]


async def test_what_can_t_be_granted_is_said_before_anything_is_written(cluster: Cluster) -> None:
    before = await cluster.last_seq()
    answers = await asyncio.gather(
        *(nebula(cluster, "load", "simulated", *arguments) for arguments, _, _ in REFUSED)
    )
    for (arguments, code, reason), refused in zip(REFUSED, answers, strict=True):
        assert refused.code == code, arguments
        assert reason in refused.err
        assert refused.out == ""
    assert await cluster.last_seq() == before


async def test_scale_takes_a_model_by_its_id_or_its_name(cluster: Cluster) -> None:
    up = await nebula(cluster, "scale", "A/Base", "2")
    assert up.code == 0, up.err
    assert "2 of 2 replicas" in up.err
    down = await nebula(cluster, "scale", "base", "1", "--json")
    assert down.json["model"]["status"]["wanted"] == 1
    await cluster.until(lambda state: "base-1" not in state.replicas, "one replica is gone")
    unknown = await nebula(cluster, "scale", "nobody", "2")
    assert unknown.code == 1
    assert "there is no model 'nobody'; there are: base" in unknown.err


async def test_adapters_are_loaded_listed_and_unloaded(cluster: Cluster) -> None:
    poet = str(cluster.folder / "poet")
    loaded = await nebula(cluster, "adapters", "load", "base", "poet", poet)
    assert loaded.code == 0, loaded.err
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("poet", max_tokens=2))) == "[poet] hello"
    missing = await nebula(cluster, "adapters", "load", "base", "ghost", "/does/not/exist")
    assert missing.code == 1
    assert "base is incomplete: adapter ghost is on 0 of 1 replicas: " in missing.err
    assert missing.err.count("no adapter found in /does/not/exist") == 1

    [model] = [m for m in (await nebula(cluster, "adapters", "--json")).json if m["id"] == "base"]
    found = {adapter["name"]: adapter for adapter in model["adapters"]}
    assert found["poet"]["loaded"] == 1
    assert found["ghost"]["loaded"] == 0
    assert found["ghost"]["reason"]
    table = (await nebula(cluster, "adapters")).out
    assert "poet" in table
    assert "1/1" in table

    for name in ("poet", "ghost"):
        gone = await nebula(cluster, "adapters", "unload", "base", name)
        assert (gone.code, gone.err) == (0, f"{name} is unloaded from base\n")
    assert "poet" not in (await cluster.state()).replicas["base-0"].adapters
    refused = await nebula(cluster, "adapters", "unload", "base", "poet")
    assert refused.code == 1
    assert "has no adapter 'poet'" in refused.err


async def test_everything_is_shown_for_people_and_as_json_for_scripts(cluster: Cluster) -> None:
    engine = await cluster.engine("base-0")
    models = (await nebula(cluster, "models", "--json")).json
    assert [(m["id"], m["name"], m["status"]["phase"]) for m in models] == [
        ("base", "A/Base", "ready")
    ]
    [replica] = (await nebula(cluster, "replicas", "--json")).json
    assert (replica["id"], replica["phase"]) == ("base-0", "ready")
    assert replica["engine"]["pid"] == engine.pid
    [node] = (await nebula(cluster, "nodes", "--json")).json
    assert node["id"] == "here"
    assert node["devices"][0]["memory"] > 0
    whole = (await nebula(cluster, "status", "--json")).json
    of_state = {"seq", "time", "cluster", "nodes", "models", "replicas", "aliases", "rejections"}
    of_state |= {"batches", "keys"}
    assert set(whole) == {*of_state, "log", "attention", "more_attention"}
    assert whole["attention"] == []

    assert "A/Base" in (await nebula(cluster, "models")).out
    assert str(engine.pid) in (await nebula(cluster, "replicas")).out
    assert "here" in (await nebula(cluster, "nodes")).out
    status = (await nebula(cluster, "status")).out
    for word in ("here", "base-0", "A/Base", "ready", "events", "nothing needs attention"):
        assert word in status


async def test_logs_prints_the_end_of_an_engine_s_log(cluster: Cluster) -> None:
    for reference in ("base-0", "base", "A/Base"):
        shown = await nebula(cluster, "logs", reference)
        assert shown.code == 0, shown.err
        assert "Started simulated engine A/Base" in shown.out
    assert len((await nebula(cluster, "logs", "base", "-n", "1")).out.splitlines()) == 1
    unknown = await nebula(cluster, "logs", "nobody")
    assert unknown.code == 1
    assert "there is no replica 'nobody'; there are: base-0" in unknown.err


async def test_logs_follows_what_an_engine_goes_on_to_write(cluster: Cluster) -> None:
    line = [sys.executable, "-m", "nebula.cli.main", "logs", "base-0", "-f", "-n", "1"]
    process = await asyncio.create_subprocess_exec(
        *line, "--nats", cluster.nats_url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            await process.stdout.readline()
            source = trained(cluster.folder / "lawyer")
            assert (await nebula(cluster, "adapters", "load", "base", "lawyer", source)).code == 0
            written = b""  # an adapter of an earlier test may be removed meanwhile
            while b"Loaded new LoRA adapter: name 'lawyer@" not in written:
                written = await process.stdout.readline()
                assert written, "the command has ended"
    finally:
        process.terminate()
        await process.wait()
        assert (await nebula(cluster, "adapters", "unload", "base", "lawyer")).code == 0


async def test_without_nats_every_command_says_so_and_fails(tmp_path: Path) -> None:
    nowhere = Cluster(tmp_path)
    lines = [("status", "--json"), ("load", "simulated"), ("logs", "base-0"), ("unload", "base")]
    for ended in await asyncio.gather(*(nebula(nowhere, *line) for line in lines)):
        assert ended.code == 1
        assert f"no NATS server answers at {nowhere.nats_url}" in ended.err
        assert len(ended.err.splitlines()) <= 2
        assert ended.out == ""
