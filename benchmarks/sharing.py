"""What a chat engine and an embedding engine on one device take, beside what was planned for them.

`python -m benchmarks.sharing` from the repository's root; needs the engine and the demo's models.
Both are loaded without saying how much memory they need: their nodes measure the files. Chats and
embeddings are asked for at the same time. On a CPU what an engine takes is the memory that its
processes alone have (USS); on a GPU, what the driver says they hold of it.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from benchmarks.client import Answer, ask
from benchmarks.cluster import Cluster, Wanted, start
from benchmarks.data_plane.figures import percentile
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.streams import run
from benchmarks.data_plane.ways import REPOSITORY, freeze, real_model
from benchmarks.session import context, folder_option, headline, keep, session

GIB = 2**30
_DEMO = REPOSITORY / ".demo"
_CHAT = {
    "model": "chat",
    "messages": [{"role": "user", "content": "Tell of the sea."}],
    "max_tokens": 64,
}
_EMBEDDING = {"model": "embed", "input": ["a sentence about the sea"] * 32}


class Taken(NamedTuple):
    """An engine's memory, in bytes, and the device that it is on."""

    replica: str
    device: str
    planned: int
    used: int


def models() -> list[Wanted]:
    """Return both models, whose sizes are not given. Raise Failed."""
    chat = {key: value for key, value in real_model().items() if key != "memory"}
    embedding = {"source": str(_DEMO / "all-minilm-l6-v2"), "task": "embedding"}
    return [Wanted("chat", chat, 600), Wanted("embed", embedding, 600)]


async def ask_both(url: str, number: int) -> tuple[list[Answer], list[Answer]]:
    """Ask for so many chats and embeddings, all at once."""
    chat, embedding = (json.dumps(body).encode() for body in (_CHAT, _EMBEDDING))
    answers = await asyncio.gather(
        *(ask(f"{url}/v1/chat/completions", chat) for _ in range(number)),
        *(ask(f"{url}/v1/embeddings", embedding) for _ in range(number)),
    )
    bad = [answer for answer in answers if not answer.whole or answer.status != 200]
    if bad:
        raise Failed(f"{len(bad)} of {len(answers)} failed: {bad[0].status}")
    return answers[:number], answers[number:]


def taken(cluster: Cluster) -> list[Taken]:
    """Look at what each engine takes now."""
    url = f"{cluster.gateways[0]}/admin/replicas"
    replicas: list[dict[str, Any]] = httpx.get(url, trust_env=False, timeout=20).json()
    found = []
    for each in replicas:
        root = psutil.Process(each["engine"]["pid"])
        processes = [root, *root.children(recursive=True)]
        used = _on_gpus({process.pid for process in processes})
        if not used:
            used = sum(process.memory_full_info().uss for process in processes)
        device = f"{each['node']} {each['devices']}"
        found.append(Taken(each["id"], device, each["memory"], used))
    return found


def _on_gpus(pids: set[int]) -> int:
    """Return the bytes that processes hold of GPUs, as the driver says; 0 if there is none."""
    if shutil.which("nvidia-smi") is None:
        return 0
    line = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    told = subprocess.run(line, capture_output=True, text=True, check=False).stdout
    rows = [row.split(",") for row in told.splitlines() if row.count(",") == 1]
    return sum(int(mib) * 2**20 for pid, mib in rows if int(pid) in pids)


def table(engines: Sequence[Taken]) -> str:
    """Write what was planned and what was used, in GiB."""
    lines = ["| engine | device | planned, GiB | used, GiB |", "| --- | --- | --- | --- |"]
    for each in engines:
        planned, used = each.planned / GIB, each.used / GIB
        lines.append(f"| {each.replica} | {each.device} | {planned:.2f} | {used:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Start both, ask both, print. Raise Failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.sharing", description=__doc__)
    parser.add_argument("--requests", type=int, default=16, help="of each kind, at once [16]")
    parser.add_argument("--json", type=Path, help="write all figures here")
    folder_option(parser)
    options = parser.parse_args()
    facts = context()
    with session("sharing", options.folder) as folder:
        copy = freeze((), folder / "sources")[REPOSITORY]
        with start(folder / "cluster", copy, models(), routers=1) as cluster:
            began = time.monotonic()
            both = run(ask_both(cluster.gateways[0], options.requests))
            seconds = time.monotonic() - began
            engines = taken(cluster)
    print(headline(facts) + "\n")
    for what, answers in zip(("chats", "embeddings"), both, strict=True):
        waits = [answer.news - answer.asked for answer in answers]
        print(f"{len(answers)} {what}: all answered, p50 {percentile(waits, 0.5):.2f} s")
    print(f"all of them at once, in {seconds:.1f} s\n\n{table(engines)}")
    keep(options.json, facts, engines=[item._asdict() for item in engines])


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(str(error)) from error
