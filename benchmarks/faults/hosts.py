"""A cluster on hosts of its own: network namespaces whose links can be cut, as switches fail.

Three hosts have a nats-server each (the log on all three), two of these a gateway and a router
too; three more hosts have a node each. The clients are on this machine. A link that is cut lets
packets vanish: nothing is reset, as at a power loss. Needs root and `iproute2`, `iptables`.
"""

import contextlib
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from benchmarks.cluster import Wanted
from benchmarks.data_plane.processes import Failed, await_answer, running
from benchmarks.data_plane.ways import REPOSITORY, await_model, environment
from nebula.store import server

from .waves import Disturbed

_NET = "10.77.9"
_SERVERS = ("h1", "h2", "h3")
_NODES = ("n1", "n2", "n3")
_ADDRESS = {name: f"{_NET}.{number}" for number, name in enumerate((*_SERVERS, *_NODES), 11)}
_HERE = f"{_NET}.99"

_APART = {"h1": "h1", "h2": "h2", "n1": "h2", "n2": "h2", "n3": "h2"}
"""At which server each host's processes are to begin with, where two hosts are to be cut apart."""


class Hosts:
    """The hosts, and what can be done to them; it runs already: `start` makes one.

    `apart`: one gateway and router begin at the first server, all else at the second; else each
    process begins at the server that its client draws.
    """

    def __init__(self, folder: Path, copy: Path, engine: Sequence[str], apart: bool) -> None:
        self.folder = folder
        self._copy = copy
        self._engine = engine
        self._apart = apart
        self._prefix = f"nb{os.getpid() % 100000}"
        self.gateways: Sequence[str] = [f"http://{_ADDRESS[host]}:8000" for host in ("h1", "h2")]
        self.nats = ",".join(f"nats://{_ADDRESS[host]}:4222" for host in _SERVERS)

    # The network

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Make the hosts and the switch between them; they go with the context. Raise Failed."""
        try:
            self._make("br")
            _run(f"ip -n {self._space('br')} link add br0 type bridge")
            _run(f"ip -n {self._space('br')} link set br0 up")
            for name, address in _ADDRESS.items():
                self._make(name)
                self._plug(name)
                inside = self._space(name)
                _run(f"ip -n {inside} link set {self._port(name)}i name eth0")
                _run(f"ip -n {inside} addr add {address}/24 dev eth0")
                _run(f"ip -n {inside} link set eth0 up")
            self._plug("cl")
            _run(f"ip addr add {_HERE}/24 dev {self._port('cl')}i")
            _run(f"ip link set {self._port('cl')}i up")
            yield
        finally:
            for name in ("br", *_ADDRESS):
                _run(f"ip netns del {self._space(name)}", check=False)

    def _space(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _port(self, host: str) -> str:
        return f"{self._prefix}{host}"

    def _make(self, host: str) -> None:
        _run(f"ip netns add {self._space(host)}")
        _run(f"ip -n {self._space(host)} link set lo up")

    def _plug(self, host: str) -> None:
        """Lay a cable from a host, or from here, to the switch."""
        port, switch = self._port(host), self._space("br")
        _run(f"ip link add {port}i type veth peer name {port}")
        if host in _ADDRESS:
            _run(f"ip link set {port}i netns {self._space(host)}")
        _run(f"ip link set {port} netns {switch}")
        _run(f"ip -n {switch} link set {port} master br0")
        _run(f"ip -n {switch} link set {port} up")

    def _links(self, hosts: Sequence[str], state: str) -> None:
        for host in hosts:
            _run(f"ip -n {self._space('br')} link set {self._port(host)} {state}")

    # The processes

    @contextlib.contextmanager
    def up(self, models: Sequence[Wanted]) -> Iterator[None]:
        """Start all parts, load the models, and end everything with the context. Raise Failed."""
        replicas = ("--stream-replicas", "3")
        with contextlib.ExitStack() as everything:
            for number, host in enumerate(_SERVERS, 1):
                everything.enter_context(self._server(host, number))
            for host in ("h1", "h2"):
                everything.enter_context(self._part("router", host, *replicas))
            gateways = [
                everything.enter_context(
                    self._part("gateway", host, *replicas, "--host", "0.0.0.0")
                )
                for host in ("h1", "h2")
            ]
            for host in _NODES:
                line = ["--folder", str(self.folder / host), "--name", host, "--grace", "5"]
                line += ["--engine-command", shlex.join(self._engine), "--restart-limit", "1000"]
                everything.enter_context(self._part("node", host, *replicas, *line))
            self._await = [
                (url, process, self.folder / f"gateway-{host}.log")
                for url, process, host in zip(self.gateways, gateways, ("h1", "h2"), strict=True)
            ]
            for url, process, log in self._await:
                await_answer(f"{url}/ready", process, log)
            for model in models:
                wish = {"id": model.id, **model.fields}
                answer = httpx.post(
                    f"{self.gateways[0]}/admin/models", json=wish, trust_env=False, timeout=20
                )
                if answer.status_code != 202:
                    raise Failed(f"{model.id} is not loaded: {answer.text}")
            self._models = models
            self.settle()
            for file in self.folder.glob("*.url"):
                file.write_text(self.nats)
            yield

    def settle(self) -> None:
        """Wait until both gateways are ready and every model serves. Raise Failed."""
        for url, process, log in self._await:
            await_answer(f"{url}/ready", process, log)
            for model in self._models:
                await_model(url, model.id, process, log, model.patience)

    def _server(
        self, host: str, number: int
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        routes = ", ".join(f"nats://{_ADDRESS[each]}:6222" for each in _SERVERS)
        environ = {
            "NATS_NAME": f"nats-{number}",
            "NATS_LISTEN": "0.0.0.0:4222",
            "NATS_MONITOR": "0.0.0.0:8222",
            "NATS_CLUSTER": "0.0.0.0:6222",
            "NATS_ROUTES": f"[{routes}]",
            "NATS_STORE": str(self.folder / f"store-{host}"),
        }
        config = self.folder / "nats.conf"
        config.write_text(without_locks((REPOSITORY / "compose" / "nats.conf").read_text()))
        line = [server.binary(), "--config", str(config)]
        return self._run("nats", host, line, environ)

    def _part(
        self, name: str, host: str, *arguments: str
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        nats = self.nats
        if self._apart:
            file = self.folder / f"{host}.url"
            file.write_text(f"nats://{_ADDRESS[_APART[host]]}:4222")
            nats = f"file:{file}"
        line = [sys.executable, "-m", "nebula.cli.main", name, "--nats", nats, *arguments]
        environ = {**environment(self._copy), "NEBULA_ENGINE_LISTEN": "port"}
        return self._run(name, host, line, environ)

    def _run(
        self, name: str, host: str, line: Sequence[str], environ: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        inside = ["ip", "netns", "exec", self._space(host), *line]
        return running(inside, self.folder / f"{name}-{host}.log", environ)

    def logs(self, name: str) -> list[str]:
        """Return all that processes of a name have written."""
        files = sorted(self.folder.glob(f"{name}-*.log"))
        return [file.read_text(errors="replace") for file in files]

    def moves(self) -> int:
        """Return how often gateways, routers and nodes have moved to another server."""
        names = ("gateway", "router", "node")
        return sum(log.count("has moved to NATS") for name in names for log in self.logs(name))

    # What is done to them

    def disturb(self, what: str, number: int) -> Disturbed:
        """Cut a host, a path or the leader of the log off, until it is undone. Raise Failed."""
        if what == "path":
            return self._cut_path("h1", "h2")
        if what == "leader":
            hosts = [self._leader()]
        elif what == "minority":
            hosts = ["h2", "h3"]
        else:
            hosts = [{"host": _SERVERS, "node": _NODES}[what][number]]
        self._links(hosts, "down")
        gateways = {place for place, host in enumerate(("h1", "h2")) if host in hosts}
        if what == "minority":
            gateways = {0, 1}  # the remaining one has no quorum
        return Disturbed(
            f"{', '.join(hosts)} cut off",
            frozenset(gateways),
            functools.partial(self._links, hosts, "up"),
        )

    def _cut_path(self, one: str, other: str) -> Disturbed:
        """Drop what two hosts send each other; each goes on hearing all others."""
        rules = [f"INPUT -s {_ADDRESS[other]}", f"OUTPUT -d {_ADDRESS[other]}"]
        inside = f"ip netns exec {self._space(one)} iptables"
        for rule in rules:
            _run(f"{inside} -A {rule} -j DROP")
        mend = functools.partial(_run, f"{inside} -F")
        return Disturbed(f"path {one} to {other} cut", undo=mend)

    def _leader(self) -> str:
        for host in _SERVERS:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, StopIteration):
                answer = httpx.get(
                    f"http://{_ADDRESS[host]}:8222/jsz?streams=1", trust_env=False, timeout=3
                )
                details = json.loads(answer.content)["account_details"][0]["stream_detail"]
                log = next(each for each in details if each["name"] == "NEBULA_EVENTS")
                return _SERVERS[int(log["cluster"]["leader"].rpartition("-")[2]) - 1]
        raise Failed("no server tells which one leads the log")

    def lost_nodes(self) -> int:
        """Return how often routers have declared a node lost, as their logs tell."""
        return sum(log.count("NodeLost n") for log in self.logs("router"))


def without_locks(config: str) -> str:
    """Return the configuration of a server in compose without its users and TLS."""
    return re.sub(r"(?m)^include .*\n|^ *tls \{[^}]*\}\n", "", config)


def _run(line: str, *, check: bool = True) -> None:
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise Failed(f"{line}: {done.stderr.strip()} (it needs root and iproute2)")


@contextlib.contextmanager
def start(
    folder: Path,
    copy: Path,
    models: Sequence[Wanted],
    *,
    engine: Sequence[str],
    apart: bool = False,
) -> Iterator[Hosts]:
    """Start a cluster of the Nebula in `copy` on hosts of its own. Raise Failed."""
    folder.mkdir(parents=True)
    hosts = Hosts(folder, copy, engine, apart)
    with hosts.network():
        try:
            with hosts.up(models):
                time.sleep(2)  # a leader of each stream is chosen
                yield hosts
        finally:
            _end_engines(folder)


def _end_engines(folder: Path) -> None:
    """End what a node that was killed or cut off in the last moment has left."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError, ValueError):
            if f"NEBULA_NODE_FOLDER={folder}".encode() in file.read_bytes():
                os.kill(int(file.parent.name), signal.SIGKILL)
