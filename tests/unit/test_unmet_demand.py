"""How long models lacked a place, and how long they would have with other machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from nebula.cli.capacity import verdict
from nebula.cli.main import main
from nebula.events.demand import MINUTE, DemandRecord, ModelDemand
from nebula.events.memory import GIB
from nebula.events.record import Record
from nebula.events.vocabulary import ModelSlept, ModelWoken
from nebula.history.moments import Moment
from nebula.history.unmet_demand import Unmet, UnmetDemand, machine
from nebula.history.what_if import BadCondition, With
from tests.unit.story import SECOND, Story, cluster, gpus, load

LOG = str(Path(__file__).parents[1] / "corpus" / "lost-node.jsonl")


def short() -> Story:
    """Return a log in which `b` lacks a place from event 5 to event 7; an event each second."""
    story = cluster(n1=[80]).given("a", load(1, "60GiB"))
    story.settles()
    story.given("b", load(1, "60GiB")).settles()
    assert story.state.seq == 5
    story.given("n2", gpus(80)).settles()
    assert story.state.seq == 7
    return story


def unmet(story: Story, *machines: With, since: Moment | None = None) -> dict[str, Unmet]:
    demand = UnmetDemand(machines, since)
    for record in story.log:
        demand.take(record)
    return {each.model: each for each in demand.found()}


def test_the_time_without_a_place_is_counted() -> None:
    assert unmet(short()) == {"b": Unmet("b", 2.0, 2.0, 0.0)}


def test_a_machine_more_would_have_saved_it() -> None:
    assert unmet(short(), With("n4", (80 * GIB,)))["b"] == Unmet("b", 2.0, 0.0, 0.0)


def test_a_machine_that_is_too_small_saves_nothing() -> None:
    assert unmet(short(), With("n4", (40 * GIB,)))["b"].otherwise == 2.0


@pytest.mark.parametrize(
    ("since", "seconds"),
    [
        (Moment(seq=1), 2.0),
        (Moment(seq=6), 1.0),
        (Moment(time=int(5.5 * SECOND)), 1.5),
        (Moment(time=60 * SECOND), 0.0),
    ],
)
def test_only_the_window_counts(since: Moment, seconds: float) -> None:
    found = unmet(short(), since=since)
    assert (found["b"].lacking if found else 0.0) == seconds


def test_the_time_after_the_last_event_counts_up_to_now() -> None:
    story = cluster(n1=[80]).given("a", load(1, "90GiB"))
    story.settles()
    demand = UnmetDemand()
    for record in story.log:
        demand.take(record)
    demand.until(story.state.time + 30 * SECOND)
    demand.until(story.state.time)
    assert demand.found() == [Unmet("a", 30.0, 31.0, 0.0)]  # decided at once, not later
    assert demand.seconds == 32.0


def test_a_model_that_was_woken_waits_until_a_replica_serves() -> None:
    story = cluster(n1=[80]).given("a", load(1, "8GiB", on_request=True))
    story.settles()
    story.given("a", ModelSlept("idle")).settles()
    story.given("a", ModelWoken("asked for"))
    began = story.state.seq
    story.settles()
    (replica,) = story.places("a")
    story.runs(replica)
    assert unmet(story)["a"].waking == story.state.seq - began


def minutes(*numbers: int, **fields: Any) -> list[DemandRecord]:
    return [DemandRecord(each * MINUTE, (ModelDemand("b", **fields),)) for each in numbers]


def slow() -> list[Record]:
    """Return the short log with an event amid each minute: `b` lacks a place from 5 to 7."""
    return [replace(each, time=each.time * 60 + MINUTE // 2) for each in short().log]


def demanded(
    records: list[DemandRecord], *machines: With, since: Moment | None = None
) -> Unmet | None:
    demand = UnmetDemand(machines, since, records)
    for record in slow():
        demand.take(record)
    demand.until(20 * MINUTE)
    return next((each for each in demand.found() if each.model == "b"), None)


def test_minutes_in_which_requests_were_refused_or_waited_are_counted() -> None:
    records = [
        *minutes(5, 6, refused={"no-place": 2}),
        *minutes(6, 7, 8, requests=1, waited=9.0, longest=9.0),
    ]
    found = demanded(records)
    assert found is not None
    assert (found.refusing, found.waiting) == (120.0, 180.0)
    assert (found.refused, found.requests, found.longest) == ({"no-place": 4}, 3, 9.0)


def test_a_minute_of_several_routers_counts_once() -> None:
    found = demanded(minutes(5, 5, refused={"no-place": 2}))
    assert found is not None
    assert (found.refusing, found.refused) == (60.0, {"no-place": 4})


def test_a_machine_saves_the_minutes_in_which_a_place_was_lacking() -> None:
    records = minutes(5, 6, 12, refused={"queue-full": 1}, requests=1)
    found = demanded(records, With("n4", (80 * GIB,)))
    assert found is not None
    assert (found.refusing, found.refusing_otherwise) == (180.0, 60.0)
    assert (found.waiting, found.waiting_otherwise) == (180.0, 60.0)
    found = demanded(records, With("n4", (40 * GIB,)))
    assert found is not None
    assert found.refusing_otherwise == 180.0, "it is too small"


def test_minutes_outside_the_window_do_not_count() -> None:
    found = demanded(minutes(0, 5, 30, refused={"no-place": 1}), since=Moment(time=6 * MINUTE))
    assert found is not None
    assert found.refusing == 0.0
    found = demanded(minutes(6, 30, refused={"no-place": 1}), since=Moment(time=6 * MINUTE))
    assert found is not None
    assert found.refusing == 60.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("n4: 2x80GiB", With("n4", (80 * GIB, 80 * GIB))),
        ("n4:80GiB, 40 GiB", With("n4", (80 * GIB, 40 * GIB))),
        ("n4 : 1 x 8GiB", With("n4", (8 * GIB,))),
    ],
)
def test_a_machine_is_read(text: str, found: With) -> None:
    assert machine(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "n4", "n4:", "n4: x80GiB", "n4: 80 cats", "n 4: 8GiB", "n4: 0x8GiB", "n4: 99x8GiB"],
)
def test_what_is_not_a_machine_is_told(text: str) -> None:
    with pytest.raises(BadCondition):
        machine(text)


def said(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["capacity", "--log", LOG, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_says_what_a_machine_would_have_saved() -> None:
    assert "models lacked a place for" in said()
    told = json.loads(said("--json", "--with", "n9: 80GiB"))
    assert told["models"][0]["model"] == "poet"
    assert told["models"][0]["lacking"] > told["models"][0]["otherwise"] == 0.0
    text = said("--with", "n9: 80GiB")
    assert "n9 would have saved" in text
    assert "no model lacked a place" in said("--until", "5")


def test_one_sentence_tells_of_requests_too() -> None:
    found = [Unmet("b", 120.0, 0.0, 0.0, refusing=120.0, refusing_otherwise=60.0, waiting=60.0)]
    assert verdict(found, []) == (
        "models lacked a place for 2.0 minutes together; requests were refused or waited in 3.0 "
        "minutes"
    )
    assert verdict(found, [With("n4", (GIB,))]) == (
        "n4 would have saved 2.0 of 2.0 minutes, and 2.0 of 3.0 in which requests were refused or "
        "waited"
    )
    assert verdict([Unmet("b", 0.0, 0.0, 0.0, waiting=60.0)], []) == (
        "no model lacked a place; requests were refused or waited in 1.0 minutes"
    )


def test_the_command_refuses_what_is_not_a_machine() -> None:
    result = CliRunner().invoke(main, ["capacity", "--log", LOG, "--with", "n9"])
    assert result.exit_code == 2
    assert "write 'n4: 2x80GiB'" in result.output
