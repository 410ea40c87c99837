"""The cluster as a file: written and read back, compared, and made so."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    WeightsPinRequested,
)
from nebula.events.key_events import KeyIssued
from nebula.events.limit_events import LimitsSet
from nebula.events.subjects import ID_FORM
from nebula.events.usage_limits import UsageLimits
from nebula.events.values import Adapter, Autoscale, SecretReference, Target
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded, Event, ModelRolledBack
from nebula.history.cluster_file import text
from nebula.history.cluster_file.change import FileChange, change_to
from nebula.history.cluster_file.declaration import ClusterFile, declared
from nebula.history.cluster_file.difference import Causes, Comparison, compare, sentences
from nebula.history.cluster_file.moved import moved
from nebula.history.cluster_file.text import BadFile
from tests.unit.story import Story, cluster, facts, intents, load


def served() -> Story:
    story = cluster(n1=[80], n2=[80]).given("c1", ClusterFounded("lab", VERSION))
    story.given("chat", load(2, "8GiB", name="org/chat", lora=True, options={"seed": 1}))
    story.given("best", AliasRequested((Target("org/chat", 3),), "best of all"))
    story.given("n1", WeightsPinRequested("org/model"))
    story.given("lab", LimitsSet("tenant", UsageLimits(in_flight=4)))
    story.given("ci", KeyIssued("0" * 64, ("infer",), limits=UsageLimits(tokens_per_day=5)))
    story.settles()
    return story


def file_of(story: Story) -> ClusterFile:
    return text.read(text.write(declared(story.state)))


def makes_so(story: Story, file: ClusterFile, *, prune: bool = False) -> FileChange:
    """Append what a file calls for, as `nebula apply` does."""
    change = change_to(file, story.state, prune=prune)
    for identity, event in change.intents:
        story.append(identity, event)
    return change


def faults(written: str) -> list[str]:
    with pytest.raises(BadFile) as raised:
        text.read(written)
    return [str(each) for each in raised.value.faults]


# Written and read


def test_a_dump_is_short_and_in_order() -> None:
    assert text.write(declared(served().state)) == (
        "# yaml-language-server: $schema=cluster-file.schema.json\n"
        "version: 1\n"
        "models:\n"
        "  chat:\n"
        "    source: /m\n"
        "    name: org/chat\n"
        "    replicas: 2\n"
        "    lora: true\n"
        "    memory: 8GiB\n"
        "    options:\n"
        "      seed: 1\n"
        "aliases:\n"
        "  best:\n"
        "    targets:\n"
        "    - model: org/chat\n"
        "      weight: 3\n"
        "    name: best of all\n"
        "nodes:\n"
        "  n1:\n"
        "    pinned:\n"
        "    - org/model\n"
        "limits:\n"
        "  tenants:\n"
        "    lab:\n"
        "      in_flight: 4\n"
        "  keys:\n"
        "    ci:\n"
        "      tokens_per_day: 5\n"
    )


def test_names_that_yaml_takes_for_something_else_are_written_in_quotes() -> None:
    story = cluster(n1=[80]).given("no", load(1, name="1:30")).given("12", load(1, name="on"))
    written = text.write(declared(story.state))
    assert "'no':" in written
    assert text.read(written) == declared(story.state)


def test_a_secret_in_the_log_is_not_dumped_and_does_not_differ() -> None:
    token = "hf_" + "a" * 34
    story = cluster(n1=[80]).given("chat", load(1, "1GiB", env={"HF_TOKEN": token, "A": "b"}))
    written = text.write(declared(story.state))
    assert token not in written
    assert compare(text.read(written), story.state, prune=True) == Comparison(())


def test_a_secret_by_name_is_kept() -> None:
    story = served().given("chat", load(1, env={"HF_TOKEN": SecretReference("hf")}))
    assert file_of(story).models["chat"].env == {"HF_TOKEN": SecretReference("hf")}


def test_an_adapter_loaded_at_run_time_is_declared() -> None:
    story = served().given("chat", AdapterLoadRequested("sql", "/a"))
    assert file_of(story).models["chat"].adapters == (Adapter("sql", "/a"),)


def test_groups_without_entries_are_read_as_empty() -> None:
    assert text.read("models:\nlimits:\n  tenants:\n") == ClusterFile()
    assert text.read("") == ClusterFile()


def test_anchors_and_merge_keys_are_read() -> None:
    written = """
models:
  a: &base {source: /m, memory: 1GiB}
  b: {<<: *base, replicas: 2}
"""
    found = text.read(written).models
    assert found["b"] == ModelLoadRequested("/m", memory="1GiB", replicas=2)


# Bad files


def test_all_faults_are_told_at_once_each_with_its_line() -> None:
    written = """\
version: 1
models:
  chat:
    src: /m
    replicas: many
    adapters:
    - {name: sql}
    autoscale: {least: -1}
  no:
    source: /m
    name: on
    env: {A: yes, B: 012}
  a b:
    source: /m
aliases:
  best: {targets: []}
limits:
  tenants:
    lab: {in_flight: 0}
"""
    assert faults(written) == [
        "line 3: models.chat: source is missing",
        "line 4: models.chat.src: is not a known field: did you mean source?",
        "line 5: models.chat.replicas: Expected `int`, got `str`",
        "line 7: models.chat.adapters.0: source is missing",
        "line 8: models.chat.autoscale: Expected `int` >= 0 at $.least",
        "line 9: models: the key no without quotes means false in YAML 1.1: write it as 'no' "
        "with quotes",
        "line 11: models.no.name: on without quotes means true in YAML 1.1: write it as 'on' "
        "with quotes",
        "line 12: models.no.env.B: 012 without quotes means a number in YAML 1.1: write it as "
        "'012' with quotes",
        "line 12: models.no.env.A: yes without quotes means true in YAML 1.1: write it as 'yes' "
        "with quotes",
        f"line 13: models.a b: is not a valid id: use {ID_FORM}",
        "line 16: aliases.best.targets: Expected `array` of length >= 1",
        "line 19: limits.tenants.lab.in_flight: Expected `int` >= 1",
    ]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("models: [", "line 1: not YAML: "),
        ("- a", "line 1: Expected `object`, got `array`"),
        ("version: 2", "line 1: version: Invalid enum value 2"),
        ("model: {}", "line 1: model: is not a known field: did you mean models?"),
        ("models:\n  no: {source: /m}", "line 2: models: the key no without quotes means false"),
        ("models:\n  1: {source: /m}", "line 2: models: the key 1 without quotes means a number"),
        (
            "models:\n  a: {source: /m, name: on}",
            "line 2: models.a.name: on without quotes means true in YAML 1.1: write it as 'on'",
        ),
        (
            "models:\n  a: {source: /m, name: 1.5}",
            "line 2: models.a.name: 1.5 without quotes means a number",
        ),
        (
            "models:\n  a: {source: 2026-01-01}",
            "line 2: models.a.source: 2026-01-01 without quotes means a date",
        ),
        ("models:\n  a: {source: /m, replicas: 1:30}", "1:30 without quotes means a number"),
        ("models:\n  a: {source: /m, replicas: 010}", "010 without quotes means a number"),
        ("models:\n  a: {source: /m}\n  a: {source: /n}", "line 3: models.a: is there already"),
        ("models:\n  a: {source: !!python/name:os.system x}", "models.a.source: "),
        ("models:\n  a: {source: /m, options: {x: .nan}}", "models.a.options.x: "),
        ("a: &a [*a]", "is nested more than 32 levels deep"),
        ("[" * 5000, "is nested more than 32 levels deep"),
        ("models:\n  a b: {source: /m}", "line 2: models.a b: is not a valid id: use "),
        ("limits: {tenants: {t: {in_flight: 0}}}", "limits.tenants.t.in_flight: Expected `int`"),
        ("aliases: {a: {targets: []}}", "aliases.a.targets: Expected `array` of length >= 1"),
        ("models: {a: {}}", "line 1: models.a: source is missing"),
    ],
)
def test_a_bad_file_is_told_with_its_line(written: str, words: str) -> None:
    assert words in "\n".join(faults(written))


def test_anchors_that_multiply_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MOST_VALUES", 10_000)
    lines = ["a0: &a0 [" + "x," * 9 + "x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "has more than 10,000 values" in faults("\n".join(lines))[0]


@given(st.text(max_size=60))
def test_no_text_ends_the_reader_with_another_error(written: str) -> None:
    try:
        found = text.read(written)
    except BadFile:
        return
    assert text.read(text.write(found)) == found


# Compared


def test_what_differs_is_told_with_the_event_that_made_it_so() -> None:
    story = served()
    file = file_of(story)
    story.given("chat", ModelScaleRequested(3), AdapterLoadRequested("sql", "/a"))
    story.given("lab", LimitsSet("tenant", UsageLimits(in_flight=9)))
    causes = Causes()
    for record in story.log:
        causes.take(record)
    found = [causes.of(each) for each in compare(file, story.state).drifts]
    assert [
        (each.path, each.file, each.cluster, each.cause and each.cause.seq) for each in found
    ] == [
        ("limits.tenants.lab.in_flight", "4", "9", story.state.seq),
        ("models.chat.replicas", "2", "3", story.state.seq - 2),
        ("models.chat.adapters.sql", "not set", "/a", story.state.seq - 1),
    ]


def test_a_rollback_is_the_cause_of_what_it_changed() -> None:
    story = served()
    for replica in ("chat-0", "chat-1"):
        story.runs(replica)
    story.given("chat", load(2, "8GiB", name="org/chat", lora=True, options={"seed": 2}))
    file = file_of(story)
    story.settles()
    story.given("chat", ModelRolledBack("it did not start"))
    causes = Causes()
    for record in story.log:
        causes.take(record)
    [drift] = [causes.of(each) for each in compare(file, story.state).drifts]
    assert (drift.path, drift.file, drift.cluster) == ("models.chat.options.seed", "2", "1")
    assert drift.cause is not None
    assert (drift.cause.seq, drift.cause.type) == (story.state.seq, "ModelRolledBack")


def test_what_means_the_same_does_not_differ() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB"))
    written = "models: {chat: {source: /m, memory: 8589934592, name: chat, lora: false}}"
    assert compare(text.read(written), story.state) == Comparison(())


def test_what_a_file_does_not_have_is_left_alone_or_pruned() -> None:
    story = served()
    file = text.read("models: {}")
    assert compare(file, story.state).drifts == ()
    assert compare(file, story.state).alone == (
        "aliases.best",
        "limits.keys.ci",
        "limits.tenants.lab",
        "models.chat",
        "nodes.n1",
    )
    assert len(compare(file, story.state, prune=True).drifts) == 5


def test_a_drain_that_the_file_does_not_name_stays() -> None:
    story = served()
    file = file_of(story)
    story.given("n1", NodeDrainRequested())
    assert compare(file, story.state, prune=True) == Comparison(())
    drained = file_of(story)
    assert drained.nodes["n1"].draining
    [drift] = compare(drained, served().state).drifts
    assert (drift.path, drift.file, drift.cluster) == ("nodes.n1.draining", "true", "false")


def test_differences_read_as_lines() -> None:
    story = served()
    file = text.read("models: {chat: {source: /m, memory: 8GiB, name: org/chat, lora: true}}")
    assert list(sentences(compare(file, story.state)))[:2] == [
        "~ models.chat.replicas: 1 in the file, 2 in the cluster",
        "~ models.chat.options.seed: not set in the file, 1 in the cluster",
    ]


# Made so


def test_only_what_differs_is_asked_for() -> None:
    story = served()
    file = file_of(story)
    assert change_to(file, story.state, prune=True) == FileChange(())
    model = msgspec.structs.replace(
        file.models["chat"], replicas=1, adapters=(Adapter("sql", "/a"),)
    )
    wanted = msgspec.structs.replace(file, models={"chat": model})
    assert makes_so(story, wanted).intents == (
        ("chat", ModelScaleRequested(1)),
        ("chat", AdapterLoadRequested("sql", "/a")),
    )
    assert makes_so(story, file).intents == (
        ("chat", ModelScaleRequested(2)),
        ("chat", AdapterUnloadRequested("sql")),
    )


def test_a_scale_does_not_end_autoscaling() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB", autoscale=Autoscale(1, 4)))
    file = text.read(
        "models: {chat: {source: /m, memory: 8GiB, replicas: 2, autoscale: {most: 4}}}"
    )
    [(_, event)] = makes_so(story, file).intents
    assert isinstance(event, ModelLoadRequested)
    assert compare(file, story.state) == Comparison(())


def test_names_may_be_handed_on_within_one_change() -> None:
    story = cluster(n1=[80]).given("a", load(1, name="x")).given("b", load(1, name="y"))
    story.given("z", AliasRequested((Target("x"),), "w"))
    written = """
models:
  a: {source: /m, name: w}
  b: {source: /m, name: x}
aliases:
  z: {targets: [{model: w}], name: y}
"""
    change = makes_so(story, text.read(written))
    assert change.refused
    assert "name: 'w' is already an alias" in "\n".join(change.refused)


def test_a_name_that_a_leaving_model_has_is_waited_for() -> None:
    story = served()
    file = text.read("models: {new: {source: /m, name: org/chat, memory: 8GiB}}")
    change = change_to(file, story.state, prune=True)
    assert ("chat", ModelUnloadRequested()) in change.intents
    assert change.waits == ("chat",)
    [refused] = change.refused
    assert refused == "models.new: name: 'org/chat' is already the name of model 'chat'"


def test_what_is_not_possible_is_named_by_its_place() -> None:
    written = """
nodes: {gone: {pinned: [a/b]}}
limits: {keys: {nobody: {in_flight: 1}}}
aliases: {best: {targets: [{model: a, weight: 0}]}}
"""
    change = change_to(text.read(written), served().state)
    assert change.intents == ()
    assert set(change.refused) == {
        "nodes.gone: there is no node 'gone'",
        "limits.keys.nobody: there is no key 'nobody': issue it first",
        "aliases.best: targets: one at least must have a weight above 0",
    }


# Whether a plan still holds


def test_a_plan_holds_while_engines_start() -> None:
    story = served()
    file = msgspec.structs.replace(file_of(story), aliases={})
    before = story.state
    for replica in ("chat-0", "chat-1"):
        story.runs(replica)
    since = story.log[before.seq :]
    assert moved(before, story.state, since, file, prune=True) == ()


def test_a_plan_does_not_hold_once_something_else_was_asked_for() -> None:
    story = served()
    file = file_of(story)
    before = story.state
    story.given("poet", load(1, "1GiB"))
    [line] = moved(before, story.state, story.log[before.seq :], file, prune=False)
    assert line.startswith(f"event {story.state.seq}, ")
    assert "model poet: " in line


def test_a_plan_does_not_hold_once_its_places_are_others() -> None:
    story = served()
    file = text.read("models: {poet: {source: /m, memory: 70GiB, node: n2}}")
    before = story.state
    story.given("n2", NodeDrainRequested())
    assert moved(before, story.state, story.log[before.seq :], file, prune=False)


# Laws


@given(st.lists(st.one_of(intents, facts), max_size=25))
def test_what_is_dumped_does_not_differ(history: list[tuple[str, Event]]) -> None:
    story = cluster(n1=[16], n2=[16])
    for identity, event in history:
        story.append(identity, event)
    file = file_of(story)
    assert file == declared(story.state)
    assert compare(file, story.state, prune=True) == Comparison(())
    assert change_to(file, story.state, prune=True) == FileChange(())


@given(
    st.lists(st.one_of(intents, facts), max_size=20), st.lists(intents, max_size=20), st.booleans()
)
def test_after_a_file_was_applied_nothing_differs(
    then: list[tuple[str, Event]], now: list[tuple[str, Event]], prune: bool
) -> None:
    """Unless a name is in the way: then that is told, and it is another time's business."""
    was, story = cluster(n1=[16], n2=[16]), cluster(n1=[16], n2=[16])
    for at, history in ((was, then), (story, now)):
        for identity, event in history:
            at.append(identity, event)
    file = file_of(was)
    change = makes_so(story, file, prune=prune)
    assert not story.state.rejections or set(story.state.rejections) <= set(range(len(now) + 3))
    if not change.refused:
        assert compare(file, story.state, prune=prune).drifts == ()
        assert change_to(file, story.state, prune=prune) == FileChange(())
