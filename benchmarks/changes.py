"""Requests while everything changes: load, scale, aliases, a rolling change, drain, a lost machine.

`python -m benchmarks.changes` from the repository's root. Two nodes with simulated engines, each a
process with a folder of its own, and with `--vllm` a third with real vLLM, whose model embeds. All
the while clients ask for answers at once, for streams and for embeddings. Every step has to be
done without one error; a table tells what came of the requests that were under way in it.
"""

import argparse
import asyncio
import contextlib
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.data_plane.processes import Failed, await_answer, free_port, running
from benchmarks.data_plane.ways import REPOSITORY, SIMULATED, environment, freeze
from benchmarks.session import session

LOST_AFTER = 20.0
EMBEDDING = REPOSITORY / ".demo" / "all-minilm-l6-v2"
NAME = "prod-chat"
CHAT: dict[str, Any] = {
    "source": "chat-a",
    "memory": "256MiB",
    "replicas": 2,
    "labels": {"engine": "simulated"},
    "options": {"simulate-token": 0.02, "simulate-start": 1},
}


class Clients:
    """Some that ask for an answer at once, some that read streams, one that embeds."""

    def __init__(self, url: str, *, embedding: bool) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=90, trust_env=False)
        self._embedding = embedding
        self.step = ""
        self.counts: dict[str, Counter[str]] = {}

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Ask without a pause, one request after the other each."""
        kinds: list[Callable[[], Awaitable[str]]] = [*[self._chat] * 4, *[self._stream] * 4]
        kinds += [self._embed] if self._embedding else []
        tasks = [asyncio.create_task(self._ask_on(kind)) for kind in kinds]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._http.aclose()

    async def _ask_on(self, kind: Callable[[], Awaitable[str]]) -> None:
        while True:
            step = self.step
            try:
                wrong = await kind()
            except httpx.HTTPError as error:
                wrong = repr(error)
            self.counts.setdefault(step, Counter())[wrong] += 1
            if wrong:
                await asyncio.sleep(0.1)

    async def _chat(self) -> str:
        body = _chat(24)
        answer = await self._http.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            return f"{answer.status_code}: {answer.text[:200]}"
        said = answer.json()["choices"][0]["message"]["content"].split()
        return "" if len(said) == 24 else f"{len(said)} words of 24"

    async def _stream(self) -> str:
        body = {**_chat(60), "stream": True}
        events = []
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code}: {(await answer.aread())[:200].decode()}"
            async for line in answer.aiter_lines():
                events += [line] if line else []
        if any('"error"' in event for event in events):
            return next(event for event in events if '"error"' in event)[:200]
        words = sum('"content":"' in event and '"content":""' not in event for event in events)
        return "" if words == 60 and events[-1] == "data: [DONE]" else f"{words} words of 60"

    async def _embed(self) -> str:
        body = {"model": "embed", "input": ["a cat", "a tax form"]}
        answer = await self._http.post("/v1/embeddings", json=body)
        if answer.status_code != 200:
            return f"{answer.status_code}: {answer.text[:200]}"
        return "" if len(answer.json()["data"]) == 2 else "not two vectors"


def _chat(tokens: int) -> dict[str, Any]:
    said = [{"role": "user", "content": "tell me what is changing"}]
    return {"model": NAME, "messages": said, "max_tokens": tokens}


class Cluster:
    """What is changed, and the way to know that it has."""

    def __init__(self, url: str, nats: str, folder: Path, copy: Path) -> None:
        self.url = url
        self._http = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)
        self._nats = nats
        self._folder = folder
        self._copy = copy
        self._nodes = contextlib.ExitStack()
        self._pids: dict[str, int] = {}

    def node(self, name: str, engine: str, command: tuple[str, ...] = ()) -> None:
        """Start a node, whose label `engine` tells what it runs."""
        home = self._folder / name
        home.mkdir(exist_ok=True)
        line = [sys.executable, "-m", "nebula.cli.main", "node", "--nats", self._nats]
        line += ["--name", name, "--folder", str(home), "--label", f"engine={engine}"]
        line += ["--engine-command", shlex.join(command)] if command else []
        log = self._folder / f"{name}.log"
        process = self._nodes.enter_context(running(line, log, environment(self._copy)))
        self._pids[name] = process.pid

    def end(self) -> None:
        """End all nodes."""
        self._nodes.close()

    async def lose(self, name: str) -> None:
        """Kill a node's processes at once, as if its machine had lost its power."""
        pids = [
            each["engine"]["pid"]
            for each in (await self._http.get("/admin/replicas")).json()
            if each["node"] == name and each["engine"]
        ]
        for pid in (self._pids[name], *pids):
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    process.send_signal(signal.SIGKILL)

    async def load(self, model: str, **fields: Any) -> None:
        """Load a model, or change it."""
        await self._ask("POST", "/admin/models", {"id": model, **fields})

    async def alias(self, **targets: int) -> None:
        """Let the clients' name stand for models, by weight."""
        wish = {"targets": [{"model": key, "weight": value} for key, value in targets.items()]}
        await self._ask("PUT", f"/admin/aliases/{NAME}", wish)

    async def scale(self, model: str, replicas: int) -> None:
        """Change a model's number of replicas."""
        await self._ask("PATCH", f"/admin/models/{model}", {"replicas": replicas})

    async def drain(self, node: str, *, undo: bool = False) -> None:
        """Have a node emptied, or take it back."""
        await self._ask("DELETE" if undo else "POST", f"/admin/nodes/{node}/drain", None)

    async def _ask(self, method: str, path: str, body: Any) -> None:
        answer = await self._http.request(method, path, json=body)
        if answer.status_code >= 300:
            raise Failed(f"{method} {path}: {answer.status_code} {answer.text}")

    async def serves(
        self, model: str, replicas: int, patience: float = 60, options: Any = None
    ) -> None:
        """Wait until so many replicas of a model serve, all with these options. Raise Failed."""

        async def so() -> bool:
            here = await self._replicas()
            mine = [each for each in here if each["model"] == model and not each["retired"]]
            good = [
                each
                for each in mine
                if each["phase"] == "ready"
                and each["engine"]["version"] == each["version"]
                and options in (None, each["launch"]["options"])
            ]
            return len(good) == len(mine) == replicas

        await self._until(so, f"{replicas} replicas of {model} serve", patience)

    async def empty(self, node: str) -> None:
        """Wait until a node has only unwanted replicas. Raise Failed."""

        async def so() -> bool:
            here = await self._replicas()
            return all(each["retired"] or each["node"] != node for each in here)

        await self._until(so, f"{node} is empty", 60)

    async def _replicas(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._http.get("/admin/replicas")).json()
        return found

    async def _until(self, so: Callable[[], Awaitable[bool]], what: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not await so():
            if time.monotonic() > deadline:
                raise Failed(f"not so after {patience:.0f} s: {what}: {await self._replicas()}")
            await asyncio.sleep(0.1)


async def change(cluster: Cluster) -> AsyncIterator[str]:
    """Go through all steps; give each one's name when it begins, and "" at the end."""
    yield "two more replicas, and one fewer"
    await cluster.scale("chat-a", 4)
    await cluster.serves("chat-a", 4)
    await cluster.scale("chat-a", 3)
    await cluster.serves("chat-a", 3)
    yield "another model is loaded"
    await cluster.load("chat-b", **{**CHAT, "source": "chat-b", "replicas": 1})
    await cluster.serves("chat-b", 1)
    yield "a canary: one in ten"
    await cluster.alias(**{"chat-a": 9, "chat-b": 1})
    await asyncio.sleep(3)
    yield "the alias is moved"
    await cluster.alias(**{"chat-b": 1})
    await asyncio.sleep(3)
    await cluster.alias(**{"chat-a": 1})
    yield "a rolling change of three replicas"
    options = {**CHAT["options"], "simulate-token": 0.015}
    await cluster.load("chat-a", **{**CHAT, "options": options, "replicas": 3})
    await cluster.serves("chat-a", 3, options=options)
    yield "n2 is drained"
    await cluster.drain("n2")
    await cluster.empty("n2")
    yield "n2 is taken back, and gets a replica"
    await cluster.drain("n2", undo=True)
    await cluster.scale("chat-a", 4)
    await cluster.serves("chat-a", 4)
    yield f"n2's machine is lost: {LOST_AFTER:g} s until that is sure"
    await cluster.lose("n2")
    await cluster.empty("n2")
    await cluster.serves("chat-a", 4)
    yield "n2 comes back"
    cluster.node("n2", "simulated", SIMULATED)
    await cluster.scale("chat-a", 5)
    await cluster.serves("chat-a", 5)
    yield ""


@contextlib.contextmanager
def started(folder: Path, copy: Path) -> Iterator[Cluster]:
    """Start NATS, a router, a gateway and two nodes. Raise Failed."""
    port, nats = free_port(), free_port()
    line = [sys.executable, "-m", "nebula.cli.main", "up", "--no-node", "--port", str(port)]
    line += ["--nats-port", str(nats), "--folder", str(folder / "up"), "--routers", "2"]
    line += ["--lost-after", str(LOST_AFTER)]
    log = folder / "up.log"
    with running(line, log, environment(copy)) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/ready", process, log)
        cluster = Cluster(url, f"nats://127.0.0.1:{nats}", folder, copy)
        try:
            cluster.node("n1", "simulated", SIMULATED)
            cluster.node("n2", "simulated", SIMULATED)
            yield cluster
        finally:
            cluster.end()


async def run(cluster: Cluster, *, vllm: bool) -> list[tuple[str, float, Counter[str]]]:
    """Return what came of the requests of each step, and how long (s) it took. Raise Failed."""
    if vllm:
        cluster.node("n3", "vllm")
        await cluster.load(
            "embed",
            source=str(EMBEDDING),
            task="embedding",
            memory="2GiB",
            labels={"engine": "vllm"},
        )
    await cluster.load("chat-a", **CHAT)
    await cluster.serves("chat-a", 2)
    if vllm:
        await cluster.serves("embed", 1, 240)
    await cluster.alias(**{"chat-a": 1})
    clients = Clients(cluster.url, embedding=vllm)
    done = []
    async with clients.asking():
        began = time.monotonic()
        async for step in change(cluster):
            now = time.monotonic()
            if clients.step:
                done.append((clients.step, now - began))
            clients.step, began = step, now
    return [(step, seconds, clients.counts.get(step, Counter())) for step, seconds in done]


def main() -> int:
    """Start, change, print; give the exit code: 1 where a request failed. Raise Failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.changes", description=__doc__)
    parser.add_argument("--vllm", action="store_true", help="a third node with real vLLM")
    options = parser.parse_args()
    with session("changes", None) as folder:
        copy = freeze((), folder / "sources")[REPOSITORY]
        with started(folder, copy) as cluster:
            found = asyncio.run(run(cluster, vllm=options.vllm))
    print("| step | seconds | requests | failed |\n| --- | --- | --- | --- |")
    for step, seconds, counts in found:
        failed = sum(count for wrong, count in counts.items() if wrong)
        print(f"| {step} | {seconds:.1f} | {sum(counts.values())} | {failed or ''} |")
    for step, _, counts in found:
        for wrong, count in counts.items():
            if wrong:
                print(f"\n- {count} x while {step}: {wrong}")
    return int(any(wrong for _, _, counts in found for wrong in counts))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except Failed as error:
        raise SystemExit(str(error)) from error
