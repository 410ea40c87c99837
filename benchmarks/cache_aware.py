"""smg before two vLLM, to choose among them by what it sent to each before."""

import concurrent.futures
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from benchmarks.data_plane import competitors
from benchmarks.data_plane.processes import Failed, await_answer, free_port, running

PATIENCE = 60.0
"""Seconds in which smg has to find its engines ready."""

LOADING = 900.0
"""Seconds in which an engine has to serve."""


@contextlib.contextmanager
def smg(
    options: Mapping[str, object], environment: Mapping[str, str], folder: Path, venvs: Path
) -> Iterator[tuple[str, list[str]]]:
    """Start both; yield smg's address and those of its engines. Raise Failed.

    It finds out what an engine is by asking for /health without a key, so that those which Nebula
    starts are not for it.

    Args:
        options: of vLLM.
        environment: of vLLM, beside what there is.
        folder: for the logs, made here.
        venvs: where other gateways are installed.
    """
    venv = competitors.install(competitors.ALL["smg"], venvs)
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        engines = []
        with concurrent.futures.ThreadPoolExecutor() as pool:
            loading = []
            for number in range(2):
                port, log = free_port(), folder / f"engine-{number}.log"
                process = stack.enter_context(running(_vllm(options, port), log, environment))
                engines.append(f"http://127.0.0.1:{port}")
                health = f"{engines[-1]}/health"
                loading.append(pool.submit(await_answer, health, process, log, patience=LOADING))
            for each in loading:
                each.result()
        port, log = free_port(), folder / "smg.log"
        url = f"http://127.0.0.1:{port}"
        process = stack.enter_context(running(_smg(venv, port, engines), log))
        await_answer(f"{url}/liveness", process, log)
        _await_workers(url, len(engines))
        yield url, engines


def _vllm(options: Mapping[str, object], port: int) -> list[str]:
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port)]
    for name, value in options.items():
        line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line


def _smg(venv: Path, port: int, engines: list[str]) -> list[str]:
    line = [str(venv / "bin" / "smg"), "launch", "--host", "127.0.0.1", "--port", str(port)]
    line += ["--worker-urls", *engines, "--policy", "cache_aware"]
    line += ["--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1"]
    return [*line, "--disable-tokenizer-autoload", "--history-backend", "none"]


def _await_workers(url: str, count: int) -> None:
    """Wait until so many engines are ready. Raise Failed."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        workers = httpx.get(f"{url}/workers", trust_env=False).json()["workers"]
        if sum(worker["status"] == "ready" for worker in workers) == count:
            return
        time.sleep(0.2)
    raise Failed(f"smg has not found {count} engines ready after {PATIENCE:.0f} s")
