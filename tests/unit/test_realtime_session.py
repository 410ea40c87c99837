"""A realtime session as its gateway sees it: what follows from what each side says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.frames import Frame
from nebula.openai import realtime
from nebula.openai.realtime import (
    Accept,
    Accepted,
    ClientGone,
    ClientSaid,
    Close,
    Effect,
    Ended,
    EngineSaid,
    Event,
    Phase,
    Session,
    ToClient,
    ToEngine,
    step,
)

OPENING = Session("alias", "model")
OPEN = Session("alias", "model", Phase.OPEN)
HELLO = Frame("text", b'{"type":"input_audio_buffer.commit"}')


def update(**fields: object) -> Frame:
    return Frame("text", json.dumps({"type": "session.update", **fields}).encode())


def after(session: Session, *events: Event) -> tuple[Session, list[Effect]]:
    done: list[Effect] = []
    for event in events:
        session, effects = step(session, event)
        done += effects
    return session, done


def test_messages_go_both_ways_between_the_acceptance_and_the_close() -> None:
    said = Frame("text", b"{}")
    end = Frame("close", b"done", 1000)
    session, done = after(OPENING, Accepted(), ClientSaid(HELLO), EngineSaid(said), EngineSaid(end))
    assert done == [Accept(), ToEngine(HELLO), ToClient(said), Close(1000, "done")]
    assert session.phase is Phase.OVER


@pytest.mark.parametrize("code", [0, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_close_code_that_may_not_be_sent_becomes_a_normal_close(code: int) -> None:
    _, done = after(OPEN, EngineSaid(Frame("close", b"", code)))
    assert done == [Close(1000, "")]


def test_what_ends_an_open_session_is_told_by_an_event_and_the_close() -> None:
    _, (told, closed) = after(OPEN, Ended(1012, "its engine is gone", reason="engine_failed"))
    assert isinstance(told, ToClient)
    error = json.loads(told.frame.data)
    assert (error["type"], error["error"]["code"]) == ("error", "engine_failed")
    assert error["error"]["message"] == "its engine is gone"
    assert closed == Close(1012, "its engine is gone")


def test_a_session_that_is_not_open_yet_ends_with_an_answer_of_http() -> None:
    assert after(OPENING, Ended(1012, "gone")) == (Session("alias", "model", Phase.OVER), [])


@pytest.mark.parametrize("name", ["alias", "model"])
def test_an_update_with_the_session_s_model_reaches_the_engine_by_its_own_name(name: str) -> None:
    said = update(model=name, other=[1, {"a": None}])
    _, (effect,) = after(OPEN, ClientSaid(said))
    assert isinstance(effect, ToEngine)
    assert json.loads(effect.frame.data) == {**json.loads(said.data), "model": "model"}


def test_an_update_with_another_model_does_not_reach_the_engine() -> None:
    session, (effect,) = after(OPEN, ClientSaid(update(model="secret")))
    assert isinstance(effect, ToClient)
    assert json.loads(effect.frame.data)["error"]["code"] == "model_mismatch"
    assert session.phase is Phase.OPEN


@pytest.mark.parametrize(
    "said",
    [
        update(),
        update(model=None),
        update(model=["alias"]),
        Frame("text", b'{"type":"other","note":"session.update","model":"x"}'),
    ],
)
def test_all_other_messages_reach_the_engine_as_they_are(said: Frame) -> None:
    assert after(OPEN, ClientSaid(said)) == (OPEN, [ToEngine(said)])
    assert realtime.with_model(said.data, "own") == said.data


@pytest.mark.parametrize(
    "said",
    [
        Frame("text", b""),
        Frame("text", b"[]"),
        Frame("text", b'{"type": "session.update", "model": "x"'),
        Frame("text", rb'{"type": "session.update", "model": "\ud800"}'),
        Frame("text", b'{"a":' * 100_000),
        Frame("text", b'"session.update"'),
        Frame("text", b'session.update {"model":"x"}'),
        Frame("text", b" " * 100_000),
        Frame("bytes", update(model="x").data),
        Frame("bytes", b""),
    ],
)
def test_other_messages_are_answered_with_an_error_and_the_session_goes_on(said: Frame) -> None:
    session, effects = after(OPEN, ClientSaid(said))
    assert session == OPEN
    (told,) = effects
    assert isinstance(told, ToClient)
    error = json.loads(told.frame.data)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_event")


MESSAGES = st.one_of(
    st.builds(Frame, st.just("text"), st.sampled_from([HELLO.data, update(model="z").data])),
    st.builds(Frame, st.just("bytes"), st.binary(max_size=5)),
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(Accepted()),
    st.just(ClientGone()),
    st.builds(ClientSaid, MESSAGES),
    st.builds(EngineSaid, MESSAGES | st.just(Frame("close", b"", 1000))),
    st.builds(Ended, st.sampled_from([1001, 1011]), st.text(max_size=200)),
)


@given(events=st.lists(EVENTS, max_size=12))
def test_nothing_is_done_before_the_acceptance_or_after_the_end(events: list[Event]) -> None:
    session, opened, closed = OPENING, 0, 0
    for event in events:
        before = session
        session, effects = step(session, event)
        opened += sum(isinstance(each, Accept) for each in effects)
        closed += sum(isinstance(each, Close) for each in effects)
        if before.phase is not Phase.OPEN:
            assert all(isinstance(each, Accept) for each in effects)
        if before.phase is Phase.OVER:
            assert (session, effects) == (before, ())
        if any(isinstance(each, Close) for each in effects):
            assert session.phase is Phase.OVER
            assert isinstance(effects[-1], Close)
    assert max(opened, closed) <= 1


@given(reason=st.text(max_size=300))
def test_a_reason_fits_into_a_close_frame(reason: str) -> None:
    said = realtime.short(reason).encode()
    assert len(said) <= 123
    assert said.decode().removesuffix("…") == reason[: len(said.decode().removesuffix("…"))]
