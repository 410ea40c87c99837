"""A real Prometheus, as Debian builds it: how tests start it, ask it, and have it check files.

`make test` unpacks it into .venv/prometheus where the machine has none (tests/install_packages.sh).
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from nebula.store.server import die_with_parent
from tests.ports import free_port

PATIENCE = 60.0


def program(name: str) -> str:
    """Return the path of `prometheus`, `promtool` or `amtool`."""
    places = f"{sys.prefix}/prometheus/usr/bin:/usr/bin:{os.environ['PATH']}"
    found = shutil.which(name, path=places)
    assert found, f"{name} is not here: `make install-prometheus` unpacks it into .venv"
    return found


def promtool(*arguments: str, cwd: Path | None = None, given: str = "") -> str:
    """Have promtool check something that must be right, and return what it says."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=f"http://{address}/", trust_env=False)

    def ready(self) -> bool:
        """Return whether it answers."""
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression gives now: a list of series, each with its value."""
        data = self.get("query", {"query": expression})
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    def get(self, path: str, parameters: Mapping[str, str | list[str]]) -> Any:
        """Return the data of a path of its API."""
        answer = self._http.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, f"{parameters}\n{answer.text}"
        return answer.json()["data"]

    def targets(self) -> list[dict[str, Any]]:
        """Return what it scrapes, each with how the last time went."""
        return list(self.get("targets", {"state": "active"})["activeTargets"])


@contextlib.contextmanager
def prometheus(folder: Path, config: Path) -> Iterator[Prometheus]:
    """Run Prometheus with a configuration, with its data in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    line = [program("prometheus"), f"--config.file={config}"]
    line += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
        )

    def said() -> str:
        assert process.poll() is None, f"Prometheus has ended: {process.returncode}"
        return (folder / "prometheus.log").read_text(errors="replace")

    server = Prometheus(address)
    try:
        until(server.ready, said)
        yield server
    finally:
        process.kill()
        process.wait()


def until(holds: Callable[[], Any], what: Callable[[], str]) -> None:
    """Wait until something holds; `what` tells of it meanwhile, and where it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        told = what()
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {PATIENCE} s: {told}")
        time.sleep(0.05)
