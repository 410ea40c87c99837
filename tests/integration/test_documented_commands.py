"""Every command of the README, the tutorial and the guides, run as it stands there.

A block that can't run here (it serves until Ctrl-C, or needs several machines or a GPU) stands
behind a comment `<!-- not run: why -->`; its `nebula` commands must still be valid.
"""

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from nebula.cli.main import main
from nebula.store.server import binary
from tests.adapters import trained
from tests.hub import SmallHub, config, tensors
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import PATIENCE, Cluster
from tests.ports import free_port

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
PAGES += [ROOT / "README.md", ROOT / "docs" / "tutorial.md"]
BLOCK = re.compile(r"(<!-- not run: [^\n]* -->\n)?```console\n(.*?)```", re.DOTALL)
AGE = re.compile(r"\b(?:10m|8h|5m|5s|1m)\b")
"""Ages that pages name: longer ago than the cluster of a test began."""

ASKED_BEFORE = {
    "batches.md": ("chat", "org/chat"),
    "capture.md": ("chat", "org/chat"),
    "console.md": ("smollm2-135m-instruct", "./smollm2-135m-instruct"),
    "incident.md": ("chat", "org/chat"),
    "requests.md": ("chat", "org/chat"),
    "requests-in-flight.md": ("chat", "org/chat"),
    "responses.md": ("chat", "org/chat"),
    "README.md": ("smollm2-135m-instruct", "./smollm2-135m-instruct"),
    "tutorial.md": ("smollm2-135m-instruct", "./smollm2-135m-instruct"),
}
"""The model that a page takes for granted, and its source."""

LOADED_BEFORE = {
    "tutorial.md": (
        "adapters load smollm2-135m-instruct nebula-adapter ./nebula-adapter",
        "load ./all-minilm-l6-v2 --task embedding --memory 64MiB",
    ),
    "files.md": (
        "load Qwen/Qwen2.5-0.5B-Instruct --memory 64MiB",
        "load BAAI/bge-small-en-v1.5 --id embed --task embedding --memory 64MiB",
        "unload embed",
    ),
}
SOURCES = (
    *("all-minilm-l6-v2", "chat-v1", "chat-v2", "large", "my-model", "small"),
    "smollm2-135m-instruct",
)
ADAPTERS = ("lawyer", "nebula-adapter", "poet")


class Block(NamedTuple):
    """Commands of a page, and what they print, as far as the page shows it."""

    runs: bool
    commands: list[str]
    shown: list[str]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the console blocks of a page."""
    for skipped, text in BLOCK.findall(page.read_text()):
        commands: list[str] = []
        shown: list[str] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
            elif commands and commands[-1].endswith("\\"):
                commands[-1] += f"\n{line}"
            elif line.strip():
                shown.append(line)
        yield Block(not skipped, commands, shown)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with the files that pages name, with a hub that has their models."""
    hub = SmallHub()
    for source in ("org/chat", "Qwen/Qwen2.5-0.5B-Instruct", "BAAI/bge-small-en-v1.5"):
        hub.model(source, 4096)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    folder = tmp_path / "clone"
    for name in SOURCES:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_bytes(config())
        (folder / name / "model.safetensors").write_bytes(tensors(4096))
    for name in ADAPTERS:
        trained(folder / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, module in (("nebula", "nebula.cli.main"), ("nats", "tests.integration.publishing")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    (folder / "tests").symlink_to(ROOT / "tests")
    yield folder
    hub.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_the_commands_of_a_page_do_what_it_says(
    page: Path, own_cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(block.runs for block in blocks(page)):
        return
    cluster = own_cluster
    monkeypatch.chdir(folder)
    cluster.variables["NEBULA_OPEN"] = ""
    cluster.up("--name", "n1")
    await cluster.take_key()
    await cluster.ready()
    (folder / ".nebula").symlink_to(cluster.folder / "home")
    request = ""
    if page.name in ASKED_BEFORE:
        model, source = ASKED_BEFORE[page.name]
        load = ("load", source, "--id", model, "--memory", "64MiB", "--lora")
        assert (await cluster.nebula(*load)).code == 0
        async with cluster.http() as http:
            answer = await http.post(CHAT, json=chat(model))
        assert said(answer)
        request = answer.headers["x-request-id"]
    for line in LOADED_BEFORE.get(page.name, ()):
        done = await cluster.nebula(*shlex.split(line))
        assert done.code == 0, (line, done)
    empty = free_port()
    (folder / "nats.conf").write_text(f'listen: "127.0.0.1:{empty}"\njetstream {{ }}\n')
    cluster.program("empty-nats", binary(), "-c", str(folder / "nats.conf"), "-sd", str(folder))
    places = {
        "127.0.0.1:8000": f"127.0.0.1:{cluster.port}",
        "nats://127.0.0.1:4222": cluster.nats_url,
        "nats://127.0.0.1:4333": f"nats://127.0.0.1:{empty}",
        "why request REQUEST": f"why request {request}",
        "make run": "true",
        "$PWD/.nebula": str(cluster.folder / "home"),
        ".nebula/nats/roles": str(cluster.folder / "home" / "nats" / "roles"),
    }
    environ = {
        **os.environ,
        "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",
        "NEBULA_NATS_URL": cluster.nats_url,
        "PYTHONPATH": str(ROOT),
        "NEBULA_GATEWAY_URL": f"http://127.0.0.1:{cluster.port}",
    }
    for block in blocks(page):
        if not block.runs:
            continue
        script = AGE.sub("1s", "\n".join(block.commands))
        for what, instead in places.items():
            script = script.replace(what, instead)
        if "kill -9 PID" in script:
            table = await cluster.nebula("replicas", "--json")
            (pid,) = {
                each["engine"]["pid"] for each in json.loads(table.out) if "smollm" in each["id"]
            }
            script = script.replace("kill -9 PID", f"kill -9 {pid}")
        running = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", script),
            cwd=folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE):
            told, errors = await running.communicate()
        out = told.decode()
        assert running.returncode == 0, f"{script}\n{out}\n{errors.decode()}"
        assert '"error":{' not in out, f"{script}\n{out}"
        printed = " ".join(out.split())
        for part in " ".join(" ".join(block.shown).split()).split("…"):
            assert part.strip() in printed, f"{page.name} shows {part!r}, and it is\n{out}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_nebula_commands_of_a_page_that_are_not_run_are_valid(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "incident.jsonl").touch()
    for block in blocks(page):
        for line in block.commands:
            words = shlex.split(line, comments=True)
            if block.runs or words[:1] != ["nebula"]:
                continue
            context = click.Context(main)
            command = main.get_command(context, words[1])
            assert command is not None, line
            command.make_context(words[1], words[2:], parent=context)
