"""What a name means, and the state of what it means."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nebula.cli.main import main
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.state import EMPTY
from nebula.events.values import Adapter, Target
from nebula.events.vocabulary import AdapterLoaded, AdapterLoadFailed, ModelUnloaded
from nebula.history.subject import Subject, later, named_by, resolve_subject, verdict
from nebula.store.archive import write
from tests.unit.story import Story, cluster, load

CANARY = AliasRequested((Target("org/chat", 95), Target("org/next", 5)), "prod/chat", "sql")


def story() -> Story:
    """`chat`, called org/chat, with the adapter sql, serves; the alias prod has moved once."""
    told = cluster(n1=[80]).given("chat", load(name="org/chat", adapters=(Adapter("sql", "/sql"),)))
    told.settles()
    told.runs("chat-0").given("chat-0", AdapterLoaded("sql", "/sql"))
    told.given("prod", AliasRequested((Target("org/chat"),), "prod/chat"))
    told.given("n1", NodeDrainRequested(), NodeUndrainRequested())
    return told.given("prod", CANARY)


def why(told: Story, reference: str, folder: Path, *options: str) -> list[str]:
    """Return the lines of `nebula why model`, without those of moments."""
    path = folder / "log.jsonl"
    path.write_bytes(b"".join(write(told.entries, len(told.entries))))
    result = CliRunner().invoke(main, ["why", "model", reference, "--log", str(path), *options])
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("chat", Subject("model", "chat")),
        ("org/chat", Subject("model", "chat")),
        ("sql", Subject("adapter", "chat", "sql")),
        ("prod/chat", Subject("alias", "prod")),
        ("prod", Subject("alias", "prod")),
        ("nobody", None),
    ],
)
def test_a_name_or_an_id_means_a_model_an_adapter_or_an_alias(
    reference: str, subject: Subject | None
) -> None:
    assert resolve_subject(story().state, reference) == subject


def test_an_alias_tells_which_models_are_behind_it_and_what_made_it_so(tmp_path: Path) -> None:
    told = story()
    lines = why(told, "prod/chat", tmp_path)
    assert lines[:4] == [
        "prod/chat is an alias of org/chat (95 of 100), org/next (5 of 100), "
        "sql gets a copy of each request",
        "  org/chat: chat (org/chat) is ready, 1 of 1 replicas serve",
        "  org/next: no model has this name: it gets no requests",
        "  sql: sql is an adapter of chat, in place on 1 of 1 replicas that serve",
    ]
    assert [line.partition("alias prod: ")[2] for line in lines if "alias prod: " in line] == [
        "asked to be an alias of 'org/chat' (1 of 1)",
        "asked to be an alias of 'org/chat' (95 of 100), 'org/next' (5 of 100), mirrored to 'sql'",
    ]
    assert lines[-1].startswith("What to do: Load it, or move"), "no command: it is a log's"
    assert why(told, "prod", tmp_path) == lines
    assert len(why(told, "prod", tmp_path, "--at", "8")) == 4


def test_an_alias_that_was_removed_is_still_found_by_its_name(tmp_path: Path) -> None:
    lines = why(story().given("prod", AliasRemoveRequested()), "prod/chat", tmp_path)
    assert lines[0] == "prod is no longer an alias"
    assert "alias prod: asked to remove this alias" in lines[-3]


def test_a_model_that_was_unloaded_is_still_found_by_its_name(tmp_path: Path) -> None:
    told = story().given("chat", ModelUnloadRequested())
    told.stops("chat-0").given("chat", ModelUnloaded())
    assert why(told, "org/chat", tmp_path)[0] == "chat does not exist"
    assert why(told, "sql", tmp_path)[0] == "sql is no longer an adapter of chat"


def test_an_adapter_tells_where_it_is_in_place_and_what_of_its_model_s_story_is_its_own(
    tmp_path: Path,
) -> None:
    lines = why(story(), "sql", tmp_path)
    assert lines[:2] == [
        "sql is an adapter of chat, in place on 1 of 1 replicas that serve",
        "  chat (org/chat) is ready, 1 of 1 replicas serve",
    ]
    assert [line[line.index("  ", 8) :].strip() for line in lines[3:]] == [
        "model chat: asked to load /m for chat, 1 replica, name org/chat, adapter sql /sql",
        "replica chat-0: adapter 'sql' loaded",
    ]


def test_an_adapter_that_its_engine_refused_says_so_and_how_to_try_again() -> None:
    told = story().given("chat", AdapterLoadRequested("sql", "/other"))
    told.given("chat-0", AdapterLoadFailed("sql", "/other", "too large"))
    found = verdict(told.state, Subject("adapter", "chat", "sql"))
    assert found.headline.endswith(
        "in place on 1 of 1 replicas that serve: an unknown version stays, /other was not taken: "
        "chat-0 on n1: too large"
    )
    assert "`nebula adapters load chat sql /other`" in found.todo
    told.given("chat", AdapterUnloadRequested("sql"))
    gone = verdict(told.state, Subject("adapter", "chat", "sql"))
    assert gone.headline == "sql is no longer an adapter of chat"


@pytest.mark.parametrize(
    ("asked", "means"),
    [
        (("prod/chat",), ("model", "prod/chat")),
        (("sql", "--all"), ("model", "sql", "--all")),
        (("chat-0",), ("replica", "chat-0")),
        (("model", "chat-0"), ("replica", "chat-0")),
        (("5",), ("seq", "5")),
    ],
)
def test_a_name_alone_and_a_number_alone_say_what_is_asked_about(
    asked: tuple[str, ...], means: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(write(story().entries, len(story().entries))))
    one, other = (
        CliRunner().invoke(main, ["why", *line, "--log", str(path)]) for line in (asked, means)
    )
    assert one.exit_code == 0, one.output
    assert one.output == other.output


def test_an_adapter_that_was_in_place_when_it_was_asked_for_again_tells_since_when(
    tmp_path: Path,
) -> None:
    told = story().given("chat", load(name="org/chat", adapters=(Adapter("sql", "/sql"),)))
    told.settles()
    assert [line.rpartition("  ")[2] for line in why(told, "sql", tmp_path)[-2:]] == [
        "replica chat-0: adapter 'sql' loaded",
        "model chat: asked to load /m for chat, 1 replica, name org/chat, adapter sql /sql; "
        "that changes nothing",
    ]


@pytest.mark.parametrize("at", range(1, 12))
def test_any_former_name_can_be_asked_about_at_any_time(at: int, tmp_path: Path) -> None:
    told = story()
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(write(told.entries, len(told.entries))))
    for reference in ("chat", "org/chat", "sql", "prod", "prod/chat", "nobody"):
        line = ["why", "model", reference, "--log", str(path), "--at", str(at)]
        result = CliRunner().invoke(main, line)
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_what_is_there_no_more_is_asked_for_again_as_it_was() -> None:
    told = story()
    found: dict[str, Subject] = {}
    for record in told.log:
        for name, subject in named_by(record):
            found[name] = later(found.get(name), subject)
    names = {"chat": "model", "sql": "adapter", "prod/chat": "alias"}
    again = {names[name]: verdict(EMPTY, found[name]).todo for name in names}
    assert again == {
        "model": "Load it again: `nebula load /m --id chat --name org/chat --adapter sql=/sql`.",
        "adapter": "Load it again: `nebula adapters load chat sql /sql`.",
        "alias": "Ask for it again: `nebula alias prod/chat org/chat=95 org/next=5 --mirror=sql`.",
    }
