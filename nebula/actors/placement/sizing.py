"""How much memory a replica takes of its devices, and how much of them plans may promise. Pure."""

from collections.abc import Iterator

from nebula.events import memory
from nebula.events.engine_options import context, option
from nebula.events.memory import GIB
from nebula.events.state import Measured, Model, Node
from nebula.events.values import Device, DeviceKind, OptionValue, Task

USABLE = 0.92
"""The part of a device that plans may promise; the rest is the driver's and everybody's."""

DEFAULT_SHARE: dict[Task, float] = {"chat": 0.45, "embedding": 0.15}
"""The part of a device that a replica gets of which nobody knows how much memory it needs."""

OVERHEAD: dict[DeviceKind, dict[Task, int]] = {
    "gpu": {"chat": 5 * GIB // 2, "embedding": 5 * GIB // 2},
    "cpu": {"chat": 7 * GIB // 4, "embedding": 3 * GIB // 2},
}
"""What an engine takes beside its weights and its cache: libraries, activations, graphs.

Measured with vLLM 0.32 on a CPU, what both of its processes have for themselves alone, after some
requests: 1.6 GiB for one that generates (SmolLM2-135M), 1.3 GiB for one that embeds (all-MiniLM).
"""

CONCURRENT = 4
TYPICAL = 8192
"""The cache is to hold one request as long as the context allows, which vLLM insists upon, or
`CONCURRENT` of at most `TYPICAL` tokens each, whichever is more."""


def usable(device: Device) -> int:
    """Give how many bytes of a device plans may promise in all."""
    return int(device.memory * USABLE)


def need(model: Model, device: Device, count: int = 1) -> int:
    """Give how many bytes of a device one replica of a model takes, of `count` such ones.

    What was asked for; else what its measured weights and a cache for some requests take; else,
    where nobody could measure them, a share of the device.
    """
    amount = model.spec.memory
    if amount is not None:
        return memory.parse(amount)
    if device.kind == "gpu":
        share = _number(option(model.spec.options, "gpu-memory-utilization"))
        if share is not None and 0 < share <= 1:
            return int(device.memory * share)
    measured = model.measured
    if measured is None or not measured.weights:
        return int(device.memory * DEFAULT_SHARE[model.task])
    return _measured(model, measured, device.kind, count)


def _measured(model: Model, measured: Measured, kind: DeviceKind, parts: int) -> int:
    weights = -(-measured.weights // parts)
    bare = weights + weights // 12 + OVERHEAD[kind][model.task]
    asked = _number(option(model.spec.options, "kv-cache-memory-bytes"))
    if asked is not None and 0 < asked < 2**62:
        return bare + int(asked)
    cache = -(-_tokens(model, measured) * measured.cache_per_token // parts)
    if kind == "cpu" and cache:
        # An engine on a CPU takes a quarter of its share for the cache, all of it at once
        # (`launch.cpu_cache`): the rest is to hold everything else.
        return max(-(-bare * 4 // 3), 4 * cache)
    return bare + cache


def _tokens(model: Model, measured: Measured) -> int:
    longest = context(model.spec.options) or measured.context
    return max(longest, CONCURRENT * min(longest, TYPICAL))


def sized_by(model: Model) -> str:
    """Say where the need of a model comes from that names no memory; empty where it names some."""
    measured, options = model.measured, model.spec.options
    if model.spec.memory is not None:
        return ""
    if option(options, "gpu-memory-utilization") is not None:
        return "its option gpu-memory-utilization says how much memory it takes"
    if measured is None or not measured.weights:
        why = f" ({measured.reason})" if measured is not None and measured.reason else ""
        return f"nobody could measure how much memory it takes{why}: it gets a share of a device"
    if option(options, "kv-cache-memory-bytes") is not None:
        return f"it takes {memory.text(measured.weights)} of weights, and the cache of its options"
    return (
        f"it takes {memory.text(measured.weights)} of weights, and a cache for "
        f"{_tokens(model, measured)} tokens of {measured.cache_per_token} bytes"
    )


def _number(value: OptionValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def distinct(node: Node) -> Iterator[Device]:
    """Give a node's devices; of those that share an index the first."""
    seen = set()
    for device in node.devices:
        if device.index not in seen:
            seen.add(device.index)
            yield device


def device_at(node: Node, index: int) -> Device | None:
    """Give a node's device by its index."""
    return next((device for device in node.devices if device.index == index), None)
