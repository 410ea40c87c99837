"""The simulated parts keep the rules of what they stand for: JetStream's, and time's."""

from __future__ import annotations

from collections.abc import Generator
from random import Random
from typing import Any
from unittest import mock

import msgspec
import pytest

from nebula.events import record as records
from nebula.events import subjects
from nebula.events.inference import StillWanted, Unwanted
from nebula.events.intents import ModelLoadRequested, ModelScaleRequested
from nebula.events.vocabulary import Event, NodeLost
from nebula.store.log import Guard
from tests.simulation.clock import Clock, Process, Signal
from tests.simulation.cluster import Cluster
from tests.simulation.gateway import Gateway
from tests.simulation.journal import WINDOW, Appender, Conflict, Follower, Journal, Message
from tests.simulation.network import Link
from tests.simulation.scenario import Hardware, Scenario

LOAD = ModelLoadRequested("/model")


def message(identity: str, event: Event, unique: str, guard: int | None = None) -> Message:
    held = None if guard is None else Guard(subjects.MODEL_EVENTS, guard)
    return Message(records.subject_of(identity, event), records.encode(event), {}, unique, held)


def test_a_guard_holds_until_another_model_event_is_stored() -> None:
    journal = Journal(Clock())
    assert journal.store(message("a", LOAD, "1", guard=0)) == 1
    assert journal.store(message("n", NodeLost(), "2")) == 2
    assert journal.store(message("b", LOAD, "3", guard=1)) == 3
    with pytest.raises(Conflict):
        journal.store(message("b", LOAD, "4", guard=1))


def test_a_message_id_is_stored_once_within_its_window() -> None:
    clock = Clock()
    journal = Journal(clock)
    assert journal.store(message("a", LOAD, "same")) == 1
    assert journal.store(message("a", LOAD, "same")) == 1
    clock.run(WINDOW + 1)
    assert journal.store(message("a", LOAD, "same")) == 2


def test_the_guard_is_looked_at_before_the_message_id() -> None:
    journal = Journal(Clock())
    journal.store(message("a", LOAD, "same", guard=0))
    with pytest.raises(Conflict):
        journal.store(message("a", LOAD, "same", guard=0))


def test_a_follower_has_every_event_in_order_and_late() -> None:
    clock = Clock()
    journal = Journal(clock)
    follower = Follower(journal, Link(clock, Random(1)), Random(1))
    for number in range(20):
        journal.store(message("a", ModelScaleRequested(number), str(number)))
    assert follower.state.seq == 0
    seen = [follower.state.seq]
    while clock.step():
        seen.append(follower.state.seq)
    assert seen == sorted(seen)
    assert follower.state == journal.state


def test_a_follower_that_is_cut_off_goes_on_where_it_was() -> None:
    clock = Clock()
    journal = Journal(clock)
    link = Link(clock, Random(1))
    follower = Follower(journal, link, Random(1))
    link.cut(10)
    journal.store(message("a", LOAD, "1"))
    clock.run(9)
    assert follower.state.seq == 0
    clock.run(12)
    assert follower.state.seq == 1


def test_a_link_is_clear_once_the_last_of_its_troubles_is_over() -> None:
    clock = Clock()
    link = Link(clock, Random(1))
    link.stall(30)
    link.loss = 0.3
    clock.run(5)
    link.heal()
    clock.run(20)
    assert link.clear == 0, "what is sent is still kept back"
    clock.run(32)
    assert link.clear == 2


def test_an_append_whose_acknowledgements_are_lost_is_stored_once() -> None:
    clock = Clock()
    journal = Journal(clock)
    link = Link(clock, Random(3))
    link.loss = 0.5
    appender = Appender(journal, link, "me")
    done: list[int] = []

    def work() -> Generator[Any, Any, None]:
        for number in range(50):
            done.append(
                (yield from appender.append("a", ModelScaleRequested(number), patience=200))
            )

    Process(clock).spawn(work())
    clock.run(10_000)
    assert done == list(range(1, 51))


def test_a_crashed_process_does_nothing_more() -> None:
    clock = Clock()
    process, said = Process(clock), []

    def work() -> Generator[Any, Any, None]:
        while True:
            yield 1.0
            said.append(clock.now)

    process.spawn(work())
    clock.run(2.5)
    process.crash()
    clock.run(10)
    assert said == [1.0, 2.0]


def test_a_wait_for_a_signal_tells_whether_it_came_in_time() -> None:
    clock = Clock()
    signal, told = Signal(clock), []

    def work() -> Generator[Any, Any, None]:
        told.append((yield (signal, 1.0)))
        told.append((yield (signal, 1.0)))

    Process(clock).spawn(work())
    clock.after(0.5, signal.fire)
    clock.run(10)
    assert told == [True, False]


def test_nothing_that_an_engine_says_to_a_gateway_overtakes_what_it_said_before() -> None:
    cluster = Cluster(Scenario(1, (Hardware("n", (), {}),), 1, (), 0.0, slow=2.0))
    [gateway], machine = cluster.gateways.values(), cluster.machines["n"]
    heard: list[int] = []

    def on_piece(_: Gateway, subject: bytes, header: bytes, body: bytes) -> None:
        heard.append(int(body))

    def on_waiting(_: Gateway, body: bytes) -> Unwanted:
        heard.append(int(msgspec.json.decode(body, type=StillWanted).replica))
        return Unwanted({})

    with (
        mock.patch.object(Gateway, "on_piece", on_piece),
        mock.patch.object(Gateway, "on_waiting", on_waiting),
    ):
        for number in range(0, 100, 2):
            machine.say(subjects.responses(gateway.id, "a"), b"", b"%d" % number)
            asks = msgspec.json.encode(StillWanted(str(number + 1), {}))
            machine.say(subjects.waiting(gateway.id), b"", asks)
            cluster.clock.run(cluster.clock.now + 0.1)
        cluster.clock.run(60)
    assert heard == list(range(100))
