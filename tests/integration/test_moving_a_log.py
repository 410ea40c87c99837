"""A log that travels: exported, imported, replayed, forked and reverted with the command."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from nebula.events.intents import ModelScaleRequested
from nebula.events.record import Entry
from nebula.events.state import State
from nebula.events.vocabulary import NodeRegistered
from nebula.store.archive import Reader, write
from tests.integration.cluster import Cluster, Told
from tests.unit import corpus

pytestmark = pytest.mark.anyio

LOG = corpus.FOLDER / "lost-node.jsonl"


@pytest.fixture
def empty(own_cluster: Cluster) -> Cluster:
    """A nats-server that holds nothing."""
    own_cluster.start("nats")
    return own_cluster


@pytest.fixture
def served(cluster: Cluster) -> Cluster:
    """A cluster that serves a model."""
    asyncio.run(_serve(cluster))
    return cluster


async def _serve(cluster: Cluster) -> None:
    await cluster.ready()
    if "chat" not in (await cluster.state()).models:
        await cluster.load("chat")


async def exported(cluster: Cluster, path: Path) -> bytes:
    told = await cluster.nebula("export", str(path))
    assert told.code == 0, told.err
    return _bytes(path)


def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def refused(told: Told) -> str:
    """Return the one line that a command says why with."""
    assert told.code == 1
    assert told.out == ""
    [line] = told.err.splitlines()
    return line


# There and back


async def test_an_imported_log_is_byte_for_byte_what_was_exported(
    empty: Cluster, tmp_path: Path
) -> None:
    told = await empty.nebula("import", str(LOG), "--json")
    chain = LOG.read_bytes()[-67:-3].decode()
    assert json.loads(told.out) == {"last": 23, "written": 23, "chain": chain}
    assert await exported(empty, tmp_path / "again.jsonl") == LOG.read_bytes()
    assert [(each.seq, each.time, each.cause) for each in await empty.records()] == [
        (each.seq, each.time, each.cause) for each in corpus.records("lost-node")
    ]
    why = await empty.nebula("why", "model", "poet", "--at", "18")
    offline = await empty.nebula("why", "model", "poet", "--at", "18", "--log", str(LOG))
    assert offline.out.splitlines()[:-1] == why.out.splitlines()[:-1]
    assert "`nebula load" in why.out
    assert "`nebula" not in offline.out, "no command that asks a cluster"
    advice = why.out.partition("What to do: ")[2]
    assert advice.startswith("Start the lost node n2 again")
    assert "add a node with a device that has 14.0 GiB free" in advice


async def test_a_genuine_log_goes_to_another_cluster_and_back(
    served: Cluster, empty: Cluster, tmp_path: Path
) -> None:
    there = await exported(served, tmp_path / "there.jsonl")
    assert (await empty.nebula("import", str(tmp_path / "there.jsonl"))).code == 0
    assert await exported(empty, tmp_path / "back.jsonl") == there


async def test_an_import_goes_on_where_one_ended(empty: Cluster, tmp_path: Path) -> None:
    part = tmp_path / "part.jsonl"
    cut = await empty.nebula("export", str(part), "--until", "9", "--log", str(LOG))
    assert cut.code == 0
    written = []
    for path in (part, LOG, LOG):
        told = await empty.nebula("import", str(path), "--json")
        written.append(json.loads(told.out)["written"])
    assert written == [9, 14, 0]
    assert await exported(empty, tmp_path / "whole.jsonl") == LOG.read_bytes()


async def test_an_import_into_another_history_is_refused_and_writes_nothing(
    served: Cluster, empty: Cluster, tmp_path: Path
) -> None:
    before = await exported(served, tmp_path / "before.jsonl")
    said = refused(await served.nebula("import", str(LOG)))
    assert "this cluster has another history: sequence 1 is nebula.events.cluster." in said
    assert await exported(served, tmp_path / "after.jsonl") == before

    await empty.nebula("import", str(LOG))
    changed = _changed()
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join(write(changed, len(changed))))
    said = refused(await empty.nebula("import", str(other)))
    assert "this cluster has another history: sequence 11 " in said
    assert await exported(empty, tmp_path / "same.jsonl") == LOG.read_bytes()


def _entries() -> list[Entry]:
    with LOG.open("rb") as file:
        return list(Reader(file, "log").entries())


def _changed() -> list[Entry]:
    """Return the log with another body in one entry, and a chain that fits."""
    entries = _entries()
    old = entries[10]
    entries[10] = Entry(old.seq, old.time, old.subject, old.headers, old.body + b" ")
    return entries


# Files that are not valid


def _edited(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b"20GiB", b"10GiB") for line in lines]


DAMAGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "truncated": (lambda lines: lines[:9], "is truncated: it ends after sequence 8"),
    "cut in a line": (lambda lines: [*lines[:9], lines[9][:50]], "line 10: it has no chain"),
    "edited": (_edited, "line 12: sequence 11 was changed"),
    "reordered": (
        lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],
        "line 6: sequence 6 follows 4: lines are missing or in another order",
    ),
    "with a hole": (
        lambda lines: lines[:5] + lines[6:],
        "line 6: sequence 6 follows 4: lines are missing or in another order",
    ),
    "empty": (lambda _: [], "is empty"),
    "without events": (lambda _: list(write([], 0)), "holds an empty log"),
    "no log": (lambda _: [b"hello\n"], "line 1: this is not an exported log"),
    "with an event to come": (
        lambda _: _with(time=4 * 10**18),
        "sequence 10 comes from the future: it was stored at 2096-",
    ),
}


def _with(**fields: object) -> list[bytes]:
    """Return the log with another entry 10, and a chain that fits."""
    entries = _entries()
    entries[9] = replace(entries[9], **fields)
    return list(write(entries, len(entries)))


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_named_by_its_line_and_writes_nothing(
    empty: Cluster, tmp_path: Path, damage: str
) -> None:
    change, message = DAMAGES[damage]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"".join(change(LOG.read_bytes().splitlines(keepends=True))))
    assert message in refused(await empty.nebula("import", str(path)))
    assert "there is no log at" in refused(await empty.nebula("export", "-"))
    if damage != "without events":
        assert message in refused(await empty.nebula("replay", "--log", str(path)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subject": "nebula.events.model.po et.X"}, "line 11: sequence 10: 'nebula.events.model"),
        ({"body": b"x" * 9_000_000}, "line 11: sequence 10 needs 9000"),
    ],
)
async def test_what_a_server_would_not_take_is_refused_before_a_stream_is_made(
    empty: Cluster, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b"".join(_with(**fields)))
    assert message in refused(await empty.nebula("import", str(path)))
    assert "there is no log at" in refused(await empty.nebula("export", "-"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("state", "--at", "24"), "there is no sequence 24"),
        (("state", "--at", "2001-01-01"), "is before the first event"),
        (("diff", "1", "99"), "there is no sequence 99"),
        (("why", "seq", "99"), "there is no sequence 99"),
        (("why", "model", "nobody"), "is called 'nobody'; there are: chat,"),
        (("why", "replica", "x-0"), "is about a replica 'x-0'; there are: "),
        (("replay", "--until", "99"), "there is no sequence 99"),
    ],
)
async def test_what_a_log_does_not_hold_is_said(
    cluster: Cluster, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(await cluster.nebula(*arguments, "--log", str(LOG)))


# Replay


async def test_every_kind_of_log_replays_to_the_same_state(empty: Cluster, tmp_path: Path) -> None:
    await empty.nebula("import", str(LOG))
    live = json.loads((await empty.nebula("replay", "--json")).out)
    file = json.loads((await empty.nebula("replay", "--json", "--log", str(LOG))).out)
    empty.stop("nats")
    store = empty.folder / "jetstream"
    copied = shutil.copytree(store, tmp_path / "copy")
    disk = json.loads((await empty.nebula("replay", "--json", "--log", str(copied))).out)
    for found in (live, file, disk):
        del found["seconds"], found["chain"]
    assert live == file == disk
    assert (live["to"], live["checked"], live["difference"]) == (23, 7, None)


async def test_a_decision_that_comes_out_otherwise_shows_both_sides(
    cluster: Cluster, tmp_path: Path
) -> None:
    entries = _entries()
    index = next(i for i, each in enumerate(entries) if each.subject.endswith("ModelAssigned"))
    old = entries[index]
    body = old.body.replace(b'"n1"', b'"n2"')
    assert body != old.body
    entries[index] = Entry(old.seq, old.time, old.subject, old.headers, body)
    path = tmp_path / "forged.jsonl"
    path.write_bytes(b"".join(write(entries, len(entries))))
    told = await cluster.nebula("replay", "--log", str(path))
    assert told.code == 1
    assert f"first difference at event {old.seq}" in told.out
    assert f"recorded: ModelAssigned search {body.decode()}" in told.out
    assert f"decided:  ModelAssigned search {old.body.decode()}" in told.out


async def test_what_if_tells_where_models_would_be(cluster: Cluster) -> None:
    line = ("replay", "--log", str(LOG), "--until", "18", "--json", "--what-if")
    told = await cluster.nebula(*line, "with n9:80GiB")
    assert told.code == 0, told.err
    assert "n9/gpu0" in told.out
    bad = await cluster.nebula(*line, "sunshine")
    assert bad.code != 0
    assert "'sunshine' is not a condition" in bad.err


# Revert


async def test_a_reversion_is_shown_then_appended_and_rewrites_nothing(
    served: Cluster, tmp_path: Path
) -> None:
    then = await served.state()
    before = (await exported(served, tmp_path / "before.jsonl")).splitlines()[1:]
    async with served.http() as http:
        assert (await http.patch("/admin/models/chat", json={"replicas": 2})).is_success
        await served.stands("chat")
    await served.load("other")

    shown = await served.nebula("revert", "--to", str(then.seq), "--dry-run")
    assert "ModelUnloadRequested" in shown.out
    assert "ModelScaleRequested, asked for 1 replica" in shown.out
    assert len((await served.state()).models) == 2

    done = await served.nebula("revert", "--to", str(then.seq), "--yes", "--json")
    assert done.code == 0, done.err
    now = await served.until(lambda state: _same(state, then), "it is as it was")
    assert now.seq > then.seq
    await served.stands("chat")
    after = (await exported(served, tmp_path / "after.jsonl")).splitlines()[1:]
    assert _unchained(after[: len(before)]) == _unchained(before)
    scaled = await served.records(ModelScaleRequested, identity="chat")
    assert scaled[-1].actor == f"revert to {then.seq}"
    again = await served.nebula("revert", "--to", str(then.seq), "--yes")
    assert "nothing to do" in again.out


def _unchained(lines: list[bytes]) -> list[bytes]:
    """The first line says how long a log is, so a longer one has other chains."""
    return [line.rpartition(b',"chain":')[0] for line in lines]


def _same(now: State, then: State) -> bool:
    return {each.id: each.spec.replicas for each in now.models.values()} == {
        each.id: each.spec.replicas for each in then.models.values()
    }


async def test_a_reversion_to_what_never_was_is_refused(served: Cluster) -> None:
    told = await served.nebula("revert", "--to", "9999", "--yes")
    assert "there is no sequence 9999" in refused(told)


# Fork


async def test_a_fork_goes_on_from_a_moment_with_simulated_engines(own_cluster: Cluster) -> None:
    sandbox = own_cluster
    sandbox.fork(LOG, "--at", "10")
    await sandbox.ready()
    await sandbox.stands("search")
    await sandbox.stands("poet")
    records = await sandbox.records()
    assert [each.time for each in records[:10]] == [
        each.time for each in corpus.records("lost-node")[:10]
    ]
    async with sandbox.http() as http:
        answer = await http.post("/v1/embeddings", json={"model": "search", "input": "a cat"})
        assert answer.status_code == 200
    assert any(isinstance(each.content, NodeRegistered) for each in records[10:])
    assert sandbox.stop("fork") == 0
    assert not sandbox.pids()
