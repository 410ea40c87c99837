"""A whole cluster as real processes: how tests start it, watch it, drive it, and hurt it.

Every process that belongs to a cluster, engines too, carries its folder in the environment, so
that none can hide from `close`.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import nats
import psutil

from nebula.actors.node.engine_sockets import place
from nebula.actors.projection import Projection
from nebula.cli.cluster import joined
from nebula.events.model_status import ModelStatus, model_status
from nebula.events.record import Record
from nebula.events.state import Engine, Replica, State
from nebula.events.vocabulary import Event, EventRejected
from nebula.store import credentials
from nebula.store.server import binary, configuration, die_with_parent
from tests.engines import socket_of_engine
from tests.ports import free_port

PATIENCE = 60.0
SIMULATED = f"{sys.executable} -m nebula.engines.simulated"
MARK = "TESTED_CLUSTER"
POLICY = {"env": ["SOME"], "inherit": [MARK]}
"""What the nodes of tests allow: engines carry the mark, as all processes do."""
DEFAULTS = {"HF_HUB_OFFLINE": "1", "NEBULA_OPEN": "admin"}
"""The environment unless a test has another: most of them ask without API keys."""

IMPATIENT = "tests.integration.impatient"
"""The command line for tests that can't wait as long as a real cluster must."""

E = TypeVar("E", bound=Event)


class Told(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


class Cluster:
    """A cluster in a folder of its own, on ports of its own; nothing runs until it is started.

    Either `up` runs it all, or `start` runs one process at a time: "nats", "router", "node",
    "gateway", or "router-2" for a second one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.nats_port = free_port()
        self.nats_url = f"nats://127.0.0.1:{self.nats_port}"
        self.key = ""
        """The API key that its clients send."""
        self.variables: dict[str, str] = {}
        """Environment of its processes, beyond DEFAULTS."""
        self.within: tuple[str, ...] = ()
        """What comes before the command line of `up`, such as what enters a namespace."""
        self.refused_users: tuple[str, ...] = ()
        """NATS users that a test lets be refused, by their roles."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lines: dict[str, list[str]] = {}

    def url(self, role: str = "admin") -> str:
        """Return the URL of NATS, with the credentials of a role where `up` runs the server.

        Tests that do what no actor does, such as publishing an engine's answer, are `admin`.
        """
        file = credentials.file_of(self.folder / "home" / "nats", role)
        return credentials.read(file).servers[0] if file.exists() else self.nats_url

    # Processes

    def up(self, *arguments: str, own_nats: bool = True, name: str = "up") -> None:
        """Run `nebula up`, with quick restarts and the simulated engine."""
        line = ["--folder", str(self.folder / "home"), "--name", "here"]
        line += [] if "--uds" in arguments else ["--port", str(self.port)]
        line += ["--nats-port", str(self.nats_port)] if own_nats else ["--nats", self.nats_url]
        line += ["--engine-command", SIMULATED, "--grace", "3"]
        line += ["--restart-limit", "2", "--restart-pause", "0.2", *arguments]
        self._run(name, [*self.within, sys.executable, "-m", "nebula.cli.main", "up", *line])

    def start(self, name: str, *arguments: str) -> None:
        """Run one process by itself."""
        actor = name.partition("-")[0]
        if actor == "nats":
            config = self.folder / "nats.conf"
            config.write_text(configuration(self.nats_port, self.folder / "jetstream"))
            self._run(name, [binary(), "-c", str(config)])
            return
        module = IMPATIENT if "--lost-after" in arguments else "nebula.cli.main"
        line = [sys.executable, "-m", module, actor, "--nats", self.nats_url]
        if actor == "gateway" and not {"--port", "--uds"}.intersection(arguments):
            line += ["--port", str(self.port)]
        if actor == "node":
            line += ["--folder", str(self.folder / "home"), "--engine-command", SIMULATED]
            line += ["--grace", "3", "--restart-limit", "2", "--restart-pause", "0.2"]
            line += ["--name", "here"] if "--name" not in arguments else []
        self._run(name, [*line, *arguments])

    def start_all(self) -> None:
        """Run NATS and one of each actor, each by itself."""
        for name in ("nats", "router", "node", "gateway"):
            self.start(name)

    def fork(self, log: Path, *arguments: str) -> None:
        """Run `nebula fork` of an exported log."""
        line = ["fork", str(log), "--folder", str(self.folder / "fork"), "--port", str(self.port)]
        line += ["--nats-port", str(self.nats_port), *arguments]
        self._run("fork", [sys.executable, "-m", "nebula.cli.main", *line])

    def program(self, name: str, *line: str) -> None:
        """Run a command line of a test's own as a part of the cluster."""
        self._run(name, list(line))

    def again(self, name: str) -> None:
        """Run a process that has ended once more, as it ran before."""
        self._run(name, self._lines[name])

    @property
    def marks(self) -> dict[str, str]:
        """Return the variables of every process of the cluster."""
        policy = self.folder / "policy.json"
        policy.write_text(json.dumps(POLICY))
        return {MARK: str(self.folder), "NEBULA_POLICY": str(policy)}

    def _run(self, name: str, line: list[str]) -> None:
        self._lines[name] = line
        with self._log(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**DEFAULTS, **os.environ, **self.variables, **self.marks},
                preexec_fn=die_with_parent,
            )

    def pid(self, name: str) -> int:
        """Return the pid of a process that was started, or of a child of `up`.

        Raise LookupError while `up` has none of that name.
        """
        if name in self._processes:
            return self._processes[name].pid
        for child in psutil.Process(self._processes["up"].pid).children():
            with contextlib.suppress(psutil.Error):
                if name == child.name() or name in child.cmdline()[:4]:
                    return child.pid
        raise LookupError(f"no {name} runs now")

    def runs(self, name: str) -> bool:
        """Return whether a process that was started still runs."""
        return self._processes[name].poll() is None

    def pids(self) -> set[int]:
        """Return the pids of all living processes, engines too."""
        return {process.pid for process in self._living()}

    def kill(self, name: str) -> None:
        """kill -9."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        if name in self._processes:
            self._processes[name].wait()

    def stop(self, name: str, patience: float = PATIENCE) -> int:
        """End a process as Ctrl-C or a supervisor would, and give its exit code."""
        self._processes[name].terminate()
        return self.ended(name, patience)

    def ended(self, name: str, patience: float = PATIENCE) -> int:
        """Wait for a process to end by itself, and give its exit code."""
        try:
            return self._processes[name].wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} has not ended: {self.output(name)}") from None

    def output(self, name: str) -> str:
        """Return what a process has written."""
        return self._log(name).read_text(errors="replace")

    def kill_everything(self) -> None:
        """kill -9 of every process at the same moment: none sees another one go."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in self._living():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        for started in self._processes.values():
            started.wait()
        self._processes.clear()

    def close(self) -> None:
        """End all there is, whatever state a test has left it in."""
        deadline = time.monotonic() + PATIENCE
        while self._living():
            if time.monotonic() > deadline:
                raise AssertionError(f"these do not end: {self._living()}")
            self.kill_everything()
        shutil.rmtree(self.folder / "jetstream", ignore_errors=True)
        for node in self.folder.glob("*/nodes/*"):  # sockets of killed nodes may lie elsewhere
            shutil.rmtree(place(node), ignore_errors=True)

    def engine_processes(self) -> list[psutil.Process]:
        """Return the living processes of all engines."""
        return [process for process in self._living() if "NEBULA_REPLICA" in _environ(process)]

    def _living(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter()
            if _environ(process).get(MARK) == str(self.folder)
        ]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def violations(self) -> list[str]:
        """Return what a NATS server here has refused because of the roles, but `refused_users`."""
        logs = self.folder.rglob("nats-server.log")
        lines = (line for log in logs for line in log.read_text(errors="replace").splitlines())
        return [
            line
            for line in lines
            if "Violation" in line
            and not any(f'user:{each}"' in line for each in self.refused_users)
        ]

    def last_words(self) -> str:
        """Return the end of every log file there is, for a test that fails."""
        return "\n".join(
            f"--- {log.relative_to(self.folder)}\n"
            + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            for log in sorted(self.folder.rglob("*.log"))
        )

    # The command line

    async def nebula(self, *arguments: str, nats: str = "") -> "Told":
        """Run a `nebula` command to its end."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nebula.cli.main", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, MARK: str(self.folder), "NEBULA_NATS_URL": nats or self.nats_url},
        )
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        return Told(process.returncode or 0, out.decode(), err.decode())

    # HTTP

    def http(self, port: int | None = None) -> httpx.AsyncClient:
        """Return a client of the gateway."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port or self.port}",
            timeout=PATIENCE,
            trust_env=False,
            headers={"authorization": f"Bearer {self.key}"} if self.key else {},
        )

    async def ready(self, port: int | None = None) -> None:
        """Wait until the gateway is ready and knows a node, where one was started.

        No process may end meanwhile.
        """
        node = any(
            name.startswith(("up", "node")) and "--no-node" not in line
            for name, line in self._lines.items()
        )

        async def answers() -> bool:
            ended = {n: p.returncode for n, p in self._processes.items() if p.poll() is not None}
            assert not ended, f"{ended}\n{self.last_words()}"
            try:
                if (await http.get("/ready")).status_code != 200:
                    return False
                return not node or bool((await http.get("/admin/nodes")).json())
            except httpx.HTTPError:
                return False

        async with self.http(port) as http:
            await self.poll(answers, "the gateway is ready and knows a node")

    async def take_key(self) -> None:
        """Wait for the key that `nebula up` writes, and ask with it from now on."""

        async def there() -> bool:
            return "Admin key" in self.output("up")

        await self.poll(there, "nebula up has written its key")
        self.key = (self.folder / "home" / "admin.key").read_text().strip()

    async def load(self, identity: str, *, stands: str = "ready", **fields: Any) -> None:
        """Load a model over HTTP and wait until it stands so; "" waits for nothing."""
        request = {"id": identity, "source": "simulated", "memory": "512MiB", **fields}
        async with self.http() as http:
            answer = await http.post("/admin/models", json=request)
        assert answer.status_code == 202, answer.text
        if stands:
            await self.stands(identity, stands)

    async def engine_http(self, replica: str) -> httpx.AsyncClient:
        """Return a client of an engine itself."""
        engine = await self.engine(replica)
        return httpx.AsyncClient(
            base_url="http://localhost",
            transport=httpx.AsyncHTTPTransport(uds=socket_of_engine(engine.pid, engine.port)),
            timeout=PATIENCE,
            trust_env=False,
        )

    async def engine_says(self, replica: str) -> dict[str, int]:
        """Ask an engine, on its own socket, what it is at."""
        async with await self.engine_http(replica) as http:
            counts: dict[str, int] = (await http.get("/simulate")).json()
        return counts

    async def tell_engine(self, replica: str, **wish: Any) -> None:
        """Have an engine behave otherwise from now on."""
        async with await self.engine_http(replica) as http:
            assert (await http.post("/simulate", json=wish)).status_code == 200

    async def poll(self, holds: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
        """Wait for what no event announces."""
        deadline = time.monotonic() + patience
        while not await holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {patience} s: {what}\n{self.last_words()}")
            await asyncio.sleep(0.05)

    # The log

    @contextlib.asynccontextmanager
    async def joined(self) -> AsyncIterator[Projection]:
        """Fold the log as every actor does."""
        async with joined(self.nats_url, patience=PATIENCE) as projection:
            yield projection

    async def state(self) -> State:
        """Return the cluster's state by folding the log."""
        async with self.joined() as projection:
            return projection.state

    async def until(
        self, holds: Callable[[State], bool], what: str, patience: float = PATIENCE
    ) -> State:
        """Wait until the folded log satisfies something."""
        async with self.joined() as projection:
            held = await projection.until(holds, patience)
            assert held, f"not in {patience} s: {what}\n{self.last_words()}"
            await asyncio.gather(
                *(self._gateway_knows(port, projection.state.seq) for port in self._gateways())
            )
            return projection.state

    def _gateways(self) -> set[int]:
        """Return the ports of gateways, without those that a signal has stopped."""
        ports, at_rest = {self.port}, set[int]()
        for name, process in self._processes.items():
            line = self._lines.get(name, [])
            if name.startswith("gateway") and "--port" in line:
                port = int(line[line.index("--port") + 1])
                ports.add(port)
                with contextlib.suppress(psutil.NoSuchProcess):
                    if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
                        at_rest.add(port)
        return ports - at_rest

    async def _gateway_knows(self, port: int, seq: int) -> None:
        """Wait until a gateway, where one serves, has folded what we have: it may be behind."""
        async with self.http(port) as http:
            with contextlib.suppress(httpx.HTTPError):
                while True:
                    answer = await http.get("/ready")
                    if answer.status_code != 200 or answer.json()["seq"] >= seq:
                        return
                    await asyncio.sleep(0.02)

    async def stands(self, identity: str, word: str = "ready", **how: float) -> ModelStatus:
        """Wait until a model, with every replica that is wanted, stands so."""

        def so(state: State) -> bool:
            model = state.models.get(identity)
            if model is None:
                return False
            now = model_status(state, model)
            return now.phase == word and (word != "ready" or now.ready == now.wanted)

        state = await self.until(so, f"{identity} is {word}", **how)
        return model_status(state, state.models[identity])

    async def replica(self, identity: str) -> Replica:
        """Return a replica as the log has it now."""
        return (await self.state()).replicas[identity]

    async def engine(self, replica: str) -> Engine:
        """Return a replica's engine as the log has it now."""
        engine = (await self.replica(replica)).engine
        assert engine is not None
        return engine

    async def records(self, *kinds: type[Event], identity: str = "") -> list[Record]:
        """Read the log: all of it, or the events of some kinds, about one thing."""
        async with self.joined() as projection:
            return [
                record
                for record in await projection.log.read()
                if (not kinds or isinstance(record.content, kinds)) and identity in ("", record.id)
            ]

    async def last_seq(self) -> int:
        """Return the sequence of the newest event."""
        return (await self.state()).seq

    async def logged(self, kind: type[E], identity: str, after: int = 0) -> E:
        """Wait for an event about something and give it."""
        async with contextlib.aclosing(self._follow(after)) as records:
            async for record in records:
                if isinstance(record.content, kind) and record.id == identity:
                    return record.content
        raise AssertionError(f"there is no {kind.__name__} of {identity}\n{self.last_words()}")

    async def _follow(self, after: int) -> AsyncGenerator[Record, None]:
        """Yield the log's entries as they come, until patience ends."""
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(PATIENCE),
                self.joined() as projection,
                contextlib.aclosing(projection.log.follow(after)) as batches,
            ):
                async for batch in batches:
                    for record in batch:
                        yield record

    async def publish(self, subject: str, payload: bytes) -> None:
        """Send exactly what `nats pub SUBJECT PAYLOAD` sends: no header, no acknowledgement."""
        client = await nats.connect(self.url())
        await client.publish(subject, payload)
        await client.close()

    async def publish_rejected(self, subject: str, payload: bytes) -> str:
        """Publish by hand what must be rejected; give the reason that names its sequence."""
        before = await self.last_seq()
        await self.publish(subject, payload)
        ours = ""
        async with contextlib.aclosing(self._follow(before)) as records:
            async for record in records:
                if record.subject == subject:
                    ours = str(record.seq)
                if isinstance(record.content, EventRejected) and record.id == ours:
                    assert record.content.subject == subject
                    assert record.cause == int(ours)
                    return record.content.reason
        raise AssertionError(f"{subject} was not rejected\n{self.last_words()}")


def _environ(process: psutil.Process) -> dict[str, str]:
    """Return a living process's environment; nothing for one that is gone or not ours."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return {}
        return dict(process.environ())
    except (psutil.Error, OSError):
        return {}
