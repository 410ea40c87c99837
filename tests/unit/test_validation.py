"""What can't be granted, and that the text names what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.events.engine_options import option_name
from nebula.events.engine_validation import RESERVED_OPTIONS
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
)
from nebula.events.validation import known_names, model_by_reference, rejection_reason
from nebula.events.values import Adapter, Assignment, Autoscale, Target
from nebula.events.version import SINCE, VERSION, premature
from nebula.events.vocabulary import Event, ModelAssigned, ModelRolledBack
from tests.unit.story import Story, cluster, facts, load, messages

SQL = Adapter("sql", "/sql")


def served() -> Story:
    """`chat`, called org/chat, with the adapter sql; `plain` without LoRA; `old` on its way out."""
    story = cluster(alpha=[80])
    story.given("chat", load(name="org/chat", adapters=(SQL,)))
    story.given("plain", load())
    story.given("old", load(lora=True))
    story.settles()
    story.runs("old-0")
    story.given("old", ModelUnloadRequested())
    return story


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def plan(*replicas: str, version: int = 2) -> ModelAssigned:
    return ModelAssigned(
        version, tuple(Assignment(each, "alpha", (0,), 1, version) for each in replicas)
    )


@pytest.mark.parametrize(
    ("identity", "event", "words"),
    [
        # names
        ("new", load(name=" chat"), "name: ' chat' has spaces at its ends"),
        ("new", load(name="a\nb"), "name: 'a\\nb' has"),
        ("new", load(name="\0"), "name: '\\x00' has"),
        ("new", load(name="-x"), "name: '-x' begins with '-'"),
        ("-x", load(), "name: '-x' begins with '-'"),
        ("new", load(name="org/chat"), "name: 'org/chat' is already the name of model 'chat'"),
        ("new", load(name="sql"), "name: 'sql' is already an adapter of model 'chat'"),
        ("sql", load(), "name: 'sql' is already an adapter of model 'chat'"),
        # sources
        ("new", ModelLoadRequested("--trust"), "source: '--trust' is neither"),
        ("new", ModelLoadRequested("/a\nb"), "source: '/a\\nb' is neither"),
        # memory
        ("new", load(memory="much"), "memory: 'much' is no amount"),
        ("new", load(memory="0GiB"), "memory: '0GiB' is out of range"),
        ("new", ModelLoadRequested("/m", memory=-1), "memory: -1 is out of range"),
        # options
        ("new", load(options={"--seed": 1}), "options: '--seed' is no option"),
        ("new", load(options={"": 1}), "options: '' is no option"),
        ("new", load(options={"a b": 1}), "options: 'a b' is no option"),
        ("new", load(options={"port": 1}), "options: 'port' is set by Nebula itself"),
        ("new", load(options={"Served_Model-name": 1}), "options: 'Served_Model-name' is set"),
        ("new", load(options={"dtype": ["x", "--port"]}), "options: an item of 'dtype' begins"),
        ("new", load(options={"dtype": "\0"}), "options: the value of 'dtype' holds a NUL"),
        ("new", load(options={"dtype": ["\0"]}), "options: the value of 'dtype' holds a NUL"),
        ("new", load(options={"deep": nested(18)}), "options: the value of 'deep' is nested"),
        # environment
        ("new", load(env={"A=B": "1"}), "env: 'A=B' can't be set"),
        ("new", load(env={"": "1"}), "env: '' can't be set"),
        ("new", load(env={"NEBULA_MODEL": "1"}), "env: 'NEBULA_MODEL' can't be set"),
        ("new", load(env={"A": "\0"}), "env: the value of 'A' holds a NUL"),
        # fallbacks
        ("new", load(fallback=("new",)), "fallback: 'new' is the model's own name"),
        ("new", load(name="org/n", fallback=("sql", "org/n")), "fallback: 'org/n' is the model's"),
        ("new", load(name="org/n", fallback=("new",)), "fallback: 'new' is the model's own id"),
        (
            "chat",
            load(name="org/chat", adapters=(SQL,), fallback=("sql",)),
            "fallback: 'sql' is an adapter of the model itself",
        ),
        ("new", load(fallback=("sql", "sql")), "fallback: 'sql' stands there twice"),
        # numbers of replicas that contradict each other
        (
            "new",
            load(9, autoscale=Autoscale(0, 2)),
            "replicas: 9 can't be had with an autoscale from 0 to 2",
        ),
        ("new", load(0, autoscale=Autoscale(1, 4)), "replicas: 0 can't be had"),
        ("new", load(3, autoscale=Autoscale(0, 2)), "replicas: 3 can't be had"),
        ("new", load(autoscale=Autoscale(0, 0)), "autoscale: most is 0; scale the model to 0"),
        ("new", load(autoscale=Autoscale(3, 2)), "autoscale: least is 3, more than most, 2"),
        # adapters of a new model
        ("new", load(adapters=(SQL,), lora=False), "adapters: given together with lora: false"),
        ("new", load(adapters=(SQL,)), "name: 'sql' is already an adapter of model 'chat'"),
        ("new", load(adapters=(Adapter("new", "/x"),)), "adapters: the name 'new' stands twice"),
        (
            "new",
            load(adapters=(Adapter("x", "/x"), Adapter("x", "/y"))),
            "adapters: the name 'x' stands twice",
        ),
        (
            "chat",
            load(name="another", adapters=(Adapter("org/chat", "/x"),)),
            "name: 'org/chat' is already the model 'chat'",
        ),
        ("new", load(adapters=(Adapter("x ", "/x"),)), "adapter name: 'x ' has spaces"),
        ("new", load(adapters=(Adapter("-x", "/x"),)), "adapter name: '-x' begins with"),
        ("new", load(adapters=(Adapter("x", "-x"),)), "source: '-x' is neither"),
        # adapters of a model that is there
        ("none", AdapterLoadRequested("x", "/x"), "there is no model 'none'"),
        ("old", AdapterLoadRequested("x", "/x"), "there is no model 'old'"),
        ("plain", AdapterLoadRequested("x", "/x"), "model 'plain' was loaded without LoRA"),
        ("chat", AdapterLoadRequested("org/chat", "/x"), "name: 'org/chat' is the model's own"),
        (
            "chat",
            AdapterLoadRequested("plain", "/x"),
            "name: 'plain' is already the name of model 'plain'",
        ),
        ("chat", AdapterLoadRequested("x\t", "/x"), "adapter name: 'x\\t' has"),
        ("chat", AdapterLoadRequested("x", "-x"), "source: '-x' is neither"),
        ("none", AdapterUnloadRequested("sql"), "there is no model 'none'"),
        ("chat", AdapterUnloadRequested("x"), "model 'chat' has no adapter 'x'"),
        ("plain", AdapterUnloadRequested("sql"), "model 'plain' has no adapter 'sql'"),
        # the rest
        ("none", ModelScaleRequested(2), "there is no model 'none'"),
        ("none", ModelUnloadRequested(), "there is no model 'none'"),
        ("none", NodeDrainRequested(), "there is no node 'none'"),
        # plans by hand
        ("old", plan("old-0"), "model 'old' is being unloaded"),
        ("chat", plan("plain-0"), "replicas: 'plain-0' is no replica of 'chat'"),
        ("chat", plan("chat"), "replicas: 'chat' is no replica of 'chat'"),
        ("chat", plan("chat-01"), "replicas: 'chat-01' is no replica of 'chat'"),
        ("chat", plan("chat-x"), "replicas: 'chat-x' is no replica of 'chat'"),
        ("chat", plan("chat-0", "chat-0"), "replicas: 'chat-0' stands twice"),
        ("chat", plan("chat-0", version=9), "version: the next plan of 'chat' is 2"),
    ],
)
def test_what_cannot_be_granted_is_named(identity: str, event: Event, words: str) -> None:
    reason = rejection_reason(served().state, identity, event)
    assert reason is not None
    assert reason.startswith(words)


def test_a_rollback_does_not_take_a_name_that_another_model_or_an_adapter_has_by_now() -> None:
    back = ModelRolledBack("it does not get ready")

    def renamed() -> Story:
        story = cluster(alpha=[80]).given("chat", load(name="org/chat", lora=True))
        story.settles()
        assert rejection_reason(story.state, "chat", back) is not None  # nothing is proven yet
        return story.runs("chat-0").given("chat", load(name="other", lora=True))

    assert rejection_reason(renamed().state, "chat", back) is None
    taken = "name: 'org/chat', as 'chat' was called, is taken by now"
    story = renamed().given("new", load(name="org/chat"))
    assert rejection_reason(story.state, "chat", back) == taken
    story = renamed().given("chat", AdapterLoadRequested("org/chat", "/sql"))
    assert story.state.names["org/chat"].adapter
    assert rejection_reason(story.state, "chat", back) == taken


@pytest.mark.parametrize(
    ("identity", "event"),
    [
        ("new", load()),
        ("new", load(name="名前 mit Raum", memory="1.5GiB", options={"Max_Model.len": [1, None]})),
        ("new", load(options={"deep": nested(16)}, env={"_A1": "", "PATH": "/bin"})),
        ("new", load(lora=False)),
        ("new", load(options={"dtype": [-1, "b-c"], "no-enable-prefix-caching": True})),
        (
            "new",
            load(options={"seed": "-1", "hf_overrides.rope": 1, "data-parallel-size-local": 1}),
        ),
        ("chat", load(name="org/chat", adapters=(SQL,))),
        ("new", load(fallback=("sql", "org/to-come", "chat"))),
        ("new", load(autoscale=Autoscale(2, 4))),
        ("new", load(4, autoscale=Autoscale(2, 4))),
        ("new", load(autoscale=Autoscale(0, 1))),
        ("new", load(0, autoscale=Autoscale(0, 2))),
        ("chat", load(name="another")),
        ("chat", load(name="sql")),
        ("old", load()),
        ("chat", AdapterLoadRequested("sql", "/elsewhere")),
        ("chat", AdapterLoadRequested("poet", "org/poet")),
        ("chat", AdapterUnloadRequested("sql")),
        ("chat", ModelScaleRequested(0)),
        ("old", ModelUnloadRequested()),
        ("alpha", NodeDrainRequested()),
        ("chat", plan("chat-0", "chat-10")),
        ("chat", plan()),
    ],
)
def test_nothing_speaks_against_the_rest(identity: str, event: Event) -> None:
    assert rejection_reason(served().state, identity, event) is None


@given(messages, facts)
def test_no_fact_is_ever_objected_to_once_the_cluster_knows_its_type(
    said: list[tuple[str, bytes]], fact: tuple[str, Event]
) -> None:
    story = Story()
    for subject, payload in said:
        story.publish(subject, payload)
    assert rejection_reason(story.state, *fact) == premature(story.state, fact[1], SINCE)
    known = replace(story.state, cluster=replace(story.state.cluster, version=VERSION))
    assert rejection_reason(known, *fact) is None


@given(messages)
def test_what_was_rejected_changes_nothing_else(said: list[tuple[str, bytes]]) -> None:
    story = Story()
    for subject, payload in said:
        before = story.state
        story.publish(subject, payload)
        if story.state.seq in story.state.rejections:
            assert story.state.models is before.models
            assert story.state.replicas is before.replicas
            assert story.state.nodes is before.nodes
            assert story.state.names is before.names


@pytest.mark.parametrize("option", sorted(RESERVED_OPTIONS))
def test_no_spelling_of_a_reserved_option_gets_through(option: str) -> None:
    spellings = (option, option.replace("-", "_"), option.upper(), option[:-1], f"no-{option}")
    for spelling in (*spellings, f"{option}.x"):
        reason = rejection_reason(served().state, "new", load(options={spelling: 1}))
        assert reason == f"options: {spelling!r} is set by Nebula itself"


@given(st.text(max_size=10))
def test_an_option_is_spelt_in_one_way(key: str) -> None:
    assert option_name(option_name(key)) == option_name(key)


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("max_model_len", "max-model-len"),
        ("Seed", "seed"),
        ("hf_overrides.Rope_type", "hf_overrides.Rope_type"),
    ],
)
def test_an_option_inside_an_option_is_spelt_as_it_is(key: str, option: str) -> None:
    assert option_name(key) == option


def test_the_names_that_requests_may_use_are_listed_in_order() -> None:
    assert known_names(served().state) == ["old", "org/chat", "plain", "sql"]


def test_a_model_is_found_by_its_id_or_its_name_but_not_by_an_adapters() -> None:
    state = served().state
    assert model_by_reference(state, "chat") is state.models["chat"]
    assert model_by_reference(state, "org/chat") is state.models["chat"]
    assert model_by_reference(state, "sql") is None
    assert model_by_reference(state, "nobody") is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"devices": (0,)}, "devices: given without the node that they are of"),
        ({"node": "n1", "devices": (0, 0)}, "devices: one stands there twice"),
        ({"node": "n1", "devices": (3,)}, "devices: n1 has no device 3"),
        (
            {"node": "n1", "devices": (0,), "options": {"tensor-parallel-size": 2}},
            "devices: 1 given, and a replica takes 2",
        ),
        *(
            ({"options": {"tensor_parallel_size": size}}, "options: tensor-parallel-size is ")
            for size in (0, -1, "two", True, 1.5, [2])
        ),
        ({"options": {"tensor-parallel": 2}}, "options: write 'tensor-parallel' as tensor-"),
    ],
)
def test_a_place_that_no_node_could_ever_give_is_refused_at_once(
    fields: dict[str, object], reason: str
) -> None:
    story = cluster(n1=[80])
    found = rejection_reason(story.state, "chat", load(**fields))  # type: ignore[arg-type]
    assert found is not None
    assert found.startswith(reason)


def test_a_place_that_may_come_yet_is_not_refused() -> None:
    state = cluster(n1=[80]).state
    for fields in (
        {"node": "later", "devices": (7,)},
        {"labels": {"zone": "moon"}},
        {"options": {"tensor-parallel-size": 16}},
    ):
        assert rejection_reason(state, "chat", load(**fields)) is None


# Aliases


def standing_for(*targets: str, name: str = "", mirror: str = "") -> AliasRequested:
    return AliasRequested(tuple(map(Target, targets)), name, mirror)


@pytest.mark.parametrize(
    ("identity", "event", "words"),
    [
        ("new", standing_for("org/chat", name="org/chat"), "is already a name of model 'chat'"),
        ("new", standing_for("org/chat", name="sql"), "is already a name of model 'chat'"),
        ("new", standing_for("org/chat", name="prod/chat"), "is already an alias, 'prod'"),
        ("new", standing_for("prod/chat"), "'prod/chat' is an alias, which can stand for"),
        ("new", standing_for("org/chat", mirror="prod/chat"), "'prod/chat' is an alias"),
        ("prod", standing_for("prod/chat", name="prod/chat"), "'prod/chat' is the alias's own"),
        ("new", standing_for("new"), "targets: 'new' is the alias's own name"),
        ("new", standing_for("org/chat", mirror="new"), "mirror: 'new' is the alias's own name"),
        ("new", standing_for("sql", "plain", "sql"), "targets: 'sql' stands there twice"),
        ("new", standing_for("sql", "plain", mirror="plain"), "mirror: 'plain' is a target too"),
        ("new", AliasRequested((Target("org/chat", 0),)), "one at least must have a weight"),
        ("new", standing_for("org/chat", name=" a"), "spaces at its ends"),
        ("new", AliasRemoveRequested(), "there is no alias 'new'"),
        ("other", load(name="prod/chat"), "'prod/chat' is already an alias"),
        ("chat", AdapterLoadRequested("prod/chat", "/a"), "'prod/chat' is already an alias"),
    ],
)
def test_what_an_alias_can_not_be(identity: str, event: Event, words: str) -> None:
    story = served().given("prod", standing_for("org/chat", name="prod/chat"))
    reason = rejection_reason(story.state, identity, event)
    assert reason is not None
    assert words in reason


def test_an_alias_that_has_changed_meanwhile_is_not_replaced_by_mistake() -> None:
    story = served()
    wanted = standing_for("sql", name="prod/chat")
    assert rejection_reason(story.state, "prod", replace(wanted, replaces=0)) is None
    story.given("prod", replace(wanted, replaces=0))
    first = story.state.aliases["prod"].changed
    assert rejection_reason(story.state, "prod", replace(wanted, replaces=first)) is None
    for stale in (0, first - 1):
        reason = rejection_reason(story.state, "prod", replace(wanted, replaces=stale))
        assert reason is not None
        assert f"'prod' was changed by event {first}: look again" in reason
    story.given("prod", AliasRemoveRequested())
    assert "is not there" in (
        rejection_reason(story.state, "prod", replace(wanted, replaces=first)) or ""
    )
    assert rejection_reason(story.state, "prod", replace(wanted, replaces=0)) is None


def test_of_two_changes_to_an_alias_at_once_the_later_wins() -> None:
    story = served().given("prod", standing_for("org/chat", name="prod/chat"))
    story.given("prod", standing_for("sql", mirror="plain"), standing_for("plain"))
    alias = story.state.aliases["prod"]
    assert (alias.targets, alias.mirror) == ((Target("plain"),), "")
    assert not story.state.rejections


def test_an_alias_is_not_a_fallback() -> None:
    story = served().given("prod", standing_for("org/chat", name="prod/chat"))
    reason = rejection_reason(story.state, "new", load(fallback=("prod/chat",)))
    assert reason == "fallback: 'prod/chat' is an alias: name a model or an adapter"


def test_an_alias_may_stand_for_what_is_still_to_come_and_be_moved_and_removed() -> None:
    story = served().given("prod", standing_for("org/chat", name="prod/chat"))
    for event in (
        standing_for("sql", "org/to-come", name="prod/chat"),
        standing_for("plain"),
        AliasRequested((Target("plain"), Target("sql", 0)), mirror="sql"),
        AliasRemoveRequested(),
    ):
        assert rejection_reason(story.state, "prod", event) is None
