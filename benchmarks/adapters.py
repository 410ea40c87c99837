"""What answers under an adapter's name while its files change, move, break and differ.

`python -m benchmarks.adapters` from the repository's root; needs the engine and the demo's models.
A model on two replicas of real vLLM has one LoRA slot each. After each step every replica is asked,
at temperature 0, and its answer compared with the answer under a fresh name for the same files.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.cluster import Cluster, Wanted, start, two_replicas
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.ways import REPOSITORY, freeze
from benchmarks.session import context, folder_option, headline, keep, session
from nebula.actors.engine.versions import internal

MODEL, NAME, OTHER = "base", "poet", "other"
PATIENCE = 600.0
_ADAPTER = REPOSITORY / ".demo" / "nebula-adapter"
_WEIGHTS = "adapter_model.safetensors"
_SYSTEM = "You answer shortly. " * 40  # more than a block of the prefix cache


class Step(NamedTuple):
    """What was done, the answers of each replica after it, and those that were right."""

    what: str
    right: str
    answers: dict[str, str]
    told: str

    @property
    def good(self) -> bool:
        """Whether every replica answered as it should."""
        return bool(self.answers) and set(self.answers.values()) == {self.right}


class Load(NamedTuple):
    """What clients got while the name moved: statuses, and answers by their text."""

    statuses: dict[str, int]
    answers: dict[str, int]
    moves: int
    stale: int


class Asker:
    """Asks through the gateway, and each replica's engine by itself."""

    def __init__(self, cluster: Cluster, tokens: int) -> None:
        self._cluster = cluster
        self._tokens = tokens
        self._http = httpx.Client(trust_env=False, timeout=PATIENCE)

    def chat(self, name: str, url: str = "") -> httpx.Response:
        """Ask one question."""
        messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": "What is Nebula?"},
        ]
        body = {
            "model": name,
            "temperature": 0,
            "max_tokens": self._tokens,
            "messages": messages,
        }
        key = self._cluster.key_of(url) if url else {}
        url = url or self._cluster.gateways[0]
        return self._http.post(f"{url}/v1/chat/completions", json=body, headers=key)

    def said(self, name: str, url: str = "") -> str:
        """Return what is answered. Raise Failed."""
        answer = self.chat(name, url)
        if answer.status_code != 200:
            raise Failed(f"{name}: HTTP {answer.status_code}: {answer.text[:300]}")
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def versions(self, name: str) -> dict[str, list[str]]:
        """Return which versions of an adapter each replica has."""
        return dict(self._adapter(name)["versions"])

    def digest(self, name: str) -> str:
        """Return the version that a name stands for."""
        return str(self._adapter(name)["version"])

    def _adapter(self, name: str) -> dict[str, Any]:
        url = f"{self._cluster.gateways[0]}/admin/models/{MODEL}"
        adapters: list[dict[str, Any]] = self._http.get(url).json()["adapters"]
        return next(each for each in adapters if each["name"] == name)

    def of_each(self, name: str) -> dict[str, str]:
        """Return what the gateway passes on, and what each replica has under the name."""
        found = {"gateway": self.said(name)}
        own = internal(name, self.digest(name))
        for replica, url in sorted(self._cluster.engine_urls().items()):
            found[replica] = self.said(own, url)
        return found


def load(cluster: Cluster, name: str, source: Path) -> tuple[int, str]:
    """Run `nebula adapters load`; return its exit code and last line."""
    line = [sys.executable, "-m", "nebula.cli.main", "adapters", "load", MODEL, name, str(source)]
    environ = {**os.environ, "NEBULA_NATS_URL": cluster.nats}
    told = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=PATIENCE)
    lines = told.stderr.strip().splitlines() or [""]
    return told.returncode, next((each for each in lines if "version" in each), lines[0])


def zero(folder: Path) -> None:
    """Make an adapter in place one that changes nothing: its B weights become 0."""
    script = (
        "import sys, torch; from safetensors.torch import load_file, save_file; p = sys.argv[1]; "
        "w = load_file(p); save_file({k: torch.zeros_like(v) if 'lora_B' in k else v "
        "for k, v in w.items()}, p)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder / _WEIGHTS)], check=True)


def steps(cluster: Cluster, folder: Path, tokens: int) -> Iterator[Step]:
    """Yield what came of each step."""
    ask = Asker(cluster, tokens)
    poet, moved, broken = folder / "poet", folder / "moved", folder / "broken"
    shutil.copytree(_ADAPTER, poet)
    shutil.copytree(_ADAPTER, moved)
    shutil.copytree(_ADAPTER, broken)
    (broken / _WEIGHTS).write_bytes(b"not safetensors")

    _, told = load(cluster, NAME, poet)
    taught = ask.said(NAME)
    yield Step("loaded", taught, ask.of_each(NAME), told)

    zero(poet)
    load(cluster, OTHER, moved)
    ask.of_each(OTHER)
    yield Step(
        "changed in place, another adapter asked", taught, ask.of_each(NAME), "nothing asked for"
    )

    _, told = load(cluster, NAME, poet)
    load(cluster, "fresh-zeroed", poet)
    plain = ask.said("fresh-zeroed")
    if plain == taught:
        raise Failed("the zeroed adapter answers as the taught one does: nothing can be told")
    yield Step("asked for again", plain, ask.of_each(NAME), told)
    _, told = load(cluster, NAME, poet)
    yield Step("asked for again, unchanged", plain, ask.of_each(NAME), told)

    _, told = load(cluster, NAME, moved)
    load(cluster, "fresh-moved", moved)
    right = ask.said("fresh-moved")
    yield Step("moved to another folder", right, ask.of_each(NAME), told)

    for what, source in (("broken", broken), ("missing", folder / "nothere")):
        code, told = load(cluster, NAME, source)
        yield Step(f"{what}, exit {code}", right, ask.of_each(NAME), told)

    zero(moved)
    killed = cluster.kill("engine", 1)
    time.sleep(2)
    cluster.settle()
    _await(lambda: len(ask.versions(NAME)) == 2)
    yield Step(f"changed in place, {killed} killed and back", right, ask.of_each(NAME), "")


def _await(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise Failed("an adapter did not come back")
        time.sleep(0.2)


def under_load(cluster: Cluster, folder: Path, moves: int, clients: int, tokens: int) -> Load:
    """Move the name to and fro under clients that ask all the time."""
    ask = Asker(cluster, tokens)
    one, two = folder / "one", folder / "two"
    shutil.copytree(_ADAPTER, one)
    shutil.copytree(_ADAPTER, two)
    zero(two)
    load(cluster, NAME, one)
    texts = {one: ask.said(NAME)}
    load(cluster, NAME, two)
    texts[two] = ask.said(NAME)
    over = threading.Event()
    now = [two]
    got: list[tuple[float, float, str, str]] = []

    def client() -> None:
        own = Asker(cluster, tokens)
        while not over.is_set():
            began = time.monotonic()
            answer = own.chat(NAME)
            text = ""
            if answer.status_code == 200:
                text = answer.json()["choices"][0]["message"]["content"]
            got.append((began, time.monotonic(), str(answer.status_code), text))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    spans: list[tuple[float, float, str]] = []
    for number in range(moves):
        now[0] = (one, two)[number % 2]
        load(cluster, NAME, now[0])
        began = time.monotonic()
        time.sleep(3)
        spans.append((began + 0.1, time.monotonic(), texts[now[0]]))
    over.set()
    for thread in threads:
        thread.join()
    stale = sum(
        text != right
        for began, _, _, text in got
        for start_at, end, right in spans
        if start_at < began < end
    )
    names = {text: folder.name for folder, text in texts.items()}
    return Load(
        dict(Counter(status for _, _, status, _ in got)),
        dict(Counter(names.get(text, f"neither: {text}") for *_, text in got)),
        moves,
        stale,
    )


def table(found: Sequence[Step]) -> str:
    """Write what answered after each step."""
    lines = ["| after | answers | as a fresh name | told |", "| --- | --- | --- | --- |"]
    for step in found:
        said = "; ".join(sorted({text[:40] for text in step.answers.values()}))
        good = f"{sum(text == step.right for text in step.answers.values())}/{len(step.answers)}"
        lines.append(f"| {step.what} | {said} | {good} | {step.told[:150]} |")
    return "\n".join(lines)


def main() -> None:
    """Do all of it and print. Raise Failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("--tokens", type=int, default=12, help="of each answer [12]")
    parser.add_argument("--moves", type=int, default=6, help="of the name, under load [6]")
    parser.add_argument("--clients", type=int, default=3, help="that ask meanwhile [3]")
    parser.add_argument("--json", type=Path, help="write all figures here")
    folder_option(parser)
    options = parser.parse_args()
    facts = context()
    model = Wanted(MODEL, {**two_replicas(), "lora": True}, PATIENCE)
    found = []
    with session("adapters", options.folder) as folder:
        copy = freeze((), folder / "sources")[REPOSITORY]
        with start(folder / "cluster", copy, [model], routers=1) as cluster:
            for step in steps(cluster, folder, options.tokens):
                found.append(step)
                print(json.dumps(step._asdict()), file=sys.stderr, flush=True)
            load_told = under_load(cluster, folder, options.moves, options.clients, options.tokens)
    print(f"{headline(facts)}\n\n{table(found)}\n\nunder load: {load_told._asdict()}")
    keep(options.json, facts, steps=[each._asdict() for each in found], load=load_told._asdict())
    if not all(step.good for step in found) or load_told.stale:
        raise Failed("an answer was not that of a fresh name")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(str(error)) from error
