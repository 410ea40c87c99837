"""The way of one request, told from the messages that were kept of it."""

from __future__ import annotations

import pytest
from msgspec import Struct

from nebula.events import inference
from nebula.events.inference import Piece, Request, Routed, RoutedCandidate
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import EngineFailed
from nebula.history.request import RequestStory
from tests.unit.story import cluster, load

MILLISECOND = 10**6


class Kept(Struct, frozen=True):
    """A message that is still there."""

    time: int
    subject: str
    headers: dict[str, str]
    size: int = 0


def state() -> State:
    story = cluster(n1=[80], n2=[80]).given("chat", load(3, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").runs("chat-2")
    return story.given("chat-2", EngineFailed("no", 1, attempt=1, retry_in=1.0)).state


def asked(adapter: str = "") -> Kept:
    request = Request("r1", "gw", "chat", "/v1/chat/completions", b"", adapter)
    return Kept(0, "nebula.inference.requests.chat", inference.request_headers(request), 120)


def routed(*candidates: RoutedCandidate) -> Kept:
    header = inference.routed_header(Routed("router a", 9, candidates))
    return Kept(
        MILLISECOND, "nebula.inference.replicas.chat.chat-0", {inference.ROUTED: header}, 120
    )


def piece(time: int, size: int = 0, **fields: object) -> Kept:
    headers = inference.piece_headers(Piece(body=b"", **fields))  # type: ignore[arg-type]
    return Kept(time * MILLISECOND, "nebula.inference.responses.gw.r1", headers, size)


def story(*said: Kept, now: State | None = None) -> RequestStory:
    return RequestStory.of("r1", said, now or state())


def texts(told: RequestStory) -> list[str]:
    return [step.text for step in told.steps]


def test_an_answered_request_is_told_from_end_to_end() -> None:
    told = story(
        asked(),
        routed(RoutedCandidate("chat-0", 0), RoutedCandidate("chat-1", 0)),
        piece(2, chunk=-1, replica="chat-0"),
        piece(10, 100, chunk=0, status=200, content_type="text/event-stream"),
        piece(20, 50, chunk=1),
        piece(30, 0, chunk=2, end=True),
    )
    assert told.headline == "request r1: answered: 150 bytes in 20 ms"
    assert texts(told) == [
        "gw asked for model chat: /v1/chat/completions, 120 bytes",
        "router a sent it to chat-0, as of event 9",
        "chat-0 has taken it",
        "the answer began: HTTP 200",
        "answered: 150 bytes in 20 ms",
    ]


def test_every_replica_says_why_it_was_or_was_not_taken() -> None:
    told = story(
        asked(),
        routed(
            RoutedCandidate("chat-0", 1),
            RoutedCandidate("chat-1", 1),
            RoutedCandidate("other", 4),
            RoutedCandidate("mute", 0, silent=True),
        ),
    )
    assert told.steps[1].reasons == (
        "chat-0 was chosen: 1 in flight",
        "not chat-1: as good (1 in flight), but it was not its turn",
        "not other: 4 in flight",
        "not mute: it was silent (0 in flight)",
        "not chat-2: it was not ready for this (now it is failed)",
    )
    assert told.headline == "request r1 has no answer yet"


def test_a_replica_without_the_adapter_says_so() -> None:
    said = routed(RoutedCandidate("chat-0", 0))
    adapter = inference.request_headers(Request("r1", "gw", "chat", "/v1", b"", "sql"))
    told = story(asked("sql"), Kept(said.time, said.subject, {**adapter, **said.headers}, 1))
    assert told.steps[0].text.endswith("with adapter 'sql', 120 bytes")
    assert "now it is ready without adapter 'sql'" in told.steps[1].reasons[1]


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (inference.NO_REPLICA, "refused: no replica was ready for it"),
        (inference.ENGINE_FAILED, "failed: the engine of chat-0 failed on the way"),
        (inference.ENGINE_STOPPED, "ended: the engine of chat-0 was stopped"),
        ("new-kind", "ended: new-kind"),
    ],
)
def test_a_failed_request_says_how_it_ended(failure: str, end: str) -> None:
    told = story(asked(), piece(5, chunk=0, replica="chat-0", end=True, failure=failure))
    assert told.headline == f"request r1: {end}"


def test_a_client_that_went_away_is_told() -> None:
    cancelled = Kept(5, "nebula.inference.cancel.chat-0", {inference.REQUEST: "r1"})
    assert "its client went away: the engine was told to stop" in texts(story(asked(), cancelled))


def test_what_makes_no_sense_is_passed_over() -> None:
    nonsense = Kept(5, "nebula.inference.responses.gw.r1", {"x": "y"}, 3)
    unrouted = Kept(3, "nebula.inference.replicas.chat.chat-0", {inference.ROUTED: "{"}, 3)
    told = story(asked(), unrouted, nonsense, now=EMPTY)
    assert texts(told)[1:] == ["sent to chat-0"]
