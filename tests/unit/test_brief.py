"""Reasons are cut, so that every event that bears one can be appended."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.placement.decision import decide
from nebula.events import record
from nebula.events.brief import LONGEST, brief
from nebula.events.vocabulary import AGGREGATE_OF, TYPES, EngineFailed, EventRejected
from tests.unit.story import Story, cluster, load

ROOM = 64 * 1024
"""Bytes: a small part of the least that NATS is set to take, 1 MiB."""


def test_a_short_reason_stays_as_it_is() -> None:
    assert brief("x" * LONGEST) == "x" * LONGEST


def test_a_long_reason_keeps_its_beginning_and_its_end_and_tells_how_long_it_was() -> None:
    cut = brief("begin " + "x" * 5_000 + " (byte 17)")
    assert cut.startswith("begin xxx")
    assert cut.endswith("x (byte 17)")
    assert "(5016 characters)" in cut


@given(st.text(min_size=1), st.integers(1, 100_000))
def test_no_reason_is_longer_than_the_bound(text: str, times: int) -> None:
    assert len(brief(text * times)) <= LONGEST


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        (
            "model.x.ModelLoadRequested",
            b'{"source":"m","options":{"' + b"\x7f" * 300_000 + b'":1}}',
        ),
        (
            "model.x.ModelLoadRequested",
            b'{"source":"m","env":{"' + "\u200b".encode() * 300_000 + b'":""}}',
        ),
        ("model.x.ModelLoadRequested", b'{"source":"m","' + b"a" * 900_000 + b'":1}'),
        ("model.x.ModelScaleRequested", b'{"replicas":' + b"9" * 900_000 + b"}"),
        ("alias.x.AliasRequested", b'{"targets":[{"model":"' + b"\x01" * 900_000 + b'"}]}'),
        ("node.x.NodeRegistered", b'{"devices":"' + "\u20ac".encode() * 300_000 + b'"}'),
    ],
)
def test_the_answer_to_a_huge_event_is_small(subject: str, payload: bytes) -> None:
    story = Story().publish(f"nebula.events.{subject}", payload)
    [answer] = decide(story.state)
    assert isinstance(answer.event, EventRejected)
    assert len(record.encode(answer.event)) < ROOM


@given(st.binary(max_size=200), st.integers(1, 5_000), st.sampled_from(sorted(TYPES)))
def test_whatever_is_published_every_decision_fits(piece: bytes, times: int, name: str) -> None:
    body = b'{"source":"m","' + piece * times + b'":1}'
    subject = f"nebula.events.{AGGREGATE_OF[name]}.x.{name}"
    story = cluster(alpha=[80]).publish(subject, body)
    for decision in decide(story.state):
        assert len(record.encode(decision.event)) < ROOM


def test_a_roll_back_does_not_repeat_a_huge_reason_of_an_engine() -> None:
    story = cluster(alpha=[80]).given("chat", load(memory="8GiB"))
    story.settles()
    story.runs("chat-0").given("chat", load(memory="9GiB"))
    story.settles()
    planned = sorted(story.state.models["chat"].replicas)
    for replica in planned:
        if replica != "chat-0":
            story.given(replica, EngineFailed("\x7f" * 2_000_000, 1, attempt=3))
    for decision in decide(story.state):
        assert len(record.encode(decision.event)) < ROOM
    assert all(len(each.reason) <= LONGEST for each in story.state.replicas.values())
    assert json.loads(record.encode(EventRejected("s", brief("\x01" * 9_999))))
