"""The command beside an intent asks for the same; the command line's own parser reads it."""

from __future__ import annotations

import shlex

import click
import pytest

from nebula.cli.main import main
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    EngineKillRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
)
from nebula.events.values import Target
from nebula.events.vocabulary import Event
from nebula.history.intent_command import intent_command
from tests.unit.story import cluster, load

ALIAS = AliasRequested((Target("a chat", 90), Target("next", 10)), "the best", "shadow")


@pytest.mark.parametrize(
    ("identity", "event", "line"),
    [
        ("chat", ModelScaleRequested(2), "nebula scale chat 2"),
        ("chat", ModelUnloadRequested(), "nebula unload chat"),
        ("chat", AdapterLoadRequested("a b", "/x"), "nebula adapters load chat 'a b' /x"),
        ("chat", AdapterUnloadRequested("tone"), "nebula adapters unload chat tone"),
        ("best", ALIAS, "nebula alias 'the best' 'a chat=90' next=10 --mirror shadow"),
        ("best", AliasRemoveRequested(), "nebula alias best --remove"),
        ("chat-0", EngineKillRequested(7), "nebula kill chat-0"),
        ("n1", NodeDrainRequested(), "nebula drain n1"),
        ("n1", NodeUndrainRequested(), "nebula drain n1 --undo"),
        ("chat", load(2, "1GiB"), "nebula load org/model --id chat --replicas 2 --memory 1GiB"),
    ],
)
def test_an_intent_has_its_command(identity: str, event: Event, line: str) -> None:
    found = intent_command(cluster(n1=[80]).state, identity, event)
    assert found.replace(load(1).source, "org/model") == line
    words = shlex.split(found)[1:]
    command: click.Command = main
    name, rest = "nebula", words
    while isinstance(command, click.Group):
        context = command.make_context(name, list(rest), resilient_parsing=True)
        resolved, inner, rest = command.resolve_command(context, list(rest))
        assert inner is not None, f"{words}: there is no such command"
        name, command = resolved or "", inner
    command.make_context(name, list(rest))


def test_the_command_of_an_alias_that_is_there_names_it_by_its_name() -> None:
    story = cluster(n1=[80]).given("best", ALIAS)
    line = intent_command(story.state, "best", AliasRemoveRequested())
    assert line == "nebula alias 'the best' --remove"


def test_what_no_command_asks_for_so_has_none() -> None:
    state = cluster(n1=[80]).state
    assert intent_command(state, "n1", WeightsPinRequested("org/model")) == ""
