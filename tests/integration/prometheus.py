"""A real Prometheus, as Debian builds it: how tests start it, ask it, and have it check files.

`make test` unpacks it into .venv/prometheus where the machine has none (tests/install_packages.sh).
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from nebula.store.server import die_with_parent
from tests.ports import free_port

PATIENCE = 60.0


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`."""
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

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression gives now: a list of series, each with its value."""
        answer = await self._http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}\n{answer.text}"
        data = answer.json()["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    async def get(self, path: str, parameters: Mapping[str, str | list[str]]) -> Any:
        """Return the data of a path of its API."""
        answer = await self._http.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def targets(self) -> list[dict[str, Any]]:
        """Return what it scrapes, each with how the last time went."""
        return list((await self.get("targets", {"state": "active"}))["activeTargets"])


@contextlib.asynccontextmanager
async def prometheus(folder: Path, config: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus with a configuration, with its data in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    line = [program("prometheus"), f"--config.file={config}"]
    line += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
        )
    try:
        async with (
            asyncio.timeout(PATIENCE),
            httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http,
        ):
            while not await _ready(http):
                said = (folder / "prometheus.log").read_text(errors="replace")
                assert process.poll() is None, f"Prometheus has ended: {said}"
                await asyncio.sleep(0.05)
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
            yield Prometheus(http)
    finally:
        process.kill()
        process.wait()


async def _ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/-/ready")).status_code == 200
    except httpx.TransportError:
        return False
