"""What Nebula needs of a NATS server, and the words for what one lacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula.events.envelope import HEADER_ROOM
from nebula.events.sizes import INTENT
from nebula.store.needs import LEAST_PAYLOAD, lacking, overlapping, refusal


@given(st.integers(0, 2**26))
def test_a_server_lacks_something_where_messages_must_be_smaller_than_the_least(size: int) -> None:
    said = lacking("h:1", size)
    assert bool(said) == (size < LEAST_PAYLOAD)
    if said:
        assert f"{size:,}" in said
        assert f"{LEAST_PAYLOAD:,}" in said


def test_the_least_has_room_for_an_intent_and_its_headers() -> None:
    assert LEAST_PAYLOAD > 2 * INTENT + HEADER_ROOM


@given(st.booleans(), st.sampled_from(("", "no suitable peers")), st.booleans())
def test_a_refusal_always_has_words(enabled: bool, said: str, nobody: bool) -> None:
    words = refusal("h:1", enabled, said, nobody)
    assert "None" not in words
    assert ("not enabled on h:1" in words) == (nobody and not enabled)
    assert (said in words) or nobody


def test_a_foreign_stream_is_named_with_what_to_do() -> None:
    said = overlapping("NEBULA_EVENTS", "nebula.events.>", "mine")
    assert "stream 'mine'" in said
    assert "nats stream rm mine" in said
