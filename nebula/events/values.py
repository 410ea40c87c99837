"""The values that events carry, and within which bounds. Pure."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Task: TypeAlias = Literal["chat", "embedding", "classify", "score", "pooling", "transcription"]
"""What a model is loaded for: it selects vLLM's runner. What it then can do, its engines tell."""

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


class SecretReference(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A secret by its name: the node that starts the engine finds its value."""

    secret: Annotated[Token, Meta(description="Name of the secret on the nodes.")]


Variable: TypeAlias = str | SecretReference


class Adapter(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A LoRA adapter of a model."""

    name: Annotated[
        PublicName, Meta(description="Name of the adapter, as requests use it in `model`.")
    ]
    source: Annotated[
        Source, Meta(description="Folder on the nodes, or hub id, of the adapter's files.")
    ]


class Autoscale(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How the number of a model's replicas follows its load.

    There is one replica more when the requests in flight or the wait of a request exceed their
    limit, and one fewer when one fewer would have sufficed for `calm` seconds.
    """

    least: Annotated[Replicas, Meta(description="Smallest number of replicas.")] = 1
    most: Annotated[Replicas, Meta(description="Largest number of replicas.")] = 1
    in_flight: Annotated[
        float,
        Meta(
            gt=0,
            le=65_536,
            description="Requests in flight per replica, on average, above which one replica is "
            "added.",
        ),
    ] = 16.0
    wait: Annotated[
        Seconds,
        Meta(description="Seconds that a request may queue before one replica is added."),
    ] = 2.0
    calm: Annotated[
        Seconds,
        Meta(
            description="Seconds for which one replica fewer must have sufficed before one is "
            "removed."
        ),
    ] = 300.0


class Target(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A model that gets a share of an alias's requests."""

    model: Annotated[PublicName, Meta(description="Name of the model in requests.")]
    weight: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Share of the requests, relative to the weights of the other targets.",
        ),
    ] = 1


class Assignment(Struct, frozen=True, gc=False):
    """The place of one replica in a placement plan."""

    replica: Annotated[Token, Meta(description="Id of the replica: the model's id, `-`, a number.")]
    node: Annotated[Token, Meta(description="Name of the node.")]
    devices: Annotated[
        tuple[Count, ...], Meta(min_length=1, description="Indices of the devices on the node.")
    ]
    memory: Annotated[Count, Meta(description="Bytes that the replica gets of each device.")]
    version: Annotated[
        Count,
        Meta(
            description="Version of the plan that last changed this place or what runs there. An "
            "engine that was started for an older version is replaced."
        ),
    ]


class Device(Struct, frozen=True, gc=False, omit_defaults=True):
    """What engines run on: a GPU, or all CPUs of a machine together."""

    index: Annotated[Count, Meta(description="Number of the device on its node.")]
    kind: Annotated[DeviceKind, Meta(description="Whether it is a GPU or the machine's CPUs.")]
    name: Annotated[str, Meta(description="Name of the product, as its driver reports it.")]
    memory: Annotated[Count, Meta(description="Memory of the device, in bytes.")]
    identity: Annotated[
        str,
        Meta(
            description="Identifier that no other device has. Nodes that offer the same identity "
            "share one device, and plans count it once. Empty if the node has the device to "
            "itself, or reports none."
        ),
    ] = ""


class Weights(Struct, frozen=True, gc=False):
    """A source whose files are on a node's disk."""

    source: Annotated[str, Meta(description="Hub id or folder of the files.")]
    bytes: Annotated[Count, Meta(description="Size of the files, in bytes.")]
