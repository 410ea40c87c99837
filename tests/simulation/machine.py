"""A machine: its devices and the engine processes on it, which outlive the node's process."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

import msgspec
from msgspec import Struct

from nebula.actors.placement.sizing import usable
from nebula.events import subjects
from nebula.events.inference import Finished, Request
from nebula.events.state import Launch, Replica
from nebula.events.values import Device
from tests.simulation.clock import Clock
from tests.simulation.engine import Engine
from tests.simulation.network import Link

Send: TypeAlias = Callable[[Link, str, bytes, bytes], None]
"""Publishes over a link: subject, header block, body."""

BROKEN_OPTION = "broken"
"""An engine that is started with this option never gets ready, like one with a typing error."""


class Trouble(Struct):
    """What is wrong with engines on a machine now: it holds until a time, and ends by itself.

    `starts_fail`: they exit while they start. `slow`: how many times longer starts take.
    `adapters_fail`: they refuse adapters.
    """

    starts_fail: float = 0.0
    slow: float = 0.0
    slow_factor: float = 1.0
    adapters_fail: float = 0.0


class Machine:
    """One machine. `send` is the network; `on_start` and `on_take` look at what engines do.

    `seed` is the world's.
    """

    def __init__(
        self,
        identity: str,
        devices: tuple[Device, ...],
        link: Link,
        rng: Random,
        send: Send,
        on_start: Callable[[Engine], None],
        on_take: Callable[[Engine, Request], None],
        seed: int,
    ) -> None:
        self.id = identity
        self.seed = seed
        self.devices = devices
        self.link = link
        self.rng = rng
        self.clock: Clock = link.clock
        self.engines: dict[int, Engine] = {}
        self.labels: dict[str, str] = {}
        self.trouble = Trouble()
        self.shrunk = False
        self.copies: set[str] = set()
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

    def copy(self, source: str, digest: str) -> str:
        """Copy an adapter's files and give their digest; "" if they are not that version.

        They are trained anew every 100 seconds, and reach each machine at another time.
        """
        if digest not in self.copies:
            late = sum(self.id.encode()) % 7 * 4.0
            now = f"{source}@{int((self.clock.now + late) // 100)}"
            if digest and digest != now:
                return ""
            self.copies.add(now)
            digest = now
        return digest

    def has_room(self, new: Engine) -> bool:
        """Return whether a new engine has its share beside all that runs."""
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
