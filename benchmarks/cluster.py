"""Nebula as real processes, for benchmarks that need more of it than one of each.

Two `nebula up` beside each other: the first with NATS, a router, a gateway and a node, the second
with one more router and gateway. Both keep their children running, so that what is killed is
started again. Where one router is enough, the first is alone.
"""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.data_plane.processes import Failed, await_answer, free_port, running
from benchmarks.data_plane.ways import await_model, environment, real_model
from nebula.actors.node import engine_keys, engine_sockets
from nebula.actors.node.processes import marked_groups

NODE = "bench"
PARTS = ("gateway", "router", "nats-server", "node")


FEW_CORES = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""The environment of several vLLM on few cores, which would all bind to the same core."""


def two_replicas() -> dict[str, object]:
    """Return the demo's chat model as two small vLLM for few cores. Raise Failed."""
    return {
        **real_model(),
        "memory": "1GiB",
        "replicas": 2,
        "options": {"max-model-len": 1024, "enforce-eager": True},
        "env": FEW_CORES,
    }


class Wanted(NamedTuple):
    """A model: its id, all else that `POST /admin/models` takes, and seconds it may load."""

    id: str
    fields: Mapping[str, object]
    patience: float = 60.0


class Cluster:
    """A running cluster: `start` makes one."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[Wanted],
        routers: int,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`environ`: what every process gets in its environment beside all else."""
        self._environ = environ or {}
        self.folder = folder
        self.models = models
        ports = [free_port() for _ in range(routers)]
        self.gateways = [f"http://127.0.0.1:{port}" for port in ports]
        self._ports = ports
        self._nats_port = free_port()
        self.nats = f"nats://127.0.0.1:{self._nats_port}"
        self._roots: list[int] = []
        self._await: list[Any] = []
        self._start_all: Callable[[], None] = lambda: None

    @property
    def home(self) -> Path:
        """The folder of the `nebula up` that has the node."""
        return self.folder / "up-0"

    def logs(self, name: str) -> list[str]:
        """Return all that processes of a name have written: of both gateways, for "gateway"."""
        return [
            path.read_text(errors="replace")
            for path in sorted(self.folder.glob(f"up-*/logs/{name}*.log"))
        ]

    @contextlib.contextmanager
    def up(
        self, copies: Sequence[Path], engine: Sequence[str], arguments: Sequence[str]
    ) -> Iterator[None]:
        """Start it, and end all of it with the context. Raise Failed.

        `copies`: the Nebula of each `nebula up`; the last one is that of all further ones too.
        """
        lines = [self._line(number) for number in range(len(self._ports))]
        lines[0] += ["--nats-port", str(self._nats_port), "--name", NODE, *arguments]
        lines[0] += ["--engine-command", shlex.join(engine)] if engine else []
        for line in lines[1:]:
            line += ["--nats", self.nats, "--no-node"]
        for number, line in enumerate(lines):
            line += _of_cluster(copies[min(number, len(copies) - 1)])
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.ExitStack() as everything:

                def start() -> None:
                    for number in range(len(lines)):
                        copy = copies[min(number, len(copies) - 1)]
                        self._start(number, lines[number], copy, everything)

                self._start_all = start
                start()
                self._load()
                yield
        finally:
            self._end_engines()

    def _start(
        self, number: int, line: Sequence[str], copy: Path, everything: contextlib.ExitStack
    ) -> None:
        url, log = self.gateways[number], self.folder / f"up-{number}.log"
        environ = {**environment(copy), **self._environ}
        process = everything.enter_context(running(line, log, environ))
        self._roots.append(process.pid)
        self._await.append((url, process, log))
        await_answer(f"{url}/ready", process, log)

    def kill_everything(self) -> None:
        """kill -9 every process of the cluster, engines too, then start it again. Raise Failed."""
        processes = [*self.engines().values(), *self.parts().values()]
        for root in self._roots:
            processes += psutil.Process(root).children(recursive=True)
        for process in sorted(processes, key=lambda each: each.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        self._roots.clear()
        self._await.clear()
        self._start_all()
        self.settle()

    def _line(self, number: int) -> list[str]:
        line = [sys.executable, "-m", "nebula.cli.main", "up", "--port", str(self._ports[number])]
        return [*line, "--engine-listen", "port", "--folder", str(self.folder / f"up-{number}")]

    def _load(self) -> None:
        for model in self.models:
            wish = {"id": model.id, **model.fields}
            url = f"{self.gateways[0]}/admin/models"
            answer = httpx.post(url, json=wish, trust_env=False, timeout=20)
            if answer.status_code != 202:
                raise Failed(f"{model.id} is not loaded: {answer.text}")
        self.settle()

    def settle(self) -> None:
        """Wait until everything serves again. Raise Failed."""
        for url, process, log in self._await:
            await_answer(f"{url}/ready", process, log)
            for model in self.models:
                await_model(url, model.id, process, log, model.patience)

    def _end_engines(self) -> None:
        """End what a node that was killed in the last moment has left."""
        for group in marked_groups(NODE, str(self.home / "nodes" / NODE)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    # Its processes

    def engines(self) -> dict[str, psutil.Process]:
        """Return the API servers of all engines that serve, by their replicas."""
        return {
            replica["id"]: psutil.Process(replica["engine"]["pid"]) for replica in self._serving()
        }

    def engine_urls(self) -> dict[str, str]:
        """Return the addresses of all engines that serve, by their replicas."""
        return {
            replica["id"]: f"http://127.0.0.1:{replica['engine']['port']}"
            for replica in self._serving()
        }

    def key_of(self, engine: str) -> dict[str, str]:
        """Return the header field with which an engine, by its address, takes requests."""
        port = urlsplit(engine).port or 0
        text = engine_keys.known(engine_sockets.place(self.home / "nodes" / NODE), port).text
        return {"Authorization": f"Bearer {text}"} if text else {}

    def _serving(self) -> list[dict[str, Any]]:
        for url in self.gateways:
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(f"{url}/admin/replicas", trust_env=False, timeout=5)
                return [
                    replica
                    for replica in answer.json()
                    if replica["engine"] is not None and replica["phase"] == "ready"
                ]
        raise Failed("no gateway tells which engines there are")

    def parts(self) -> dict[str, psutil.Process]:
        """Return all living processes of the cluster but engines: gateway-0, gateway-1, ..."""
        found = {}
        for number, root in enumerate(self._roots):
            found[f"up-{number}"] = psutil.Process(root)
            for child in psutil.Process(root).children():
                with contextlib.suppress(psutil.Error):
                    words = [child.name(), *child.cmdline()[:4]]
                    name = next((part for part in PARTS if part in words), "")
                    if name:
                        found[f"{name}-{number}"] = child
        return found

    def kill(self, what: str, number: int = 0) -> str:
        """kill -9 the engine, router, gateway, node or nats-server of that number; say which.

        Raise Failed where there is none.
        """
        if what == "engine":
            engines = sorted(self.engines().items())
            if not engines:
                raise Failed("there is no engine to kill")
            name, process = engines[number % len(engines)]
        else:
            name = f"{what}-{number}"
            process = self.parts().get(name) or self._missing(name)
        process.send_signal(signal.SIGKILL)
        return name

    def _missing(self, name: str) -> psutil.Process:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if (process := self.parts().get(name)) is not None:
                return process
        raise Failed(f"there is no {name} to kill")


def _of_cluster(copy: Path) -> list[str]:
    """Return the arguments by which all of them are of one cluster; none for an older Nebula."""
    known = "--cluster" in (copy / "nebula" / "cli" / "options.py").read_text()
    return ["--cluster", NODE] if known else []


@contextlib.contextmanager
def start(
    folder: Path,
    copy: Path,
    models: Sequence[Wanted],
    *,
    engine: Sequence[str] = (),
    arguments: Sequence[str] = (),
    routers: int = 2,
    environ: Mapping[str, str] | None = None,
    others: Path | None = None,
) -> Iterator[Cluster]:
    """Start a cluster of the Nebula in `copy`, with engines started by `engine` (default: vLLM).

    `arguments` are for the `nebula up` that has the node; each has a router and a gateway.
    `environ` is added to the environment of every process. `others`: the Nebula of every
    `nebula up` but the first, where that is another version. Raise Failed.
    """
    cluster = Cluster(folder, models, routers, environ)
    with cluster.up((copy, others or copy), engine, arguments):
        yield cluster
