"""A cluster with something of everything, and every page and form of the console that shows it.

Names are as long as they may be, and not only Latin: a page must bear what people write.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from playwright.async_api import Page

from tests.integration.asking import CHAT, chat
from tests.integration.cluster import Cluster
from tests.integration.test_batches import jsonl, line, official, over, submitted
from tests.integration.test_console_keys import issue
from tests.integration.test_console_request import streaming

LONG = "a-model-with-a-very-long-name-" * 4 + "end"
HOLDER = "Überprüfung der Wörter, проверка слов, 文字を確かめる 🚀 " + "and-one-word-" * 11 + "end"
ALIAS = "名前/" + "of-many-words-" * 9 + "end"

Act = Callable[[Page], Awaitable[None]]


@dataclass(frozen=True)
class View:
    """Something that the console shows: a page's address, and what is done there before a look.

    `shows`: a selector of what must be there by then.
    """

    name: str
    path: str
    shows: str = "main h1"
    act: Act | None = None


@dataclass(frozen=True)
class Scene:
    """What a furnished cluster has, as far as addresses need it."""

    past: int
    calm: int
    request: str
    streaming: str
    batches: dict[str, str]


def press(*names: str) -> Act:
    """Return an act that presses buttons, one after another."""

    async def act(page: Page) -> None:
        for name in names:
            await page.get_by_role("button", name=name, exact=True).click()

    return act


async def _asked(cluster: Cluster, secret: str, model: str) -> str:
    async with cluster.http() as http:
        headers = {"authorization": f"Bearer {secret}"}
        answer = await http.post(CHAT, json=chat(model, "one two", max_tokens=5), headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


async def _models(cluster: Cluster) -> None:
    await cluster.load("chat", memory="64MiB", replicas=2, lora=True)
    await cluster.load(LONG, name=f"organisation/{LONG}", memory="64MiB")
    await cluster.load("vectors", memory="64MiB", task="embedding")
    source = f"/models/{LONG}"
    await cluster.load("huge", source=source, memory="900TiB", stands="unschedulable")
    broken = {"simulate-exit-at-start": 3}
    await cluster.load("broken", memory="64MiB", options=broken, stands="failed")
    await cluster.load("asleep", memory="64MiB", on_request=True, stands="asleep")
    slow = {"simulate-token": 0.05, "simulate-tokens": 5000}
    await cluster.load("slow", memory="64MiB", options=slow)


async def _batches(cluster: Cluster, secret: str) -> dict[str, str]:
    good = [line(f"c{n}", chat("chat", "word", max_tokens=3)) for n in range(3)]
    async with official(cluster, secret) as client:
        mixed = jsonl([*good, line("none", chat("nowhere"))])
        done = (await submitted(client, mixed, metadata={"purpose": HOLDER})).id
        wrong = (await submitted(client, b'{"<b>": 1}\n')).id
        waits = (await submitted(client, jsonl([line("a", chat("asleep"))]))).id
        await over(cluster, client, done)
        await over(cluster, client, wrong)
    await cluster.until(lambda state: state.batches[waits].lines == 1, "it is read")
    return {"done": done, "wrong": wrong, "waits": waits}


async def _adapters(cluster: Cluster) -> None:
    folder = cluster.folder / "adapters" / ("deep-folder-" * 12)
    folder.mkdir(parents=True)
    async with cluster.http() as http:
        for name in ("tone", "голос-" * 12):
            body = {"name": name, "source": str(folder)}
            answer = await http.post("/admin/models/chat/adapters", json=body)
            assert answer.status_code == 202, answer.text
        second = {"model": f"organisation/{LONG}", "weight": 10}
        aliases: dict[str, list[dict[str, Any]]] = {
            "best": [{"model": "chat", "weight": 90}, second],
            "gone": [{"model": "nowhere"}],
            ALIAS: [{"model": "vectors"}],
        }
        for name, targets in aliases.items():
            identity = "long" if name == ALIAS else name
            found = await http.put(
                f"/admin/aliases/{identity}", json={"name": name, "targets": targets}
            )
            assert found.status_code == 202, found.text


async def _keys(cluster: Cluster) -> str:
    secret = await issue(
        cluster,
        "holder",
        name=HOLDER,
        scopes=["infer", "view"],
        tenant="labor",
        limits={"tokens_per_day": 1_000_000, "in_flight": 64},
    )
    await issue(cluster, "k" * 128, models=[f"{LONG}-{n}" for n in range(4)], tenant="t" * 128)
    await issue(cluster, "left")
    async with cluster.http() as http:
        assert (await http.delete("/admin/keys/left")).status_code == 202
    return secret


@contextlib.asynccontextmanager
async def furnished(cluster: Cluster) -> AsyncIterator[Scene]:
    """Fill a cluster that runs, and keep a request in flight while it is looked at."""
    await cluster.ready()
    calm = await cluster.last_seq()
    secret = await _keys(cluster)
    await _models(cluster)
    await _adapters(cluster)
    request = await _asked(cluster, secret, "best")
    past = await cluster.last_seq()
    batches = await _batches(cluster, secret)

    async def summed() -> bool:
        async with cluster.http() as http:
            return bool((await http.get("/admin/usage?by=key")).json()["lines"])

    await cluster.poll(summed, "usage is recorded")
    async with streaming(cluster, "slow") as running:
        yield Scene(past, calm, request, running, batches)


async def _load_form(page: Page) -> None:
    await press("Load a model")(page)
    await page.get_by_label("Source", exact=True).fill(f"/simulated/{LONG}")
    await page.get_by_label("Memory of each replica").fill("64MiB")
    await page.get_by_text("Where it may run").click()
    await page.get_by_text("Decided on the cluster").wait_for()
    await page.get_by_text("The same as a command").click()


async def _wrong_form(page: Page) -> None:
    await press("Load a model")(page)
    await page.get_by_label("Source", exact=True).fill("/simulated")
    await page.get_by_label("Memory of each replica").fill("much")


async def _alias_form(page: Page) -> None:
    await press("Make an alias")(page)
    await page.get_by_label("Name for clients").fill(ALIAS + "2")
    await page.get_by_label("Model 1", exact=True).fill(LONG)
    await press("Add a model")(page)
    await page.get_by_label("Model 2", exact=True).fill("chat")


async def _adapter_form(page: Page) -> None:
    await press("Load an adapter")(page)
    await page.get_by_label("Name for clients").fill("new")
    await page.get_by_label("Source", exact=True).fill(f"/adapters/{LONG}")


async def _scale_form(page: Page) -> None:
    await press("Scale")(page)
    await page.get_by_role("spinbutton", name="Replicas").fill("1")
    await page.get_by_text("Decided on the cluster").wait_for()
    await page.get_by_text("The same as a command").click()


async def _playground(page: Page) -> None:
    await page.get_by_label("Model second").select_option(f"organisation/{LONG}")
    await press("Ask")(page)
    await page.get_by_text("all after").nth(1).wait_for()
    await page.locator("form", has_text="vectors").get_by_role("button", name="Compare").click()
    await page.locator("tbody").wait_for()
    await page.get_by_text("The same as code").click()


PLAN = ".change .card >> text=Decided on the cluster"


def views(scene: Scene) -> list[View]:
    """Return every page and form of a cluster that is furnished so."""
    batch = scene.batches
    return [
        View("home", "", ".concerns"),
        View("home-well", f"?at={scene.calm}", ".well"),
        View("moment-wrong", "?at=soon", ".failure"),
        View("models", "/models", "tbody"),
        View("models-none", "/models?find=none-such", "main p.soft"),
        View("models-past", f"/models?at={scene.past}", "tbody"),
        View("models-load", "/models", PLAN, _load_form),
        View("models-load-wrong", "/models", "#fault-memory[role=alert]", _wrong_form),
        View("model", "/models/chat", "tbody"),
        View("model-long", f"/models/{LONG}", "tbody"),
        View("model-huge", "/models/huge", "tbody"),
        View("model-broken", "/models/broken", "tbody"),
        View("model-none", "/models/none-such", "[role=alert]"),
        View("model-past", f"/models/chat?at={scene.past}", "tbody"),
        View("model-scale", "/models/chat", ".ways", _scale_form),
        View("model-change", "/models/chat?form=change", PLAN),
        View("model-adapter", "/models/chat", PLAN, _adapter_form),
        View("model-no-adapter", "/models/chat?form=no-adapter", PLAN),
        View("model-back", "/models/chat?form=roll-back", ".change select"),
        View("model-unload", f"/models/{LONG}?form=unload", PLAN),
        View("aliases", "/aliases", "tbody"),
        View("aliases-form", "/aliases", PLAN, _alias_form),
        View("alias", "/aliases/best", "tbody"),
        View("alias-change", "/aliases/best", PLAN, press("Change its models")),
        View("alias-gone", "/aliases/gone", "tbody"),
        View("alias-long", "/aliases/long", "tbody"),
        View("nodes", "/nodes", ".card"),
        View("node", "/nodes/here", "tbody"),
        View("node-drain", "/nodes/here?form=drain", PLAN),
        View("events", "/events", ".tree li"),
        View("events-past", f"/events?at={scene.past}", ".tree li"),
        View("events-of", f"/events?about=model/{LONG}", ".tree li"),
        View("events-none", "/events?about=model/none-such", ".tree"),
        View("compare", f"/compare?from={scene.calm}", "tbody"),
        View("compare-none", f"/compare?from={scene.past}&at={scene.past}", ".well"),
        View("requests", "/requests", "tbody"),
        View("request", f"/requests/{scene.request}", ".steps"),
        View("request-cancel", f"/requests/{scene.streaming}", ".change .card", press("Cancel")),
        View("request-none", "/requests/none-such", "[role=alert]"),
        View("why", "/why?about=huge&kind=model", ".tree"),
        View("why-empty", "/why"),
        View("playground", "/playground", "textarea"),
        View("playground-asked", "/playground", "pre", _playground),
        View("usage", "/usage", "tbody"),
        View("usage-past", f"/usage?at={scene.calm}", "h2"),
        View("keys", "/keys", "tbody"),
        View("keys-issue", "/keys", ".rights", press("Issue a key")),
        View("key", "/keys/holder", "tbody"),
        View("key-long", f"/keys/{'k' * 128}", "tbody"),
        View("key-change", "/keys/holder", ".rights", press("Change")),
        View("key-rotate", "/keys/holder", ".rights", press("Rotate")),
        View("key-revoke", "/keys/holder", ".rights", press("Revoke")),
        View("key-revoked", "/keys/left", "tbody"),
        View("batches", "/batches", "tbody"),
        View("batches-none", "/batches?find=none-such", "main p.soft"),
        View("batch", f"/batches/{batch['done']}", "tbody"),
        View("batch-wrong", f"/batches/{batch['wrong']}", "tbody"),
        View("batch-cancel", f"/batches/{batch['waits']}", ".change .card", press("Cancel")),
        View("no-page", "/none-such", "main h1"),
    ]
