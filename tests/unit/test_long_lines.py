"""A model whose requests wait too long is told, with the reason and what would help."""

from nebula.events.heartbeats import QueueLength, joined_lines
from nebula.history import attention, long_lines
from nebula.history.subject import Subject, verdict
from tests.unit.story import cluster, load, serving_chat

NOW = 100 * 10**9
LONG = {"chat": QueueLength(12, 8.4)}


def test_a_long_line_is_told_with_its_reason_and_what_would_shorten_it() -> None:
    state = serving_chat(max_in_flight=2).state
    [only] = long_lines.concerns(state, LONG, NOW)
    assert only.text == (
        "chat is slow: 12 requests wait in line, the first for 8 s, because its replica takes "
        "2 requests at a time"
    )
    assert (only.severity, only.command, only.why) == (
        "warning",
        "nebula scale chat 2",
        "nebula why chat",
    )
    assert "--max-in-flight 4" in only.todo
    assert only.since == NOW - 8_400_000_000


def test_each_of_several_replicas_is_counted() -> None:
    [only] = long_lines.concerns(
        serving_chat(replicas=2).state, {"chat": QueueLength(1, 30.0)}, NOW
    )
    assert "1 request waits in line, the first for 30 s, because its 2 replicas" in only.text


def test_neither_a_short_wait_nor_spare_capacity_is_told() -> None:
    state = serving_chat().state
    for line in (QueueLength(50, 1.0), QueueLength(0, 0.0, slack=9, slack_oldest=900.0)):
        assert not list(long_lines.concerns(state, {"chat": line}, NOW))


def test_a_model_that_does_not_serve_is_a_concern_already() -> None:
    story = cluster(n1=[8]).given("chat", load(memory="80GiB"))
    story.settles()
    assert not list(long_lines.concerns(story.state, LONG, NOW))
    assert not list(long_lines.concerns(story.state, {"gone": LONG["chat"]}, NOW))


def test_the_verdict_on_a_model_tells_its_line() -> None:
    state = serving_chat(max_in_flight=1).state
    subject = Subject("model", "chat")
    told = verdict(state, subject)
    longer = long_lines.of_subject(state, subject, told, LONG)
    assert longer.headline.startswith(f"{told.headline}; 12 requests wait in line")
    assert "1 request at a time" in longer.headline
    assert "nebula scale chat 2" in longer.todo
    assert long_lines.of_subject(state, subject, told, {}) == told


def test_what_needs_attention_is_in_the_order_of_its_urgency() -> None:
    story = serving_chat()
    story.given("huge", load(memory="800GiB"))
    story.settles()
    found = long_lines.with_lines(attention.survey(story.state, 9), story.state, LONG, NOW)
    assert [each.id for each in found.concerns] == ["huge", "chat"]


def test_lines_of_several_routers_are_one() -> None:
    one = {"a": QueueLength(1, 2.0, 3, 4.0)}
    two = {"a": QueueLength(5, 1.0, 1, 9.0), "b": QueueLength(1, 1.0)}
    assert joined_lines([one, two]) == {"a": QueueLength(6, 2.0, 4, 9.0), "b": QueueLength(1, 1.0)}
