"""Whose turn it is to be downloaded: slow ones delay no other for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.weights import slots
from nebula.actors.node.weights.slots import ALL, PATIENCE, QUICK, SLOW, SPAN, Slots, Turns

FAST = SLOW * 40


def run(line: Slots, now: float, seconds: float, paces: dict[str, float]) -> float:
    """Let downloads go on for a while, each at its pace (bytes a second)."""
    for step in range(int(seconds / SPAN) + 1):
        for source, pace in paces.items():
            line.came(source, int(pace * (now + step * SPAN)), now + step * SPAN)
    return now + seconds


def test_a_few_run_side_by_side_and_the_others_wait_in_line() -> None:
    line = Slots()
    for source in "abcd":
        line.wait(source, 0.0)
    assert line.turns(0.0) == Turns(("a", "b"))
    now = run(line, 0.0, 100, {"a": FAST, "b": FAST})
    assert line.turns(now) == Turns()
    line.leave("a")
    assert line.turns(now) == Turns(("c",))
    assert line.running == ("b", "c")


def test_beside_slow_ones_others_run() -> None:
    line = Slots()
    for source in "abc":
        line.wait(source, 0.0)
    line.turns(0.0)
    now = run(line, 0.0, 20, {"a": 2048, "b": FAST})
    assert line.turns(now) == Turns(("c",))
    assert line.running == ("b", "c", "a")


def test_where_too_many_are_slow_the_slowest_makes_room() -> None:
    line = Slots()
    now = 0.0
    names = [f"s{number}" for number in range(ALL)]
    for number, source in enumerate(names):
        line.wait(source, now)
        line.turns(now)
        now = run(line, now, 20, {source: 2048 - number})
    assert set(line.running) == set(names)
    line.wait("late", now)
    assert line.turns(now) == Turns()
    line.wait("later", now + PATIENCE - 1)
    assert line.turns(now + PATIENCE - 0.5) == Turns()
    assert line.turns(now + PATIENCE) == Turns((), names[-1]), "it waits for the longest"
    line.leave("later")
    line.leave(names[-1])
    assert line.turns(now + PATIENCE) == Turns(("late",))


@given(
    st.lists(st.sampled_from([0.0, 2048.0, SLOW * 2.0]), min_size=1, max_size=30),
    st.integers(1, 60),
)
def test_a_waiting_source_gets_a_turn_unless_quick_ones_use_the_line(
    paces: list[float], seconds: int
) -> None:
    line, known = Slots(), {f"s{number}": pace for number, pace in enumerate(paces)}
    now, begun = 0.0, set()
    for source in known:
        line.wait(source, now)
    waited = 0.0
    for _ in range(600):
        turns = line.turns(now)
        begun |= set(turns.begin)
        assert len(line.running) <= ALL
        if turns.end is not None:
            assert known[turns.end] < SLOW
            line.leave(turns.end)
            line.wait(turns.end, now)
        quick = sum(known[source] >= SLOW for source in line.running)
        waited = 0.0 if turns.begin or quick >= QUICK or begun == set(known) else waited + seconds
        assert waited <= PATIENCE + 3 * SPAN + 3 * seconds
        now += seconds
        for source in line.running:
            line.came(source, int(known[source] * now), now)
    assert begun == set(known) or sum(pace >= SLOW for pace in paces) >= QUICK


def test_a_pace_is_of_the_last_span_only() -> None:
    line = Slots()
    line.wait("a", 0.0)
    line.turns(0.0)
    line.came("a", 0, 0.0)
    line.came("a", 10**12, 1000.0)
    line.came("a", 10**12 + 10, 1000.0 + slots.SPAN)
    assert line.pace("a") == 1.0
    assert line.pace("nobody") == 0.0
