"""The way of one request, told from the messages that were kept of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.router import routing
from nebula.actors.router.routing import CACHE_FULL
from nebula.events import envelope, piece_envelope, subjects
from nebula.events.failures import Failure, note, words
from nebula.events.inference import Doubt, Piece, ReplicaCandidate, Request, Routed
from nebula.events.record import parse_headers
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import EngineFailed
from nebula.history import choice
from nebula.history.request import RequestStory
from tests.unit.story import cluster, load

MILLISECOND = 10**6
REQUEST = Request("r1", "gw", "chat", "/v1/chat/completions", b"")


class Kept(Struct, frozen=True):
    """A message that is still there."""

    time: int
    subject: str
    headers: dict[str, str]
    size: int = 0
    body: bytes = b""


def state() -> State:
    story = cluster(n1=[80], n2=[80]).given("chat", load(3, "8GiB"))
    story.settles()
    story.runs("chat-0").runs("chat-1").runs("chat-2")
    return story.given("chat-2", EngineFailed("no", 1, attempt=1, retry_in=1.0)).state


def asked(time: int = 0, *, router: str = "", **fields: object) -> Kept:
    headers = envelope.request_headers(replace(REQUEST, **fields))
    subject = subjects.router_requests("chat", router) if router else subjects.requests("chat")
    return Kept(time * MILLISECOND, subject, headers, 120)


def routed(
    *candidates: ReplicaCandidate,
    to: str = "chat-0",
    time: int = 1,
    waited: float = 0.0,
    adapter: str = "",
    gateway: str = "",
) -> Kept:
    asked = envelope.request_block(replace(REQUEST, adapter=adapter))
    header = envelope.routed_block(asked, 1, Routed("router-a", 9, candidates, waited, gateway))
    subject = f"nebula.inference.replicas.chat.{to}"
    return Kept(time * MILLISECOND, subject, parse_headers(header), 120)


def piece(time: int, size: int = 0, *, body: bytes = b"", **fields: object) -> Kept:
    headers = piece_envelope.headers_of(Piece(body=b"", **fields))  # type: ignore[arg-type]
    subject = "nebula.inference.responses.gw.r1"
    return Kept(time * MILLISECOND, subject, headers, size or len(body), body)


def cancelled(time: int, body: bytes = b"") -> Kept:
    subject = "nebula.inference.cancel.chat.r1"
    return Kept(time * MILLISECOND, subject, {}, len(body), body)


def story(*said: Kept, now: State | None = None) -> RequestStory:
    return RequestStory.of("r1", said, now or state())


def texts(told: RequestStory) -> list[str]:
    return [step.text for step in told.steps]


def test_an_answered_request_is_told_from_end_to_end() -> None:
    told = story(
        asked(),
        routed(ReplicaCandidate("chat-0", 0), ReplicaCandidate("chat-1", 0)),
        piece(2, chunk=-1, replica="chat-0"),
        piece(10, 100, chunk=0, status=200, content_type="text/event-stream"),
        piece(20, 50, chunk=1),
        piece(30, 0, chunk=2, end=True),
    )
    assert told.headline == "request r1: answered: 150 bytes in 20 ms"
    assert texts(told) == [
        "gw asked for model chat: /v1/chat/completions, 120 bytes",
        "router-a sent it to chat-0, as of event 9",
        "chat-0 has taken it",
        "the answer began: HTTP 200",
        "answered: 150 bytes in 20 ms",
    ]


def test_a_short_answer_is_told_by_its_only_piece() -> None:
    whole = piece(5, 80, chunk=0, status=200, content_type="application/json", end=True)
    assert story(asked(), whole).headline == "request r1: answered: HTTP 200, 80 bytes"


def test_what_was_wished_for_is_told() -> None:
    told = story(asked(adapter="sql", priority=-1, timeout=9.0, keep=True))
    assert texts(told) == [
        "gw asked for model chat: /v1/chat/completions with adapter 'sql', 120 bytes, "
        "priority -1, within 9.000 s, to be resumable"
    ]
    assert told.headline == "request r1 has no answer yet"
    assert "9000 bytes" in texts(story(asked(size=9000)))[0], "of a body that it does not carry"


def test_what_a_resuming_gateway_gave_up_too_soon_ends_as_its_engine_ended_it() -> None:
    said = (
        asked(keep=True),
        routed(ReplicaCandidate("chat-0", 0)),
        piece(10, 100, chunk=0, status=200),
        cancelled(20, b"engine-failed"),
        piece(30, 50, chunk=1),
    )
    assert story(*said).headline == "request r1: given up: the engine failed"
    told = story(*said, piece(40, 7, chunk=2, end=True))
    assert told.headline == "request r1: answered after all: 157 bytes"
    assert texts(told)[-2:] == [
        "given up: the engine failed",
        "answered after all: 157 bytes",
    ]
    gone = story(*said[:3], cancelled(20), piece(30, 50, chunk=1, end=True))
    assert gone.headline == (
        "request r1: its client disconnected: the router or engine that had it was told to stop"
    )


# Why it went where it went


def reasons(*candidates: ReplicaCandidate, to: str = "chat-0", adapter: str = "") -> list[str]:
    """What is said of the candidates; replicas that were none are left out."""
    told = story(asked(), routed(*candidates, to=to, adapter=adapter))
    return list(told.steps[1].reasons[: len(candidates)])


def test_every_replica_says_why_it_was_or_was_not_taken() -> None:
    told = story(
        asked(),
        routed(
            ReplicaCandidate("chat-0", 1),
            ReplicaCandidate("chat-1", 1),
            ReplicaCandidate("other", 4),
            ReplicaCandidate("mute", 0, avoided=True),
            ReplicaCandidate("full", 256),
        ),
    )
    assert told.steps[1].reasons == (
        "chat-0 was chosen: 1 in flight",
        "not chat-1: as good (1 in flight), but chat-0 was drawn",
        "not other: it is busier (4 in flight)",
        "not mute: it had failed, stalled or sent no heartbeat (0 in flight)",
        "not full: it has as many requests as allowed (256 in flight)",
        "not chat-2: it could not take it then; now it is failed",
    )


def test_one_whose_engine_holds_requests_back_is_the_busier_one() -> None:
    assert reasons(
        ReplicaCandidate("chat-0", 3), ReplicaCandidate("chat-1", 2, waiting=2, cache=0.5)
    ) == [
        "chat-0 was chosen: 3 in flight",
        "not chat-1: it is busier (2 in flight, 2 waiting in its engine, cache 50% full)",
    ]


def test_a_replica_that_has_seen_more_of_the_prompt_was_chosen_for_it() -> None:
    assert reasons(
        ReplicaCandidate("chat-0", 1, prefix=1024), ReplicaCandidate("chat-1", 0, prefix=256)
    ) == [
        "chat-0 was chosen: 1 in flight, 1024 bytes of the prompt processed before",
        "not chat-1: chat-0 has processed more of the prompt (0 in flight, 256 bytes of the "
        "prompt processed before)",
    ]


def test_a_replica_that_had_seen_more_of_the_prompt_says_why_that_was_not_enough() -> None:
    busy = ReplicaCandidate("chat-1", 9, prefix=1024)
    full = ReplicaCandidate("chat-2", 0, cache=CACHE_FULL, prefix=1024)
    assert reasons(ReplicaCandidate("chat-0", 0, prefix=256), busy, full)[1:] == [
        "not chat-1: it is clearly busier (9 in flight, 1024 bytes of the prompt processed before)",
        "not chat-2: its cache is full "
        "(0 in flight, cache 95% full, 1024 bytes of the prompt processed before)",
    ]


def test_one_that_is_avoided_was_chosen_where_no_other_was_left() -> None:
    assert reasons(
        ReplicaCandidate("chat-0", 1, avoided=True), ReplicaCandidate("chat-1", 2, avoided=True)
    ) == [
        "chat-0 was chosen: 1 in flight, although it had failed, stalled or sent no heartbeat: "
        "there is no better one",
        "not chat-1: it had failed, stalled or sent no heartbeat as well, and it is busier "
        "(2 in flight)",
    ]


def doubted(replica: str, doubt: str, in_flight: int = 0) -> ReplicaCandidate:
    return ReplicaCandidate(replica, in_flight, avoided=True, doubt=doubt)


def test_each_doubt_about_a_replica_is_told() -> None:
    doubts = (Doubt.FAILED, Doubt.TRIED, Doubt.SILENT, Doubt.STALLED)
    others = [doubted(f"x-{number}", doubt) for number, doubt in enumerate(doubts)]
    assert reasons(ReplicaCandidate("chat-0", 1), *others)[1:] == [
        "not x-0: it has failed several requests since its last success (0 in flight)",
        "not x-1: it has failed this very request before (0 in flight)",
        "not x-2: it sends no heartbeat (0 in flight)",
        "not x-3: it is stalled (0 in flight)",
    ]


def test_one_that_is_avoided_was_chosen_where_all_others_had_their_fill() -> None:
    limit = state().models["chat"].spec.max_in_flight
    assert reasons(
        doubted("chat-0", Doubt.FAILED),
        ReplicaCandidate("chat-1", limit),
        doubted("chat-2", Doubt.TRIED),
    ) == [
        "chat-0 was chosen: 0 in flight, although it has failed several requests since its last "
        "success: the preferred replicas have as many requests as allowed",
        f"not chat-1: it has as many requests as allowed ({limit} in flight)",
        "not chat-2: it has failed this very request before (0 in flight)",
    ]


def test_one_that_was_to_be_preferred_to_the_chosen_one_can_only_have_had_its_fill() -> None:
    assert reasons(doubted("chat-0", Doubt.FAILED), ReplicaCandidate("chat-1", 3)) == [
        "chat-0 was chosen: 0 in flight, although it has failed several requests since its last "
        "success: the preferred replicas have as many requests as allowed",
        "not chat-1: it has as many requests as allowed (3 in flight)",
    ]


def test_one_that_stands_still_is_not_called_as_good_as_a_silent_one() -> None:
    told = reasons(doubted("chat-0", Doubt.SILENT), doubted("chat-1", Doubt.STALLED))
    assert told[1] == "not chat-1: it is stalled (0 in flight)"


_candidates = st.lists(
    st.builds(
        ReplicaCandidate,
        st.sampled_from(["chat-0", "chat-1", "chat-2", "chat-3"]),
        st.integers(0, 6),
        st.booleans(),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.5, CACHE_FULL]),
        st.sampled_from([0, 0, 256, 1024]),
        st.sampled_from(["", Doubt.FAILED, Doubt.TRIED, Doubt.SILENT]),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda each: each.replica,
)


@given(_candidates, st.integers(1, 7))
def test_a_replica_that_lost_the_draw_could_have_won_it_and_no_other_could(
    candidates: list[ReplicaCandidate], limit: int
) -> None:
    winners = {routing.choose(candidates, str(key), limit) for key in range(64)}
    chosen = routing.choose(candidates, "", limit)
    if chosen is None:
        return
    told = choice.reasons(candidates, chosen, limit)
    drawn = {
        each.replica
        for each, words in zip(candidates, told, strict=True)
        if "was drawn" in words or "was chosen" in words
    }
    assert drawn == winners
    facts = [words.partition(": ")[2][:1].isdigit() for words in told if " was chosen" not in words]
    assert not any(facts), "each has a reason, not only figures"


def test_where_a_request_goes_back_to_why_is_told() -> None:
    assert reasons(doubted("chat-0", Doubt.TRIED), doubted("chat-1", Doubt.SILENT)) == [
        "chat-0 was chosen: 0 in flight, although it has failed this very request before: "
        "there is no better one",
        "not chat-1: it sends no heartbeat (0 in flight)",
    ]


def test_a_replica_without_the_adapter_says_so() -> None:
    told = story(asked(adapter="sql"), routed(ReplicaCandidate("chat-0", 0), adapter="sql"))
    assert "now it is ready without adapter 'sql'" in told.steps[1].reasons[1]


def test_of_many_candidates_only_some_are_known_and_the_others_are_not_spoken_of() -> None:
    told = story(asked(), routed(*(ReplicaCandidate(f"x-{number}", 0) for number in range(16))))
    assert len(told.steps[1].reasons) == 16
    assert told.steps[1].reasons[0] == "not x-0: 0 in flight"


# Lines


def test_a_request_that_waited_says_where_and_for_how_long() -> None:
    told = story(
        asked(),
        piece(1, chunk=-1, queued="router-a"),
        routed(ReplicaCandidate("chat-0", 3), time=2301, waited=2.3),
    )
    assert texts(told)[1:] == [
        "it waits in router-a's queue, for 30 s at most (--load-timeout)",
        "router-a sent it to chat-0 after 2.3 s in its queue, as of event 9",
    ]


@pytest.mark.parametrize(
    ("headers", "bound"),
    [
        ({"Nebula-Timeout": "20"}, ", for 20 s at most (its X-Request-Timeout)"),
        ({"Nebula-Timeout": "40"}, ", for 30 s at most (--load-timeout)"),
        ({"Nebula-Patience": "soon"}, ""),
    ],
)
def test_it_is_told_which_option_or_header_bounds_the_wait(
    headers: dict[str, str], bound: str
) -> None:
    request = asked()
    told = story(
        replace(request, headers={**request.headers, **headers}),
        piece(1, chunk=-1, queued="router-a"),
    )
    assert texts(told)[-1] == f"it waits in router-a's queue{bound}"


def test_a_request_that_was_refused_says_why() -> None:
    refusal = piece(
        3, chunk=0, status=429, end=True, failure="refused", body=b"model 'chat' is busy"
    )
    told = story(asked(), refusal)
    assert told.headline == "request r1: refused by a router: HTTP 429: model 'chat' is busy"


def test_a_request_that_a_router_handed_over_is_not_a_new_attempt() -> None:
    told = story(asked(), piece(1, chunk=-1, queued="router-a"), asked(2))
    assert texts(told)[2:] == ["router-a ended, and passed it on to the other routers"]


# Further attempts


def test_an_attempt_after_a_failure_says_whose_it_was() -> None:
    told = story(
        asked(),
        routed(ReplicaCandidate("chat-0", 0)),
        piece(5, chunk=0, replica="chat-0", end=True, failure=Failure.ENGINE_FAILED),
        cancelled(6, b"2"),
        asked(6, attempt=2, avoid="chat-0"),
        routed(ReplicaCandidate("chat-1", 0), to="chat-1", time=7),
        piece(9, 10, chunk=0, status=200, replica="chat-1", end=True, attempt=2),
    )
    assert told.headline == "request r1: answered: HTTP 200, 10 bytes"
    assert texts(told)[2:4] == [
        "failed: the engine of chat-0 failed on the way",
        "gw asked again, attempt 2",
    ]
    assert told.steps[3].reasons == ("chat-0 had it: its engine failed",)


def test_the_router_that_was_asked_is_named_with_every_attempt() -> None:
    told = story(asked(router="router-a"), asked(9, router="router-b", attempt=2))
    first, second = told.steps
    assert first.text == (
        "gw asked for model chat: /v1/chat/completions, 120 bytes, through router-a"
    )
    assert second.text == "gw asked again, attempt 2, through router-b"
    assert second.reasons == ("neither router-a nor a replica had confirmed it",)


@pytest.mark.parametrize(
    ("said", "avoid", "why"),
    [
        ((), "", "no router or replica had confirmed it"),
        (
            (piece(1, chunk=-1, queued="router-a"),),
            "",
            "router-a, which had queued it, fell silent",
        ),
        (
            (piece(1, chunk=-1, replica="chat-0"),),
            "chat-0",
            "chat-0 had it: its engine was gone or silent, or a part of its answer was lost",
        ),
        (
            (piece(1, 9, chunk=0, status=500, replica="chat-0", end=True),),
            "chat-0",
            "chat-0 had it: it answered with HTTP 500",
        ),
        (
            (piece(1, chunk=3, end=True, failure=Failure.ENGINE_STOPPED),),
            "chat-0",
            "chat-0 had it: its engine was stopped",
        ),
    ],
)
def test_every_further_attempt_says_why_there_is_one(
    said: tuple[Kept, ...], avoid: str, why: str
) -> None:
    told = story(asked(), *said, asked(9, attempt=2, avoid=avoid))
    assert told.steps[-1].reasons == (why,)
    assert told.headline == "request r1 has no answer yet"


def test_a_stream_that_went_on_elsewhere_is_told_as_one_answer() -> None:
    told = story(
        asked(),
        piece(10, 100, chunk=0, status=200, content_type="text/event-stream", replica="chat-0"),
        piece(20, 50, chunk=1),
        cancelled(30, b"2"),
        asked(30, attempt=2, avoid="chat-0", continues="rest"),
        piece(31, 7, chunk=2),  # this is no longer heard
        piece(40, 30, chunk=0, status=200, replica="chat-1", attempt=2, continues="rest"),
        piece(50, 20, chunk=1, end=True, attempt=2),
    )
    assert told.headline == "request r1: answered: 200 bytes in 40 ms"
    assert texts(told)[2:] == [
        "gw asked again for the rest of the answer, attempt 2",
        "chat-1 continues the answer",
        "answered: 200 bytes in 40 ms",
    ]


# Ends


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (Failure.ENGINE_FAILED, "failed: the engine of chat-0 failed on the way"),
        (Failure.ENGINE_STOPPED, "ended: the engine of chat-0 was stopped"),
        (Failure.ENGINE_TIMED_OUT, "ended: the time that its X-Request-Timeout gave it was over"),
        ("new-kind", "ended: new-kind"),
    ],
)
def test_a_failed_request_says_how_it_ended(failure: str, end: str) -> None:
    taken = piece(4, chunk=-1, replica="chat-0")
    told = story(asked(), taken, piece(5, chunk=1, end=True, failure=failure))
    assert told.headline == f"request r1: {end}"


def test_a_client_that_went_away_is_told() -> None:
    told = story(asked(), cancelled(5), piece(6, 10, chunk=3))
    assert told.headline == (
        "request r1: its client disconnected: the router or engine that had it was told to stop"
    )


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b"not-taken: ", "given up: no router or replica took it in time"),
        (
            b"not-taken: no router has been heard from",
            "given up: no router or replica took it in time: no router has been heard from",
        ),
        (b"idle: ", "given up: its engine said nothing for too long"),
        (b"too-slow: ", "given up: its client read too slowly"),
        (b"new-kind: ", "given up: new-kind"),
        (
            b"cant-continue: engine-failed: tools may be called",
            "given up: the engine failed, and it can't go on elsewhere: tools may be called",
        ),
        (
            b"finished: data: [DONE]\n\n",
            "answered: 14 bytes; its gateway wrote what was missing",
        ),
    ],
)
def test_what_a_gateway_ended_says_why(body: bytes, end: str) -> None:
    assert story(asked(), cancelled(5, body)).headline == f"request r1: {end}"


@pytest.mark.parametrize("failure", Failure)
def test_every_reason_that_a_gateway_has_is_told_in_words(failure: Failure) -> None:
    told = story(asked(), cancelled(5, note(failure, b"")))
    assert words(failure).history in told.headline
    assert f": {failure}" not in told.headline


def test_a_request_that_may_end_engines_says_where_their_ends_are_told() -> None:
    told = story(
        asked(),
        routed(ReplicaCandidate("chat-0", 0)),
        routed(ReplicaCandidate("chat-1", 0), to="chat-1", time=3),
        cancelled(5, note(Failure.FATAL, b"2")),
    )
    assert told.headline.endswith("the request may be what ends them")
    assert told.steps[-1].reasons == (
        "`nebula why replica chat-0` tells how its engine ended",
        "`nebula why replica chat-1` tells how its engine ended",
    )


def test_a_cancellation_whose_reason_is_no_longer_kept_is_one() -> None:
    assert story(asked(), replace(cancelled(5, b"idle: "), body=b"")).headline == (
        "request r1: it was cancelled"
    )


def test_a_gateway_that_sends_a_request_itself_says_under_whose_lease() -> None:
    told = story(routed(ReplicaCandidate("chat-0", 0), gateway="gw"))
    assert texts(told) == [
        "gw asked for model chat: /v1/chat/completions, 120 bytes",
        "gw sent it to chat-0 itself, under a lease of router-a, as of event 9",
    ]
    again = story(
        routed(ReplicaCandidate("chat-0", 0), gateway="gw"), asked(3, attempt=2, avoid="chat-0")
    )
    assert "attempt 2" in texts(again)[2]
    assert again.steps[2].reasons == ("chat-0 had not confirmed it",)
    taken = piece(2, chunk=-1, replica="chat-0")
    again = story(
        routed(ReplicaCandidate("chat-0", 0), gateway="gw"),
        taken,
        asked(3, attempt=2, avoid="chat-0"),
    )
    assert again.steps[-1].reasons[0].startswith("chat-0 had it: ")


def test_what_makes_no_sense_is_passed_over() -> None:
    nonsense = Kept(5, "nebula.inference.responses.gw.r1", {"x": "y"}, 3)
    unrouted = Kept(3, "nebula.inference.replicas.chat.chat-0", {envelope.ROUTED: "{"}, 3)
    other = Kept(4, "nebula.inference.finished.chat", {}, 3)
    told = story(asked(), unrouted, other, nonsense, now=EMPTY)
    assert texts(told)[1:] == ["sent to chat-0"]
