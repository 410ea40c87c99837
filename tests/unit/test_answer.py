"""What a client gets of an answer: the pieces of all attempts, folded into one.

`Live` is the gateway's part: it folds what engines say, and asks the next one where one has died.
What it hears and says is recorded, as the data plane's stream records it, and folded once more as
for a client that comes back later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.gateway.answer import Answer, Broken, prepared
from nebula.actors.gateway.resumption import Resumption
from nebula.events import envelope, piece_envelope
from nebula.events.failures import Failure
from nebula.events.inference import Form, Piece, Request
from nebula.openai.chunks import CHAT, COMPLETIONS
from nebula.openai.continuation import CantContinue, Continuation, Detokenize, Finish
from nebula.store.inference_log import StoredMessage
from tests.unit.test_continuation import Split, by_event, groupings, request, splits, tokenised
from tests.unit.vllm_stream import Engine, Grouping, one

REQUEST = Request("r", "gw", "chat", "/v1/completions", b"{}")
STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"
VLLM = [
    json.loads(line)
    for line in (Path(__file__).parent / "data/vllm_streams.jsonl").read_text().splitlines()
]
CONTEXT = 1000
HEAD = Piece(0, b"one ", status=200, content_type=JSON, replica="chat-0")
MIDDLE = Piece(1, b"two ")
LAST = Piece(2, b"three", end=True)


def answer(*pieces: Piece, after: int = 0, **fields: Any) -> Answer:
    """An answer that has taken these pieces."""
    folded = Answer(replace(REQUEST, **fields), after=after)
    for piece in pieces:
        folded.take(piece)
    return folded


def given_by(folded: Answer, *pieces: Piece) -> list[Piece]:
    """What the client gets for these pieces."""
    return [each for piece in pieces if (each := folded.take(piece)) is not None]


# One attempt


def test_pieces_are_given_as_they_come_and_the_first_has_the_head() -> None:
    folded = answer()
    assert given_by(folded, HEAD, MIDDLE, LAST) == [
        Piece(0, b"one ", status=200, content_type=JSON, replica="chat-0"),
        Piece(0, b"two ", replica="chat-0"),
        Piece(0, b"three", replica="chat-0", end=True),
    ]
    assert folded.complete


def test_a_short_answer_is_one_piece() -> None:
    whole = Piece(0, b"{}", status=200, content_type=JSON, replica="chat-0", end=True)
    assert given_by(answer(), whole) == [whole]


def test_the_replica_that_has_the_request_is_known_before_anything_is_given() -> None:
    folded = answer()
    assert given_by(folded, Piece(-1, queued="r1")) == []
    assert (folded.queued, folded.replica) == ("r1", "")
    assert given_by(folded, Piece(-1, replica="chat-0")) == []
    assert (folded.queued, folded.replica) == ("", "chat-0")


def test_the_head_says_it_too() -> None:
    folded = answer(Piece(-1, queued="r1"), HEAD)
    assert (folded.queued, folded.replica, folded.begun) == ("", "chat-0", True)


def test_a_piece_that_comes_twice_is_given_once() -> None:
    pieces = given_by(answer(), HEAD, HEAD, MIDDLE, HEAD, MIDDLE, LAST, LAST)
    assert b"".join(piece.body for piece in pieces) == b"one two three"


def test_a_gap_breaks_the_attempt_and_nothing_after_it_is_given() -> None:
    folded = answer(HEAD)
    assert given_by(folded, LAST, MIDDLE) == []
    assert folded.broken == Broken(Failure.GAP)


def test_an_engine_that_fails_breaks_the_attempt_whatever_its_number() -> None:
    folded = answer(HEAD)
    assert given_by(folded, Piece(7, end=True, failure=Failure.ENGINE_FAILED), MIDDLE) == []
    assert folded.broken == Broken(Failure.ENGINE_FAILED)
    assert not folded.complete


def test_an_error_of_the_engines_own_breaks_the_attempt_and_is_kept() -> None:
    error = Piece(0, b'{"error":{}}', status=500, content_type=JSON, replica="chat-0", end=True)
    folded = answer()
    assert given_by(folded, error) == []
    assert folded.broken == Broken(Failure.ENGINE_FAILED, error)
    assert not folded.begun


def test_of_an_error_in_several_pieces_the_first_is_kept_as_all_of_it() -> None:
    folded = answer(
        Piece(0, b"{", status=500, content_type=JSON, replica="chat-0"), Piece(1, b"}", end=True)
    )
    assert folded.broken is not None
    assert folded.broken.piece == Piece(
        0, b"{", status=500, content_type=JSON, replica="chat-0", end=True
    )


@pytest.mark.parametrize("status", [429, 501, 503])
def test_what_an_engine_that_is_full_says_is_an_answer_with_its_retry_after(status: int) -> None:
    piece = Piece(
        0, b"{}", status=status, content_type=JSON, replica="chat-0", end=True, retry_after=7
    )
    folded = answer()
    assert given_by(folded, piece) == [piece]
    assert (folded.broken, folded.complete) == (None, True)


def test_what_the_client_did_wrong_is_an_answer() -> None:
    refusal = Piece(0, b'{"error":{}}', status=400, content_type=JSON, replica="chat-0", end=True)
    assert given_by(answer(), refusal) == [refusal]


def test_a_routers_refusal_is_the_whole_answer() -> None:
    refusal = Piece(
        0,
        b"busy",
        status=429,
        content_type="text/plain",
        end=True,
        failure="refused",
        retry_after=3,
    )
    folded = answer()
    assert given_by(folded, refusal, HEAD) == [refusal]
    assert folded.complete


def test_an_answer_can_be_ended_from_here() -> None:
    folded = answer(HEAD)
    assert folded.end(Piece(0, failure="idle")) == Piece(
        0, replica="chat-0", end=True, failure="idle"
    )
    assert given_by(folded, MIDDLE) == []


# Further attempts


def second(piece: Piece, continues: str = "") -> Piece:
    return replace(piece, attempt=2, continues=continues)


def test_a_second_attempt_of_what_had_not_begun_is_the_answer() -> None:
    folded = answer(Piece(-1, replica="chat-0"), Piece(0, end=True, failure=Failure.ENGINE_FAILED))
    folded.turn_to(2, "")
    assert (folded.broken, folded.replica) == (None, "")
    pieces = given_by(folded, second(HEAD), HEAD, second(MIDDLE), MIDDLE, second(LAST))
    assert b"".join(piece.body for piece in pieces) == b"one two three"


def test_a_later_reader_turns_to_the_next_attempt_with_its_first_piece() -> None:
    error = Piece(0, b"", status=500, content_type=JSON, replica="chat-0", end=True)
    pieces = given_by(answer(), error, second(Piece(-1, queued="r1")), second(HEAD))
    assert pieces == [HEAD]


def test_an_answer_that_has_begun_does_not_begin_anew() -> None:
    folded = answer(HEAD, Piece(1, end=True, failure=Failure.ENGINE_FAILED))
    assert given_by(folded, second(HEAD), second(MIDDLE)) == []
    assert folded.broken == Broken(Failure.GAP)


def test_what_goes_on_without_being_a_stream_is_of_no_use() -> None:
    live = Live(tokens=[b"a", b"b"])
    live.engine(cut=0.5)
    live.answer.turn_to(2, "rest")
    head = Piece(
        0,
        b'{"error":{}}',
        status=400,
        content_type=JSON,
        replica="chat-1",
        end=True,
        attempt=2,
        continues="rest",
    )
    assert given_by(live.answer, head) == []
    assert live.answer.broken == Broken(Failure.ENGINE_FAILED)


def test_a_refusal_of_what_goes_on_ends_the_answer_also_for_a_later_reader() -> None:
    live = Live(tokens=[b"a", b"b"])
    live.engine(cut=0.5)
    refusal = Piece(
        0,
        b"busy",
        status=429,
        content_type="text/plain",
        end=True,
        failure="refused",
        attempt=2,
        continues="rest",
    )
    live.again("rest")
    live.hears(refusal)
    assert live.given[-1] == refusal
    assert resumed(live.said)[-1] == refusal


def test_an_answer_without_a_stream_can_not_go_on() -> None:
    way = answer(HEAD).way_on(CONTEXT)
    assert way == CantContinue("it is not a stream of text")


# Streams


class Live:
    """A gateway with one streamed answer, and what the data plane's stream holds of it."""

    def __init__(
        self,
        tokens: list[bytes],
        path: str = CHAT,
        body: bytes | None = None,
        *,
        keep: bool = True,
        grouping: Grouping = one,
        split: Split = by_event,
    ) -> None:
        body = request(path, max_tokens=200) if body is None else body
        self.request = prepared(Request("r", "gw", "chat", path, body, keep=keep))
        self.answer = Answer(self.request)
        self.engines = 0
        self.asked = Continuation(path, self.request.body, Form.ORIGINAL)
        self.given: list[Piece] = []
        self.said: list[StoredMessage] = []
        self._tokens, self._grouping, self._split = tokens, grouping, split
        self._unsaid: list[Piece] = []

    def engine(self, cut: float = 1.0) -> None:
        """An engine answers what is asked now; it dies after a part of its bytes."""
        self.engines += 1
        engine = Engine(self._tokens, created=self.engines)
        stream = b"".join(engine.stream(self.asked.path, self.asked.body, self._grouping))
        continues = self.asked.form
        pieces = [
            Piece(number, body, attempt=self.answer.attempt)
            for number, body in enumerate(self._split(stream))
        ]
        pieces[0] = replace(
            pieces[0],
            status=200,
            content_type=STREAM,
            replica=f"chat-{self.engines}",
            continues=continues,
        )
        pieces[-1] = replace(pieces[-1], end=True)
        count = len(pieces) if cut == 1.0 else int(cut * len(pieces))
        self._unsaid = pieces[count:]
        for piece in pieces[:count]:
            self.hears(piece)

    def hears(self, piece: Piece) -> None:
        self._record(piece)
        given = self.answer.take(piece)
        if given is not None:
            self.given.append(given)

    def recovers(self) -> bool:
        """Go on as the gateway does; False if the answer is over."""
        if self.answer.complete:
            return False
        if not self.answer.begun:
            self.again("")
            return True
        while True:
            match self.answer.way_on(CONTEXT):
                case Detokenize(body=body):
                    self.answer.settle(Engine(self._tokens).detokenize(body))
                case Continuation() as way:
                    self.asked = way
                    self.again(way.form)
                    return True
                case Finish(body=body):
                    self._ends("finished", body)
                    return False
                case CantContinue(reason=reason):
                    self._ends("cant-continue", f"{Failure.ENGINE_FAILED}: {reason}".encode())
                    return False

    def again(self, form: str) -> None:
        attempt = self.answer.attempt + 1
        self.said.append(self._said("responses.gw.r", b"%d" % attempt))
        for piece in self._unsaid:
            self._record(piece)  # it was not dead, only slow
        self.answer.turn_to(attempt, form)

    def _ends(self, word: str, body: bytes) -> None:
        failure = "" if word == "finished" else word
        self.given.append(self.answer.end(Piece(0, body, failure=failure)))
        self.said.append(self._said("responses.gw.r", b"%b: %b" % (word.encode(), body)))

    def _record(self, piece: Piece) -> None:
        header = envelope.block(piece_envelope.headers_of(piece))
        self.said.append(self._said("responses.gw.r", piece.body, header))

    @staticmethod
    def _said(subject: str, body: bytes, header: bytes = b"") -> StoredMessage:
        return StoredMessage(1, 1, f"nebula.inference.{subject}", header, body, len(body))


def resumed(
    said: Sequence[StoredMessage], of: Request | None = None, after: int = 0
) -> list[Piece]:
    """What a client gets that comes back for the events after `after`."""
    claimed = prepared(Request("r", "gw", "chat", CHAT, request(CHAT, max_tokens=200), keep=True))
    resumption = Resumption(cast("Any", None), "r", str(after))
    folded = Answer(of or claimed, after=after)
    given = []
    for each in said:
        piece = resumption._take(folded, each)
        if piece is not None:
            given.append(piece)
            if piece.end:
                break
    return given


def text(pieces: Sequence[Piece]) -> bytes:
    return b"".join(piece.body for piece in pieces)


def served(live: Live, cuts: list[float]) -> Live:
    """An answer whose engines die at these cuts; the last one lives, if it is asked."""
    for cut in [*cuts, 1.0]:
        live.engine(cut)
        if not live.recovers():
            break
    return live


def test_the_events_of_a_stream_that_can_be_resumed_are_numbered() -> None:
    live = served(Live([b"a", b"b"]), [])
    events = by_event(text(live.given))
    assert [event.partition(b"\n")[0] for event in events] == [
        b"id: %d" % (number + 1) for number in range(len(events))
    ]
    assert events[-1] == b"id: %d\ndata: [DONE]\n\n" % len(events)


def test_the_events_of_a_stream_that_can_t_be_resumed_have_no_numbers() -> None:
    live = served(Live([b"a", b"b"], keep=False), [])
    assert b"id: " not in text(live.given)


def test_a_body_without_a_stream_is_not_numbered() -> None:
    assert text(given_by(answer(keep=True), HEAD, MIDDLE, LAST)) == b"one two three"


def in_parts(stream: bytes) -> list[bytes]:
    return [stream[at : at + 7] for at in range(0, len(stream), 7)]


def test_an_event_that_comes_in_parts_has_one_number() -> None:
    # Tools may be called: nothing but the engine's usage is read of such a stream.
    body = request(CHAT, tools=[{"type": "function"}])
    live = Live([b"a", b"b"], body=body, split=in_parts)
    assert live.request.tokens == "usage"
    served(live, [])
    whole = served(Live([b"a", b"b"], body=body), [])
    assert text(live.given) == text(whole.given)


@pytest.mark.parametrize("failure", ["idle", "cant-continue"])
def test_the_words_of_a_failure_are_not_an_event_and_have_no_number(failure: str) -> None:
    live = Live([b"a", b"b"])
    live.engine(cut=0.5)
    ended = live.answer.end(Piece(0, b"engine-failed: why", failure=failure))
    assert ended.body == b"engine-failed: why"


def test_an_error_event_of_the_engine_is_its_end_and_is_not_given() -> None:
    live = Live([b"a", b"b", b"c"])
    live.engine(cut=0.5)
    given = text(live.given)
    error = b'data: {"error":{"message":"EngineCore died","code":500}}\n\n'
    live.hears(Piece(live.answer.pieces, error, end=True))
    assert live.answer.broken == Broken(Failure.ENGINE_FAILED)
    assert not live.answer.complete
    assert text(live.given) == given
    assert live.recovers()
    live.engine()
    assert text(live.given) == text(served(Live([b"a", b"b", b"c"]), []).given)


def test_a_stream_that_has_all_but_its_end_needs_no_engine_for_it() -> None:
    live = Live([b"a", b"b"])
    live.engine(cut=0.999)
    assert not live.recovers()
    assert live.engines == 1
    assert live.given[-1].end
    assert text(live.given) == text(served(Live([b"a", b"b"]), []).given)


def test_one_that_can_not_go_on_ends_with_the_reason_for_all_readers() -> None:
    body = request(CHAT, tools=[{"type": "function"}])
    live = Live([b"a", b"b"], body=body)
    live.engine(cut=0.9)
    assert not live.recovers()
    assert live.given[-1].failure == "cant-continue"
    assert live.given[-1].body == b"engine-failed: tools may be called"
    assert resumed(live.said, live.request)[-1] == live.given[-1]


CUTS = st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.999]) | st.floats(0, 0.999), max_size=3)


@given(st.sampled_from([CHAT, COMPLETIONS]), tokenised(), CUTS, groupings(), splits())
@example(CHAT, ["😀".encode()[:2], "😀".encode()[2:]], [0.7, 0.7], lambda: 2, by_event)
@example(CHAT, [b"a", b"b", b"c"], [0.999], lambda: 3, by_event)
def test_a_later_reader_of_an_answer_gets_the_same_bytes(
    path: str, tokens: list[bytes], cuts: list[float], grouping: Grouping, split: Split
) -> None:
    body = request(path, max_tokens=200, stream_options={"include_usage": True})
    live = served(Live(tokens, path, body, grouping=grouping, split=split), cuts)
    assert live.given[-1].end
    again = resumed(live.said, live.request)
    assert (text(again), again[-1]) == (text(live.given), live.given[-1])
    assert again[0].status == 200


@given(tokenised(), CUTS, st.integers(0, 20), splits())
def test_a_client_that_comes_back_gets_the_events_after_the_last_one_it_had(
    tokens: list[bytes], cuts: list[float], after: int, split: Split
) -> None:
    live = served(Live(tokens, split=split), cuts)
    events = by_event(text(live.given))
    assert by_event(text(resumed(live.said, live.request, after))) == events[after:]


@given(st.sampled_from([each for each in VLLM if each["plain"] is not None]), splits())
def test_what_real_vllm_sent_is_given_as_if_it_had_not_been_asked_for_token_ids(
    recorded: dict[str, Any], split: Split
) -> None:
    def anonymous(stream: bytes) -> bytes:
        return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", stream)

    of = prepared(Request("r", "gw", "m", recorded["path"], recorded["body"].encode()))
    pieces = [Piece(number, body) for number, body in enumerate(split(recorded["asked"].encode()))]
    pieces[0] = replace(pieces[0], status=200, content_type=STREAM)
    pieces[-1] = replace(pieces[-1], end=True)
    given = text(given_by(Answer(of), *pieces))
    assert anonymous(given) == anonymous(recorded["plain"].encode())


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4]), max_size=20), st.booleans())
def test_whatever_order_pieces_come_in_the_client_gets_a_beginning_of_the_answer(
    order: list[int], ends: bool
) -> None:
    pieces = [HEAD, MIDDLE, Piece(2, b"three "), Piece(3, b"four "), Piece(4, b"five", end=ends)]
    folded = answer()
    got = text(given_by(folded, *(pieces[number] for number in order)))
    assert b"one two three four five".startswith(got)
    assert folded.complete == (ends and got.endswith(b"five"))
