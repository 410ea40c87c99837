"""Every subject has roles, and every role has the subjects that the reference lists."""

from pathlib import Path

import pytest

from nebula.schema import parties, roles, stream_rights
from nebula.schema.parties import ROLES as ALL_ROLES
from nebula.schema.parties import RoleName, channels
from nebula.schema.roles import EXAMPLES, rights, role
from nebula.store import (
    batch_queue,
    captures,
    demand,
    files,
    ledger,
    responses,
    streams,
    upkeep,
    usage,
)
from nebula.store.users import Rights
from tests.unit.subject_patterns import covers

ROOT = Path(__file__).parents[2]
ROLES: tuple[RoleName, ...] = tuple(name for name in ALL_ROLES if name != "admin")
ALL: dict[RoleName, Rights] = {name: rights(EXAMPLES[name]) for name in ROLES}


def test_a_subject_that_is_in_no_stream_is_subscribed_to() -> None:
    for channel in channels():
        assert channel.stream or parties.parties(channel).subscribe, channel.name


def test_only_subjects_that_there_are_have_roles() -> None:
    names = {channel.name for channel in channels()}
    assert names >= parties._OTHERS.keys() | parties._FACTS.keys() | parties._DECISIONS.keys()


def test_every_stream_has_rights() -> None:
    made = (
        *streams.definitions(),
        *batch_queue.definitions(1),
        responses.definition(1),
        ledger.definition(1),
        files.definition(1),
        usage.definition(1),
        captures.definition(1),
        demand.definition(1),
        upkeep.SNAPSHOTS,
    )
    assert {each.name for each in made} == stream_rights.RIGHTS.keys()


@pytest.mark.parametrize("name", ROLES)
def test_no_role_may_use_a_whole_tree_of_subjects(name: RoleName) -> None:
    trees = {each for each in ALL[name].publish if each.startswith("nebula.") and ">" in each}
    assert trees == ({"nebula.events.>"} if name == "provision" else set())
    assert not any(each in (">", "$JS.>", "$JS.API.>", "$O.>") for each in ALL[name].publish)
    assert [each for each in ALL[name].subscribe if each.endswith(">")] == [
        each for each in (stream_rights.ADVISORIES, f"{ALL[name].inbox}.>")
        if each in ALL[name].subscribe
    ]  # fmt: skip


def test_no_role_reads_the_replies_to_another() -> None:
    for name in ROLES:
        for other in ROLES:
            inbox = f"{ALL[other].inbox}.id.token"
            assert covers(ALL[name].subscribe, inbox) == (name == other)


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ("nebula.status.node.N", True),
        ("nebula.status.node.other", False),
        ("nebula.events.node.N.NodeRegistered", True),
        ("nebula.events.node.other.NodeRegistered", False),
        ("nebula.events.node.N.NodeDrainRequested", False),
        ("nebula.events.model.m.ModelLoadRequested", False),
        ("nebula.events.model.m.ModelAssigned", False),
        ("$JS.API.STREAM.DELETE.NEBULA_EVENTS", False),
        ("$JS.API.CONSUMER.CREATE.NEBULA_INFERENCE", False),
        ("$O.NEBULA_SNAPSHOTS.M.c3RhdGUtMA==", False),
    ],
)
def test_a_node_speaks_for_itself_only(subject: str, allowed: bool) -> None:
    assert covers(ALL["node"].publish, subject) == allowed


def test_an_engine_has_its_own_replica_and_no_stream() -> None:
    engine = rights(role("engine", model="chat", replica="chat-0"))
    assert engine.inbox == "_INBOX_engine.chat.chat-0"
    assert "nebula.inference.replicas.chat.chat-0" in engine.subscribe
    assert not covers(engine.subscribe, "nebula.inference.replicas.chat.chat-1")
    assert not covers(engine.publish, "nebula.inference.finished.other")
    assert "nebula.cache.chat.chat-0" in engine.publish
    assert not covers(engine.publish, "nebula.cache.chat.chat-1")
    assert not any(each.startswith("$") for each in (*engine.publish, *engine.subscribe))


def test_only_routers_and_a_person_make_snapshots() -> None:
    makers = [name for name in ROLES if covers(ALL[name].publish, "$O.NEBULA_SNAPSHOTS.C.x")]
    assert makers == ["router", "provision"]


def test_no_role_may_delete_the_log() -> None:
    for use in ("DELETE", "PURGE", "MSG.DELETE"):
        subject = f"$JS.API.STREAM.{use}.NEBULA_EVENTS"
        assert not [name for name in ROLES if covers(ALL[name].publish, subject)]


def test_actors_that_answer_questions_may_reply() -> None:
    assert {name for name in ROLES if ALL[name].replies} == {"gateway", "router", "node"}


@pytest.mark.parametrize("bad", ["", "a.b", "*", ">", "a b", 'x"', "x" * 129])
def test_a_name_that_is_not_a_valid_id_gets_no_role(bad: str) -> None:
    with pytest.raises(ValueError, match="not a valid id"):
        role("node", node=bad)


def test_a_role_has_only_names_of_its_own() -> None:
    with pytest.raises(ValueError, match="a router has no names node"):
        role("router", node="n1")
    assert role("node").own == {}
    assert "nebula.status.node.*" in rights(role("node")).publish
    assert roles.Role("node").inbox == "_INBOX_node"
