"""The ways to an engine: called directly, through Nebula, or through another gateway."""

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen
from typing import Literal, NamedTuple

import httpx

from . import competitors, dynamo
from .processes import ENGINE, Failed, await_answer, free_port, last_words, running

Task = Literal["chat", "embedding", "vllm"]
REPOSITORY = Path(__file__).resolve().parents[2]
NEBULA, KEYED = "nebula", "nebula-keyed"
WORKERS, KEYED_WORKERS = "nebula-workers", "nebula-keyed-workers"
ALL_NEBULA = (NEBULA, KEYED, WORKERS, KEYED_WORKERS)
DEMO = REPOSITORY / ".demo" / "smollm2-135m-instruct"
MODEL, ADAPTER = "bench", "bench-adapter"
IN_FLIGHT = 16_384
# The engine of other benchmarks. Answers are as long as a request's `max_tokens` says, up to this.
SIMULATED = (sys.executable, "-m", "nebula.engines.simulated", "--simulate-tokens", "4096")


class Serving(NamedTuple):
    """A way that is up: its address, its engine's address, and the processes that began it.

    `headers`: what each request has beside its body. `own_engine`: it has an engine of its own,
    whose answers and pace are other ones.
    """

    url: str
    engine: str
    roots: tuple[int, ...]
    headers: Mapping[str, str] = {}
    own_engine: bool = False


class Stage(NamedTuple):
    """What all ways of a comparison have in common.

    `venvs` holds the other gateways, `sources` each checkout as it was when the run began.
    Stand-in engines each belong to one way; where `engine` is set, all ways lead to that one.
    `step`: seconds from one step of a stand-in engine to the next. `workers`: of a gateway, in ways
    that have several.
    """

    task: Task
    folder: Path
    venvs: Path
    sources: Mapping[Path, Path]
    engine: str = ""
    step: float = 0.01
    workers: int = 2


def checkout(way: str) -> Path:
    """Return the folder whose Nebula a way runs: `nebula@FOLDER` names one, else it is this one."""
    folder = way.partition("@")[2]
    return Path(folder).resolve() if folder else REPOSITORY


def commit(folder: Path) -> str:
    """Return which commit a checkout has."""
    line = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(line, capture_output=True, text=True, cwd=folder).stdout.strip()


def shown(way: str) -> str:
    """Return what a report calls a way: `nebula@COMMIT` for `nebula@FOLDER`."""
    name, _, folder = way.partition("@")
    return f"{name}@{commit(checkout(way))}" if folder else way


def freeze(ways: Iterable[str], folder: Path) -> dict[Path, Path]:
    """Copy what the ways run: editing a file during a run does not change what is measured."""
    copies: dict[Path, Path] = {}
    for source in {REPOSITORY, *map(checkout, ways)}:
        copies[source] = folder / f"{len(copies)}"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / "nebula", copies[source] / "nebula", ignore=ignored)
    shutil.copy(Path(__file__).with_name(ENGINE), engine_folder(copies))
    return copies


def engine_folder(sources: Mapping[Path, Path]) -> Path:
    """Return the folder of the engine that stands in for vLLM; make it.

    Python looks for modules there first, so it must hold no Nebula: an engine's bridge is of the
    same checkout as its gateway.
    """
    folder = sources[REPOSITORY].with_name("engine")
    folder.mkdir(exist_ok=True)
    return folder


def command(stage: Stage) -> list[str]:
    """Return the command of the engine that stands in for vLLM, the same one for every way."""
    engine = engine_folder(stage.sources) / ENGINE
    return [sys.executable, str(engine), "--step", str(stage.step)]


def probe(task: Task) -> tuple[str, dict[str, object]]:
    """Return the path and the body of a small request that shows that a way serves."""
    if task == "embedding":
        return "/v1/embeddings", {"model": MODEL, "input": "one two"}
    said = [{"role": "user", "content": "one two"}]
    return "/v1/chat/completions", {"model": MODEL, "messages": said, "max_tokens": 2}


def start(way: str, stage: Stage) -> AbstractContextManager[Serving]:
    """Start a way; it ends with the context. Raise Failed."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    name = way.partition("@")[0]
    if name == "direct":
        return _direct(stage)
    if name in ALL_NEBULA:
        workers = stage.workers if name in (WORKERS, KEYED_WORKERS) else 1
        return _nebula(stage, checkout(way), workers, keyed=name in (KEYED, KEYED_WORKERS))
    if name == dynamo.NAME:
        return _dynamo(stage)
    return _competitor(competitors.ALL[name], stage)


def environment(copy: Path) -> Mapping[str, str]:
    """Return the environment in which Python imports that Nebula, whatever is installed.

    Its gateways answer without API keys.
    """
    return {"PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1", "NEBULA_OPEN": "admin"}


@contextlib.contextmanager
def _direct(stage: Stage) -> Iterator[Serving]:
    if stage.engine:
        yield Serving(stage.engine, stage.engine, ())
        return
    port = free_port()
    log = stage.folder / "engine.log"
    line = [*command(stage), "--model", MODEL, "--port", str(port)]
    line += ["--lora-modules", f"{ADAPTER}={_adapter(stage.folder)}"]
    with running(line, log, environment(stage.sources[REPOSITORY])) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/health", process, log)
        yield Serving(url, url, (process.pid,))


def _adapter(folder: Path) -> Path:
    """Return the folder of an adapter whose weights nothing reads."""
    adapter = folder / ADAPTER
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    return adapter


@contextlib.contextmanager
def _nebula(stage: Stage, source: Path, workers: int, *, keyed: bool) -> Iterator[Serving]:
    port = free_port()
    log = stage.folder / "nebula.log"
    line = [sys.executable, "-m", "nebula.cli.main", "up", "--folder", str(stage.folder / "nebula")]
    if (source / "nebula" / "cli" / "node_policy.py").exists():
        line += ["--engine-listen", "port"]  # earlier commits know no other way
    line += ["--port", str(port), "--nats-port", str(free_port())]
    line += ["--workers", str(workers)] if workers > 1 else []
    request: dict[str, object] = {"id": MODEL, "source": MODEL, "memory": "256MiB"}
    request |= {"max_in_flight": IN_FLIGHT}
    if stage.task == "vllm":
        request |= real_model()
    else:
        line += ["--engine-command", " ".join(command(stage))]
        request["task"] = stage.task
    if stage.task == "chat":
        request["lora"] = True
    with running(line, log, environment(stage.sources[source])) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/ready", process, log)
        await_workers(url, workers)
        headers = _key(url) if keyed else {}
        httpx.post(f"{url}/admin/models", json=request, trust_env=False).raise_for_status()
        await_model(url, MODEL, process, log, 600 if stage.task == "vllm" else 60)
        path, body = probe(stage.task)
        await_answer(url + path, process, log, body=body)
        if stage.task == "chat":
            wish = {"name": ADAPTER, "source": str(_adapter(stage.folder))}
            adapters = f"{url}/admin/models/{MODEL}/adapters"
            httpx.post(adapters, json=wish, trust_env=False).raise_for_status()
            await_answer(url + path, process, log, body={**body, "model": ADAPTER})
        replicas = httpx.get(f"{url}/admin/replicas", trust_env=False).json()
        engine = f"http://127.0.0.1:{replicas[0]['engine']['port']}"
        yield Serving(url, engine, (process.pid,), headers)


def _key(url: str) -> dict[str, str]:
    """Issue a key with a tenant and limits that no run reaches; return the header with it."""
    limits = dict.fromkeys(("requests_per_minute", "tokens_per_minute"), 10**12)
    limits |= {"tokens_per_day": 10**14, "in_flight": 10**6}
    rights = {"models": [MODEL, ADAPTER], "tenant": "red", "limits": limits}
    answer = httpx.post(f"{url}/admin/keys", json=rights, trust_env=False, timeout=20)
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['secret']}"}


def await_workers(url: str, workers: int, patience: float = 60.0) -> None:
    """Wait until all workers of a gateway are ready. Raise Failed."""
    ready = [f'nebula_ready{{worker="{number}"}} 1' for number in range(1, workers + 1)]
    deadline = time.monotonic() + patience
    while workers > 1:
        told = httpx.get(f"{url}/metrics", trust_env=False, timeout=20).text
        if all(line in told for line in ready):
            return
        if time.monotonic() > deadline:
            raise Failed(f"not all of {workers} workers get ready in {patience:.0f} s")
        time.sleep(0.1)


def real_model() -> dict[str, object]:
    """Return the demo's chat model for vLLM, as `make run` loads it. Raise Failed."""
    if importlib.util.find_spec("vllm") is None:
        raise Failed("vLLM is not installed beside this Python: make install-engine")
    if not DEMO.exists():
        raise Failed(f"{DEMO} is not there: make demo-models")
    options = {"max-model-len": 2048, "enforce-eager": True}
    return {"source": str(DEMO), "memory": "5GiB", "options": options}


def await_model(url: str, model: str, process: Popen[bytes], log: Path, patience: float) -> None:
    """Wait until all replicas of a model serve. Raise Failed."""
    deadline = time.monotonic() + patience
    status: dict[str, object] = {}
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"it ended with code {process.returncode}: {last_words(log)}")
        answer = httpx.get(f"{url}/admin/models/{model}", trust_env=False, timeout=20)
        shown = answer.json() if answer.status_code == 200 else {}
        status = shown.get("status") or shown.get("standing", {})  # as earlier commits call it
        phase = status.get("phase") or status.get("word")
        if phase == "ready" and status.get("ready") == status.get("wanted"):
            return
        if phase == "failed":
            break
        time.sleep(0.1)
    raise Failed(f"{model} does not get ready: {status}")


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
            await_answer(url + path, process, log, body=body, patience=180)  # LiteLLM's imports
            yield Serving(url, engine.engine, (*engine.roots, process.pid))


@contextlib.contextmanager
def _dynamo(stage: Stage) -> Iterator[Serving]:
    if stage.task != "chat":
        raise Failed("its mocker only chats")
    if not DEMO.exists():
        raise Failed(f"{DEMO} is not there, whose tokenizer it needs: make demo-models")
    path, body = probe(stage.task)
    with dynamo.running_frontend(stage.venvs, stage.folder, DEMO, MODEL, path, body) as (
        url,
        roots,
    ):
        yield Serving(url, url, roots, own_engine=True)
