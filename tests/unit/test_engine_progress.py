"""An engine that gets on is not taken for one that stands still; one that does not, is."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine.progress import (
    LONGEST_PREFILL,
    LONGEST_STEP,
    EngineProgress,
    Progress,
    prefill_allowance,
)
from nebula.actors.node.standstill import REST, TOLD, Ended, Standstill
from nebula.events.vocabulary import EngineResumed, EngineStalled

TICK = 0.5


def waits(progress: Progress, now: float, seconds: float) -> float:
    """Look at an engine for a while, in which nothing comes of it; return the time after."""
    for _ in range(int(seconds / TICK)):
        now += TICK
        progress.look(now)
    return now


def test_an_engine_without_work_is_not_silent() -> None:
    progress = Progress(0.0)
    assert progress.look(waits(progress, 0.0, 3600)) == 0


def test_silence_outlives_the_requests_whose_clients_gave_up() -> None:
    """Every ten seconds another client comes, waits nine, and leaves."""
    progress, now = Progress(0.0), 1.0
    progress.look(now)
    for _ in range(6):
        came = now
        progress.came(now)
        now = waits(progress, now, 9)
        progress.left(came, now)
        now = waits(progress, now, 1)
    assert progress.look(now) == 60
    assert progress.requests == 6
    progress.advanced(now)
    assert (progress.look(now), progress.requests) == (0, 0)


def test_a_counter_that_moves_is_progress_though_no_token_comes() -> None:
    progress, now = Progress(0.0), 0.0
    progress.came(now)
    for step in range(60):
        now = waits(progress, now, 4)
        progress.counted((float(step),), now)
    assert progress.look(now) <= 4


def test_counters_that_stand_are_none() -> None:
    progress, now = Progress(0.0), 0.0
    progress.came(now)
    for _ in range(10):
        now = waits(progress, now, 4)
        progress.counted((7.0,), now)
    assert progress.look(now) == 40


def test_time_in_which_the_observer_was_stopped_does_not_count() -> None:
    progress = Progress(0.0)
    progress.came(0.0)
    assert progress.look(3600.0) == LONGEST_STEP


def test_of_an_engine_that_takes_no_probe_nothing_is_owed_that_left() -> None:
    progress = Progress(0.0)
    progress.came(0.0)
    now = waits(progress, 0.0, 9)
    progress.left(0.0, now)
    progress.unknowable()
    assert progress.look(waits(progress, now, 60)) == 0


@given(st.lists(st.tuples(st.sampled_from(["came", "left", "token", "wait"]), st.floats(0.1, 4))))
def test_whatever_clients_do_an_engine_with_a_token_every_five_seconds_is_never_silent_for_more(
    history: list[tuple[str, float]],
) -> None:
    progress, now, spoke = Progress(0.0), 0.0, 0.0
    under_way: list[float] = []
    for what, seconds in history:
        if now + seconds - spoke > 5:
            progress.advanced(now)
            spoke = now
        now += seconds
        match what:
            case "came":
                progress.came(now)
                under_way.append(now)
            case "left" if under_way:
                progress.left(under_way.pop(0), now)
            case "token":
                progress.advanced(now)
                spoke = now
            case _:
                progress.look(now)
        assert progress.look(now) <= 5


@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=40))
def test_whatever_clients_do_an_engine_without_progress_is_found_out(patience: list[float]) -> None:
    progress, now = Progress(0.0), 0.0
    for seconds in patience:
        progress.came(now)
        after = now + seconds
        while now < after:
            now = min(now + TICK, after)
            progress.look(now)
        progress.left(now - seconds, now)
    assert progress.look(now) >= now - 1


def test_a_long_prompt_buys_time_and_no_more_than_the_bound() -> None:
    assert prefill_allowance(0) == 0
    assert prefill_allowance(6400) == 100
    assert prefill_allowance(10**9) == LONGEST_PREFILL


# What its node makes of it


def heard(
    standstill: Standstill, seconds: float, now: float, probed: float = 0.0, allowance: float = 0.0
) -> EngineStalled | EngineResumed | Ended | None:
    return standstill.heard(EngineProgress(seconds, 2, probed, allowance), now)


def test_a_standstill_is_told_and_then_ended() -> None:
    standstill = Standstill(300.0, 0.0)
    assert heard(standstill, TOLD - 1, 29.0) is None
    told = heard(standstill, TOLD, 30.0, probed=25.0)
    assert isinstance(told, EngineStalled)
    assert (told.seconds, told.requests, told.ends_in) == (TOLD, 2, 270.0)
    assert "a probe of one token was not answered for 25 s" in told.reason
    assert heard(standstill, 299.0, 299.0) is None
    ended = heard(standstill, 301.0, 301.0)
    assert isinstance(ended, Ended)
    assert ended.reason.startswith(
        "it made no progress for 301 s with 2 requests: no token, no step"
    )


def test_progress_is_told_once_and_flapping_does_not_fill_the_log() -> None:
    standstill = Standstill(300.0, 0.0)
    assert isinstance(heard(standstill, TOLD, 30.0), EngineStalled)
    assert heard(standstill, 0.0, 40.0) == EngineResumed(TOLD)
    assert heard(standstill, 0.0, 42.0) is None
    assert heard(standstill, TOLD, 80.0) is None
    assert isinstance(heard(standstill, TOLD, 40.0 + REST), EngineStalled)


def test_a_long_prompt_is_given_its_time_and_zero_is_never() -> None:
    told = heard(Standstill(300.0, 0.0), 399.0, 399.0, allowance=100.0)
    assert isinstance(told, EngineStalled)
    assert told.ends_in == 1.0
    assert isinstance(heard(Standstill(300.0, 0.0), 400.0, 400.0, allowance=100.0), Ended)
    assert not isinstance(heard(Standstill(0.0, 0.0), 1e6, 1e6), Ended)


def test_a_server_that_does_not_answer_is_ended_and_a_node_that_stood_still_ends_none() -> None:
    standstill = Standstill(300.0, 0.0)
    assert standstill.missed(3600.0) is None
    now = 3600.0
    verdict = None
    while not isinstance(verdict, Ended):
        now += 7.0
        verdict = standstill.missed(now)
        assert now < 3600 + 330
    assert "its server does not answer" in verdict.reason


def test_an_adopted_engine_that_goes_on_is_told_of_though_no_node_saw_it_stand_still() -> None:
    standstill = Standstill(300.0, 0.0, told=True)
    assert isinstance(heard(standstill, 0.0, 2.0), EngineResumed)


def test_a_server_that_falls_silent_too_is_not_progress_and_gains_no_time() -> None:
    standstill = Standstill(300.0, 0.0)
    assert isinstance(heard(standstill, 200.0, 200.0), EngineStalled)
    now, verdict = 200.0, None
    while not isinstance(verdict, Ended):
        now += 7.0
        verdict = standstill.missed(now)
        assert not isinstance(verdict, EngineResumed)
        assert now < 310
