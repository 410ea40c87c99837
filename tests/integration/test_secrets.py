"""Where a secret of a load request can be seen, and where not; what files others may read."""

import asyncio
import json
import os
from pathlib import Path

import psutil
import pytest

from nebula.events import record
from nebula.events.intents import ModelLoadRequested
from nebula.events.record import Entry
from nebula.events.version import VERSION
from nebula.events.vocabulary import EngineFailed, EngineStarted
from nebula.store.archive import write
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

SECRET = "abcSECRET123"
"""What the engine is given by name."""

CLEAR = "xyzCLEAR456"
"""What someone has written into the log by hand."""

BY_NAME = {"HF_TOKEN": {"secret": "hf"}}


def put(cluster: Cluster, name: str, value: str, mode: int = 0o600) -> Path:
    """Write a secret to where the cluster's nodes look for it."""
    folder = cluster.folder / "home" / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True, parents=True)
    file = folder / name
    file.write_text(value + "\n")
    file.chmod(mode)
    return file


@pytest.fixture(scope="module", autouse=True)
def _served(cluster: Cluster) -> None:
    async def load() -> None:
        await cluster.ready()
        put(cluster, "hf", SECRET)
        await cluster.load("chat", name="org/chat", env={"VLLM_LOGGING_LEVEL": "INFO", **BY_NAME})
        body = {"source": "simulated", "env": {"HF_TOKEN": CLEAR}, "options": {"hf-token": CLEAR}}
        reason = await cluster.publish_rejected(
            "nebula.events.model.remote.ModelLoadRequested", json.dumps(body).encode()
        )
        assert "HF_TOKEN holds what looks like a secret in clear" in reason

    asyncio.run(load())


@pytest.mark.parametrize(
    "line",
    ["events --json", "events", "state --json", "state", "status --json", "status", "models --json",
     "replicas --json", "nodes --json", "why chat", "why chat --json", "diff 1 --json", "diff 1",
     "export -", "logs chat-0"],
)  # fmt: skip
async def test_no_command_shows_it(cluster: Cluster, line: str) -> None:
    told = await cluster.nebula(*line.split())
    assert told.code == 0, told.err
    assert told.out
    assert SECRET not in told.out + told.err
    assert CLEAR not in told.out + told.err


@pytest.mark.parametrize(
    "path",
    ["/admin/models", "/admin/models/chat", "/admin/replicas", "/admin/nodes", "/admin/state",
     "/admin/state?at=4", "/admin/events", "/v1/models", "/v1/models/org%2Fchat"],
)  # fmt: skip
async def test_no_answer_holds_it(cluster: Cluster, path: str) -> None:
    async with cluster.http() as http:
        answer = await http.get(path)
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert CLEAR not in answer.text


async def test_its_name_is_shown(cluster: Cluster) -> None:
    async with cluster.http() as http:
        spec = (await http.get("/admin/models/chat")).json()["spec"]
    assert spec["env"] == {"VLLM_LOGGING_LEVEL": "INFO", **BY_NAME}
    assert "env HF_TOKEN the secret hf" in (await cluster.nebula("events", "chat")).out
    lines = (await cluster.nebula("export", "-")).out.splitlines()
    assert any(json.loads(line).get("body", {}).get("env") == spec["env"] for line in lines)


async def test_the_engine_gets_it_and_its_command_line_does_not(cluster: Cluster) -> None:
    (engine,) = {each.pid: each for each in cluster.engine_processes()}.values()
    environment = psutil.Process(engine.pid).environ()
    assert (environment["HF_TOKEN"], environment["VLLM_LOGGING_LEVEL"]) == (SECRET, "INFO")
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        assert not any(SECRET in word for word in line)


async def test_the_log_itself_holds_only_the_name(cluster: Cluster) -> None:
    store = cluster.folder / "home" / "nats"
    held = [path for path in store.rglob("*") if path.is_file()]
    assert held
    assert not any(SECRET.encode() in path.read_bytes() for path in held)


async def test_no_log_file_holds_it(cluster: Cluster) -> None:
    logs = [path for path in (cluster.folder / "home").rglob("*.log*") if path.is_file()]
    assert logs
    assert not any(SECRET.encode() in path.read_bytes() for path in logs)


async def test_it_is_told_that_the_log_holds_one_in_clear(cluster: Cluster) -> None:
    checked = await cluster.nebula("snapshots", "check")
    assert "events hold secrets in clear" in checked.err


@pytest.mark.parametrize(
    ("line", "field"),
    [(("--env", f"HF_TOKEN={CLEAR}"), "env: HF_TOKEN"),
     (("--env", f"U=http://u:{CLEAR}@h"), "env: U"),
     (("--option", f"hf-token={CLEAR}"), "options: hf-token")],
)  # fmt: skip
async def test_a_secret_in_clear_is_refused_and_not_recorded(
    cluster: Cluster, line: tuple[str, str], field: str
) -> None:
    before = await cluster.last_seq()
    told = await cluster.nebula("load", "simulated", "--id", "sec", *line)
    assert told.code == 1
    assert f"{field} holds what looks like a secret in clear" in told.err
    assert "nebula load --secret NAME:" in told.err
    assert CLEAR not in told.err
    key, _, value = line[1].partition("=")
    body = {
        "id": "sec",
        "source": "simulated",
        line[0].strip("-") + "s" * (key == "hf-token"): {key: value},
    }
    async with cluster.http() as http:
        answer = await http.post("/admin/models", json=body)
    assert answer.status_code == 400
    assert f"{field} holds what looks like a secret in clear" in answer.json()["error"]["message"]
    assert CLEAR not in answer.text
    assert await cluster.last_seq() == before


async def test_a_secret_is_given_by_its_name_on_the_command_line(cluster: Cluster) -> None:
    line = ("load", "simulated", "--id", "later", "--memory", "64MiB")
    told = await cluster.nebula(*line, "--secret", "hf:HF_TOKEN")
    assert told.code == 0, told.err
    engine = await cluster.engine("later-0")
    assert psutil.Process(engine.pid).environ()["HF_TOKEN"] == SECRET
    why = await cluster.nebula("why", "later")
    assert "env HF_TOKEN the secret hf" in why.out
    again = await cluster.nebula(*line, "--secret", "hf:HF_TOKEN", "--secret", "nowhere:OTHER")
    assert "env OTHER: not set -> the secret nowhere" in again.err
    assert (await cluster.nebula("unload", "later")).code == 0
    for wrong in ("API_KEY", f"API_KEY={CLEAR}", ":A", "hf:"):
        told = await cluster.nebula(*line, "--secret", wrong)
        assert told.code == 2
        assert "NAME:VARIABLE" in told.err
        assert CLEAR not in told.err


async def test_what_is_missing_on_the_node_is_told_and_found_once_it_is_there(
    cluster: Cluster,
) -> None:
    line = ("load", "simulated", "--id", "lacks", "--memory", "64MiB", "--secret", "none:HF_TOKEN")
    told = await cluster.nebula(*line)
    assert told.code == 1
    failed = await cluster.logged(EngineFailed, "lacks-0")
    assert "this node has no secret 'none'" in failed.reason
    assert "NEBULA_SECRET_NONE" in failed.reason
    assert failed.retry_in is None
    open_to_all = put(cluster, "none", SECRET, 0o644)
    told = await cluster.nebula(*line)
    assert told.code == 1
    assert "other users may read the secret 'none'" in told.out + told.err
    open_to_all.chmod(0o600)
    assert (await cluster.nebula(*line)).code == 0
    assert (await cluster.nebula("unload", "lacks")).code == 0


async def test_another_source_under_a_known_id_is_told(cluster: Cluster) -> None:
    line = ("--replicas", "0", "--no-wait")
    assert "is now from" not in (await cluster.nebula("load", "org/foo", *line)).err
    told = await cluster.nebula("load", "other/foo", *line)
    assert (
        "foo was loaded from org/foo, and is now from other/foo "
        "(--id OTHER would load it beside that)"
    ) in told.err


async def test_of_an_adapter_it_is_told_that_it_is_to_be_unloaded(cluster: Cluster) -> None:
    line = ("load", "simulated", "--id", "m3", "--replicas", "0", "--no-wait", "--lora")
    assert (await cluster.nebula(*line, "--adapter", "p=simulated")).code == 0
    told = await cluster.nebula("adapters", "unload", "m3", "p", "--no-wait")
    assert told.out.startswith("m3: asked to unload adapter p, event "), told.err


async def test_what_is_shown_of_a_request_can_be_asked_for_again(cluster: Cluster) -> None:
    async with cluster.http() as http:
        spec = (await http.get("/admin/models/chat")).json()["spec"]
        answer = await http.post("/admin/models", json={"id": "chat", **spec})
    assert answer.status_code == 202
    assert answer.json()["changes"] == []


async def test_an_export_is_masked_and_an_import_wants_it_whole(
    cluster: Cluster, own_cluster: Cluster, tmp_path: Path
) -> None:
    own_cluster.start("nats")
    masked, whole = tmp_path / "masked.jsonl", tmp_path / "whole.jsonl"
    told = await cluster.nebula("export", str(masked))
    assert "are masked in it" in told.err
    assert SECRET not in masked.read_text()
    assert CLEAR not in masked.read_text()
    assert (await cluster.nebula("replay", "--log", str(masked))).code == 0
    refused = await own_cluster.nebula("import", str(masked))
    assert refused.code == 1
    assert "export it again with --secrets" in refused.err
    told = await cluster.nebula("export", "--secrets", str(whole))
    assert "protect it accordingly" in told.err
    assert CLEAR in whole.read_text()
    assert SECRET not in whole.read_text()
    assert masked.stat().st_mode & 0o077 == 0
    imported = await own_cluster.nebula("import", str(whole), "--json")
    assert imported.code == 0, imported.err
    assert json.loads(imported.out)["written"] > 0


async def test_other_users_may_not_read_what_lies_there(cluster: Cluster) -> None:
    home = cluster.folder / "home"
    found = [home, *(path for path in home.rglob("*") if not path.is_socket())]
    assert len(found) > 10  # a socket is in a folder of mode 0700
    open_to_others = [path for path in found if os.lstat(path).st_mode & 0o077]
    assert open_to_others == []


def add(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


async def back(cluster: Cluster) -> None:
    async def answers() -> bool:
        return (await cluster.nebula("logs", "chat-0")).code == 0

    await cluster.poll(answers, "the node is back")


async def test_what_an_engine_writes_of_its_secret_is_masked(own_cluster: Cluster) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "gateway"):
        cluster.start(name)
    put(cluster, "hf", SECRET)
    told = 'echo "a line with $HF_TOKEN"; echo "RuntimeError: $HF_TOKEN is refused"; exit 3'
    cluster.start("node", "--engine-command", f"sh -c '{told}'", "--restart-limit", "1")
    await cluster.ready()
    await cluster.load("chat", stands="", env=BY_NAME)
    failed = await cluster.logged(EngineFailed, "chat-0")
    assert failed.reason == "RuntimeError: *** is refused"
    assert "a line with ***" in failed.log_tail
    assert "a line with ***" in (await cluster.nebula("logs", "chat-0")).out
    assert SECRET not in (await cluster.nebula("events", "--json")).out
    cluster.stop("node")
    cluster.again("node")
    await back(cluster)
    logs = await cluster.nebula("logs", "chat-0")
    assert "a line with ***" in logs.out
    assert SECRET not in logs.out


async def test_what_an_adopted_engine_writes_of_its_secret_is_masked(own_cluster: Cluster) -> None:
    cluster = own_cluster
    for name in ("nats", "router", "gateway"):
        cluster.start(name)
    file = put(cluster, "hf", SECRET)
    cluster.start("node", "--leave-engines", "--restart-limit", "20")
    await cluster.ready()
    await cluster.load("chat", env=BY_NAME)
    engine = await cluster.engine("chat-0")
    cluster.stop("node")
    file.unlink()
    cluster.again("node")
    await back(cluster)
    assert (await cluster.engine("chat-0")).pid == engine.pid
    add(Path(engine.log_file), f"RuntimeError: {SECRET} is refused\n")
    assert "RuntimeError: *** is refused" in (await cluster.nebula("logs", "chat-0")).out
    after = await cluster.last_seq()
    os.kill(engine.pid, 9)
    failed = await cluster.logged(EngineFailed, "chat-0", after)
    assert SECRET not in failed.reason + "".join(failed.log_tail)
    # It has served, so it is started again, and found once the file is back.
    put(cluster, "hf", "the-next-one")
    await cluster.logged(EngineStarted, "chat-0", after)
    await cluster.stands("chat")
    assert SECRET not in (await cluster.nebula("logs", "chat-0")).out  # nor of the first engine
    assert (
        psutil.Process((await cluster.engine("chat-0")).pid).environ()["HF_TOKEN"] == "the-next-one"
    )


async def test_a_secret_comes_from_a_command_that_may_fail(own_cluster: Cluster) -> None:
    cluster = own_cluster
    there = cluster.folder / "vault"
    cluster.up("--secret-command", f"cat {there}/{{name}}", "--restart-limit", "20")
    await cluster.ready()
    await cluster.load("chat", stands="", env=BY_NAME)
    failed = await cluster.logged(EngineFailed, "chat-0")
    assert "the command for the secret 'hf' ended with exit code 1" in failed.reason
    assert failed.retry_in is not None
    there.mkdir()
    (there / "hf").write_text(SECRET + "\n")
    await cluster.stands("chat")
    engine = await cluster.engine("chat-0")
    assert psutil.Process(engine.pid).environ()["HF_TOKEN"] == SECRET


async def test_of_an_old_log_secrets_in_clear_are_told_until_they_have_names(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    event = ModelLoadRequested("simulated", replicas=0, env={"HF_TOKEN": CLEAR})
    entry = Entry(1, 1, record.subject_of("chat", event), b"", record.encode(event))
    old = tmp_path / "old.jsonl"
    old.write_bytes(b"".join(write([entry], 1)))
    cluster = own_cluster
    cluster.start("nats")
    assert (await cluster.nebula("import", str(old))).code == 0
    for name in ("router", "gateway"):
        cluster.start(name)
    await cluster.ready()
    await cluster.until(lambda state: state.cluster.version == VERSION, "the version is raised")
    assert "chat: HF_TOKEN is in the log in clear\n" in (await cluster.nebula("status")).out
    line = ("load", "simulated", "--id", "chat", "--replicas", "0", "--no-wait")
    assert (await cluster.nebula(*line, "--env", f"HF_TOKEN={CLEAR}")).code == 1
    assert (await cluster.nebula(*line, "--secret", "hf:HF_TOKEN")).code == 0
    assert "in clear" not in (await cluster.nebula("status")).out
    back = await cluster.nebula("revert", "--to", "1", "--yes")
    assert "looks like a secret in clear" in back.out + back.err
    assert CLEAR not in back.out + back.err


async def test_a_log_is_founded_anew_without_a_secret(own_cluster: Cluster, tmp_path: Path) -> None:
    event = ModelLoadRequested("simulated", replicas=0, env={"HF_TOKEN": CLEAR})
    entry = Entry(1, 1, record.subject_of("chat", event), b"", record.encode(event))
    old, export, clean = (tmp_path / f"{name}.jsonl" for name in ("old", "export", "clean"))
    old.write_bytes(b"".join(write([entry], 1)))
    cluster = own_cluster
    cluster.start("nats")
    assert (await cluster.nebula("import", str(old))).code == 0
    put(cluster, "hf", SECRET)
    for name in ("router", "node", "gateway"):
        cluster.start(name)
    await cluster.ready()
    await cluster.until(lambda state: state.cluster.version == VERSION, "the version is raised")
    found = await cluster.nebula("log", "redact", "--find")
    assert (found.code, found.out) == (
        1, "event 1: nebula.events.model.chat.ModelLoadRequested: env.HF_TOKEN\n"
    )  # fmt: skip
    line = ("load", "simulated", "--id", "chat", "--memory", "64MiB", "--secret", "hf:HF_TOKEN")
    assert (await cluster.nebula(*line)).code == 0
    for name in ("gateway", "node", "router"):
        cluster.stop(name)
    assert (await cluster.nebula("export", "--secrets", str(export))).code == 0
    told = await cluster.nebula("log", "redact", str(export), "--all", "-o", str(clean))
    assert told.code == 0, told.err
    assert "would start with" not in told.err
    cluster.stop("nats")
    for path in (export, old):
        path.unlink()
    (cluster.folder / "jetstream").rename(tmp_path / "the-old-store")
    cluster.again("nats")
    assert (await cluster.nebula("import", str(clean))).code == 0
    for name in ("router", "node", "gateway"):
        cluster.again(name)
    await cluster.ready()
    await cluster.stands("chat")
    engine = await cluster.engine("chat-0")
    assert psutil.Process(engine.pid).environ()["HF_TOKEN"] == SECRET
    assert (await cluster.nebula("snapshots", "make")).code == 0
    checked = await cluster.nebula("snapshots", "check")
    assert (checked.code, checked.err) == (0, "")
    assert (await cluster.nebula("log", "redact", "--find")).code == 0
    for file in (cluster.folder / "jetstream").rglob("*"):
        assert not file.is_file() or CLEAR.encode() not in file.read_bytes()
