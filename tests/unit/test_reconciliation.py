"""What a node does next about its engines, and when it starts one again that has failed."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.actors.node.reconciliation import (
    Action,
    LoadAdapter,
    Restarts,
    Running,
    Start,
    Stop,
    UnloadAdapter,
    reconcile,
)
from nebula.events.intents import ModelLoadRequested
from nebula.events.start_order import HOLD
from nebula.events.state import EMPTY, AdapterStatus, Model, Node, Offer, Replica, State

NOW = 100.0
HERE = replace(EMPTY, nodes=HashTrieMap({"alpha": Node(id="alpha", devices=())}))
"""A cluster of which the node is a part."""


def replica(number: int = 0, device: int = 0, **fields: object) -> Replica:
    placed = Replica(
        id=f"chat-{number}", model="chat", node="alpha", devices=(device,), memory=1, version=1
    )
    return replace(placed, **fields)


def running(number: int = 0, device: int = 0, version: int = 1, **fields: bool) -> Running:
    return Running(f"chat-{number}", version, (device,), **fields)


def cluster(**adapters: str) -> State:
    offers = {name: Offer(asked=2, served=1, source="/a", digest="old") for name in adapters}
    model = Model(
        id="chat",
        name="chat",
        spec=ModelLoadRequested("/m"),
        adapters=adapters,
        requested_seq=1,
        offers=offers,
    )
    return replace(HERE, models=HashTrieMap({"chat": model}))


def due(
    replicas: list[Replica],
    engines: list[Running] | None = None,
    retry_at: dict[str, float] | None = None,
    state: State = HERE,
) -> list[Action]:
    known = {engine.replica: engine for engine in engines or []}
    return list(reconcile(state, replicas, known, retry_at or {}, NOW))


def test_an_assigned_replica_without_an_engine_is_started() -> None:
    assert due([replica()]) == [Start("chat-0", attempt=1)]


def test_a_replica_whose_engine_runs_as_planned_is_left_alone() -> None:
    assert due([replica()], [running(ready=True)]) == []
    assert due([replica()], [running()]) == []


def test_an_engine_that_is_not_assigned_any_more_is_stopped() -> None:
    (stop,) = due([], [running(ready=True)])
    assert stop == Stop("chat-0", "it is no longer assigned to this node")
    (stop,) = due([replica(retired=True)], [running()])
    assert isinstance(stop, Stop)


def test_a_retired_replica_is_never_started() -> None:
    assert due([replica(retired=True)]) == []


def test_an_engine_that_is_told_to_end_is_told_once() -> None:
    assert due([], [running(ending=True)]) == []


def test_a_new_version_stops_the_engine_and_starts_it_when_it_is_gone() -> None:
    renewed = replica(version=2)
    assert due([renewed], [running(ready=True)]) == [Stop("chat-0", "plan 2 replaces it")]
    assert due([renewed], [running(ready=True, ending=True)]) == []
    assert due([renewed]) == [Start("chat-0", attempt=1)]


def test_engines_that_share_a_device_start_one_after_the_other() -> None:
    pair = [replica(0), replica(1)]
    assert due(pair) == [Start("chat-0", 1)]
    assert due(pair, [running(0)]) == []
    assert due(pair, [running(0, ready=True)]) == [Start("chat-1", 1)]


def test_engines_on_different_devices_start_together() -> None:
    assert due([replica(0, 0), replica(1, 1)]) == [Start("chat-0", 1), Start("chat-1", 1)]


def test_nothing_starts_on_a_device_whose_engine_still_ends() -> None:
    assert due([replica(1)], [running(0, ready=True, ending=True)]) == []
    assert due([replica(1, 1)], [running(0, ending=True)]) == [Start("chat-1", 1)]


def test_nothing_starts_on_a_device_whose_engine_is_stopped_in_the_same_breath() -> None:
    actions = due([replica(1)], [running(0, ready=True)])
    assert [type(action) for action in actions] == [Stop]


def test_a_failed_replica_is_started_again_only_after_its_pause() -> None:
    failed = replica(phase="failed", attempt=1, retry_in=5.0)
    assert due([failed], retry_at={"chat-0": NOW + 0.1}) == []
    assert due([failed], retry_at={"chat-0": NOW}) == [Start("chat-0", attempt=2)]


def test_a_replica_that_waits_for_its_pause_delays_no_other() -> None:
    failed = replica(phase="failed", attempt=1, retry_in=5.0)
    assert due([failed, replica(1)], retry_at={"chat-0": NOW + 5}) == [Start("chat-1", 1)]


def test_a_replica_that_served_starts_before_those_that_never_did() -> None:
    lost = replica(7, phase="failed", attempt=1, retry_in=1.0, served=True)
    assert due([replica(0), lost, replica(8)]) == [Start("chat-7", attempt=2)]
    assert due([replica(0), replica(7, phase="stopped", served=True)]) == [Start("chat-7", 1)]


def test_nothing_starts_in_the_pause_before_the_restart_of_a_replica_that_served() -> None:
    lost = replica(7, phase="failed", attempt=1, retry_in=1.0, served=True)
    assert due([replica(0), lost], retry_at={"chat-7": NOW + HOLD}) == []
    assert due([replica(0, 1), lost], retry_at={"chat-7": NOW + 1}) == [Start("chat-0", 1)]
    assert due([replica(0), lost], retry_at={"chat-7": NOW + HOLD + 0.1}) == [Start("chat-0", 1)]
    given_up = replica(7, phase="failed", attempt=3, retry_in=None, served=True)
    assert due([replica(0), given_up]) == [Start("chat-0", 1)]
    assert due([replica(0), lost], retry_at={"chat-7": math.inf}) == [Start("chat-0", 1)]


def test_a_replica_that_served_and_whose_files_are_not_here_delays_no_other() -> None:
    lost = replica(7, phase="stopped", served=True)
    actions = reconcile(HERE, [replica(0), lost], {}, {}, NOW, frozenset({"chat-7"}))
    assert actions == (Start("chat-0", 1),)


def test_of_a_replica_that_served_on_two_devices_neither_is_taken_while_it_waits_for_one() -> None:
    lost = replica(7, phase="stopped", served=True, devices=(0, 1))
    busy = running(3, device=0)
    assert due([replica(0, 1), replica(3), lost], [busy]) == []
    assert due([replica(0, 1), replica(3), lost], [running(3, ready=True)]) == [Start("chat-7", 1)]


@pytest.mark.parametrize("fields", [{}, {"ready": True, "ending": True}], ids=["starts", "ends"])
@pytest.mark.parametrize("device", [0, 1])
def test_an_engine_on_several_devices_keeps_each_of_them_until_it_is_ready_or_gone(
    fields: dict[str, bool], device: int
) -> None:
    wide = Running("chat-0", 1, (0, 1), **fields)
    here = replica(0, devices=(0, 1), retired=bool(fields))
    assert due([here, replica(1, device=device)], [wide]) == []
    assert due([here, replica(1, device=2)], [wide]) == [Start("chat-1", 1)]


def test_replicas_on_several_devices_start_one_after_the_other_where_they_share_one() -> None:
    wide = [
        replica(number, devices=devices) for number, devices in enumerate([(0, 1), (1, 2), (2, 3)])
    ]
    assert due(wide) == [Start("chat-0", 1), Start("chat-2", 1)]


def test_a_replica_that_was_given_up_is_not_started() -> None:
    assert due([replica(phase="failed", attempt=3, retry_in=None)]) == []


def test_an_engine_that_runs_though_the_log_has_it_as_ended_is_stopped_and_then_started_anew() -> (
    None
):
    failed = replica(phase="failed", attempt=1, retry_in=None)
    (stop,) = due([failed], [running(ready=True, told=True)])
    assert stop == Stop("chat-0", "the log says that it has ended")
    (stop, *rest) = due([failed, replica(1)], [running(ready=True, told=True)])
    assert (type(stop), rest) == (Stop, [])
    stopped = replica(phase="stopped")
    assert due([stopped]) == [Start("chat-0", attempt=1)]


def test_an_engine_of_which_the_log_does_not_know_yet_is_let_be() -> None:
    assert due([replica()], [running(told=False)]) == []


def test_adapters_are_loaded_once_the_engine_answers_what_serves_first() -> None:
    state = cluster(sql="/b")
    assert due([replica()], [running()], state=state) == []
    assert due([replica()], [running(ready=True)], state=state) == [
        LoadAdapter("chat-0", "sql", "/a", "old", 1)
    ]


def status(asked: int, *held: str, reason: str = "") -> AdapterStatus:
    return AdapterStatus("/a", bool(held), reason, held[-1] if held else "", asked, held)


@pytest.mark.parametrize(
    ("wanted", "present", "actions"),
    [
        ({"sql": "/b"}, status(1, "old"), [LoadAdapter("chat-0", "sql", "/b", "", 2)]),
        ({"sql": "/b"}, status(1, reason="gone"), [LoadAdapter("chat-0", "sql", "/b", "", 2)]),
        ({"sql": "/b"}, status(2, "old", "new"), []),
        ({"sql": "/b"}, status(2, reason="too large"), []),
        ({"sql": "/b"}, status(2, "x", "old", "y"), [UnloadAdapter("chat-0", "sql", "x")]),
        ({}, status(2, "old"), [UnloadAdapter("chat-0", "sql")]),
        ({}, status(2), []),
    ],
)
def test_an_adapter_s_version_is_loaded_beside_the_other_and_what_is_neither_goes(
    wanted: dict[str, str], present: AdapterStatus, actions: list[Action]
) -> None:
    with_adapter = replica(adapters={"sql": present})
    assert due([with_adapter], [running(ready=True)], state=cluster(**wanted)) == actions


def test_an_engine_that_is_to_end_gets_no_adapters() -> None:
    state = cluster(sql="/a")
    assert due([replica()], [running(ready=True, ending=True)], state=state) == []
    (stop,) = due([replica(version=2)], [running(ready=True)], state=state)
    assert isinstance(stop, Stop)


numbers = st.integers(0, 5)
device_sets = st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True).map(tuple)
sources = st.sampled_from(["/a", "/b"])
names = st.sampled_from(["sql", "poet"])
replicas = st.lists(
    st.builds(
        lambda number, devices, version, retired, phase, retry_in, adapters, served: replace(
            replica(number),
            devices=devices,
            version=version,
            retired=retired,
            phase=phase,
            retry_in=retry_in,
            adapters=adapters,
            served=served,
        ),
        numbers,
        device_sets,
        st.integers(1, 2),
        st.booleans(),
        st.sampled_from(["assigned", "starting", "ready", "failed", "stopped"]),
        st.sampled_from([None, 1.0]),
        st.dictionaries(names, st.builds(AdapterStatus, sources, st.booleans())),
        st.booleans(),
    ),
    unique_by=lambda each: each.id,
)
engines = st.lists(
    st.builds(
        lambda number, version, devices, ready, ending, told: Running(
            f"chat-{number}", version, devices, ready, ending, told
        ),
        numbers,
        st.integers(1, 2),
        device_sets,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    unique_by=lambda each: each.replica,
)
retries = st.dictionaries(numbers.map(lambda number: f"chat-{number}"), st.floats(0, 200))
states = st.dictionaries(names, sources).map(lambda adapters: cluster(**adapters))


@given(states, replicas, engines, retries)
def test_at_no_time_do_two_engines_start_or_end_on_one_device(
    state: State, wanted: list[Replica], known: list[Running], retry_at: dict[str, float]
) -> None:
    actions = due(wanted, known, retry_at, state)
    stopped = {action.replica for action in actions if isinstance(action, Stop)}
    unsettled = [
        device
        for engine in known
        if not engine.ready or engine.ending or engine.replica in stopped
        for device in engine.devices
    ]
    devices = {each.id: each.devices for each in wanted}
    started = [
        device
        for action in actions
        if isinstance(action, Start)
        for device in devices[action.replica]
    ]
    assert not set(started) & set(unsettled)
    assert len(started) == len(set(started))


@given(states, replicas, engines, retries)
def test_nothing_that_never_served_starts_where_something_that_served_is_soon_to_start(
    state: State, wanted: list[Replica], known: list[Running], retry_at: dict[str, float]
) -> None:
    started = {each.replica for each in due(wanted, known, retry_at, state) if type(each) is Start}
    there = {engine.replica for engine in known}
    awaited = {
        device
        for each in wanted
        if each.served and not each.retired and not each.given_up and each.id not in there
        if retry_at.get(each.id, 0.0) <= NOW + HOLD
        for device in each.devices
    }
    assert not any(
        awaited & set(each.devices) for each in wanted if each.id in started and not each.served
    )


@given(states, replicas, engines, retries)
def test_each_engine_gets_at_most_one_order_at_a_time(
    state: State, wanted: list[Replica], known: list[Running], retry_at: dict[str, float]
) -> None:
    orders = Counter(
        action.replica
        for action in due(wanted, known, retry_at, state)
        if isinstance(action, Start | Stop)
    )
    assert all(count == 1 for count in orders.values())


@given(states, replicas, engines)
def test_actions_that_all_succeed_lead_to_a_node_with_nothing_left_to_do(
    state: State, wanted: list[Replica], known: list[Running]
) -> None:
    placed = {each.id: each for each in wanted}
    alive = {engine.replica: engine for engine in known}
    rounds = 0
    while True:
        actions = reconcile(state, list(placed.values()), alive, {}, NOW)
        settled = all(engine.ready and not engine.ending for engine in alive.values())
        if settled and not actions:
            break
        rounds += 1
        assert rounds < 50
        alive = {
            identity: replace(engine, ready=True)
            for identity, engine in alive.items()
            if not engine.ending
        }
        for action in actions:
            perform(action, placed, alive)
    for each in placed.values():
        runs = each.id in alive and alive[each.id].version == each.version
        assert runs == (not each.retired and not (each.given_up and each.id not in alive))


def perform(action: Action, placed: dict[str, Replica], alive: dict[str, Running]) -> None:
    """Do what an ideal machine does: an engine that is told to end has ended at the next look."""
    identity = action.replica
    match action:
        case Start():
            each = placed[identity]
            placed[identity] = replace(each, phase="starting", adapters={})
            alive[identity] = Running(identity, each.version, each.devices)
        case Stop():
            if identity in alive:
                alive[identity] = replace(alive[identity], ending=True)
        case LoadAdapter(name=name, source=source, digest=digest, asked=asked):
            known = placed[identity].adapters.get(name)
            digest = digest or "new"
            held = (*(known.held if known is not None else ()), digest)
            status = AdapterStatus(source, loaded=True, digest=digest, asked=asked, held=held)
            adapters = {**placed[identity].adapters, name: status}
            placed[identity] = replace(placed[identity], adapters=adapters)
        case UnloadAdapter(name=name, digest=digest):
            adapters = {**placed[identity].adapters}
            left = tuple(each for each in adapters[name].held if each != digest)
            adapters[name] = replace(adapters[name], held=left)
            if not digest or not left:
                del adapters[name]
            placed[identity] = replace(placed[identity], adapters=adapters)


def test_pauses_grow_twofold_up_to_the_longest() -> None:
    restarts = Restarts(pause=1.5, longest=60)
    assert [restarts.after(failures) for failures in range(1, 5)] == [1.5, 3.0, 6.0, 12.0]
    assert restarts.after(50) == 60


def test_an_engine_is_given_up_at_the_limit_of_failed_starts() -> None:
    restarts = Restarts(limit=3)
    assert [restarts.gives_up(number) for number in (1, 2, 3, 4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("took", "settles"), [(0.3, 10), (5, 10), (54.6, 109.2), (150, 300), (900, 300), (None, 300)]
)
def test_one_that_served_for_twice_as_long_as_its_start_took_has_ended_the_row(
    took: float | None, settles: float
) -> None:
    assert Restarts().settles(took) == settles


@given(st.integers(1, 10**6), st.floats(0.01, 100))
def test_a_pause_is_always_a_number_between_the_first_and_the_longest(
    failures: int, pause: float
) -> None:
    wait = Restarts(pause=pause, longest=200).after(failures)
    assert math.isfinite(wait)
    assert pause <= wait <= 200


@pytest.mark.parametrize("known", [True, False])
def test_a_node_that_is_lost_or_taken_out_ends_all_of_its_engines_and_starts_none(
    known: bool,
) -> None:
    nodes = {"alpha": Node(id="alpha", devices=(), lost=True)} if known else {}
    lost = replace(EMPTY, nodes=HashTrieMap(nodes))
    here = [replica(0), replica(1, device=1), replica(2, device=2, retired=True)]
    engines = [running(0, ready=True), running(2, device=2, ready=True)]
    reason = "its node was lost, or taken out of the cluster"
    assert due(here, engines, state=lost) == [Stop("chat-0", reason), Stop("chat-2", reason)]
    assert due(here, [], state=lost) == []


def test_requests_may_end_first_where_the_model_is_still_wanted() -> None:
    state, engines = cluster(), [running(ready=True)]
    gone = "it is no longer assigned to this node"
    assert due([replica(retired=True)], engines, state=state) == [Stop("chat-0", gone, True)]
    assert due([replica(version=2)], engines, state=state) == [
        Stop("chat-0", "plan 2 replaces it", True)
    ]
    unloading = replace(state.models["chat"], unloading=True)
    state = replace(state, models=HashTrieMap({"chat": unloading}))
    assert due([replica(retired=True)], engines, state=state) == [Stop("chat-0", gone, False)]
