"""NATS servers of the compose file: they let in clients with certificates, as users of roles."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from nebula.schema.roles import Role, rights
from nebula.store.connection import Connection, NotLetIn, Unavailable
from nebula.store.engine_logins import EngineLogins
from tests.integration.composed import COMPOSE, SERVERS, Composed
from tests.integration.test_roles import SUBJECTS, Listening, lower
from tests.unit.subject_patterns import covers

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
ROLES = {
    "gateway": Role("gateway"),
    "router": Role("router"),
    "provision": Role("provision"),
    "operator": Role("operator"),
    "node-cpu": Role("node", {"node": "cpu-1"}),
}
"""What is in each folder of credentials."""


def changed(composed: Composed, role: str, to: Path, **files: str) -> str:
    """Copy a role's credentials, with other files for TLS or none, and return their URL."""
    shutil.copytree(composed.credentials / role, to)
    context = json.loads((to / "context.json").read_text()) | files
    kept = {name: value for name, value in context.items() if value}
    (to / "context.json").write_text(json.dumps(kept))
    return f"file:{to}/context.json"


async def refused(url: str) -> str:
    """Return why a connection is refused."""
    connection = Connection(url, "test")
    with pytest.raises((NotLetIn, Unavailable)) as why:
        await connection.open(patience=1)
    await connection.close()
    return str(why.value)


async def connections(composed: Composed, server: str) -> list[dict[str, Any]]:
    """Return what a server says of its clients."""
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"http://{composed.addresses[server]}:8222/connz?auth=1"
        return list((await http.get(url)).json()["connections"])


def credentials(composed: Composed, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the service `credentials` with arguments, as `docker compose run` does."""
    return subprocess.run(
        ["sh", str(COMPOSE / "credentials.sh"), *arguments],
        cwd=composed.credentials,
        env=composed.process_environment("credentials"),
        capture_output=True,
        check=False,
    )


def fingerprint(pem: Path) -> str:
    """Return the SHA-256 of the first certificate in a file."""
    text = pem.read_text()
    end = "-----END CERTIFICATE-----"
    first = text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()


async def test_requests_travel_over_tls_as_users_of_roles_with_certificates(
    composed: Composed,
) -> None:
    await composed.all_healthy()
    await composed.load("chat")
    await composed.answers("chat")
    found = [each for server in SERVERS for each in await connections(composed, server)]
    assert {"gateway", "router", "node"} <= {each["name"].split()[0] for each in found}
    for each in found:
        assert each["tls_version"] == "1.3"
        assert len(each["tls_peer_certs"]) == 1
        assert each["authorized_user"]


@pytest.mark.parametrize("server", SERVERS)
def test_the_servers_configuration_is_valid(composed: Composed, server: str) -> None:
    line = [*composed.line(server, ["nats-server", "--config", "/etc/nebula/nats.conf"]), "-t"]
    told = subprocess.run(
        line, env=composed.process_environment(server), capture_output=True, check=False
    )
    assert told.returncode == 0, told.stderr


async def test_a_client_without_a_certificate_is_not_let_in(
    composed: Composed, tmp_path: Path
) -> None:
    url = changed(composed, "gateway", tmp_path / "bare", cert="", key="")
    assert "it wants a certificate" in await refused(url)


async def test_a_certificate_of_another_authority_is_not_let_in(
    composed: Composed, tmp_path: Path
) -> None:
    other = Composed(tmp_path)
    assert credentials(other).returncode == 0
    foreign = str(other.credentials / "gateway" / "tls.pem")
    url = changed(composed, "gateway", tmp_path / "foreign", cert=foreign, key=foreign)
    assert "can't connect to NATS" in await refused(url)


async def test_a_server_of_another_authority_is_not_trusted(
    composed: Composed, tmp_path: Path
) -> None:
    wrong = str(composed.credentials / "nats" / "clients.crt")
    url = changed(composed, "gateway", tmp_path / "wrong", ca=wrong)
    assert "certificate is not trusted" in await refused(url)


async def test_a_certificate_alone_is_not_enough(composed: Composed, tmp_path: Path) -> None:
    url = changed(composed, "gateway", tmp_path / "nobody", creds="")
    assert "it wants a user" in await refused(url)


@pytest.mark.parametrize(("role", "let_in"), [("nats", True), ("gateway", False)])
async def test_a_client_s_certificate_is_none_of_a_server(
    composed: Composed, role: str, let_in: bool
) -> None:
    """Servers take everything from each other, so a client must not pass for one."""
    context = ssl.create_default_context(cafile=str(composed.credentials / "nats" / "servers.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in it a handshake ends with the refusal
    context.load_cert_chain(composed.credentials / role / "tls.pem")

    def shake_hands() -> bool:
        address = composed.addresses["nats-1"]
        with (
            socket.create_connection((address, 6222), PATIENCE) as plain,
            contextlib.suppress(ssl.SSLError, ConnectionError),
        ):
            context.wrap_socket(plain, server_hostname=address).close()
            return True
        return False

    assert await asyncio.to_thread(shake_hands) is let_in


@pytest.mark.parametrize("folder", ROLES)
async def test_each_role_may_publish_what_the_reference_lists_and_nothing_else(
    composed: Composed, folder: str
) -> None:
    connection = await Listening(composed.context(folder)).open(patience=PATIENCE)
    assert isinstance(connection, Listening)
    allowed = rights(ROLES[folder]).publish
    others = [each for each in SUBJECTS if not covers(allowed, each)]
    assert others
    for subject in others:
        connection.client.post(subject, b"", b"{}")
    await connection.client.flush()
    await connection.close()
    assert connection.refused == lower(others)


async def test_renewed_certificates_are_used_at_the_next_connection(composed: Composed) -> None:
    await composed.all_healthy()
    await composed.load("renewed")
    connection = await Connection(composed.context("gateway"), "renewed").open(patience=PATIENCE)
    back = asyncio.Event()

    async def returned() -> None:
        back.set()

    connection.on_reconnect(returned)

    def shown() -> str:
        transport = connection.client._transport
        assert transport is not None
        tls = transport._io_writer.get_extra_info("ssl_object")  # type: ignore[attr-defined]
        return hashlib.sha256(tls.getpeercert(True)).hexdigest()

    before = present(composed)
    assert shown() == before["nats"]
    made = await asyncio.to_thread(credentials, composed, "renew")
    assert made.returncode == 0, made.stderr
    after = present(composed)
    assert not set(before.values()) & set(after.values())
    for server in SERVERS:
        composed.signal(server, signal.SIGHUP)

    async def renewed() -> bool:
        back.clear()
        await connection.client.force_reconnect()
        await asyncio.wait_for(back.wait(), PATIENCE)
        return shown() == after["nats"]

    await composed.poll(renewed, "the server has its new certificate")
    server = {f"{composed.addresses[each]}:4222": each for each in SERVERS}[connection.server]
    (seen,) = [each for each in await connections(composed, server) if each["name"] == "renewed"]
    assert seen["tls_peer_certs"][0]["cert_sha256"] == after["gateway"]
    await connection.close()
    await composed.answers("renewed")


def present(composed: Composed) -> Mapping[str, str]:
    """Return the fingerprint of each certificate for the services."""
    found = composed.credentials.glob("*/tls.pem")
    return {each.parent.name: fingerprint(each) for each in found if each.parent.name != "keys"}


async def test_what_is_there_stays(composed: Composed) -> None:
    def content() -> dict[Path, bytes]:
        files = (each for each in composed.credentials.rglob("*") if each.is_file())
        return {each: each.read_bytes() for each in files if each.name != "nats-auth.conf"}

    before = content()
    made = await asyncio.to_thread(credentials, composed)
    assert made.returncode == 0, made.stderr
    assert content() == before


async def test_a_further_node_gets_its_own_credentials_until_they_are_revoked(
    composed: Composed, tmp_path: Path
) -> None:
    made = await asyncio.to_thread(credentials, composed, "node", "n2")
    assert made.returncode == 0, made.stderr
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        names = {Path(each).name for each in archive.getnames()} - {""}
        archive.extractall(tmp_path, filter="data")
    files = {"context.json", "engines.json", "n2.creds", "n2.engines.nk", "ca.crt", "tls.pem"}
    assert names == files
    signed = EngineLogins(f"file:{tmp_path}/engines.json", tmp_path / "made").url_of("m", "m-0")
    urls = [f"file:{tmp_path}/context.json", signed]
    for url in urls:
        connection = await Connection(url, "n2").open(patience=PATIENCE)
        await connection.client.flush()
        await connection.close()
    told = await asyncio.to_thread(credentials, composed, "revoke", "n2")
    assert told.returncode == 0, told.stderr
    for url in urls:
        assert "refuses the user" in await refused(url)


@pytest.mark.parametrize(
    ("arguments", "names", "words"),
    [
        (("node", "n3"), "", "set NATS_NAMES"),
        (("node", "cpu-1"), "host", "cpu-1 is a user of a service here"),
        (("node",), "host", "usage: credentials.sh"),
        (("node", "a.b"), "host", "'a.b' is not a valid name"),
    ],
)
async def test_what_can_not_be_made_is_told(
    composed: Composed, arguments: tuple[str, ...], names: str, words: str
) -> None:
    composed.settings["NATS_NAMES"], kept = names, composed.settings["NATS_NAMES"]
    try:
        told = await asyncio.to_thread(credentials, composed, *arguments)
    finally:
        composed.settings["NATS_NAMES"] = kept
    assert told.returncode != 0
    assert told.stdout == b""
    assert words in told.stderr.decode()
