"""What happens to a world, drawn from its seed before it begins: machines, faults, intents.

A scenario is a plain list of steps, so that steps can be left out of it: whatever remains is a
scenario too.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields, replace

from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.memory import GIB
from nebula.events.values import Adapter, Autoscale, Device, Task
from nebula.events.version import VERSION
from nebula.events.vocabulary import ClusterFounded, Event, NodeDeregistered
from tests.simulation.machine import BROKEN_OPTION

MEMORY = (None, None, "8GiB", "12GiB", "20GiB", "36GiB", "60GiB")


class Step(Struct, frozen=True):
    """Something that happens at a time (s): `what`, to which actor, and for how long or how much.

    An intent is `what="publish"` and its event.
    """

    at: float
    what: str
    who: str = ""
    amount: float = 0.0
    event: Event | None = None

    def __str__(self) -> str:
        what = (
            f"{self.what} {self.who}" if self.event is None else f"{self.who}: {_said(self.event)}"
        )
        amount = f" {self.amount:.1f}" if self.amount else ""
        return f"{self.at:7.2f} s  {what}{amount}"


def _said(event: Event) -> str:
    """Write an event without what is as usual."""
    said = [
        f"{field.name}={value!r}"
        for field in fields(type(event))
        if (value := getattr(event, field.name)) != _usual(field)
    ]
    return f"{type(event).__name__}({', '.join(said)})"


def _usual(field: FieldInfo) -> object:
    factory = field.default_factory
    return field.default if factory is NODEFAULT else factory()


class Hardware(Struct, frozen=True):
    """A machine as it is bought."""

    id: str
    devices: tuple[Device, ...]
    labels: dict[str, str]


class Scenario(Struct, frozen=True):
    """A world's beginning and what happens in it until `calm`, when trouble ends.

    `slow`: seconds that a machine's messages take at most beyond the usual.
    """

    seed: int
    machines: tuple[Hardware, ...]
    routers: int
    steps: tuple[Step, ...]
    calm: float
    slow: float = 0.0
    gateways: int = 1


FAULTS = (
    "crash router",
    "crash node",
    "reboot",
    "cut node",
    "cut router",
    "lose node",
    "lossy",
    "nats away",
    "kill engine",
    "false report",
    "starts fail",
    "slow starts",
    "adapters fail",
    "one device more",
    "smaller devices",
    "one device fewer",
)


FORGED = "so I say"
"""The reason of a false report, which names the replica's own node."""

PARTITIONS = ("deaf router",)
"""Faults that are drawn apart from the others, so that these stay what they were."""


STOPS = ("stop node",)
"""What people do to nodes, which is not a fault; drawn apart too."""

GATEWAY_FAULTS = ("crash gateway", "cut gateway", "lossy gateway", "stream lost")
"""Faults of what streams come through, drawn with the requests that they trouble."""

BUSY_FAULTS = ("kill busy", "cut busy", "stall busy", "lossy busy")
"""Faults of an engine that has a request for a model, or of its machine."""


def draw(seed: int) -> Scenario:
    """Draw a seed's scenario: most are small, a few have hundreds of nodes and models."""
    rng = Random(f"scenario {seed}")
    size = rng.random()
    if size < 0.7:
        nodes, models, steps = rng.randint(1, 4), rng.randint(1, 4), rng.randint(4, 24)
    elif size < 0.995:
        nodes, models, steps = rng.randint(3, 10), rng.randint(3, 12), rng.randint(10, 50)
    else:
        nodes, models, steps = rng.randint(100, 250), rng.randint(100, 250), rng.randint(10, 40)
    large = nodes >= 100
    machines = tuple(_machine(rng, number) for number in range(nodes))
    routers = rng.randint(1, 3)
    names = [f"m{number}" for number in range(models)]
    calm = 30.0 + rng.random() * (60 if large else 180)
    happens = [
        Step(rng.random() * min(30.0, calm), "publish", name, event=_spec(rng, small=large))
        for name in names
    ]
    happens += [_step(rng, calm, names, machines, routers) for _ in range(steps)]
    happens += _moves(Random(f"moves {seed}"), calm, names)
    happens += _partitions(Random(f"partitions {seed}"), calm, routers)
    happens += _stops(Random(f"stops {seed}"), calm, machines)
    gateways = Random(f"gateways {seed}").randint(1, 2)
    happens += _streams(Random(f"streams {seed}"), calm, names, gateways)
    happens += _slack(Random(f"slack {seed}"), calm, names)
    happens = _lent(Random(f"lent {seed}"), calm, names, routers, happens)
    happens.sort(key=lambda step: step.at)
    slow = 2.0 if large else 0.0
    return Scenario(seed, machines, routers, tuple(happens), calm, slow, gateways)


def _moves(rng: Random, calm: float, names: list[str]) -> list[Step]:
    """In a fifth of all worlds replicas are to move elsewhere, whether they exist or not."""
    if rng.random() > 1 / 5:
        return []
    steps = []
    for _ in range(rng.randint(1, 4)):
        model = rng.choice(names)
        replicas = tuple(f"{model}-{rng.randrange(4)}" for _ in range(rng.randint(1, 2)))
        moved = ModelRebalanceRequested(replicas)
        steps.append(Step(rng.random() * calm, "publish", model, event=moved))
    return steps


def _partitions(rng: Random, calm: float, routers: int) -> list[Step]:
    """In a third of all worlds routers do not hear others for longer than a node may be silent."""
    if rng.random() > 1 / 3:
        return []
    return [
        Step(
            rng.random() * calm,
            rng.choice(PARTITIONS),
            f"router-{rng.randrange(routers)}",
            20 + rng.random() * 80,
        )
        for _ in range(rng.randint(1, 3))
    ]


def _stops(rng: Random, calm: float, machines: tuple[Hardware, ...]) -> list[Step]:
    """In a quarter of all worlds node processes are stopped in good order, and started again."""
    if rng.random() > 1 / 4:
        return []
    founded = Step(0.0, "publish", "c1", event=ClusterFounded("simulated", VERSION))
    return [founded] + [
        Step(rng.random() * calm, "stop node", rng.choice(machines).id, rng.random() * 60)
        for _ in range(rng.randint(1, 4))
    ]


def _streams(rng: Random, calm: float, names: list[str], gateways: int) -> list[Step]:
    """In all worlds clients ask, and in most of them trouble comes in the middle of their answers.

    Trouble comes shortly after some of them have asked for a model that may serve by then.
    """
    steps = []
    for _ in range(rng.randint(2, 6)):
        at, model = 15 + rng.random() * max(1.0, calm - 15), rng.choice(names)
        for _ in range(2):
            steps.append(Step(at + rng.random(), "ask", model, rng.randint(1, 4)))
        what = rng.choice((*GATEWAY_FAULTS, *BUSY_FAULTS, *BUSY_FAULTS))
        seconds = rng.choice((0.5, 4.0, 12.0, 24.0)) * (0.5 + rng.random())
        who = f"gateway-{rng.randrange(gateways)}" if what in GATEWAY_FAULTS else model
        steps.append(Step(min(calm, at + 0.5 + rng.random() * 4), what, who, seconds))
    return steps


def _slack(rng: Random, calm: float, names: list[str]) -> list[Step]:
    """In half of all worlds much comes that takes spare capacity only, then perhaps a client."""
    if rng.random() > 1 / 2:
        return []
    steps = []
    for _ in range(rng.randint(1, 3)):
        at, model = 15 + rng.random() * max(1.0, calm - 15), rng.choice(names)
        steps.append(Step(at, "slack", model, rng.randint(1, 12)))
        if rng.random() < 0.7:
            steps.append(Step(at + rng.random() * 3, "ask", model, 1))
    return steps


def _lent(
    rng: Random, calm: float, names: list[str], routers: int, happens: list[Step]
) -> list[Step]:
    """In most worlds without slack models have small limits, and many requests come for one.

    Gateways then send some of them to replicas themselves. Replicas with slack are not lent.
    """
    if rng.random() > 0.8 or any(step.what == "slack" for step in happens):
        return happens
    limits = {name: rng.choice((4, 5, 8, 16)) for name in names}
    steps = [
        replace(step, event=replace(step.event, max_in_flight=limits[step.who]))
        if isinstance(step.event, ModelLoadRequested)
        else step
        for step in happens
    ]
    for _ in range(rng.randint(2, 4)):
        at, model = 20 + rng.random() * max(1.0, calm - 30), rng.choice(names)
        # A request now and then, so that replicas are lent, and many at once amid them.
        steps += [Step(at + each * 0.4, "ask", model, 1) for each in range(rng.randint(8, 24))]
        for _ in range(rng.randint(1, 3)):
            burst = Step(at + 1.5 + rng.random() * 6, "ask", model, rng.randint(3, 9))
            steps.append(burst)
        if rng.random() < 0.4:
            what = rng.choice(("crash router", "cut router"))
            who = f"router-{rng.randrange(routers)}"
            steps.append(Step(at + 1 + rng.random() * 3, what, who, 2 + rng.random() * 6))
    return steps


def _machine(rng: Random, number: int) -> Hardware:
    sizes = [rng.choice((16, 24, 48, 80)) for _ in range(rng.choice((1, 1, 2, 2, 4)))]
    same = rng.random() < 0.5
    devices = tuple(
        Device(index, "gpu", "simulated", (sizes[0] if same else size) * GIB)
        for index, size in enumerate(sizes)
    )
    return Hardware(f"n{number}", devices, {"zone": rng.choice("ab")})


LIVES: tuple[Callable[[Random], dict[str, Any]], ...] = (
    lambda rng: {"on_request": True, "idle_after": rng.choice((None, 5.0, 20.0))},
    lambda rng: {"idle_after": rng.choice((0.0, 5.0, 20.0)), "evictable": rng.random() < 0.5},
    lambda rng: {"evictable": True, "on_request": rng.random() < 0.5},
    lambda rng: {"autoscale": Autoscale(rng.randint(0, 1), rng.randint(1, 4), 2.0, 1.0, 15.0)},
    lambda rng: {"apart": (f"m{rng.randrange(4)}",)},
    lambda rng: {"node": f"n{rng.randrange(4)}"},
)
"""What a load request may say beyond a model's size."""


def _spec(rng: Random, *, small: bool = False) -> ModelLoadRequested:
    options: dict[str, object] = {}
    if rng.random() < 0.1:
        options["tensor-parallel-size"] = 2
    if rng.random() < 0.05:
        options[BROKEN_OPTION] = True
    if rng.random() < 0.5:
        options["max-model-len"] = rng.choice((1024, 2048, 4096))
    adapters: tuple[Adapter, ...] = ()
    if rng.random() < 0.25:
        # The model's own prefix would be a name; adapters' names must differ between models.
        adapters = tuple(
            Adapter(f"a{rng.randrange(10**6)}", "/a") for _ in range(rng.randint(1, 3))
        )
    life: dict[str, Any] = {}
    if not small and rng.random() < 0.4:
        life = rng.choice(LIVES)(rng)
    task: Task = rng.choice(("chat", "embedding"))
    replicas = 1 if small else rng.choice((0, 1, 1, 1, 2, 2, 3, 5))
    auto: Autoscale | None = life.get("autoscale")
    if auto is not None:
        # Another number would be refused.
        replicas = min(max(replicas, auto.least), auto.most)
    return ModelLoadRequested(
        "/model",
        task=task,
        replicas=replicas,
        adapters=adapters,
        lora=True if adapters or rng.random() < 0.3 else None,
        memory="8GiB" if small else rng.choice(MEMORY),
        options=options,  # type: ignore[arg-type]
        policy=rng.choice(("spread", "spread", "binpack")),
        labels={"zone": rng.choice("ab")} if rng.random() < 0.1 else {},
        **life,
    )


def _step(
    rng: Random, calm: float, names: list[str], machines: tuple[Hardware, ...], routers: int
) -> Step:
    at = rng.random() * calm
    draw = rng.random()
    model, machine = rng.choice(names), rng.choice(machines).id
    if draw < 0.2:
        return Step(at, "ask", model, rng.randint(1, 5))
    if draw < 0.55:
        return Step(at, *_intent(rng, model, machine))
    what = rng.choice(FAULTS)
    seconds = rng.choice((0.5, 2.0, 5.0, 15.0, 40.0)) * (0.5 + rng.random())
    if "router" in what:
        return Step(at, what, f"router-{rng.randrange(routers)}", seconds)
    return Step(at, what, machine, seconds)


def _intent(rng: Random, model: str, machine: str) -> tuple[str, str, float, Event]:
    draw = rng.random()
    event: Event
    if draw < 0.25:
        event = _spec(rng)
    elif draw < 0.5:
        event = ModelScaleRequested(rng.choice((0, 1, 1, 2, 3, 4)))
    elif draw < 0.65:
        event = ModelUnloadRequested()
    elif draw < 0.75:
        event = AdapterLoadRequested(f"{model}-{rng.choice('xyz')}", "/adapter")
    elif draw < 0.8:
        event = AdapterUnloadRequested(f"{model}-{rng.choice('xyz')}")
    elif draw < 0.88:
        event = NodeDrainRequested()
    elif draw < 0.94:
        event = NodeUndrainRequested()
    elif draw < 0.96:
        return "publish", machine, 0.0, NodeDeregistered()
    else:
        return "nonsense", model, rng.randrange(4), None  # type: ignore[return-value]
    return "publish", machine if "Drain" in type(event).__name__ else model, 0.0, event
