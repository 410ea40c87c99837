"""Heartbeats: what replicas, routers, nodes and NATS servers report of themselves. Pure."""

from collections.abc import Iterable, Mapping
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Newest: TypeAlias = Annotated[
    int, Meta(description="The newest cluster version that it can read; 0 in older versions.")
]


class ReplicaHeartbeat(Struct, frozen=True, kw_only=True):
    """The heartbeat of a replica's engine, with its load."""

    replica: Annotated[str, Meta(description="Id of the replica.")]
    pid: Annotated[int, Meta(description="Process id of the engine.")]
    running: Annotated[
        int, Meta(description="Number of requests that the engine has and that came over NATS.")
    ]
    version: Annotated[
        int, Meta(description="Version of the placement plan that the engine was started for.")
    ]
    waiting: Annotated[
        int, Meta(description="Number of requests that wait inside the engine, as it reports.")
    ] = 0
    cache: Annotated[
        float, Meta(description="Part of the engine's KV cache in use, 0 to 1, as it reports.")
    ] = 0.0
    stalled: Annotated[
        float,
        Meta(
            description="Seconds for which the engine has had requests, or has left requests "
            "without an answer, and has made no progress; 0 if it makes progress."
        ),
    ] = 0.0
    context: Annotated[
        int,
        Meta(description="Tokens that a prompt and its answer may have together; 0 if unknown."),
    ] = 0
    slack: Annotated[
        int,
        Meta(description="Number of the `running` requests that take spare capacity only."),
    ] = 0


class QueueLength(Struct, frozen=True):
    """The queue of one model in a router."""

    waiting: Annotated[
        int, Meta(description="Number of requests in the queue, but for those of `slack`.")
    ]
    oldest: Annotated[
        float, Meta(description="Time that the first of them has waited, in seconds.")
    ]
    slack: Annotated[
        int, Meta(description="Number of requests that wait for spare capacity, behind all others.")
    ] = 0
    slack_oldest: Annotated[
        float, Meta(description="Time that the first of these has waited, in seconds.")
    ] = 0.0


NOBODY = QueueLength(0, 0.0)
"""A queue in which no request waits."""


def joined_lines(told: Iterable[Mapping[str, QueueLength]]) -> dict[str, QueueLength]:
    """Return the queues of several routers together, by the id of their model."""
    found: dict[str, QueueLength] = {}
    for queues in told:
        for model, line in queues.items():
            other = found.get(model, NOBODY)
            found[model] = QueueLength(
                line.waiting + other.waiting,
                max(line.oldest, other.oldest),
                line.slack + other.slack,
                max(line.slack_oldest, other.slack_oldest),
            )
    return found


class RouterHeartbeat(Struct, frozen=True):
    """The heartbeat of a router, with its queues."""

    router: Annotated[str, Meta(description="Id of the router.")]
    queues: Annotated[
        dict[str, QueueLength],
        Meta(description="Queues by the id of their model; empty queues are left out."),
    ] = {}
    addressed: Annotated[
        bool,
        Meta(
            description="Whether gateways may send requests to the router's own subject. False in "
            "the last heartbeat of a router that ends, and in older versions."
        ),
    ] = False
    silent: Annotated[
        dict[str, float] | None,
        Meta(
            description="Seconds since the router last heard from a node, by the node's name, for "
            "the nodes that it does not hear; -1 for a node not heard since the router began to "
            "listen. Null if the router reports nothing about nodes."
        ),
    ] = None
    reads: Newest = 0


class NodeHeartbeat(Struct, frozen=True):
    """The heartbeat of a node."""

    node: Annotated[str, Meta(description="Name of the node.")]
    pid: Annotated[int, Meta(description="Process id of the node.")]
    engines: Annotated[int, Meta(description="Number of engine processes that the node keeps.")]
    memory_free: Annotated[int, Meta(description="Free memory of the machine, in bytes.")]
    gpus_free: Annotated[
        tuple[int, ...],
        Meta(description="Free memory of each GPU in bytes, in the order of their indices."),
    ] = ()


class StoreHeartbeat(Struct, frozen=True):
    """The heartbeat of the NATS server that `nebula up` runs: whether its store takes events."""

    store: Annotated[str, Meta(description="Folder of JetStream's store.")]
    disk: Annotated[str, Meta(description="Mount point of the disk that the store is on.")] = ""
    size: Annotated[int, Meta(description="Size of that disk, in bytes.")] = 0
    free: Annotated[int, Meta(description="Free space of that disk, in bytes.")] = 0
    used: Annotated[int, Meta(description="Bytes that JetStream keeps in files.")] = 0
    limit: Annotated[
        int, Meta(description="Bytes that JetStream may keep in files; 0 for as many as fit.")
    ] = 0
    refused: Annotated[
        str, Meta(description="Why nothing can be written; empty while writing works.")
    ] = ""
    warning: Annotated[
        str, Meta(description="What will soon make writing impossible; empty if nothing will.")
    ] = ""
    since: Annotated[
        float, Meta(description="Time for which nothing could be written, in seconds.")
    ] = 0.0
