"""A cluster with two gateways that a real Prometheus watches as compose/observability has it."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from nebula.boards.panels import Board
from nebula.store import credentials
from tests.integration.asking import CHAT, EMBEDDINGS, chat
from tests.integration.cluster import Cluster
from tests.integration.prometheus import Prometheus, prometheus, until
from tests.integration.test_metrics import use
from tests.ports import free_port

OBSERVABILITY = Path(__file__).parents[2] / "compose" / "observability"
TENANT = "acme"
INTERVALS = {"15s": "1s", "10s": "1s", "30s": "5s"}
"""Tests don't wait as long as Prometheus does."""
CHOSEN = {"model": "(chat|full)", "node": "here", "tenant": TENANT}
"""What a reader chooses on the boards, as Grafana writes it."""


def configured(folder: Path, key: str, gateways: list[str]) -> Path:
    """Write Prometheus's configuration of compose for gateways elsewhere, and return it."""
    folder.mkdir()
    (folder / "view.key").write_text(key)
    text = (OBSERVABILITY / "prometheus.yaml").read_text()
    text = text.replace("/etc/prometheus/key", str(folder))
    text = text.replace("/etc/prometheus", str(OBSERVABILITY))
    for number, gateway in enumerate(gateways, start=1):
        text = text.replace(f"gateway-{number}:8000", gateway)
    for interval, instead in INTERVALS.items():
        text = text.replace(f"{interval}\n", f"{instead}\n")
    config = folder / "prometheus.yaml"
    config.write_text(text)
    return config


def chosen(expression: str) -> str:
    """Replace variables as Grafana does."""
    for name, value in {**CHOSEN, "__rate_interval": "20s", "__range": "1m"}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression


def data(series: list[dict[str, Any]]) -> bool:
    """Return whether there is a number to be shown."""
    return any(math.isfinite(float(each["value"][1])) for each in series)


def queries(board: Board) -> Iterator[tuple[str, str]]:
    """Yield the expressions of a board as its JSON has them, and where they stand."""
    whole = board.json()
    for panel in whole["panels"]:
        for target in panel.get("targets", ()):
            yield f"{board.name}: {panel['title']}", target["expr"]
    for mark in whole["annotations"]["list"]:
        yield f"{board.name}: {mark['name']}", mark["expr"]


class Observed:
    """A cluster in which everything has happened that boards show, and its Prometheus."""

    def __init__(self, cluster: Cluster, server: Prometheus) -> None:
        self.cluster = cluster
        self.server = server

    def answer(self, asked: list[tuple[str, str]]) -> None:
        """Wait until each query returns data; tell of those that don't."""
        left = dict.fromkeys(asked)

        def all_answered() -> bool:
            for each in list(left):
                if data(self.server.query(chosen(each[1]))):
                    del left[each]
            return not left

        until(all_answered, lambda: "\n".join(f"{where}\n  {chosen(what)}" for where, what in left))


@contextlib.contextmanager
def observed(folder: Path) -> Iterator[Observed]:
    """Run the cluster, watch it, and have its models asked all the time."""
    cluster = Cluster(folder)
    second = free_port()
    try:
        cluster.up()
        keys = asyncio.run(_begin(cluster))
        file = credentials.file_of(folder / "home" / "nats", "gateway")
        cluster.start("gateway-2", "--port", str(second), "--nats", f"file:{file}")
        config = configured(
            folder / "prometheus",
            keys["view"],
            [f"127.0.0.1:{cluster.port}", f"127.0.0.1:{second}"],
        )
        with (
            prometheus(folder / "prometheus", config) as server,
            _asked(cluster, keys),
        ):
            asyncio.run(use(cluster))
            yield Observed(cluster, server)
    finally:
        cluster.close()


async def _begin(cluster: Cluster) -> dict[str, str]:
    """Load what is asked from the beginning, and return the keys."""
    await cluster.ready()
    await cluster.load("embed", task="embedding", memory="64MiB")
    found = {}
    async with cluster.http() as http:
        limits = {"tokens_per_day": 1_000_000}
        answer = await http.put(f"/admin/limits/tenant/{TENANT}", json=limits)
        assert answer.status_code == 202, answer.text
        of_tenant = {"scopes": ["infer"], "tenant": TENANT}
        for name, fields in (
            ("view", {"scopes": ["view"]}),
            ("asking", {**of_tenant, "limits": limits}),
            ("limited", {**of_tenant, "limits": {"requests_per_minute": 1}}),
        ):
            issued = await http.post("/admin/keys", json=fields)
            assert issued.status_code == 201, issued.text
            found[name] = issued.json()["secret"]
    return found


@contextlib.contextmanager
def _asked(cluster: Cluster, keys: dict[str, str]) -> Iterator[None]:
    """Have a tenant ask all the time, with all kinds of outcome."""
    ended = threading.Event()
    address = f"http://127.0.0.1:{cluster.port}"

    def ask(key: str, path: str, body: dict[str, Any], timeout: str = "60") -> None:
        headers = {"authorization": f"Bearer {keys[key]}", "x-request-timeout": timeout}
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{address}{path}", json=body, headers=headers, trust_env=False)

    def ask_all() -> None:
        while not ended.wait(0.2):
            ask("asking", CHAT, chat("chat", max_tokens=4, stream=True))
            ask("asking", CHAT, chat("chat"), timeout="0.1")
            ask("asking", CHAT, chat("nobody"))
            ask("asking", EMBEDDINGS, {"model": "embed", "input": "a"})
            ask("limited", EMBEDDINGS, {"model": "embed", "input": "a"})

    thread = threading.Thread(target=ask_all)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
