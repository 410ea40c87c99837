"""The users of the NATS server of `nebula up`: what each may do, tried on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import psutil
import pytest

from nebula.cli.embedded import embedded
from nebula.cli.exits import FATAL
from nebula.events.intents import ModelScaleRequested, ModelUnloadRequested
from nebula.schema.parties import ROLES, RoleName, channels
from nebula.schema.roles import Role, rights
from nebula.schema.stream_rights import RIGHTS
from nebula.store import credentials
from nebula.store.connection import Connection, NotLetIn
from nebula.store.forbidden import Forbidden
from nebula.store.log import Log
from nebula.store.server import EmbeddedServer
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster
from tests.ports import free_port
from tests.unit.subject_patterns import covers

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
LIMITED: tuple[RoleName, ...] = tuple(name for name in ROLES if name != "admin")
SUBJECTS = [
    re.sub(r"{\w+}", "any", address)
    for channel in channels()
    for address in (channel.address, channel.older)
    if address
]
INBOXES = [f"{rights(Role(name)).inbox}.id.token" for name in ROLES]
STREAMS = [
    f"$JS.API.{what.format(stream)}"
    for stream in RIGHTS
    for what in (
        "STREAM.INFO.{}",
        "STREAM.CREATE.{}",
        "STREAM.UPDATE.{}",
        "STREAM.DELETE.{}",
        "STREAM.PURGE.{}",
        "STREAM.SNAPSHOT.{}",
        "STREAM.RESTORE.{}",
        "STREAM.MSG.GET.{}",
        "STREAM.MSG.DELETE.{}",
        "DIRECT.GET.{}",
        "CONSUMER.CREATE.{}",
        "CONSUMER.CREATE.{}.any.any",
        "CONSUMER.DURABLE.CREATE.{}.any",
        "CONSUMER.MSG.NEXT.{}.any",
        "CONSUMER.DELETE.{}.any",
    )
]
OBJECTS = [
    f"$O.{stream.removeprefix('OBJ_')}.{part}.any"
    for stream in RIGHTS
    if stream.startswith("OBJ_")
    for part in "CM"
]


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server with all roles, as `nebula up` starts it."""
    server = embedded(tmp_path / "nats", free_port())
    await server.start()
    yield server
    await server.stop()


class Listening(Connection):
    """A connection that keeps what the server refuses."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "test")
        self.refused: set[str] = set()

    async def _on_error(self, error: Exception) -> None:
        found = re.search(r'permissions violation for \w+(?: to)? "([^"]+)"', str(error).lower())
        assert found, error
        self.refused.add(found[1])


def lower(subjects: Iterable[str]) -> set[str]:
    """Return subjects as the server's errors name them."""
    return {each.lower() for each in subjects}


@pytest.mark.parametrize("name", LIMITED)
async def test_a_role_may_publish_what_the_reference_lists_and_nothing_else(
    guarded: EmbeddedServer, name: RoleName
) -> None:
    connection = await Listening(guarded.login(name)).open(patience=PATIENCE)
    assert isinstance(connection, Listening)
    allowed = rights(Role(name)).publish
    tried = [*SUBJECTS, *INBOXES, *STREAMS, *OBJECTS, "nebula.new.subject", "$SYS.REQ.ACCOUNT.any"]
    for subject in tried:
        connection.client.post(subject, b"", b"{}")
    await connection.client.flush()
    await connection.close()
    assert connection.refused == lower(each for each in tried if not covers(allowed, each))


@pytest.mark.parametrize("name", LIMITED)
async def test_a_role_hears_what_the_reference_lists_and_nothing_else(
    guarded: EmbeddedServer, name: RoleName
) -> None:
    connection = await Listening(guarded.login(name)).open(patience=PATIENCE)
    assert isinstance(connection, Listening)
    allowed = rights(Role(name)).subscribe
    tried = [*SUBJECTS, *INBOXES, *OBJECTS, "nebula.>", "_INBOX.>", ">", "$JS.API.>"]
    for subject in tried:
        await connection.client.listen(subject, lambda _, __, ___: None)
    await connection.client.flush()
    await connection.close()
    assert connection.refused == lower(each for each in tried if not covers(allowed, each))


async def test_a_client_without_valid_credentials_is_refused(guarded: EmbeddedServer) -> None:
    _, _, address = guarded.url.partition("://")
    for url, why in (
        (f"nats://nobody:guessed@{address}", "refuses the user or password"),
        (f"nats://operator@{address}", "refuses the user or password"),
    ):
        with pytest.raises(NotLetIn, match=why):
            await Connection(url, "stranger").open(patience=PATIENCE)


async def test_a_process_of_the_same_user_finds_its_role_by_the_address(
    guarded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    connection = await Connection(guarded.url, "cli").open(patience=PATIENCE)
    assert connection.shown == guarded.url
    inbox = connection.client.new_inbox()
    await connection.close()
    assert inbox.startswith("_INBOX_operator.")


async def test_files_with_credentials_are_the_owners_only(guarded: EmbeddedServer) -> None:
    folder = guarded.folder / credentials.FOLDER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {each.stem for each in folder.iterdir()} == set(ROLES)
    passwords = set()
    for each in (*folder.iterdir(), guarded.folder / "nats-server.conf"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
        if each.suffix == ".json":
            passwords.add(json.loads(each.read_text())["password"])
    assert len(passwords) == len(ROLES)
    assert min(map(len, passwords)) >= 43


async def test_passwords_stay_over_a_restart_and_a_log_without_roles_gets_them(
    tmp_path: Path,
) -> None:
    port = free_port()
    older = EmbeddedServer(tmp_path / "nats", port)
    await older.start()
    connection = await Connection(older.url, "older").open(patience=PATIENCE)
    await Log(connection).open(patience=PATIENCE)
    created = (await connection.client.jetstream().stream_info("NEBULA_EVENTS")).created
    await connection.close()
    await older.stop()
    seen = []
    for _ in range(2):
        server = embedded(tmp_path / "nats", port)
        await server.start()
        connection = await Connection(server.login("provision"), "newer").open(patience=PATIENCE)
        info = await connection.client.jetstream().stream_info("NEBULA_EVENTS")
        seen.append((info.created, credentials.file_of(server.folder, "router").read_text()))
        await connection.close()
        await server.stop()
    assert seen[0] == seen[1]
    assert seen[0][0] == created


async def test_a_connection_whose_password_was_changed_comes_back_with_the_new_one(
    guarded: EmbeddedServer,
) -> None:
    connection = await Connection(guarded.login("router"), "router").open(patience=PATIENCE)
    back = asyncio.Event()

    async def on_reconnect() -> None:
        back.set()

    connection.on_reconnect(on_reconnect)
    file = credentials.file_of(guarded.folder, "router")
    before = file.read_text()
    file.unlink()
    guarded._configure()
    assert guarded.process is not None
    os.kill(guarded.process.pid, signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        await back.wait()
    assert connection.connected
    assert file.read_text() != before
    await connection.close()


async def test_a_cluster_serves_all_that_it_offers_within_its_roles(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up("--routers", "2")
    await cluster.ready()
    await cluster.load("chat", memory="64MiB", lora=True)
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": chat("chat")}
    async with cluster.http() as http:
        assert said(await http.post(CHAT, json=chat("chat")))
        keyed = await http.post(CHAT, json=chat("chat"), headers={"Idempotency-Key": "one"})
        assert said(keyed) == said(
            await http.post(CHAT, json=chat("chat"), headers={"Idempotency-Key": "one"})
        )
        asked = {"model": "chat", "input": "hello", "background": True}
        made = (await http.post("/v1/responses", json=asked)).json()

        async def ended() -> bool:
            found = (await http.get(f"/v1/responses/{made['id']}")).json()
            return bool(found["status"] == "completed")

        await cluster.poll(ended, "the response is made in the background")
        conversation = (await http.post("/v1/conversations", json={})).json()
        asked = {"model": "chat", "input": "hello", "conversation": conversation["id"]}
        assert (await http.post("/v1/responses", json=asked)).status_code == 200
        assert (await http.delete(f"/v1/responses/{made['id']}")).status_code == 200
        file = {"file": ("in.jsonl", json.dumps(line).encode())}
        sent = await http.post("/v1/files", files=file, data={"purpose": "batch"})
        wish = {"input_file_id": sent.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
        batch = (await http.post("/v1/batches", json=wish)).json()["id"]

        async def batch_ended() -> bool:
            return bool((await http.get(f"/v1/batches/{batch}")).json()["status"] == "completed")

        await cluster.poll(batch_ended, "the batch is completed")
        assert (await http.get("/v1/files")).json()["data"]
        request = keyed.headers["x-request-id"]
    for command in (
        ("status",),
        ("logs", "chat-0"),
        ("why", "request", request),
        ("why", "chat"),
        ("snapshots", "make"),
        ("snapshots", "check"),
        ("scale", "chat", "2"),
        ("adapters", "load", "chat", "poet", "/nowhere/poet"),
        ("drain", "here", "--undo"),
    ):
        done = await cluster.nebula(*command)
        assert "NATS does not allow" not in done.err, (command, done)
    engine = (await cluster.engine("chat-0")).pid
    environ = " ".join(f"{key}={value}" for key, value in psutil.Process(engine).environ().items())
    assert "roles/engine.json" in environ
    assert cluster.violations() == []
    for role in ROLES:
        secret = json.loads(
            credentials.file_of(cluster.folder / "home" / "nats", role).read_text()
        )["password"]
        assert secret not in environ
        assert secret not in cluster.last_words()


async def test_new_passwords_cost_no_request(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    ended = asyncio.Event()
    answers: list[int | str] = []

    async def client(http: httpx.AsyncClient) -> None:
        while not ended.is_set():
            answer = await http.post(CHAT, json=chat("chat"))
            answers.append(answer.status_code if answer.status_code == 200 else answer.text)

    async with cluster.http() as http, asyncio.TaskGroup() as clients:
        for _ in range(8):
            clients.create_task(client(http))
        before = credentials.file_of(cluster.folder / "home" / "nats", "engine").read_text()
        for _ in range(3):
            done = await cluster.nebula("auth", "rotate")
            assert done.code == 0, done
            asked = len(answers)

            async def more(asked: int = asked) -> bool:
                return len(answers) > asked + 100

            await cluster.poll(more, "requests are answered after it")
        ended.set()
    assert set(answers) == {200}
    assert credentials.file_of(cluster.folder / "home" / "nats", "engine").read_text() != before
    assert (await cluster.nebula("status")).code == 0


async def test_a_command_ends_at_once_when_nats_does_not_permit_it(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.up()
    await cluster.ready()
    await cluster.load("chat", memory="64MiB")
    file = credentials.file_of(cluster.folder / "home" / "nats", "viewer")
    nats = f"file:{file}"
    cluster.refused_users = ("viewer",)
    event = "nebula.events.model.chat"
    intent = "which the role operator may; nothing was recorded"
    before = await cluster.last_seq()
    refused = (
        (("scale", "chat", "2", "--no-wait"), f"{event}.ModelScaleRequested", intent),
        (("unload", "chat"), f"{event}.ModelUnloadRequested", intent),
        (("load", "/nowhere", "--id", "new"), "nebula.events.model.new.ModelLoadRequested", intent),
        (("drain", "here"), "nebula.events.node.here.NodeDrainRequested", intent),
        (("logs", "chat"), "nebula.logs.here", "which the role operator may"),
        (("why", "request", "unknown"), "$JS.API.", "which the role operator may"),
    )
    ends = await asyncio.gather(*[cluster.nebula(*each[0], nats=nats) for each in refused])
    for (command, subject, needs), done in zip(refused, ends, strict=True):
        lines = done.err.splitlines()
        assert len(lines) == 1, (command, done)
        begin = f"nebula: NATS does not let user 'viewer' of {file} publish on {subject}"
        assert lines[0].startswith(begin), (command, lines)
        assert lines[0].endswith(needs), (command, lines)
        assert done.code == FATAL, (command, done)
    assert not await cluster.records(ModelScaleRequested, ModelUnloadRequested)
    assert await cluster.last_seq() == before
    allowed = ("status", "why chat", "events", "models", "key list", "limits list")
    ends = await asyncio.gather(*[cluster.nebula(*each.split(), nats=nats) for each in allowed])
    for line, done in zip(allowed, ends, strict=True):
        assert done.code == 0, (line, done)
        assert not done.err, (line, done)


async def test_a_command_whose_inbox_is_refused_says_so(guarded: EmbeddedServer) -> None:
    known = credentials.read(credentials.file_of(guarded.folder, "operator"))
    connection = Connection(known.servers[0], "command", forbids_at_once=True)
    await connection.open(patience=PATIENCE)
    with pytest.raises(Forbidden, match=r"user 'operator' of .* subscribe to _INBOX\."):
        await Log(connection).check()
    await connection.close()
