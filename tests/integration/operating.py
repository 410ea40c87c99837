"""What an operator finds at work: a cluster with a history and load; and hands that count steps.

A step in the console is a click, a key press or a field filled in; with commands it is a command.
Looking does not count. Both hands write down what they did, in the words of the page
docs/how-to/operator-tasks.md.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from playwright.async_api import Page

from nebula.events.vocabulary import EngineFailed
from tests.integration.asking import CHAT, chat
from tests.integration.browser import Console
from tests.integration.cluster import Cluster

NODES = {"n1": "a", "n2": "b", "n3": "b"}
ADMIN, KIM = "ops", "kim"
WAITING = 4
"""Requests that are always in the line of the slow model, at least."""


class Written:
    """What was done, as the page writes it. `names`: what the page calls things of this run."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.steps: list[str] = []

    def note(self, step: str) -> None:
        """Write a step down."""
        for found, called in self._names.items():
            step = re.sub(rf"\b{re.escape(found)}\b", called, step)
        self.steps.append(step)


class Browsing(Written):
    """A hand on the console, which begins at its first page."""

    def __init__(self, seen: Console, names: Mapping[str, str]) -> None:
        super().__init__(names)
        self._seen = seen
        self.page: Page = seen.page

    async def click(self, name: str, *, within: str = "body", role: str = "") -> None:
        """Click a link, a button or a box by its name."""
        place = self.page.locator(within)
        found = place.get_by_role("link", name=name, exact=True)
        for other in ("button", "checkbox", "option") if not role else (role,):
            found = found.or_(place.get_by_role(other, name=name, exact=True))
        await found.first.click()
        self.note(f"**{name}**")

    async def fill(self, label: str, text: str) -> None:
        """Fill a field in."""
        await self.page.get_by_label(label).first.fill(text)
        self.note(f"{label} `{text}`")

    async def confirm(self, name: str) -> None:
        """Press the button of a plan. A plan that has moved meanwhile is shown anew first."""
        button = self.page.locator(".change form").get_by_role("button", name=name, exact=True)
        status = 409
        while status == 409:
            async with self.page.expect_response("**/admin/changes") as answer:
                await button.click()
            status = (await answer.value).status
        assert status < 300, f"{name}: HTTP {status}"
        self.note(f"**{name}**")

    async def open(self, summary: str) -> None:
        """Click what opens the rest of a form."""
        await self.page.locator("summary", has_text=summary).click()
        self.note(f"**{summary}**")

    async def press(self, key: str) -> None:
        """Press a key."""
        await self.page.keyboard.press(key)
        self.note(f"[{key}]")

    async def sees(self, text: str, where: str = "main") -> None:
        """Wait until the page shows a text; that does not count as a step."""
        await self._seen.sees(text, where)


class Typing(Written):
    """A hand on the command line."""

    def __init__(self, cluster: Cluster, names: Mapping[str, str]) -> None:
        super().__init__(names)
        self._cluster = cluster

    async def run(self, line: str, *told: str) -> str:
        """Run a command; what it says has to contain some texts."""
        said = await self._cluster.nebula(*line.split())
        self.note(f"nebula {line}")
        assert said.code == 0, f"nebula {line}\n{said.out}{said.err}"
        for each in told:
            assert each in said.out + said.err, (
                f"nebula {line}\n{each!r} is not in:\n{said.out}{said.err}"
            )
        return said.out


class Stage:
    """A cluster of three machines, with what has happened there."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.secrets: dict[str, str] = {}
        self.before = self.after = self.kims = 0
        self.failed = ""
        self.names: dict[str, str] = {}
        """What the page calls ids and sequences of this run."""

    async def ask(self, method: str, path: str, body: object = None, by: str = ADMIN) -> Any:
        """Ask the gateway with a given key."""
        headers = {"authorization": f"Bearer {self.secrets[by]}"} if by in self.secrets else {}
        async with self.cluster.http() as http:
            answer = await http.request(method, path, json=body, headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.text}"
        return answer.json()

    async def load(self, identity: str, by: str = ADMIN, **fields: Any) -> Any:
        """Load a model, and return what was accepted."""
        request = {"id": identity, "source": f"models/{identity}", "memory": "8GiB", **fields}
        return await self.ask("POST", "/admin/models", request, by)

    async def set(self) -> None:
        """Build it: nodes, keys, models, a failed request, an incident."""
        cluster = self.cluster
        cluster.start("nats")
        cluster.start("router")
        cluster.start("gateway")
        for name, zone in NODES.items():
            devices = ("--devices", "gpu:80GiB", "--label", f"zone={zone}")
            cluster.start(f"node-{name}", "--name", name, *devices)
        await cluster.ready()
        await cluster.until(lambda state: len(state.nodes) == len(NODES), "all nodes are there")
        for name, fields in (
            (KIM, {"scopes": ["operate"]}),
            (
                "web",
                {"scopes": ["infer"], "tenant": "acme", "limits": {"tokens_per_month": 50_000_000}},
            ),
            (
                "etl",
                {"scopes": ["infer"], "tenant": "acme", "limits": {"tokens_per_month": 50_000_000}},
            ),
        ):
            issued = await self.ask("POST", "/admin/keys", {"id": name, **fields})
            self.secrets[name] = issued["secret"]
        await self.load("chat-v1")
        await self.load("chat-v2")
        await self.load("translate", max_in_flight=1, options={"simulate-first-token": 1.5})
        await self.load("summarise", options={"max-model-len": 8192})
        await self.pin()
        for each in ("chat-v1", "chat-v2", "translate", "summarise", "ledger"):
            await cluster.stands(each)
        await self.load("giant", memory="75GiB")
        await cluster.stands("giant", "unschedulable")
        await self.alias()
        await self.ask("POST", CHAT, chat("chat-v1", "word " * 9000), by="etl")
        await self.ask("POST", CHAT, chat("chat-v1"), by="web")
        await self._incident()

    async def _incident(self) -> None:
        """An engine dies and comes back."""
        self.before = await self.cluster.last_seq()
        os.kill((await self.cluster.engine("ledger-0")).pid, signal.SIGKILL)
        await self.cluster.logged(EngineFailed, "ledger-0", self.before)
        await self.cluster.stands("ledger")
        self.after = await self.cluster.last_seq()

    async def pin(self) -> None:
        """Load a model that can be on one node alone."""
        await self.load("ledger", node="n1")

    async def alias(self) -> None:
        """Let the alias stand for the first version."""
        await self.ask("PUT", "/admin/aliases/prod-chat", {"targets": [{"model": "chat-v1"}]})

    async def kim_changes(self) -> None:
        """Let a colleague change a model, and then let another colleague change another model."""
        accepted = await self.load("summarise", by=KIM, options={"max-model-len": 1024})
        self.kims = int(accepted["seq"])
        await self.cluster.stands("summarise")
        await self.load("chat-v2", fallback=["chat-v1"])
        self.names |= {str(self.kims): "CHANGE", str(self.kims - 1): "EARLIER"}

    async def fail(self) -> str:
        """Have a request fail, and return its id."""
        async with self.cluster.http() as http:
            headers = {"authorization": f"Bearer {self.secrets['web']}", "x-request-timeout": "0.5"}
            answer = await http.post(CHAT, json=chat("translate"), headers=headers)
        assert not answer.is_success, answer.text
        return answer.headers["x-request-id"]

    @contextlib.asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        """Have the slow model asked by more clients than it takes, all the time."""

        async def client() -> None:
            headers = {"authorization": f"Bearer {self.secrets['web']}"}
            async with self.cluster.http() as http:
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        await http.post(CHAT, json=chat("translate"), headers=headers)

        clients = [asyncio.create_task(client()) for _ in range(WAITING + 1)]
        try:
            yield
        finally:
            for each in clients:
                each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
