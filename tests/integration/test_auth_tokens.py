"""`nebula auth`: a cluster on a NATS server of its own, whose users have signed tokens."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from nebula.cli.main import main
from nebula.cli.process import FATAL
from nebula.events import subjects
from nebula.events.vocabulary import EngineFailed
from nebula.store.connection import Connection, NotLetIn, Unavailable
from nebula.store.server import binary, die_with_parent
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster
from tests.integration.test_roles import Listening
from tests.ports import free_port

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


class Guarded:
    """A nats-server that trusts an operator, and the keys of that operator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.keys = folder / "keys"
        self._process: subprocess.Popen[bytes] | None = None

    def auth(self, *arguments: str) -> str:
        """Run `nebula auth`, and return what it prints."""
        done = self.try_auth(*arguments)
        assert done[0] == 0, done
        return done[1]

    def try_auth(self, *arguments: str) -> tuple[int, str]:
        line = ["auth", *arguments, "--keys", str(self.keys)]
        line += ["--nats", self.url] if arguments[0] != "init" else []
        done = CliRunner().invoke(main, line)
        return done.exit_code, done.output

    def user(self, *arguments: str) -> str:
        """Make a user, and return the URL with its credentials."""
        printed = self.auth(*arguments).strip()
        assert printed.startswith("NEBULA_NATS_URL=file:")
        return printed.removeprefix("NEBULA_NATS_URL=")

    def start(self) -> None:
        config = self.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'server_name: guarded\njetstream {{ store_dir: "{self.folder / "store"}" }}\n'
            f"max_payload: 8388608\ninclude keys/nats-auth.conf\n"
        )
        with (self.folder / "nats-server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [binary(), "-c", str(config)],
                cwd=self.folder,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path)
    guarded.auth("init", "--name", "prod")
    guarded.start()
    yield guarded
    guarded.stop()


async def test_a_whole_cluster_serves_with_tokens(guarded: Guarded, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    urls = {role: guarded.user(role) for role in ("router", "gateway", "operator", "provision")}
    urls["node"] = guarded.user("node", "here")
    engine = guarded.user("engine")
    for _ in range(2):
        done = await cluster.nebula("provision", nats=urls["provision"])
        assert done.out == "the log is there, with 0 events\n", done
    try:
        for role in ("router", "node", "gateway"):
            cluster.nats_url = urls[role]
            os.environ["NEBULA_ENGINE_NATS_URL"] = engine
            cluster.start(role)
        cluster.nats_url = urls["operator"]
        await cluster.ready()
        await cluster.load("chat", memory="64MiB")
        async with cluster.http() as http:
            assert said(await http.post(CHAT, json=chat("chat")))
        done = await cluster.nebula("scale", "chat", "2")
        assert done.code == 0, done
        assert (await cluster.nebula("logs", "chat-0")).code == 0
        done = await cluster.nebula("events", nats=guarded.user("viewer", "eve"))
        assert done.code == 0, done
        assert cluster.violations() == []
    finally:
        del os.environ["NEBULA_ENGINE_NATS_URL"]
        cluster.close()


async def test_new_tokens_for_all_cost_no_request(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path)
    users = {
        "router": ("router", "router"),
        "gateway": ("gateway", "gateway"),
        "node": ("node", "here"),
        "engine": ("engine", "engine"),
    }
    urls = {role: guarded.user(*line) for role, line in users.items()}
    done = await cluster.nebula("provision", nats=guarded.user("provision"))
    assert done.code == 0, done
    monkeypatch.setenv("NEBULA_ENGINE_NATS_URL", urls["engine"])
    ended = asyncio.Event()
    answers: list[int | str] = []

    async def client(stream: bool) -> None:
        async with cluster.http() as http:
            while not ended.is_set():
                answer = await http.post(CHAT, json=chat("chat", max_tokens=5, stream=stream))
                whole = not stream or "[DONE]" in answer.text
                fine = answer.status_code == 200 and whole
                answers.append(200 if fine else answer.text)

    try:
        for role in ("router", "node", "gateway"):
            cluster.nats_url = urls[role]
            cluster.start(role)
        cluster.nats_url = guarded.user("operator")
        await cluster.ready()
        await cluster.load("chat", memory="64MiB", options={"simulate-token": 0.01})
        async with asyncio.TaskGroup() as clients:
            for number in range(6):
                clients.create_task(client(bool(number % 2)))
            for role, line in users.items():
                assert await asyncio.to_thread(guarded.user, *line) == urls[role]
                said = await asyncio.to_thread(guarded.auth, "revoke", line[1], "--older")
                assert said == f"{line[1]} needs its newest credentials: 1 revoked\n"
                asked = len(answers)

                async def more(asked: int = asked) -> bool:
                    return len(answers) > asked + 50

                await cluster.poll(more, f"requests are answered with new tokens of {role}")
            ended.set()
        assert set(answers) == {200}
        for role in ("router", "node", "gateway"):
            assert "NATS is back" in cluster.output(role), "its old token was refused"
    finally:
        cluster.close()


async def test_each_engine_gets_a_token_for_its_own_replica(
    guarded: Guarded, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path)
    urls = {role: guarded.user(role) for role in ("router", "gateway", "operator", "provision")}
    urls["node"] = guarded.user("node", "here")
    printed = guarded.auth("engines", "here").splitlines()[0]
    variable, _, url = printed.partition("=")
    assert variable == "NEBULA_ENGINE_NATS_URL"
    assert stat.S_IMODE(guarded.keys.joinpath("users", "here.engines.nk").stat().st_mode) == 0o600
    assert (await cluster.nebula("provision", nats=urls["provision"])).code == 0
    try:
        for role in ("router", "node", "gateway"):
            cluster.nats_url = urls[role]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(variable, url)
                cluster.start(role)
        cluster.nats_url = urls["operator"]
        await cluster.ready()
        await cluster.load("chat", stands="", memory="64MiB", replicas=2)
        failed = await cluster.logged(EngineFailed, "chat-0")
        assert "NATS does not let the engine in" in failed.reason
        await asyncio.to_thread(guarded.auth, "push")
        await cluster.stands("chat")
        async with cluster.http() as http:
            assert said(await http.post(CHAT, json=chat("chat")))
        assert cluster.violations() == []
        process = psutil.Process((await cluster.engine("chat-0")).pid)
        own = process.environ()["NEBULA_NATS_URL"]
        assert own == f"file:{tmp_path}/home/nodes/here/credentials/chat-0.json"
        forged = await Listening(own).open(patience=PATIENCE)
        assert isinstance(forged, Listening)
        for each in ("chat-0", "chat-1"):
            forged.client.post(subjects.replica_status("chat", each), b"", b"{}")
        await forged.client.flush()
        await forged.close()
        assert forged.refused == {"nebula.status.replica.chat.chat-1"}
        assert (await cluster.nebula("scale", "chat", "1")).code == 0
        left = tmp_path / "home" / "nodes" / "here" / "credentials"

        async def one_left() -> bool:
            return {each.stem for each in left.iterdir()} == {"chat-0"}

        await cluster.poll(one_left, "the files of the engine that ended are gone")
        await asyncio.to_thread(guarded.auth, "revoke", "here")
        with pytest.raises(NotLetIn):
            await Connection(own, "engine").open(patience=PATIENCE)
    finally:
        cluster.close()


async def test_an_engine_that_may_not_hear_its_requests_ends_and_says_why(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path)
    done = await cluster.nebula("provision", nats=guarded.user("provision"))
    assert done.code == 0, done
    monkeypatch.setenv("NEBULA_ENGINE_NATS_URL", guarded.user("engine", "--replica", "other-0"))
    try:
        for line in (("router",), ("node", "here"), ("gateway",)):
            cluster.nats_url = guarded.user(*line)
            cluster.start(line[0])
        cluster.nats_url = guarded.user("operator")
        await cluster.ready()
        await cluster.load("chat", memory="64MiB", stands="")
        failed = await cluster.logged(EngineFailed, "chat-0")
        assert "NATS does not let it subscribe to nebula.inference." in failed.reason
        assert "`nebula auth engine` makes credentials of that role" in failed.reason
    finally:
        cluster.close()


async def test_a_user_has_its_own_names_only(guarded: Guarded) -> None:
    url = guarded.user("node", "N1")
    connection = await Listening(url).open(patience=PATIENCE)
    assert isinstance(connection, Listening)
    for each in ("N1", "n2"):
        connection.client.post(subjects.node_status(each), b"", b"{}")
        connection.client.post(subjects.event("node", each, "NodeRegistered"), b"", b"{}")
    await connection.client.flush()
    await connection.close()
    assert connection.refused == {
        "nebula.status.node.n2",
        "nebula.events.node.n2.noderegistered",
    }
    assert connection.client.new_inbox().startswith("_INBOX_node.N1.")
    engine = await Listening(guarded.user("engine", "e", "--model", "m", "--replica", "m-0")).open(
        patience=PATIENCE
    )
    assert isinstance(engine, Listening)
    for each in ("m-0", "m-1"):
        engine.client.post(subjects.replica_status("m", each), b"", b"{}")
    await engine.client.flush()
    await engine.close()
    assert engine.refused == {"nebula.status.replica.m.m-1"}


async def test_a_user_that_is_revoked_is_ended_and_let_in_no_more(guarded: Guarded) -> None:
    url, other = guarded.user("node", "bad"), guarded.user("node", "good")
    bad = await Connection(url, "bad").open(patience=PATIENCE)
    good = await Connection(other, "good").open(patience=PATIENCE)
    lost = asyncio.Event()

    async def on_loss() -> None:
        lost.set()

    bad.on_disconnect(on_loss)
    await asyncio.to_thread(guarded.auth, "revoke", "bad")
    async with asyncio.timeout(PATIENCE):
        await lost.wait()
    await bad.close()
    with pytest.raises(NotLetIn, match="refuses the user or password"):
        await Connection(url, "bad").open(patience=PATIENCE)
    assert good.connected
    await good.close()
    again = await Connection(guarded.user("node", "bad"), "bad").open(patience=PATIENCE)
    await again.close()
    code, words = guarded.try_auth("revoke", "nobody")
    assert code == 1
    assert "has no user 'nobody'; its users: bad, good" in words


async def test_an_actor_that_is_revoked_ends_and_says_why(guarded: Guarded, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    done = await cluster.nebula("provision", nats=guarded.user("provision"))
    assert done.code == 0, done
    cluster.nats_url = guarded.user("router", "router-1")
    try:
        cluster.start("router")

        async def joined() -> bool:
            return "is in cluster" in cluster.output("router")

        await cluster.poll(joined, "the router is in the cluster")
        await asyncio.to_thread(guarded.auth, "revoke", "router-1")
        code = await asyncio.to_thread(cluster.ended, "router")
        assert code == FATAL
        last = cluster.output("router").splitlines()[-1]
        assert "it refuses the user or password" in last
        assert "user authentication revoked" in last
    finally:
        cluster.close()


async def test_a_node_with_the_credentials_of_another_says_so(
    guarded: Guarded, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path)
    done = await cluster.nebula("provision", nats=guarded.user("provision"))
    assert done.code == 0, done
    cluster.nats_url = guarded.user("node", "n1")
    try:
        cluster.start("node", "--name", "n2")
        code = await asyncio.to_thread(cluster.ended, "node")
        last = cluster.output("node").splitlines()[-1]
        assert "NATS does not let it subscribe to nebula.status.node.n2" in last
        assert "one file for each node" in last
        assert code == FATAL
    finally:
        cluster.close()


async def test_revocations_outlive_a_restart_of_the_server(guarded: Guarded) -> None:
    url = guarded.user("operator", "eve")
    await asyncio.to_thread(guarded.auth, "revoke", "eve")
    guarded.stop()
    guarded.start()
    with pytest.raises((NotLetIn, Unavailable), match="refuses the user"):
        await Connection(url, "eve").open(patience=PATIENCE)


async def test_credentials_may_expire(guarded: Guarded) -> None:
    url = guarded.user("viewer", "guest", "--days", "1")
    connection = await Connection(url, "guest").open(patience=PATIENCE)
    await connection.close()


async def test_keys_and_credentials_are_the_owners_only(guarded: Guarded) -> None:
    guarded.user("operator", "alice")
    for each in (guarded.keys, *guarded.keys.rglob("*")):
        assert stat.S_IMODE(each.stat().st_mode) == (0o700 if each.is_dir() else 0o600)
    context = json.loads((guarded.keys / "users" / "alice.json").read_text())
    assert context == {
        "description": "Nebula: operator alice",
        "url": guarded.url,
        "creds": "alice.creds",
        "inbox_prefix": "_INBOX_operator",
    }
    config = (guarded.keys / "nats-auth.conf").read_text()
    for each in guarded.keys.rglob("*.nk"):
        assert each.read_text().strip() not in config


def test_a_folder_with_keys_stays_as_it_is(guarded: Guarded) -> None:
    code, words = guarded.try_auth("init")
    assert code == 1
    assert "has keys already" in words


def test_keys_that_are_kept_get_the_servers_file_anew_which_says_the_same_in_the_same_words(
    guarded: Guarded,
) -> None:
    def content() -> dict[Path, str]:
        return {each: each.read_text() for each in guarded.keys.rglob("*") if each.is_file()}

    before = content()
    (guarded.keys / "nats-auth.conf").write_text(before[guarded.keys / "nats-auth.conf"] + "\n")
    guarded.auth("init", "--keep")
    assert content() == before
    guarded.user("viewer", "eve")
    assert guarded.try_auth("revoke", "eve")[0] == 0
    after = guarded.keys / "nats-auth.conf"
    assert after.read_text() != before[after]
    assert after.read_text().splitlines()[:4] == before[after].splitlines()[:4], "the operator's"


def test_a_new_context_takes_servers_and_files_for_tls_from_another_and_no_credentials(
    guarded: Guarded, tmp_path: Path
) -> None:
    files = {"ca": "ca.crt", "cert": "tls.pem", "key": "tls.pem"}
    other = {"url": "tls://u:secret@a,tls://b", "creds": "x.creds", "user": "u", **files}
    (tmp_path / "servers.json").write_text(json.dumps(other))
    guarded.url = f"file:{tmp_path / 'servers.json'}"
    made = json.loads(Path(guarded.user("node", "n2").removeprefix("file:")).read_text())
    assert made == {
        "description": "Nebula: node n2",
        "url": "tls://a,tls://b",
        "creds": "n2.creds",
        "inbox_prefix": "_INBOX_node.n2",
        **files,
    }
    guarded.url = f"file:{tmp_path / 'nowhere.json'}"
    for line in (("node", "n3"), ("push",)):
        code, words = guarded.try_auth(*line)
        assert code == 1
        assert "nowhere.json" in words


@pytest.mark.parametrize("name", ["a.b", "*", "../up", ""])
def test_a_name_that_is_not_a_valid_id_is_refused(guarded: Guarded, name: str) -> None:
    code, words = guarded.try_auth("node", name)
    assert code == 2
    assert "is not a valid name" in words


def test_without_keys_the_way_to_make_some_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["auth", "node", "n1", "--keys", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "has no keys: `nebula auth init` makes them" in done.output
