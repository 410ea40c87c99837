"""A server that refuses, hangs or ends a connection: noticed, told, and connected to again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from nebula.events import subjects
from nebula.events.intents import ModelScaleRequested
from nebula.store import inference_log, reaching
from nebula.store.connection import Connection, NotLetIn, Unavailable
from nebula.store.log import Log
from nebula.store.server import binary, die_with_parent
from tests.integration.cluster import Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


class Guarded:
    """A nats-server with users, whose configuration a test changes while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, password: str = "good", scheme: str = "nats") -> str:
        return f"{scheme}://u:{password}@127.0.0.1:{self.port}"

    def configure(self, password: str = "good", more: str = "", permissions: str = "") -> None:
        (self.folder / "guarded.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder}/guarded" }}\n'
            f"authorization {{ users: [ {{user: u, password: {password}, {permissions}}},"
            f" {{user: other, password: x}} ] }}\n{more}\n"
        )

    def reload(self, password: str) -> None:
        assert self.process is not None
        self.configure(password)
        self.process.send_signal(signal.SIGHUP)

    async def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: ASYNC220
            [binary(), "-c", str(self.folder / "guarded.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", self.port)).close()
                    return
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    server = Guarded(tmp_path)
    server.configure()
    yield server
    server.stop()


@pytest.fixture
async def connection(guarded: Guarded) -> AsyncIterator[Connection]:
    await guarded.start()
    connection = await Connection(guarded.url(), "actor").open(patience=PATIENCE)
    yield connection
    await connection.close()


async def logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait for a line: there is no event that announces one."""
    while words not in caplog.text:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


class Losses:
    """Lets a test await what happens to a connection."""

    def __init__(self, connection: Connection) -> None:
        self.lost, self.back = asyncio.Event(), asyncio.Event()
        connection.on_disconnect(self._lose)
        connection.on_reconnect(self._return)

    async def _lose(self) -> None:
        self.lost.set()

    async def _return(self) -> None:
        self.back.set()


async def test_a_revoked_user_s_connection_is_told_of_and_made_again_with_all_it_listens_for(
    guarded: Guarded, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The rule is the connection's: listeners need not do anything for it."""
    log = await Log(connection).open(patience=PATIENCE)
    heard: asyncio.Queue[str] = asyncio.Queue()
    client = connection.client
    await client.listen("fast.*", lambda subject, _, __: heard.put_nowait(subject.decode()))

    async def slow(message: Msg) -> None:
        heard.put_nowait(message.subject)

    await client.subscribe("slow.*", cb=slow)
    await log.append("chat", ModelScaleRequested(1))
    following = log.follow()
    assert [each.seq for each in await anext(following)] == [1]
    losses = Losses(connection)

    guarded.reload("rotated")
    async with asyncio.timeout(PATIENCE):
        await losses.lost.wait()
        await logged(caplog, "refuses the user or password")
    assert not connection.connected
    assert "authorization violation" in caplog.text
    assert "refuses the user or password" in connection.trouble
    guarded.reload("good")
    async with asyncio.timeout(PATIENCE):
        await losses.back.wait()
        assert await log.append("chat", ModelScaleRequested(2)) == 2
        assert [each.seq for each in await anext(following)] == [2]
        await client.publish("fast.a")
        await client.publish("slow.a")
        assert {await heard.get(), await heard.get()} == {"fast.a", "slow.a"}
    assert connection.trouble == ""
    assert "good" not in caplog.text.replace("rotated", "")
    await following.aclose()


async def test_credentials_in_a_file_are_read_again_when_they_have_changed(
    guarded: Guarded, tmp_path: Path
) -> None:
    await guarded.start()
    file = tmp_path / "url"
    file.write_text(guarded.url() + "\n")
    connection = await Connection(f"file:{file}", "actor").open(patience=PATIENCE)
    losses = Losses(connection)
    guarded.reload("rotated")
    await asyncio.wait_for(losses.lost.wait(), PATIENCE)
    file.write_text(guarded.url("rotated"))
    await asyncio.wait_for(losses.back.wait(), PATIENCE)
    await connection.close()


async def test_a_wrong_password_is_named_as_such_and_ends_a_command_at_once(
    guarded: Guarded,
) -> None:
    await guarded.start()
    with pytest.raises(NotLetIn, match="refuses the user or password") as refused:
        await Connection(guarded.url("5ecret"), "cli").open(patience=PATIENCE)
    assert "5ecret" not in str(refused.value)
    assert "no NATS server answers" not in str(refused.value)
    with pytest.raises(NotLetIn, match="it wants a user and password"):
        await Connection(f"nats://127.0.0.1:{guarded.port}", "cli").open(patience=PATIENCE)


async def test_an_actor_that_is_refused_from_the_start_ends_with_the_reason(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "REFUSED_FOR", 0.5)
    await guarded.start()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(NotLetIn, match="refuses the user"):
            await Connection(guarded.url("wrong"), "router").open()


async def test_a_command_says_so_with_an_exit_code_for_what_a_restart_does_not_mend(
    guarded: Guarded, tmp_path: Path
) -> None:
    await guarded.start()
    ended = await Cluster(tmp_path).nebula("models", nats=guarded.url("5ecret"))
    assert ended.code == 78
    assert "refuses the user or password" in ended.err
    assert "5ecret" not in ended.err
    assert "nebula up" not in ended.err, "starting a cluster would not help"


def certificate(folder: Path) -> str:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return f'tls {{ cert_file: "{folder}/cert.pem", key_file: "{folder}/key.pem" }}'


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_certificate_that_is_not_trusted_ends_the_start_with_its_name(
    guarded: Guarded, tmp_path: Path, scheme: str
) -> None:
    guarded.configure(more=certificate(tmp_path))
    await guarded.start()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(NotLetIn, match=r"certificate is not trusted \(self.signed"):
            await Connection(guarded.url(scheme=scheme), "cli").open(patience=2)


def tls_context(folder: Path, guarded: Guarded, **files: str) -> str:
    """Write a context with files for TLS beside it, and return its URL."""
    text = json.dumps(
        {"url": guarded.url(scheme="tls"), "user": "u", "password": "good", "ca": "cert.pem"}
        | files
    )
    (folder / "context.json").write_text(text)
    return f"file:{folder / 'context.json'}"


@pytest.mark.parametrize("verify", [False, True])
async def test_a_context_names_the_files_for_tls(
    guarded: Guarded, tmp_path: Path, verify: bool
) -> None:
    """The certificate signs itself, so that it also is the authority."""
    tls = certificate(tmp_path)
    if verify:
        tls = tls.replace(" }", f', ca_file: "{tmp_path}/cert.pem", verify: true }}')
    guarded.configure(more=tls)
    await guarded.start()
    url = tls_context(tmp_path, guarded)
    if verify:
        with pytest.raises(Unavailable):
            await Connection(url, "without a certificate").open(patience=1)
        url = tls_context(tmp_path, guarded, cert="cert.pem", key="key.pem")
    connection = await Connection(url, "with tls").open(patience=PATIENCE)
    await connection.client.flush()
    await connection.close()


async def test_a_file_for_tls_that_is_not_there_is_named(guarded: Guarded, tmp_path: Path) -> None:
    guarded.configure(more=certificate(tmp_path))
    await guarded.start()
    url = tls_context(tmp_path, guarded, ca="nowhere.pem")
    with pytest.raises(NotLetIn, match=r"nowhere\.pem: No such file"):
        await Connection(url, "cli").open(patience=PATIENCE)


async def test_a_server_that_wants_tls_later_is_noticed_and_told(
    guarded: Guarded,
    connection: Connection,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    losses = Losses(connection)
    guarded.stop()
    guarded.configure(more=certificate(tmp_path))
    await guarded.start()
    async with asyncio.timeout(PATIENCE):
        await losses.lost.wait()
        await logged(caplog, "certificate is not trusted")
    guarded.stop()
    guarded.configure()
    await guarded.start()
    await asyncio.wait_for(losses.back.wait(), PATIENCE)


@contextlib.asynccontextmanager
async def speaking(words: bytes | None) -> AsyncIterator[int]:
    """Listen and say that; None: say nothing. At the end every connection is closed."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        with contextlib.suppress(ConnectionError):
            if words is not None:
                writer.write(words)
            else:
                await reader.read()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.gather(*answering)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not a NATS server"),
        (b"INFO not json\r\n", "is not a NATS server"),
        (b"", "is not a NATS server"),
        (None, "says nothing"),
        (b'INFO {"max_payload":1}\r\n', "ends the connection"),
    ],
)
async def test_a_listener_that_is_not_a_nats_server_is_named(
    words: bytes | None, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "CONNECT", 0.3)
    async with speaking(words) as port, asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable, match=cause):
            await Connection(f"nats://127.0.0.1:{port}", "cli").open(patience=0)


async def test_a_name_that_does_not_resolve_and_a_url_that_is_none_are_named() -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable, match="its name does not resolve"):
            await Connection("nats://nobody.invalid:4222", "cli").open(patience=0)
        with pytest.raises(NotLetIn, match="not a valid URL") as refused:
            await Connection("nats://u:5ecret@h:port", "cli").open(patience=5)
    assert "5ecret" not in str(refused.value)


async def test_what_nats_does_not_allow_is_logged_once_per_kind_of_subject(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.configure(permissions='permissions: { publish: { deny: "no.>" } }')
    await guarded.start()
    connection = await Connection(guarded.url(), "actor").open(patience=PATIENCE)
    for number in range(50):
        await connection.client.publish(f"no.never.ever.{number}")
    await connection.client.publish("no.other")
    await connection.client.flush()
    async with asyncio.timeout(PATIENCE):
        await logged(caplog, '"no.other"')
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all("does not allow this" in each.getMessage() for each in errors)
    assert connection.connected
    await connection.close()


async def test_a_server_that_hangs_is_given_up_and_found_again(
    guarded: Guarded, connection: Connection
) -> None:
    losses = Losses(connection)
    assert guarded.process is not None
    guarded.process.send_signal(signal.SIGSTOP)
    # Much is on its way that the server does not take: that must not be waited for.
    for _ in range(8):
        connection.client.post("x", b"", b"x" * 900_000)
    await asyncio.wait_for(losses.lost.wait(), PATIENCE)
    assert not connection.connected
    guarded.process.send_signal(signal.SIGCONT)
    await asyncio.wait_for(losses.back.wait(), PATIENCE)


async def test_closing_ends_although_the_server_hangs(guarded: Guarded) -> None:
    await guarded.start()
    connection = await Connection(guarded.url(), "actor").open(patience=PATIENCE)
    assert guarded.process is not None
    guarded.process.send_signal(signal.SIGSTOP)
    for _ in range(8):
        connection.client.post("x", b"", b"x" * 900_000)
    async with asyncio.timeout(PATIENCE):
        await connection.close()


async def test_a_server_that_is_gone_costs_those_that_are_there_nothing(
    guarded: Guarded,
) -> None:
    """The first of the two takes connections and says nothing: it is passed over."""
    await guarded.start()
    async with speaking(None) as port:
        url = f"nats://u:good@127.0.0.1:{port},{guarded.url()}"
        connection = await Connection(url, "actor").open(patience=PATIENCE)
        assert connection.connected
        await connection.close()


async def test_an_answer_that_is_followed_goes_on_or_is_said_to_be_lost(
    guarded: Guarded, connection: Connection
) -> None:
    """Its consumer may be gone with the connection, so its reader is told."""
    await Log(connection).open(patience=PATIENCE)
    subject = subjects.responses("gw", "r")
    following = inference_log.follow(connection, [subject])
    assert await anext(following) is None
    guarded.reload("rotated")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable, match="connection to NATS was lost"):
            await anext(following)
