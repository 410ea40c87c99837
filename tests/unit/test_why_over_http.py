"""Why over HTTP: the same chain as `nebula why`, from a bounded stretch of the log."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nebula.cli.main import main
from nebula.http.console import why
from nebula.http.console.file_log import FileLog
from nebula.http.errors import ApiError
from nebula.http.scanning import Scans

pytestmark = pytest.mark.anyio

LOG = Path(__file__).parents[1] / "corpus" / "lost-node.jsonl"


async def told(**query: str) -> why.Explanation:
    """Return the answer to a question about the log; raise ApiError."""
    explain: Callable[..., Awaitable[why.Explanation]] = why.explain.fn
    return await explain(FileLog(LOG), Scans(), **query)


def by_command(*words: str) -> dict[str, Any]:
    ran = CliRunner().invoke(main, ["why", *words, "--log", str(LOG), "--json"])
    assert ran.exit_code == 0, ran.output
    found: dict[str, Any] = json.loads(ran.output)
    return found


@pytest.mark.parametrize(
    ("at", "kind", "name"),
    [
        ("12", "model", "poet"),
        ("12", "replica", "search-0"),
        ("12", "node", "n2"),
        ("18", "model", "poet"),
        ("18", "model", "chat"),
        ("18", "replica", "chat-1"),
        ("18", "node", "n2"),
        ("23", "model", "poet"),
        ("23", "replica", "poet-1"),
        ("23", "node", "n3"),
    ],
)
async def test_it_is_the_chain_that_the_command_tells(at: str, kind: str, name: str) -> None:
    found = await told(kind=kind, about=name, at=at)
    expected = await asyncio.to_thread(by_command, kind, name, "--at", at)
    assert (found.headline, found.todo) == (expected["headline"], expected["todo"])
    assert [(each.seq, each.text, each.depth, each.cause) for each in found.lines] == [
        (each["seq"], each["text"], each["depth"], each["cause"]) for each in expected["events"]
    ]
    assert [list(each.reasons) for each in found.lines] == [
        [text for text in each["reasons"] if "would have decided otherwise" not in text]
        for each in expected["events"]
    ]
    assert found.complete


async def test_a_stretch_that_begins_too_late_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why, "LONGEST", 8)
    monkeypatch.setattr(why, "MARGIN", 0)
    found = await told(about="poet", at="18")
    assert (found.since, found.complete) == (10, False)
    assert [each.seq for each in found.lines] == [10, 14, 16, 17]


@pytest.mark.parametrize(
    ("query", "status"),
    [({}, 400), ({"about": "nothing"}, 404), ({"about": "poet", "kind": "fruit"}, 400)],
)
async def test_what_does_not_exist_has_no_cause(query: dict[str, str], status: int) -> None:
    with pytest.raises(ApiError) as error:
        await told(**query)
    assert error.value.status == status
