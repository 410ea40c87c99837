"""A machine: its devices and the engine processes on it, which outlive the node's process."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

import msgspec
from msgspec import Struct

from nebula.actors.placement.sizing import usable
from nebula.events import envelope, inference, subjects
from nebula.events.inference import Finished, Piece, Request
from nebula.events.state import Launch, Replica
from nebula.events.values import Device
from tests.simulation.clock import Clock, Signal
from tests.simulation.network import Link

Send: TypeAlias = Callable[[Link, str, bytes, bytes], None]
"""Publishes over a link: subject, header block, body."""

BROKEN_OPTION = "broken"
"""An engine that is started with this option never gets ready, like one with a typing error."""

STATUS_EVERY = 4.0


class Trouble(Struct):
    """What is wrong with engines on a machine now: it holds until a time, and ends by itself.

    `starts_fail`: they exit while they start. `slow`: how many times longer starts take.
    `adapters_fail`: they refuse adapters.
    """

    starts_fail: float = 0.0
    slow: float = 0.0
    slow_factor: float = 1.0
    adapters_fail: float = 0.0


class Engine:
    """One engine process: it starts, gets ready, answers, and ends; then its memory is free."""

    def __init__(
        self, machine: Machine, pid: int, replica: Replica, version: int, launch: Launch
    ) -> None:
        self.machine = machine
        self.pid = pid
        self.created = machine.clock.now
        self.replica = replica.id
        self.model = replica.model
        self.version = version
        self.devices = replica.devices
        self.memory = replica.memory
        self.launch = launch
        self.changed = Signal(machine.clock)
        self.answers = False
        self.exited = False
        self.gone = False
        self.code: int | None = None
        self.requests: dict[str, int] = {}
        self.adapters: set[str] = set()

    def get_ready(self) -> None:
        """It has loaded its weights."""
        if not self.exited:
            self.answers = True
            self.changed.fire()
            self._beat()

    def exit(self, code: int | None) -> None:
        """Its leader ends, with all that was under way; its memory is free a little later."""
        if self.exited:
            return
        self.exited, self.answers, self.code = True, False, code
        self.requests.clear()
        self.changed.fire()
        rng = self.machine.rng
        self.machine.clock.after(
            rng.random() * 0.5 if rng.random() < 0.9 else 4.0 * rng.random(), self._vanish
        )

    def terminate(self, grace: float) -> None:
        """It is told to end: it takes no more requests, and ends those it has, in time or not."""
        self.answers = False
        self.machine.clock.after(min(grace, self.machine.rng.random() * 3), self.exit, 0)

    def _vanish(self) -> None:
        self.gone = True
        self.machine.engines.pop(self.pid, None)
        self.changed.fire()

    def _beat(self) -> None:
        if not self.answers:
            return
        status = b'{"replica":"%b","pid":%d,"running":%d,"version":%d}' % (
            self.replica.encode(),
            self.pid,
            len(self.requests),
            self.version,
        )
        self.machine.say(subjects.replica_status(self.model, self.replica), b"", status)
        self.machine.clock.after(STATUS_EVERY, self._beat)

    def on_request(self, header: bytes, body: bytes) -> None:
        """Take a request that a router sent here."""
        request = envelope.receive_request(self.model, header, body)
        if request is None or not self.answers:
            return
        plan = envelope.read_plan(header)
        if plan is not None and plan != self.version:
            if plan < self.version:
                self._refuse(request)
            return
        self.machine.on_take(self, request)
        self.requests[request.id] = request.attempt
        subject = subjects.responses(request.gateway, request.id)
        claim = Piece(-1, replica=self.replica, attempt=request.attempt)
        self.machine.say(subject, envelope.block(envelope.piece_headers(claim)), b"")
        seconds = 0.1 + self.machine.rng.random() * 3
        self.machine.clock.after(seconds, self._finish, subject, request.id, request.attempt)

    def _refuse(self, request: Request) -> None:
        """Serve for no other plan than the own one."""
        last = Piece(0, end=True, failure=inference.OTHER_PLAN, attempt=request.attempt)
        subject = subjects.responses(request.gateway, request.id)
        self.machine.say(subject, envelope.block(envelope.piece_headers(last)), b"")
        finished = Finished(self.replica, (request.id,), (request.id,), len(self.requests))
        self.machine.tell_finished(self.model, finished)

    def _finish(self, subject: str, identity: str, attempt: int) -> None:
        if self.exited or self.requests.get(identity) != attempt:
            return
        del self.requests[identity]
        last = Piece(0, status=200, content_type="text/plain", end=True, attempt=attempt)
        self.machine.say(subject, envelope.block(envelope.piece_headers(last)), b"done")
        finished = Finished(self.replica, (identity,), (), len(self.requests))
        self.machine.tell_finished(self.model, finished)


class Machine:
    """See the module. `send` is the network; `on_start` and `on_take` look at what engines do."""

    def __init__(
        self,
        identity: str,
        devices: tuple[Device, ...],
        link: Link,
        rng: Random,
        send: Send,
        on_start: Callable[[Engine], None],
        on_take: Callable[[Engine, Request], None],
    ) -> None:
        self.id = identity
        self.devices = devices
        self.link = link
        self.rng = rng
        self.clock: Clock = link.clock
        self.engines: dict[int, Engine] = {}
        self.labels: dict[str, str] = {}
        self.trouble = Trouble()
        self.shrunk = False
        self._send = send
        self._on_start = on_start
        self.on_take = on_take
        self._pids = 1000

    def say(self, subject: str, header: bytes, body: bytes) -> None:
        """Publish from this machine."""
        self._send(self.link, subject, header, body)

    def tell_finished(self, model: str, finished: Finished) -> None:
        """Tell all routers that an engine is done with requests."""
        self.say(subjects.finished(model), b"", msgspec.json.encode(finished))

    def start(self, replica: Replica, version: int, launch: Launch) -> Engine:
        """Spawn an engine. On a machine that has shrunk it may find too little, and says so."""
        self._pids += 1
        engine = Engine(self, self._pids, replica, version, launch)
        cramped = self.shrunk and not self.has_room(engine)
        if not cramped:
            self._on_start(engine)
        self.engines[engine.pid] = engine
        now, rng, trouble = self.clock.now, self.rng, self.trouble
        seconds = 0.5 + rng.random() * 8
        if trouble.slow > now:
            seconds *= trouble.slow_factor
        if cramped or trouble.starts_fail > now or launch.options.get(BROKEN_OPTION):
            self.clock.after(seconds * rng.random(), engine.exit, 1)
        else:
            self.clock.after(seconds, engine.get_ready)
        return engine

    def has_room(self, new: Engine) -> bool:
        """Tell whether a new engine has its share beside all that runs."""
        for index in new.devices:
            device = next((each for each in self.devices if each.index == index), None)
            there = [each.memory for each in self.engines.values() if index in each.devices]
            if device is None or new.memory + sum(there) > usable(device):
                return False
        return True

    def adopt(self, pid: int) -> Engine | None:
        """Find an engine that runs; None when its leader has ended."""
        engine = self.engines.get(pid)
        return None if engine is None or engine.exited else engine

    def reboot(self) -> None:
        """Every process ends at once, and nothing is left of them."""
        for engine in list(self.engines.values()):
            engine.exit(None)
        self.engines.clear()
