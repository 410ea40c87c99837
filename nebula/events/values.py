"""The values that events carry, and within which bounds. Pure."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Task: TypeAlias = Literal["chat", "embedding"]
DeviceKind: TypeAlias = Literal["gpu", "cpu"]

PublicName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Source: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
Token: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]
Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**62)]
Pid: TypeAlias = Annotated[int, Meta(gt=1, lt=2**31)]
Port: TypeAlias = Annotated[int, Meta(ge=0, lt=2**16)]
Replicas: TypeAlias = Annotated[int, Meta(ge=0, le=1024)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=31_536_000)]
Policy: TypeAlias = Literal["spread", "binpack"]
"""`spread`: the node with the fewest replicas of the model, then the device with the most room.
`binpack`: the device with the least room that suffices."""

Scalar: TypeAlias = str | int | float | bool | None
OptionValue: TypeAlias = Scalar | list[Scalar] | dict[str, object]


class Adapter(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A LoRA adapter: the `name` that requests use, and its folder or hub id."""

    name: PublicName
    source: Source


class Autoscale(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A model's replicas follow its load, between `least` and `most` of them.

    One more when each has more than `in_flight` requests on average, or one has waited for more
    than `wait` seconds; one fewer when for `calm` seconds fewer would have done.
    """

    least: Replicas = 1
    most: Replicas = 1
    in_flight: Annotated[float, Meta(gt=0, le=65_536)] = 16.0
    wait: Seconds = 2.0
    calm: Seconds = 300.0


class Target(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A model, by its public name, and its share of an alias's requests."""

    model: PublicName
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1


class Assignment(Struct, frozen=True, gc=False):
    """One replica's place: its node, the devices there, and its bytes of each device.

    `version` is that of the plan that last changed this place or what runs there: an engine
    started for an older version is to be replaced.
    """

    replica: Token
    node: Token
    devices: Annotated[tuple[Count, ...], Meta(min_length=1)]
    memory: Count
    version: Count


class Device(Struct, frozen=True, gc=False):
    """Something that engines run on: a GPU, or the whole of a machine's CPUs. `memory` in bytes."""

    index: Count
    kind: DeviceKind
    name: str
    memory: Count


class Weights(Struct, frozen=True, gc=False):
    """A source whose files lie on a node, and their bytes."""

    source: str
    bytes: Count
