"""A new operator's ten tasks, done in the console alone and with commands alone.

What is done, and in how many steps, is compared with docs/how-to/operator-tasks.md.
"""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from nebula.events.state import State
from tests.integration.browser import console
from tests.integration.cluster import Cluster
from tests.integration.operating import Browsing, Stage, Typing

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "operator-tasks.md"
TASK = re.compile(
    r"^## (?P<task>[^\n]+)\n.*?^Console: (?P<console>[^\n]+)$"
    r".*?^```console\n(?P<commands>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ROW = re.compile(r"^\| (?P<task>[^|]+) \| (?P<console>\d+) \| (?P<commands>\d+) \|$", re.MULTILINE)
SEPARATOR = " → "


class Task(NamedTuple):
    """A task: what makes it one, and the two ways to do it."""

    prepare: Callable[[Stage], Awaitable[None]]
    in_console: Callable[[Stage, Browsing], Awaitable[None]]
    by_command: Callable[[Stage, Typing], Awaitable[None]]


async def nothing(_: Stage) -> None:
    """Nothing has to be made first."""


async def slow_in_console(_: Stage, hand: Browsing) -> None:
    await hand.sees("translate is slow")
    await hand.sees("because its replica takes 1 request at a time")


async def slow_by_command(_: Stage, hand: Typing) -> None:
    await hand.run("status", "translate is slow", "because its replica takes 1 request at a time")


def held(state: State, node: str) -> list[str]:
    """Return the replicas on a node."""
    return [each.id for each in state.replicas.values() if each.node == node]


async def drained_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.click("Nodes")
    await hand.click("n2", within="main")
    await hand.click("Drain")
    await hand.confirm("Drain n2")
    await hand.sees("0 replicas")
    assert not held(await stage.cluster.state(), "n2")
    await hand.click("Take replicas again")
    await hand.confirm("Take replicas again")
    await hand.sees("ready", "h1")


async def drained_by_command(stage: Stage, hand: Typing) -> None:
    await hand.run("drain n2")
    assert not held(await stage.cluster.state(), "n2")
    await hand.run("drain n2 --undo")
    assert not (await stage.cluster.state()).nodes["n2"].draining


async def kim_changed(stage: Stage) -> None:
    await stage.load("summarise", options={"max-model-len": 8192})
    await stage.cluster.stands("summarise")
    await stage.kim_changes()


async def undone(stage: Stage) -> None:
    state = await stage.cluster.state()
    assert state.models["summarise"].spec.options == {"max-model-len": 8192}
    assert state.models["chat-v2"].spec.fallback == ("chat-v1",), "not the colleague's change"


async def undone_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.click("Models")
    await hand.click("summarise")
    await hand.click("Roll back")
    await hand.sees("(by key:kim)", "#field-to")
    await hand.sees("max-model-len=1024 → max-model-len=8192", ".change")
    await hand.confirm(f"Roll back to event {stage.kims - 1}")
    await hand.sees("Asked for: event")
    await undone(stage)


async def undone_by_command(stage: Stage, hand: Typing) -> None:
    await hand.run("events --by key:kim", str(stage.kims), "max-model-len 1024")
    back = f"revert --to {stage.kims - 1} --only model/summarise"
    await hand.run(f"{back} --plan", "max-model-len=8192")
    await hand.run(f"{back} --yes")
    await undone(stage)


async def without_a_place_in_console(_: Stage, hand: Browsing) -> None:
    await hand.sees("Add a node with a device that has 75.0 GiB free")
    await hand.click("Why giant")
    for node in ("n1", "n2", "n3"):
        await hand.sees(f"not {node}/gpu0", ".reasons")


async def without_a_place_by_command(_: Stage, hand: Typing) -> None:
    places = (f"not {node}/gpu0" for node in ("n1", "n2", "n3"))
    await hand.run("why giant", *places, "Add a node with a device that has 75.0 GiB free")


async def limited_again(stage: Stage) -> None:
    await stage.ask("PATCH", "/admin/keys/etl", {"limits": {"tokens_per_month": 50_000_000}})


async def lowered(stage: Stage) -> None:
    limits = (await stage.cluster.state()).keys["etl"].limits
    assert limits.tokens_per_month == 1_000_000


async def lowered_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.click("Usage")
    await hand.click("30 days")
    await hand.sees("etl", "[aria-label=Usage] tbody tr:first-child")
    await hand.click("etl", within="[aria-label=Usage]")
    await hand.click("Change")
    await hand.fill("tokens per month", "1000000")
    await hand.click("Change etl")
    await hand.sees("Its rights were changed.")
    await lowered(stage)


async def lowered_by_command(stage: Stage, hand: Typing) -> None:
    told = await hand.run("usage --by key")
    assert "key:etl" in told.splitlines()[1]
    await hand.run("key change etl --limit tokens-per-month=1000000")
    await lowered(stage)


async def failed(stage: Stage) -> None:
    stage.failed = await stage.fail()
    stage.names[stage.failed] = "REQUEST"


async def explained_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.click("Requests")
    await hand.fill("Id of a request", stage.failed)
    await hand.press("Enter")
    await hand.sees("X-Request-Timeout")


async def explained_by_command(stage: Stage, hand: Typing) -> None:
    await hand.run(f"why request {stage.failed}", "X-Request-Timeout")


async def first_version(stage: Stage) -> None:
    await stage.ask("PUT", "/admin/aliases/prod-chat", {"targets": [{"model": "chat-v1"}]})


async def moved(stage: Stage) -> None:
    targets = (await stage.cluster.state()).aliases["prod-chat"].targets
    assert [each.model for each in targets if each.weight] == ["chat-v2"]


async def moved_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.click("Aliases")
    await hand.click("prod-chat", within="main")
    await hand.click("Change its models")
    await hand.click("Add a model")
    await hand.fill("Model 2", "chat-v2")
    await hand.fill("Of 100 requests to chat-v2", "10")
    await hand.confirm("Change prod-chat")
    await hand.sees("10 %", "tbody")
    await hand.click("Change its models")
    await hand.fill("Of 100 requests to chat-v2", "100")
    await hand.confirm("Change prod-chat")
    await hand.sees("100 %", "tbody")
    await moved(stage)


async def moved_by_command(stage: Stage, hand: Typing) -> None:
    await hand.run("alias prod-chat chat-v1=90 chat-v2=10")
    await hand.run("aliases", "10")
    await hand.run("alias prod-chat chat-v2")
    await moved(stage)


async def pinned(stage: Stage) -> None:
    await stage.pin()
    await stage.cluster.stands("ledger")


async def mended_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.click("Nodes")
    await hand.click("If one is lost")
    await hand.sees("The loss of 1 node of 3")
    await hand.click("ledger")
    await hand.click("Change")
    await hand.open("Where it may run, its adapters, and how it follows the load")
    await hand.fill("Only on the node", "")
    await hand.confirm("Change ledger")
    await hand.sees("Asked for: event")
    assert (await stage.cluster.state()).models["ledger"].spec.node == ""


async def mended_by_command(_: Stage, hand: Typing) -> None:
    await hand.run("resilience", "the loss of 1 node of 3", "ledger")
    await hand.run("load models/ledger --id ledger --memory 8GiB", "only on: n1")
    await hand.run("resilience --check")


async def issued_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.click("Keys")
    await hand.click("Issue a key")
    await hand.fill("Id (empty: one is made up)", "robin")
    await hand.fill("Models that it may ask for (* stands for any text)", "chat-v1")
    await hand.click("Issue the key")
    await hand.sees("Keep the secret of robin")
    await hand.click("robin", within="main")
    await hand.click("Revoke")
    await hand.click("Revoke robin")
    await hand.sees("It is revoked.")
    assert (await stage.cluster.state()).keys["robin"].revoked_ns


async def issued_by_command(stage: Stage, hand: Typing) -> None:
    await hand.run("key issue sasha --model chat-v1")
    await hand.run("key revoke sasha")
    assert (await stage.cluster.state()).keys["sasha"].revoked_ns


async def moments(stage: Stage) -> None:
    stage.names |= {str(stage.before): "BEFORE", str(stage.after): "AFTER"}


async def compared_in_console(stage: Stage, hand: Browsing) -> None:
    await hand.fill("Go to a moment", str(stage.before))
    await hand.press("Enter")
    await hand.sees(str(stage.before), ".timebar.past output")
    await hand.fill("Go to a moment", str(stage.after))
    await hand.press("Enter")
    await hand.sees(str(stage.after), ".timebar.past output")
    await hand.click("Events")
    await hand.sees("EngineFailed")
    await hand.click("Compare")
    await hand.fill("From", str(stage.before))
    await hand.press("Enter")
    await hand.sees(f"What changed from event {stage.before} to {stage.after}")
    await hand.sees("ledger-0", "tbody")


async def compared_by_command(stage: Stage, hand: Typing) -> None:
    await hand.run(f"state --at {stage.before}", "ledger")
    await hand.run(f"events --since {stage.before} --until {stage.after}", "EngineFailed")
    await hand.run(f"diff {stage.before} {stage.after}", "ledger-0")


TASKS = {
    "Find the model that is slow, and why": Task(nothing, slow_in_console, slow_by_command),
    "Empty a node for maintenance, and take it back": Task(
        nothing, drained_in_console, drained_by_command
    ),
    "Undo a colleague's change, and no other": Task(
        kim_changed, undone_in_console, undone_by_command
    ),
    "Find out why a model has no place, and what would give it one": Task(
        nothing, without_a_place_in_console, without_a_place_by_command
    ),
    "Find the key that used most, and lower its limit": Task(
        limited_again, lowered_in_console, lowered_by_command
    ),
    "Find out why a request failed": Task(failed, explained_in_console, explained_by_command),
    "Send a tenth of an alias's requests to a new version, then all": Task(
        first_version, moved_in_console, moved_by_command
    ),
    "See what would be lost with a node, and mend that": Task(
        pinned, mended_in_console, mended_by_command
    ),
    "Issue a key for one model, and revoke it": Task(nothing, issued_in_console, issued_by_command),
    "Look at the cluster before an incident, and at what changed": Task(
        moments, compared_in_console, compared_by_command
    ),
}


@pytest.fixture(scope="module")
def published() -> dict[str, tuple[list[str], list[str]]]:
    """Return the steps of each task as the page has them: in the console, and commands."""
    text = PAGE.read_text()
    found = {}
    for each in TASK.finditer(text):
        lines = each["commands"].splitlines()
        steps = [] if each["console"] == "look." else each["console"].split(SEPARATOR)
        found[each["task"]] = (steps, [line.removeprefix("$ ") for line in lines])
    return found


def test_the_pages_table_has_the_numbers_of_its_steps(
    published: dict[str, tuple[list[str], list[str]]],
) -> None:
    told = {
        row["task"]: (int(row["console"]), int(row["commands"]))
        for row in ROW.finditer(PAGE.read_text())
    }
    assert told == {task: (len(one), len(two)) for task, (one, two) in published.items()}
    assert list(told) == list(TASKS)


async def test_the_ten_tasks_take_the_published_steps(
    own_cluster: Cluster, published: dict[str, tuple[list[str], list[str]]]
) -> None:
    stage = Stage(own_cluster)
    await stage.set()
    base = f"http://127.0.0.1:{own_cluster.port}"
    done: dict[str, tuple[list[str], list[str]]] = {}
    async with console(base) as seen, stage.asked():
        for task, (prepare, in_console, by_command) in TASKS.items():
            await prepare(stage)
            await seen.open()
            browsing = Browsing(seen, stage.names)
            await in_console(stage, browsing)
            await prepare(stage)
            typing = Typing(own_cluster, stage.names)
            await by_command(stage, typing)
            done[task] = (browsing.steps, typing.steps)
            stage.names.clear()
        refused = "Failed to load resource"  # a form that is half filled in can't be planned
        seen.faults[:] = [each for each in seen.faults if refused not in each]
    assert done == published
