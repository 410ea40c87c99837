"""An actor moves to another NATS server where more is heard, and nowhere without that evidence."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors import deafness
from nebula.actors.deafness import ANY_ROUTER, FIRST, LONGEST, MOVED, Heard, Past
from nebula.events import subjects

ROUTER = subjects.router_status("router-1").encode()
OTHER_ROUTER = subjects.router_status("router-2").encode()
NODE = subjects.node_status("n1").encode()
ENGINES = [subjects.replica_status("chat", f"chat-{each}").encode() for each in range(4)]
EVERYBODY = [ROUTER, OTHER_ROUTER, NODE, *ENGINES]

somebody = st.frozensets(st.sampled_from(EVERYBODY))
heard = st.builds(Heard, somebody, st.booleans())


def test_one_is_missed_after_five_seconds_of_silence_and_not_before() -> None:
    beats = {NODE: 100.0, ROUTER: 103.0}
    assert deafness.missed([NODE, ROUTER], beats, 0.0, 105.0) == set()
    assert deafness.missed([NODE, ROUTER], beats, 0.0, 105.1) == {NODE}


def test_none_is_missed_before_it_could_be_heard() -> None:
    assert deafness.missed([NODE], {NODE: 10.0}, 100.0, 105.0) == set()
    assert deafness.missed([NODE], {NODE: 10.0}, 100.0, 105.1) == {NODE}
    assert deafness.missed([NODE], {}, 100.0, 105.1) == {NODE}


def test_an_actor_that_hears_all_listens_nowhere() -> None:
    assert not deafness.due(frozenset(), Past(), 0.0)


def test_an_actor_that_misses_another_listens_at_once_and_then_after_growing_pauses() -> None:
    past, now, waited = Past(), 0.0, []
    for _ in range(8):
        assert deafness.due({NODE}, past, now)
        past, began = deafness.listened({NODE}, past, now), now
        while not deafness.due({NODE}, past, now):
            now += 1
        waited.append(now - began)
    assert waited == [FIRST, 20, 40, 80, 160, LONGEST, LONGEST, LONGEST]


def test_for_an_actor_that_is_newly_missed_it_listens_without_the_longer_pause() -> None:
    past = Past()
    for now in (0.0, 10.0, 30.0, 70.0):
        past = deafness.listened({NODE}, past, now)
    assert not deafness.due({NODE}, past, 80.0)
    assert not deafness.due({NODE, ENGINES[0]}, past, 79.0)
    assert deafness.due({NODE, ENGINES[0]}, past, 80.0)


def test_one_that_comes_and_goes_is_listened_for_after_growing_pauses_too() -> None:
    past = deafness.listened({NODE}, Past(), 0.0)
    past = deafness.listened({NODE}, deafness.heard_all(past, 50.0), 60.0)
    assert past.listened == 2
    assert deafness.heard_all(past, 60 + LONGEST) == past
    assert deafness.heard_all(past, 61 + LONGEST).listened == 0


def test_the_server_through_which_most_is_heard_is_chosen() -> None:
    here = Heard({ENGINES[0]}, log=True)
    one = Heard({ROUTER, NODE}, log=True)
    two = Heard({ROUTER, NODE, ENGINES[1]}, log=True)
    assert deafness.better(here, {"a": one, "b": two}) == "b"
    assert deafness.better(here, {"b": two, "c": two}) == "b"


def test_where_no_more_is_heard_elsewhere_it_stays() -> None:
    here = Heard({ROUTER, NODE}, log=True)
    assert deafness.better(here, {}) is None
    assert deafness.better(here, {"a": here, "b": Heard(set(), log=True)}) is None
    assert deafness.better(here, {"a": Heard({ROUTER, ENGINES[0]}, log=True)}) is None


def test_a_router_is_worth_more_than_many_engines_and_the_log_more_than_both() -> None:
    here = Heard(set(ENGINES), log=True)
    assert deafness.better(here, {"a": Heard({ROUTER}, log=True)}) == "a"
    assert deafness.better(here, {"a": Heard(set(EVERYBODY), log=False)}) is None
    assert deafness.better(Heard(set(EVERYBODY), log=False), {"a": Heard({NODE}, log=True)}) == "a"


@given(here=heard, there=st.dictionaries(st.sampled_from("abcd"), heard))
def test_no_move_without_evidence(here: Heard, there: dict[str, Heard]) -> None:
    chosen = deafness.better(here, there)
    if chosen is None:
        return
    found = there[chosen]
    more = found.subjects - here.subjects
    assert more or (found.log and not here.log)
    assert deafness.better(found, {**there, "here": here}) is None, "nor a way back"


@given(
    steps=st.lists(
        st.tuples(st.floats(0.5, 30), somebody, heard, heard, st.floats(0, 1)), max_size=120
    )
)
def test_whatever_happens_moves_are_few_and_ever_rarer(
    steps: list[tuple[float, frozenset[bytes], Heard, Heard, float]],
) -> None:
    past, now = Past(), 0.0
    listened: list[float] = []
    moved: list[float] = []
    for seconds, missing, here, there, draw in steps:
        now += seconds
        if not missing:
            past = deafness.heard_all(past, now)
        elif deafness.due(missing, past, now):
            past = deafness.listened(missing, past, now)
            listened.append(now)
            if deafness.better(here, {"a": there}) is not None:
                past = deafness.moved(past, now, draw)
                moved.append(now)
    assert all(later - earlier >= FIRST for earlier, later in pairwise(listened))
    pauses = [later - earlier for earlier, later in pairwise(moved)]
    grown = 0
    for pause in pauses:
        grown = 0 if pause > deafness.CALM else grown + 1
        assert pause >= min(MOVED * 2 ** max(grown - 1, 0), LONGEST) or not grown
    for start in moved:
        assert sum(start <= at < start + 60 for at in moved) <= 3


def test_two_that_moved_at_once_do_not_go_on_in_step() -> None:
    one, other = (deafness.moved(Past(), 0.0, draw) for draw in (0.0, 1.0))
    assert (one.rests, other.rests) == (MOVED, 1.5 * MOVED)
    assert deafness.due({NODE}, one, MOVED)
    assert not deafness.due({NODE}, other, MOVED)


def test_what_is_wanted_is_covered_by_any_router_where_one_is_wanted() -> None:
    assert deafness.covered({ANY_ROUTER, NODE}, {OTHER_ROUTER, NODE})
    assert not deafness.covered({ANY_ROUTER, NODE}, {NODE})
    assert not deafness.covered({ROUTER}, {OTHER_ROUTER})


def test_an_actor_that_is_not_heard_is_named() -> None:
    assert deafness.told({NODE, ANY_ROUTER}) == "any router, node n1"
    assert deafness.told(set(ENGINES) | {ROUTER}) == "chat-0, chat-1, chat-2 and 2 more"


def test_two_halves_of_a_cluster_become_one() -> None:
    """Only two servers, cut off from each other: whichever moves, all end where most are heard."""
    at = dict.fromkeys((ROUTER, NODE, ENGINES[0], ENGINES[1], b"gateway"), "a")
    at |= {OTHER_ROUTER: "b", ENGINES[2]: "b"}
    for _ in range(4):
        for who in (OTHER_ROUTER, ENGINES[2], b"gateway", ROUTER):
            hears = {
                server: Heard(
                    {each for each, where in at.items() if where == server and each != who}, True
                )
                for server in "ab"
            }
            here = hears.pop(at[who])
            moves = deafness.better(here, hears)
            at[who] = moves or at[who]
    assert set(at.values()) == {"a"}


@given(
    placed=st.fixed_dictionaries({each: st.sampled_from("abc") for each in (*EVERYBODY, b"gw")}),
    turns=st.permutations([ROUTER, OTHER_ROUTER, b"gw"]),
)
def test_where_one_server_reaches_all_others_all_end_hearing_everybody(
    placed: dict[bytes, str], turns: list[bytes]
) -> None:
    """The path between servers a and b is cut, and c reaches both."""
    at = dict(placed)

    def through(server: str, who: bytes) -> Heard:
        deaf = {"a": "b", "b": "a", "c": ""}[server]
        return Heard({each for each in EVERYBODY if each != who and at[each] != deaf}, log=True)

    for who in (*turns, *turns):
        there = {server: through(server, who) for server in "abc" if server != at[who]}
        at[who] = deafness.better(through(at[who], who), there) or at[who]
    for who in turns:
        assert through(at[who], who).subjects == set(EVERYBODY) - {who}
