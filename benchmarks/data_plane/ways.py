"""The ways to an engine: called directly, through Nebula, or through another gateway."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple

import httpx

from . import competitors
from .processes import await_answer, free_port, running

Task = Literal["chat", "embedding"]
REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "bench"
# Answers are as long as a request's `max_tokens` says, up to this.
SIMULATED = (sys.executable, "-m", "nebula.engines.simulated", "--simulate-tokens", "4096")


class Serving(NamedTuple):
    """A way that is up: its address, its engine's address, and the processes that began it."""

    url: str
    engine: str
    roots: tuple[int, ...]


class Stage(NamedTuple):
    """What all ways of a comparison have in common; `venvs` holds the other gateways."""

    task: Task
    folder: Path
    venvs: Path


def probe(task: Task) -> tuple[str, dict[str, object]]:
    """Give the path and the body of a small request that shows that a way serves."""
    if task == "embedding":
        return "/v1/embeddings", {"model": MODEL, "input": "one two"}
    said = [{"role": "user", "content": "one two"}]
    return "/v1/chat/completions", {"model": MODEL, "messages": said, "max_tokens": 2}


def start(way: str, stage: Stage) -> AbstractContextManager[Serving]:
    """Start a way; it ends with the context. Raises Failed."""
    name, _, checkout = way.partition("@")
    stage.folder.mkdir(parents=True, exist_ok=True)
    if name == "direct":
        return _direct(stage)
    if name == "nebula":
        return _nebula(stage, Path(checkout).resolve() if checkout else REPOSITORY)
    return _competitor(competitors.ALL[name], stage)


def _source(checkout: Path) -> Mapping[str, str]:
    """The environment in which Python imports Nebula from a checkout, whatever is installed."""
    return {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}


@contextlib.contextmanager
def _direct(stage: Stage) -> Iterator[Serving]:
    port = free_port()
    log = stage.folder / "engine.log"
    line = [*SIMULATED, "--model", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    if stage.task == "embedding":
        line += ["--runner", "pooling"]
    with running(line, log, _source(REPOSITORY)) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/health", process, log)
        yield Serving(url, url, (process.pid,))


@contextlib.contextmanager
def _nebula(stage: Stage, checkout: Path) -> Iterator[Serving]:
    port = free_port()
    log = stage.folder / "nebula.log"
    line = [sys.executable, "-m", "nebula.cli.main", "up", "--folder", str(stage.folder / "nebula")]
    line += ["--port", str(port), "--nats-port", str(free_port())]
    line += ["--engine-command", " ".join(SIMULATED)]
    with running(line, log, _source(checkout)) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/ready", process, log)
        request = {"id": MODEL, "source": MODEL, "task": stage.task, "memory": "256MiB"}
        httpx.post(f"{url}/admin/models", json=request, trust_env=False).raise_for_status()
        path, body = probe(stage.task)
        await_answer(url + path, process, log, body=body)
        replicas = httpx.get(f"{url}/admin/replicas", trust_env=False).json()
        engine = f"http://127.0.0.1:{replicas[0]['engine']['port']}"
        yield Serving(url, engine, (process.pid,))


@contextlib.contextmanager
def _competitor(competitor: competitors.Competitor, stage: Stage) -> Iterator[Serving]:
    venv = competitors.install(competitor, stage.venvs)
    port = free_port()
    log = stage.folder / f"{competitor.name}.log"
    with _direct(stage) as engine:
        line = competitor.line(venv, port, engine.url, stage.folder)
        with running(line, log, competitor.environment) as process:
            url = f"http://127.0.0.1:{port}"
            path, body = probe(stage.task)
            await_answer(url + path, process, log, body=body)
            yield Serving(url, engine.engine, (*engine.roots, process.pid))
