"""The services of the compose file, as processes of this machine.

No container runs here. Every service gets a loopback address of its own instead, so its ports stay
as the file has them, and names of services are replaced by these addresses.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import yaml
from nats.aio.client import Client

from nebula.actors.projection import Projection
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Log
from nebula.store.server import binary, die_with_parent
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import PATIENCE, SIMULATED, Cluster

COMPOSE = Path(__file__).parents[2] / "compose"
INSTALLED = "/etc/nebula"
CONFIG = f"{INSTALLED}/nats.conf"
CREDENTIALS = f"{INSTALLED}/credentials"
CONTEXT = f"file:{CREDENTIALS}/context.json"
ROLES = "credentials-"
"""How the names of the volumes begin that have credentials."""
SERVERS = ("nats-1", "nats-2", "nats-3")
ACTORS = ("gateway-1", "gateway-2", "router-1", "router-2", "node-cpu")
GATEWAYS = ("gateway-1", "gateway-2")
ONCE = ("credentials", "provision", "admin-key")
"""What makes something and ends."""
COMMAND = "nebula"
NEBULA = (*ACTORS, "node-gpu")


def read(text: str) -> dict[str, Any]:
    """Read the compose file as docker compose does when no variable is set."""
    document = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    assert "$" not in json.dumps(document), "a variable without a default"
    services: dict[str, Any] = document["services"]
    return services


SERVICES = read((COMPOSE / "compose.yaml").read_text())


def environment(service: str) -> dict[str, str]:
    found = SERVICES[service].get("environment", {})
    return {name: value for name, value in found.items() if value is not None}


def volumes_of(service: str) -> list[tuple[str, str]]:
    """Return the names and targets of a service's volumes."""
    named = (each for each in SERVICES[service].get("volumes", ()) if isinstance(each, str))
    return [(name, target) for name, target, *_ in (each.split(":") for each in named)]


def dependencies(service: str) -> set[str]:
    return set(SERVICES[service].get("depends_on", ()))


class Composed(Cluster):
    """The services of the compose file as processes of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"
        self.addresses = {name: f"{network}.{n}" for n, name in enumerate(SERVICES, start=1)}
        self.nats_url = self.context("operator")
        self.credentials = folder / "credentials"
        self.credentials.mkdir()
        self.settings: dict[str, str] = {"NATS_NAMES": " ".join(self.addresses[s] for s in SERVERS)}
        """What stands in .env."""
        self._install()

    def _install(self) -> None:
        """Put the files there that the image has."""
        text = (COMPOSE / "nats.conf").read_text()
        text = text.replace(CREDENTIALS, f"{self.folder}/credentials/nats")
        text = text.replace("include credentials/", "include credentials/nats/")
        (self.folder / "nats.conf").write_text(text)
        command = self.folder / "bin" / "nebula"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m nebula.cli.main "$@"\n')
        command.chmod(0o700)

    def context(self, role: str) -> str:
        """Return the URL of a role, or of a node."""
        return f"file:{self.folder}/credentials/{role}/context.json"

    def here(self, service: str, text: str) -> str:
        """Return what a text of a service's means on this machine."""
        text = re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1)\b", self.addresses[service], text)
        for name, address in self.addresses.items():
            text = re.sub(rf"\b{name}:(?=\d)", f"{address}:", text)
        for name, target in volumes_of(service):
            place = f"credentials/{name.removeprefix(ROLES)}" if name.startswith(ROLES) else name
            text = text.replace(target, str(self.folder / place))
        if text == "/credentials":
            return str(self.credentials)
        text = text.replace(CONFIG, str(self.folder / "nats.conf"))
        return re.sub(rf"{INSTALLED}/(?=[\w-]+\.sh)", f"{COMPOSE}/", text)

    def run(self, service: str) -> None:
        """Start a service, as docker would; engines are simulated."""
        of = SERVICES[service]
        line = self.line(service, [*of.get("entrypoint", ()), *of.get("command", ())])
        if service == "node-cpu":
            line += ["--engine-command", SIMULATED, "--grace", "3"]
        folder = Path(self.here(service, of.get("working_dir", str(self.folder))))
        folder.mkdir(exist_ok=True)
        with self._log(service).open("ab") as output:
            self._processes[service] = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=self.process_environment(service),
                preexec_fn=die_with_parent,
            )

    def _log(self, name: str) -> Path:
        """Return the file with a service's output: a server's where `violations` looks."""
        return super()._log(f"{name}/nats-server" if name in SERVERS else name)

    def process_environment(self, service: str) -> dict[str, str]:
        return {**os.environ, **self.environment(service)}

    def environment(self, service: str) -> dict[str, str]:
        own = {name: self.here(service, value) for name, value in environment(service).items()}
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return {**self.marks, **own, "PATH": path, **self.settings}

    def line(self, service: str, command: list[str]) -> list[str]:
        programs = {
            "nats-server": [binary()],
            "nebula": [sys.executable, "-m", "nebula.cli.main"],
            "python": [sys.executable],
            "sh": ["sh"],
        }
        return [*programs[command[0]], *(self.here(service, word) for word in command[1:])]

    def once(self, service: str) -> None:
        """Run a service to its end, again if it fails, as docker would."""
        assert SERVICES[service]["restart"] == "on-failure"
        for _ in range(10):
            self.run(service)
            if self.ended(service) == 0:
                return
        raise AssertionError(self.last_words())

    def run_all(self) -> None:
        """Start everything in the order of the file."""
        left = [name for name in SERVICES if name not in {COMMAND, "node-gpu"}]
        begun: set[str] = set()
        while left:
            service = next(each for each in left if begun.issuperset(dependencies(each)))
            (self.once if service in ONCE else self.run)(service)
            left.remove(service)
            begun.add(service)
        self.key = (self.credentials / "operator" / "admin.key").read_text().strip()

    def signal(self, service: str, number: int) -> None:
        """Send a signal, as `docker compose kill -s` does."""
        self._processes[service].send_signal(number)

    @contextlib.asynccontextmanager
    async def without(self, server: str) -> AsyncIterator[None]:
        """Kill a NATS server, and start it again afterwards."""
        self.kill(server)
        try:
            yield
        finally:
            self.run(server)

    async def healthy(self, service: str, patience: float = 30) -> None:
        """Wait until docker would call a service healthy."""
        how, *check = SERVICES[service]["healthcheck"]["test"]
        assert how == "CMD"

        async def passes() -> bool:
            assert self._processes[service].poll() is None, self.last_words()
            line = self.line(service, check)
            told = await asyncio.to_thread(subprocess.run, line, capture_output=True, check=False)
            return told.returncode == 0

        await self.poll(passes, f"{service} is healthy", patience)

    async def all_healthy(self) -> None:
        for service in (*SERVERS, *GATEWAYS):
            await self.healthy(service)

    async def load(self, identity: str, *, stands: str = "ready", **fields: Any) -> None:
        """Load a model; a 503 says to try again later, while the log has no leader."""

        async def taken() -> bool:
            async with self.http() as http:
                request = {"id": identity, "source": "simulated", "memory": "512MiB", **fields}
                answer = await http.post("/admin/models", json=request)
            assert answer.status_code in (202, 503), answer.text
            return answer.status_code == 202

        await self.poll(taken, f"{identity} is asked for", 30)
        if stands:
            await self.stands(identity, stands)

    def of(self, gateway: str) -> httpx.AsyncClient:
        """Return a client of a gateway, with the admin key."""
        return httpx.AsyncClient(
            base_url=f"http://{self.addresses[gateway]}:8000",
            timeout=30,
            trust_env=False,
            headers={"authorization": f"Bearer {self.key}"},
        )

    def http(self, port: int | None = None) -> httpx.AsyncClient:
        return self.of("gateway-1") if port is None else super().http(port)

    async def answers(self, model: str) -> None:
        """Have a model answer through both gateways."""
        for gateway in GATEWAYS:
            async with self.of(gateway) as http:

                async def knows(http: httpx.AsyncClient = http) -> bool:
                    return (await http.get(f"/v1/models/{model}")).status_code == 200

                await self.poll(knows, f"{gateway} knows {model}")
                assert said(await http.post(CHAT, json=chat(model, max_tokens=1))) == "hello"

    @contextlib.asynccontextmanager
    async def joined(self) -> AsyncIterator[Projection]:
        """Fold the log without a look at the other streams, which may be gone with a server."""
        connection = await Connection(self.nats_url, "test").open(patience=PATIENCE)
        projection = Projection(Log(connection))
        following = asyncio.create_task(projection.run())

        async def caught_up() -> bool:
            with contextlib.suppress(Unavailable):  # its leader is dead and none chosen yet
                await projection.caught_up()
                return True
            return False

        try:
            await self.poll(caught_up, "the log has been read")
            yield projection
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await connection.close()

    @contextlib.asynccontextmanager
    async def nats_client(self) -> AsyncIterator[Client]:
        """Connect in the role that may change streams."""
        connection = await Connection(self.context("provision"), "test").open(patience=PATIENCE)
        try:
            yield connection.client
        finally:
            await connection.close()

    async def leader(self, stream: str) -> str:
        """Name the server that leads a stream."""
        async with self.nats_client() as client:
            cluster = (await client.jetstream().stream_info(stream)).cluster
        assert cluster is not None
        return str(cluster.leader)
