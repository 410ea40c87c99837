"""Which parts of a stream leave an engine together: those of turns that follow at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine.exchange import GATHER, EngineExchange
from nebula.events.inference import Piece, Request

TURN = GATHER * 0.26
SLOW = GATHER * 5


class Engine:
    """Stands where an exchange's connection, its client, its event loop and its sender stand."""

    def __init__(self) -> None:
        self.client = self
        self.max_body = 2**20
        self.now = 100.0
        self.left: list[tuple[float, bytes]] = []
        """When each piece left, and its body."""
        self._before: list[Callable[[], None]] = []
        self._later: list[Callable[[], None]] = []
        self.exchange = EngineExchange(
            Request("r", "g", "chat", "/v1/chat/completions", b"{}"),
            *("chat-0", cast("Any", self), cast("Any", self), lambda _: None),
            *(cast("Any", None), cast("Any", self)),
        )

    def time(self) -> float:
        return self.now

    def before_write(self, call: Callable[[], None]) -> None:
        self._before.append(call)

    def before_next_write(self, call: Callable[[], None]) -> None:
        self._later.append(call)

    def send(self, _: Request, head: int | Piece, body: bytes) -> None:
        self.left.append((self.now, body))

    def says(self, *messages: dict[str, object], seconds: float = TURN) -> None:
        """Let the app send so much in a turn that takes so long, and end the turn."""
        for message in messages:
            step = self.exchange.send(message)
            try:
                step.send(None)
            except StopIteration:
                continue
            raise AssertionError("sending a part waited")
        self.now += seconds
        calls, self._before = self._before, []
        for call in calls:
            call()
        self._before, self._later = self._later, []

    @property
    def waits(self) -> bool:
        return bool(self._before)


def part(body: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}


START: dict[str, object] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


def streaming() -> Engine:
    """An engine whose stream has sent its first part, which waits for nothing."""
    engine = Engine()
    engine.says(START, part(b"0"))
    assert [body for _, body in engine.left] == [b"0"]
    return engine


def test_parts_that_come_turn_after_turn_leave_together() -> None:
    engine = streaming()
    for number in range(1, 4):
        engine.says(part(b"%d" % number))
    assert [body for _, body in engine.left] == [b"0"]
    engine.says(part(b"4"))
    assert [body for _, body in engine.left] == [b"0", b"1234"]


def test_a_turn_without_a_part_ends_the_waiting() -> None:
    engine = streaming()
    engine.says(part(b"1"))
    engine.says()
    assert [body for _, body in engine.left] == [b"0", b"1"]
    assert not engine.waits


def test_tokens_of_a_scheduler_s_steps_wait_for_nothing() -> None:
    engine = streaming()
    for number in range(1, 4):
        engine.says(seconds=SLOW)
        engine.says(part(b"%d" % number))
    assert [body for _, body in engine.left] == [b"0", b"1", b"2", b"3"]


def test_the_end_takes_along_what_waits() -> None:
    engine = streaming()
    engine.says(part(b"1"))
    engine.says(part(b"2", more=False))
    assert [body for _, body in engine.left] == [b"0", b"12"]


def test_a_failure_comes_after_what_waits() -> None:
    engine = streaming()
    engine.says(part(b"1"))
    engine.exchange.returned()
    assert [body for _, body in engine.left] == [b"0", b"1", b""]
    engine.says()
    assert not engine.waits


turns = st.lists(st.tuples(st.booleans(), st.sampled_from([TURN, GATHER, SLOW])), max_size=40)


@given(turns)
def test_nothing_is_lost_and_nothing_waits_longer_than_it_may(
    turns: Sequence[tuple[bool, float]],
) -> None:
    engine = streaming()
    said: list[tuple[float, bytes]] = []
    for number, (speaks, seconds) in enumerate(turns, start=1):
        body = b"<%d>" % number
        if speaks:
            said.append((engine.now, body))
        engine.says(*([part(body)] if speaks else []), seconds=seconds)
    engine.says()
    assert b"".join(body for _, body in engine.left) == b"0" + b"".join(body for _, body in said)
    longest = max((seconds for _, seconds in turns), default=0.0)
    for came, body in said:
        went = next(when for when, piece in engine.left if body in piece)
        assert went - came <= GATHER + 2 * longest + 1e-9
    assert not engine.waits
