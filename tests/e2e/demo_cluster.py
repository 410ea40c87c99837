"""The demo cluster as a stranger runs it, and the ways to hurt it that the tests need."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from tests.engines import socket_of_engine
from tests.ports import free_port

CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
ADAPTER = "nebula-adapter"
# vLLM scores pairs of texts with classifiers of one class only. The demo's model has no weights for
# classes, and vLLM would leave what is in memory: they are made from those of two tokens.
ONE_CLASS = {
    "num_labels": 1,
    "classifier_from_token": ["no", "yes"],
    "method": "from_2_way_softmax",
}
PATIENCE = 240.0
COLD_START = 840.0  # two engines read gigabytes of libraries, which a cold disk hands out slowly


def metrics_of(engine: dict[str, Any]) -> str:
    """Return vLLM's own metrics, from its socket. `engine`: as `/admin/replicas` shows it."""
    transport = httpx.HTTPTransport(uds=socket_of_engine(engine["pid"], engine["port"]))
    with httpx.Client(
        base_url="http://localhost", transport=transport, timeout=60, trust_env=False
    ) as http:
        return http.get("/metrics").text


class DemoCluster:
    """`nebula up --demo` on free ports, its engines found by what the node marks them with."""

    def __init__(self, demo: Path, folder: Path) -> None:
        self.demo = demo
        self.folder = folder
        self.port = free_port()
        self.nats_port = free_port()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=120, trust_env=False
        )
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=120
        )
        self.process: subprocess.Popen[bytes] | None = None

    def up(self, *arguments: str, demo: bool = True) -> None:
        line = [sys.executable, "-m", "nebula.cli.main", "up", "--folder", str(self.folder)]
        line += ["--port", str(self.port), "--nats-port", str(self.nats_port)]
        # The tests end one engine again and again, at times soon after its start.
        line += ["--name", "here", "--restart-limit", "10"]
        line += ["--load-timeout", str(PATIENCE)]  # requests wait out an engine's restart
        line += ["--stall-limit", "45"]
        line += ["--demo", str(self.demo)] if demo else []
        line += arguments
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        with (self.folder / "up.log").open("ab") as output:
            self.process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
        self.until(self._answers, "the gateway is ready")
        self.until(self._opens, "the admin key is valid")

    def _opens(self) -> bool:
        path = self.folder / "admin.key"
        if not path.exists():
            return False
        self.http.headers["authorization"] = f"Bearer {path.read_text().strip()}"
        return self.http.get("/admin/models").status_code == 200

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "up.log").read_text()
        try:
            return self.http.get("/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def await_served(self, patience: float = PATIENCE) -> None:
        """Wait until both demo models and the adapter are in place."""
        self.until(
            lambda: self.serves(CHAT, EMBEDDING) and self.model(CHAT)["adapters"][0]["loaded"] == 1,
            "the demo is served",
            patience,
        )

    def models(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self.http.get("/admin/models").json()
        return answer

    def serves(self, *identities: str) -> bool:
        """Whether all replicas of these models are ready."""
        return {*identities} <= {model["id"] for model in self.models() if _well(model)}

    def model(self, identity: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get(f"/admin/models/{identity}").json()
        return answer

    def replica(self, identity: str) -> dict[str, Any]:
        return next(
            replica
            for replica in self.http.get("/admin/replicas").json()
            if replica["id"] == identity
        )

    def engine_pids(self) -> dict[str, int]:
        """The pids of all engines that serve, by replica."""
        return {
            replica["id"]: replica["engine"]["pid"]
            for replica in self.http.get("/admin/replicas").json()
            if replica["engine"] is not None and replica["phase"] == "ready"
        }

    def places(self) -> dict[str, tuple[str, tuple[int, ...], int]]:
        """Where each replica is: node, devices, memory."""
        return {
            replica["id"]: (replica["node"], tuple(replica["devices"]), replica["memory"])
            for replica in self.http.get("/admin/replicas").json()
        }

    def publish(self, subject: str, body: bytes) -> None:
        """Send exactly the bytes that `nats pub SUBJECT BODY` sends, as the operator."""
        context = json.loads((self.folder / "nats" / "roles" / "operator.json").read_bytes())
        hello = {"verbose": False, "user": context["user"], "pass": context["password"]}
        with socket.create_connection(("127.0.0.1", self.nats_port)) as wire:
            wire.recv(4096)
            wire.sendall(b"CONNECT %s\r\n" % json.dumps(hello).encode())
            wire.sendall(b"PUB %s %d\r\n%s\r\nPING\r\n" % (subject.encode(), len(body), body))
            answer = b""
            while b"PONG" not in answer:
                said = wire.recv(4096)
                assert said, answer
                answer += said

    def child(self, actor: str) -> psutil.Process:
        """The process of one actor under `nebula up`."""
        assert self.process is not None
        return next(
            process
            for process in psutil.Process(self.process.pid).children()
            if actor in process.cmdline() or actor in process.name()
        )

    def until(self, holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Wait for something to become true; fail with `what` and the cluster's own words."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            # A process that was looked at may just have ended.
            gone = (psutil.Error, httpx.HTTPError, KeyError, StopIteration, IndexError)
            with contextlib.suppress(*gone):
                if holds():
                    return
            time.sleep(0.2)
        raise AssertionError(f"not within {patience:.0f} s: {what}\n{self.last_words()}")

    def last_words(self) -> str:
        logs = sorted(self.folder.rglob("*.log"))
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            for log in logs
        )

    def kill_everything(self) -> None:
        """kill -9 of every process: `nebula up`, its children and all engines."""
        if self.process is not None:
            own = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for process in own:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
        for process in self.engine_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process = None

    def end(self) -> None:
        """End every process and close the test's own connections: a leaked one fails the run."""
        self.kill_everything()
        self.client.close()
        self.http.close()

    def engine_processes(self, replica: str = "") -> list[psutil.Process]:
        """Every living process of this cluster's engines, or of one replica's.

        Leaders are found by their environment; their children have written over theirs.
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                if (
                    environ.get("NEBULA_NODE_FOLDER", "").startswith(str(self.folder))
                    and replica in ("", environ.get("NEBULA_REPLICA"))
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found += [process, *process.children(recursive=True)]
        return found


def _well(model: dict[str, Any]) -> bool:
    return bool(model["status"]["phase"] == "ready")
