"""How much memory of its devices a replica needs, and how much of them plans may assign. Pure."""

from collections.abc import Iterator

from msgspec import Struct

from nebula.events import memory
from nebula.events.endpoints import generates
from nebula.events.engine_options import context, option
from nebula.events.memory import GIB
from nebula.events.state import Measured, Model, Node
from nebula.events.values import Device, DeviceKind, OptionValue, Task

USABLE = 0.92
"""The part of a device that plans may assign; the rest is for the driver and other programs."""

GENERATES, POOLS = 0.45, 0.15
"""The part of a device that a replica gets if its memory need is unknown, by vLLM's runner."""

OVERHEAD: dict[DeviceKind, dict[bool, int]] = {
    "gpu": {True: 5 * GIB // 2, False: 5 * GIB // 2},
    "cpu": {True: 7 * GIB // 4, False: 3 * GIB // 2},
}
"""Bytes that an engine needs besides weights and cache, by whether it generates tokens: libraries,
activations, graphs.

Measured with vLLM 0.32 on a CPU: the private memory of both processes after some requests was 1.6
GiB for a generating model (SmolLM2-135M) and 1.3 GiB for an embedding model (all-MiniLM).
"""

CONCURRENT = 4
TYPICAL = 8192
"""The cache must hold one request of the full context, which vLLM requires, or `CONCURRENT`
requests of at most `TYPICAL` tokens, whichever is more."""


def default_share(task: Task) -> float:
    """Return the part of a device that a replica gets if its memory need is unknown."""
    return GENERATES if generates(task) else POOLS


def usable(device: Device) -> int:
    """Return how many bytes of a device plans may assign in total."""
    return int(device.memory * USABLE)


def need(model: Model, device: Device, count: int = 1) -> int:
    """Return how many bytes of each of its `count` devices one replica of a model needs.

    That is the requested memory; else what its measured weights and a cache for some requests need;
    else, if it could not be measured, a part of the device.
    """
    amount = model.spec.memory
    if amount is not None:
        return memory.parse(amount)
    share = _share(model) if device.kind == "gpu" else None
    if share is not None:
        return int(device.memory * share)
    made_of = parts(model, device, count)
    return int(device.memory * default_share(model.task)) if made_of is None else made_of.total


class Parts(Struct, frozen=True):
    """The parts of a replica's need on one device, in bytes, if its model was measured.

    `weights`: the files. `cache`: the engine's KV cache, which holds at least `tokens` tokens; 0
    tokens if an option sets its size. `engine`: everything else that the engine takes.
    """

    weights: int
    cache: int
    engine: int
    tokens: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.cache + self.engine


def parts(model: Model, device: Device, count: int = 1) -> Parts | None:
    """Return the parts of a replica's need on each of `count` such devices; see `need`.

    None if the need does not follow from a measurement.
    """
    measured = model.measured
    if model.spec.memory is not None or measured is None or not measured.weights:
        return None
    if device.kind == "gpu" and _share(model) is not None:
        return None
    weights = -(-measured.weights // count)
    bare = weights + weights // 12 + OVERHEAD[device.kind][generates(model.task)]
    asked = _number(option(model.spec.options, "kv-cache-memory-bytes"))
    if asked is not None and 0 < asked < 2**62:
        return Parts(weights, int(asked), bare - weights, 0)
    tokens = _tokens(model, measured)
    cache = -(-tokens * measured.cache_per_token // count)
    if device.kind == "cpu" and cache:
        # An engine on a CPU allocates a quarter of its memory for the cache at once
        # (`launch.cpu_cache`); the rest must hold everything else.
        total = max(-(-bare * 4 // 3), 4 * cache)
        return Parts(weights, total // 4, total - weights - total // 4, tokens)
    return Parts(weights, cache, bare - weights, tokens)


def _share(model: Model) -> float | None:
    share = _number(option(model.spec.options, "gpu-memory-utilization"))
    return share if share is not None and 0 < share <= 1 else None


def _tokens(model: Model, measured: Measured) -> int:
    longest = context(model.spec.options) or measured.context
    return max(longest, CONCURRENT * min(longest, TYPICAL))


def sized_by(model: Model) -> str:
    """Return where the need of a model comes from; "" if its load request names the memory."""
    measured, options = model.measured, model.spec.options
    if model.spec.memory is not None:
        return ""
    if option(options, "gpu-memory-utilization") is not None:
        return "its option gpu-memory-utilization says how much memory it takes"
    if measured is None or not measured.weights:
        why = f" ({measured.reason})" if measured is not None and measured.reason else ""
        return f"its memory need could not be measured{why}: it gets a share of a device"
    text = f"measured: its files hold {memory.text(measured.weights)} of weights"
    if option(options, "kv-cache-memory-bytes") is not None:
        return f"{text}; its option kv-cache-memory-bytes sets the KV cache"
    if not measured.cache_per_token:
        return f"{text}; it keeps no KV cache"
    return (
        f"{text}; its KV cache takes {memory.text(measured.cache_per_token)} for a token, and is "
        f"to hold {_tokens(model, measured)} tokens"
    )


def need_in_words(model: Model, device: Device, count: int = 1) -> str:
    """Return how much of a device a replica needs, and what for; the parts add up to the whole."""
    whole = memory.text(need(model, device, count))
    if model.spec.memory is not None:
        return f"{whole}, as the load request asks"
    made_of = parts(model, device, count)
    if made_of is not None:
        weights, cache, engine = memory.shares(made_of.total, made_of.weights, made_of.cache)
        held = f" of at least {made_of.tokens} tokens" if made_of.tokens else ""
        kept = f"{cache} for a KV cache{held}, " if made_of.cache else ""
        return f"{whole}: {weights} for weights, {kept}{engine} for the engine itself"
    share = _share(model) if device.kind == "gpu" else None
    if share is not None:
        return f"{whole}, {share:.0%} of the device, as its option gpu-memory-utilization asks"
    return f"{whole}, {default_share(model.task):.0%} of the device, since it was not measured"


def _number(value: OptionValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def distinct(node: Node) -> Iterator[Device]:
    """Yield a node's devices; of several with the same index the first."""
    seen = set()
    for device in node.devices:
        if device.index not in seen:
            seen.add(device.index)
            yield device


def device_at(node: Node, index: int) -> Device | None:
    """Return a node's device by its index."""
    return next((device for device in node.devices if device.index == index), None)
