"""Other gateways from PyPI: how each is installed and started for one engine at its best."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from .processes import Failed, free_port

Line = Callable[[Path, int, str, Path], list[str]]


class Competitor(NamedTuple):
    """A gateway; `line` makes its command line of a venv, a port, an engine and a folder."""

    name: str
    requirement: str
    package: str
    line: Line
    environment: Mapping[str, str] = {}


def _smg(venv: Path, port: int, engine: str, _folder: Path) -> list[str]:
    line = [str(venv / "bin" / "smg"), "launch", "--host", "127.0.0.1", "--port", str(port)]
    line += ["--worker-urls", engine, "--policy", "round_robin"]
    line += ["--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1"]
    # Nothing but forwarding is wanted of it: no look at the engine's load, no records, no
    # tokenizer. One engine is alone, so retries and circuit breakers could only hide failures.
    line += ["--disable-load-monitoring", "--disable-worker-overload-protection"]
    line += ["--disable-tokenizer-autoload", "--history-backend", "none"]
    return [*line, "--disable-retries", "--disable-circuit-breaker", "--log-level", "warn"]


def _vllm_router(venv: Path, port: int, engine: str, _folder: Path) -> list[str]:
    line = [str(venv / "bin" / "vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
    line += ["--worker-urls", engine, "--policy", "round_robin"]
    line += ["--worker-startup-check-interval", "1", "--prometheus-port", str(free_port())]
    return [*line, "--disable-retries", "--disable-circuit-breaker", "--log-level", "warning"]


def _litellm(venv: Path, port: int, engine: str, folder: Path) -> list[str]:
    parameters = {"model": "hosted_vllm/bench", "api_base": f"{engine}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": "bench", "litellm_params": parameters}],
        "litellm_settings": {"num_retries": 0, "telemetry": False},
        "router_settings": {"disable_cooldowns": True},
    }
    config = folder / "litellm.yaml"  # JSON is YAML
    config.write_text(json.dumps(settings))
    line = [str(venv / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    # Its guide for production: as many workers as cores.
    return [*line, "--port", str(port), "--num_workers", str(os.cpu_count() or 1)]


ALL = {
    item.name: item
    for item in (
        Competitor("smg", "smg", "smg", _smg),
        Competitor("vllm-router", "vllm-router", "vllm-router", _vllm_router),
        Competitor(
            "litellm",
            "litellm[proxy]",
            "litellm",
            _litellm,
            {
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_LOG": "ERROR",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
                "DISABLE_ADMIN_UI": "True",
                "NO_DOCS": "True",
            },
        ),
    )
}


DYNAMO = Competitor("dynamo", "ai-dynamo", "ai-dynamo", lambda *_: [])
"""Its line is none for an engine's address: `dynamo.py` starts it with its own engine."""


def install(competitor: Competitor, venvs: Path) -> Path:
    """Return the gateway's virtual environment, made where it is not there yet. Raise Failed."""
    venv = venvs / competitor.name
    if venv.exists() and version(competitor, venvs):
        return venv
    print(f"Installing {competitor.requirement} into {venv}", file=sys.stderr, flush=True)
    if not venvs.exists():
        venvs.mkdir(parents=True)
        (venvs / ".gitignore").write_text("*\n")
    pip = [str(venv / "bin" / "pip"), "--disable-pip-version-check", "install", "-q"]
    for line in (
        [sys.executable, "-m", "venv", str(venv)],
        [*pip, "--only-binary", ":all:", competitor.requirement],
    ):
        ended = subprocess.run(line, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            words = " / ".join((ended.stderr or ended.stdout).strip().splitlines()[-3:])
            raise Failed(f"can't be installed: {words}")
    return venv


def version(competitor: Competitor, venvs: Path) -> str:
    """Return the version that is installed."""
    code = f"import importlib.metadata as m; print(m.version({competitor.package!r}))"
    line = [str(venvs / competitor.name / "bin" / "python"), "-c", code]
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()
