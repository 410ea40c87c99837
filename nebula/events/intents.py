"""The events that anyone may publish: what operators ask for. Pure.

They refuse unknown fields, so that a misspelled field is rejected instead of ignored.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from nebula.events.metadata import Metadata
from nebula.events.values import (
    Adapter,
    Autoscale,
    Count,
    OptionValue,
    Policy,
    PublicName,
    Replicas,
    Seconds,
    Source,
    Target,
    Task,
    Token,
    Variable,
)

ModelSource: TypeAlias = Annotated[
    Source, Meta(description="Folder on the nodes, or hub id, as vLLM's `--model` takes it.")
]
FilesSource: TypeAlias = Annotated[
    Source, Meta(description="Source of the files, as a load request names it.")
]
AdapterSource: TypeAlias = Annotated[
    Source, Meta(description="Folder on the nodes, or hub id, of the adapter's files.")
]
AdapterName: TypeAlias = Annotated[
    PublicName, Meta(description="Name of the adapter, as requests use it in `model`.")
]


class ModelLoadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to serve a model as described here. It replaces the model's previous request.

    A field that it does not name gets its default. Only adapters that were loaded later stay.
    """

    source: ModelSource
    name: Annotated[
        str,
        Meta(
            max_length=256,
            description="Name of the model in requests; if empty, the id in the event's subject.",
        ),
    ] = ""
    task: Annotated[Task, Meta(description="What the model is served for.")] = "chat"
    replicas: Annotated[Replicas, Meta(description="Number of engines that serve the model.")] = 1
    adapters: Annotated[
        tuple[Adapter, ...], Meta(description="LoRA adapters to serve beside the model.")
    ] = ()
    lora: Annotated[
        bool | None,
        Meta(
            description="Whether engines start with `--enable-lora`. If absent, they do if there "
            "are `adapters`."
        ),
    ] = None
    memory: Annotated[
        int | str | None,
        Meta(
            description='Memory of each device that a replica may use: bytes, or text as "6GiB". '
            "If absent, a node measures the model; if that is impossible, it is a part of the "
            "device that depends on `task`."
        ),
    ] = None
    options: Annotated[
        dict[str, OptionValue],
        Meta(
            description="vLLM's own command-line options without the dashes, as "
            '`{"max-model-len": 4096}`.'
        ),
    ] = {}
    env: Annotated[
        dict[str, Variable],
        Meta(
            description="Environment variables for the engine process: text, or a secret of the "
            'node by its name, as `{"HF_TOKEN": {"secret": "hf"}}`.'
        ),
    ] = {}
    max_in_flight: Annotated[
        int,
        Meta(ge=1, le=65_536, description="Number of requests that one replica has at a time."),
    ] = 256
    max_waiting: Annotated[
        int,
        Meta(
            ge=0,
            le=65_536,
            description="Number of requests that may queue in each router; more are refused.",
        ),
    ] = 1024
    policy: Annotated[
        Policy,
        Meta(
            description="How a device is chosen among those that fit: `spread` takes the node with "
            "the fewest replicas of the model, and there the device with the most free memory; "
            "`binpack` takes the device with the least free memory."
        ),
    ] = "spread"
    labels: Annotated[
        dict[str, str], Meta(description="Labels that a node must have to get a replica.")
    ] = {}
    apart: Annotated[
        tuple[Token, ...],
        Meta(
            description="Ids of models with which this model shares no node; its own id keeps its "
            "replicas on different nodes."
        ),
    ] = ()
    node: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{0,128}\Z",
            description="The only node that may get replicas; empty for any node.",
        ),
    ] = ""
    devices: Annotated[
        tuple[Count, ...],
        Meta(
            description="Indices of the only devices that may get replicas; empty for any device. "
            "A replica that needs several GPUs of a node asks for them with vLLM's option "
            "`tensor-parallel-size`."
        ),
    ] = ()
    autoscale: Annotated[
        Autoscale | None,
        Meta(description="Let the load decide the number of `replicas`; null to keep it fixed."),
    ] = None
    on_request: Annotated[
        bool, Meta(description="Start engines only when the first request arrives.")
    ] = False
    idle_after: Annotated[
        Seconds | None,
        Meta(
            description="Seconds without a request after which the engines end until the next "
            "request; null for never."
        ),
    ] = None
    evictable: Annotated[
        bool,
        Meta(
            description="Whether the engines may be ended to make room for another model that is "
            "requested. The least recently used model goes first."
        ),
    ] = False
    fallback: Annotated[
        tuple[PublicName, ...],
        Meta(
            description="Names of models that answer while this model has no ready replica, in "
            "order of preference."
        ),
    ] = ()


class ModelScaleRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request for another number of replicas. It ends autoscaling of the model."""

    replicas: Annotated[Replicas, Meta(description="Number of replicas from now on.")]


class ModelRebalanceRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to move replicas: each ends once another one serves in its place."""

    replicas: Annotated[
        tuple[Token, ...],
        Meta(min_length=1, max_length=1024, description="Ids of the replicas to move."),
    ]


class ModelUnloadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to stop serving a model: its engines end and their memory becomes free."""


class AdapterLoadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to load an adapter on every replica of a model that was loaded with LoRA.

    The files are read again with each request, so a repeated request loads changed files.
    """

    name: AdapterName
    source: AdapterSource


class AdapterUnloadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to unload an adapter from every replica of its model."""

    name: AdapterName


class NodeDrainRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to empty a node: it gets no new replicas, and those it has move elsewhere."""


class NodeUndrainRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request that a drained node take replicas again."""


class EngineKillRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to kill a replica's engine, as if it had crashed, on a node that is a rehearsal."""

    pid: Annotated[
        Count | None,
        Meta(
            description="Process id of the engine that is meant: the request is rejected if "
            "another one runs by then. Null for whichever runs."
        ),
    ] = None


class WeightsPinRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to protect a source's files on a node from pruning, or to end the protection."""

    source: FilesSource
    pinned: Annotated[bool, Meta(description="Whether the files are protected from now on.")] = True


class WeightsRemoveRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to remove a source's downloaded files from a node."""

    source: FilesSource


class AliasRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request that a name stand for other models. It replaces the alias's previous request."""

    targets: Annotated[
        tuple[Target, ...],
        Meta(
            min_length=1,
            max_length=64,
            description="The models that get the alias's requests, each with its share.",
        ),
    ]
    name: Annotated[
        str,
        Meta(
            max_length=256,
            description="Name of the alias in requests; if empty, the id in the event's subject.",
        ),
    ] = ""
    mirror: Annotated[
        str,
        Meta(
            max_length=256,
            description="Name of a model that gets a copy of each request and whose answers are "
            "discarded; empty for none.",
        ),
    ] = ""
    replaces: Annotated[
        Count | None,
        Meta(
            description="Sequence of the event that last changed the alias, or 0 if there is no "
            "alias yet: the request is rejected if the alias has changed since. If null, it "
            "replaces whatever there is."
        ),
    ] = None


class BatchRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to answer every line of a file, within the slack that other requests leave."""

    input: Annotated[Token, Meta(description="Id of the file whose lines are requests.")]
    endpoint: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=256,
            description="Path that every line is sent to, as `/v1/chat/completions`.",
        ),
    ]
    window: Annotated[
        float,
        Meta(
            gt=0,
            le=604_800,
            description="Seconds after which lines without an answer are given up.",
        ),
    ] = 86_400.0
    owner: Annotated[
        str,
        Meta(max_length=128, description="Hash of the API key of its client; empty for none."),
    ] = ""
    idempotency: Annotated[
        str,
        Meta(
            max_length=128,
            description="Hash of its `Idempotency-Key`: an owner has one batch with it. Empty for "
            "none.",
        ),
    ] = ""
    metadata: Annotated[Metadata, Meta(description="Pairs of the client's own.")] = {}
    wake: Annotated[
        bool, Meta(description="Whether its lines start a model that sleeps; else they wait.")
    ] = False
    keep: Annotated[
        int,
        Meta(
            ge=3600, le=2_592_000, description="Seconds for which its files with results are kept."
        ),
    ] = 2_592_000


class BatchCancelRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to end a batch early; the answers that are there are kept."""


class AliasRemoveRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A request to remove an alias."""
