"""A command that is advised asks for all that the model was loaded with, and for what is to change.

The commands are read by the command line's own parser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.cli import load as command
from nebula.cli.main import main
from nebula.events.advised import commands
from nebula.events.intents import AdapterLoadRequested, ModelLoadRequested
from nebula.events.masking import MASK
from nebula.events.state import EMPTY
from nebula.events.values import Adapter, Autoscale
from nebula.events.vocabulary import EngineFailed, Event
from nebula.history.advice import advice
from nebula.history.load_command import SECRET, load_again, load_words, quoted
from tests.unit.memory_cluster import joined, says
from tests.unit.story import Story, cluster, load

EMBEDDING = ModelLoadRequested(
    "org/mini",
    "lab/mini",
    "embedding",
    2,
    memory="6GiB",
    options={"max-model-len": 512, "enforce-eager": True, "revision": "1"},
    max_in_flight=8,
    labels={"zone": "a"},
    idle_after=90.5,
)


def asked_by(words: tuple[str, ...] | list[str]) -> tuple[str, ModelLoadRequested]:
    """Return the id and the load request that the command line makes of the words of a command."""
    made: list[tuple[str, Event]] = []

    async def note(nats: str, intent: Any, **_: object) -> None:
        made.append(intent(EMPTY))

    def at_once(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run(coroutine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "ask", note)
        patch.setattr(command, "run", at_once)
        main(list(words), standalone_mode=False)
    ((identity, event),) = made
    assert isinstance(event, ModelLoadRequested)
    return identity, event


_words = st.text("abc -='\"`$\\é", min_size=1, max_size=6).filter(lambda text: text == text.strip())
_tokens = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
_values = st.one_of(
    _words,
    st.sampled_from(["1", "true", "null", '"x"', "[1]", "{}"]),
    st.integers(-9, 9),
    st.booleans(),
    st.none(),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(_tokens, st.integers(0, 3), max_size=2),
)
requests = st.builds(
    ModelLoadRequested,
    st.sampled_from(["/models/a model", "org/model", "org/it's"]),
    st.sampled_from(["", "lab/a model", "x"]),
    st.sampled_from(["chat", "embedding"]),
    st.integers(0, 5),
    st.lists(st.builds(Adapter, _tokens, st.sampled_from(["/a b", "org/a"])), max_size=2).map(
        lambda found: tuple({each.name: each for each in found}.values())
    ),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "6GiB", "512MiB"]),
    st.dictionaries(_tokens, _values, max_size=3),
    st.dictionaries(_tokens, _words, max_size=2),
    st.integers(1, 999),
    st.integers(0, 999),
    st.sampled_from(["spread", "binpack"]),
    st.dictionaries(_tokens, _words, max_size=2),
    st.lists(_tokens, max_size=2).map(tuple),
    st.sampled_from(["", "n1"]),
    st.lists(st.integers(0, 3), max_size=2, unique=True).map(tuple),
    st.one_of(st.none(), st.builds(Autoscale, st.integers(0, 2), st.integers(3, 4))),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 9999).map(lambda tenths: tenths / 10)),
    st.booleans(),
    st.lists(_words, max_size=2).map(tuple),
)


@given(requests, st.sampled_from(["chat", "x", "a-model"]))
def test_the_command_of_a_load_request_asks_for_exactly_that(
    request: ModelLoadRequested, identity: str
) -> None:
    text = f"Load it again: {quoted(load_words(identity, request))}."
    (words,) = commands(text)
    made = asked_by(words)
    assert msgspec.json.encode(made) == msgspec.json.encode((identity, request))


def test_secrets_are_left_for_the_reader_to_write_out() -> None:
    request = replace(EMBEDDING, env={"HF_TOKEN": "hf_abcdefghijKLM1", "OMP_NUM_THREADS": "4"})
    text = quoted(load_words("mini", request))
    assert "hf_" not in text
    assert MASK not in text
    assert f"--env OMP_NUM_THREADS=4 --secret {SECRET}:HF_TOKEN" in text
    assert text.endswith(f"` (put each {SECRET} on the nodes, and write its name for it)")


def test_an_adapter_for_an_engine_without_lora_is_told_with_all_that_the_model_was_loaded_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = cluster(alpha=[80]).given("mini", EMBEDDING)
    joined(monkeypatch, story)
    told = says("adapters", "load", "mini", "poet", "/poet")
    assert told.exit_code == 1
    (words,) = commands(told.stderr)
    assert asked_by(words) == ("mini", replace(EMBEDDING, lora=True))


def given_up(reason: str) -> Story:
    story = cluster(alpha=[80]).given("mini", replace(EMBEDDING, replicas=1, labels={}))
    story.settles()
    return story.given("mini-0", EngineFailed(reason, 1, attempt=1))


FAILS = "; it would fail so again: "


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        (f"no{FAILS}load it again without adapters and without `--lora`", {"lora": False}),
        (f"no{FAILS}load it again with another `--task`", {"task": "chat"}),
        (
            f"no{FAILS}load it again with `--option trust-remote-code=true` if you trust it",
            {"options": {**EMBEDDING.options, "trust-remote-code": True}},
        ),
        (f"no{FAILS}load it again with other options (`--option`)", {}),
        (f"no{FAILS}put all files of a model into that folder, then ask for it again", {}),
    ],
)
def test_what_is_advised_after_a_failure_keeps_all_that_it_does_not_mend(
    reason: str, changes: dict[str, object]
) -> None:
    story = given_up(reason)
    before = story.model("mini").spec
    (words,) = commands(advice(story.state, story.model("mini")))
    assert asked_by(words) == ("mini", replace(before, **changes))


@pytest.mark.parametrize(
    ("wish", "changes"),
    [
        ({"node": "late", "devices": (0,)}, {"node": "", "devices": ()}),
        ({"labels": {"zone": "b"}}, {"labels": {}}),
        ({"options": {"tensor-parallel-size": 4, "seed": 1}}, {"options": {"seed": 1}}),
        ({"memory": "300GiB"}, {"memory": "73.59GiB"}),
    ],
)
def test_what_is_advised_for_want_of_a_place_keeps_all_that_it_does_not_change(
    wish: dict[str, object], changes: dict[str, object]
) -> None:
    request = replace(replace(EMBEDDING, replicas=1, labels={}), **wish)
    story = cluster(alpha=[80]).given("mini", request)
    story.settles()
    loads = [
        words for words in commands(advice(story.state, story.model("mini"))) if words[0] == "load"
    ]
    assert [asked_by(words) for words in loads] == [("mini", replace(request, **changes))]


def test_adapters_that_came_at_run_time_need_no_mention() -> None:
    story = cluster(alpha=[80]).given("chat", load(1, "8GiB", lora=True))
    story.given("chat", AdapterLoadRequested("poet", "/poet"))
    assert load_again(story.model()) == "`nebula load /m --id chat --memory 8GiB --lora`"
