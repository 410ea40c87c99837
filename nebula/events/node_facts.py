"""The events by which nodes report on themselves, on files and on models, and a log on its cluster.

Pure.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from nebula.events.values import Count, Device, Weights

SourceName: TypeAlias = Annotated[
    str, Meta(description="Folder on the node, or hub id, of the files.")
]
Done: TypeAlias = Annotated[
    Count, Meta(description="Bytes of the source's files that are on the node's disk.")
]
Total: TypeAlias = Annotated[Count, Meta(description="Bytes of all files of the source.")]
Revision: TypeAlias = Annotated[
    str, Meta(description="Commit of the hub repository; empty for a folder.")
]


class ModelMeasured(Struct, frozen=True, gc=False):
    """A node has read from a model's files how much memory the model needs.

    If that cannot be told from the files, all figures are 0 and `reason` says why.
    """

    source: Annotated[str, Meta(description="Folder on the node, or hub id, of the model.")]
    weights: Annotated[Count, Meta(description="Size of the model's tensors, in bytes.")] = 0
    cache_per_token: Annotated[
        Count, Meta(description="Bytes that one token takes in the KV cache.")
    ] = 0
    context: Annotated[
        Count, Meta(description="Tokens that a prompt and its answer may have together.")
    ] = 0
    reason: Annotated[
        str, Meta(description="Why the figures are unknown, in words; empty if they are known.")
    ] = ""


class NodeRegistered(Struct, frozen=True, gc=False):
    """A node process has started, or is back after it was lost, and offers its devices."""

    devices: Annotated[
        tuple[Device, ...], Meta(description="The devices that the node offers to engines.")
    ]
    host: Annotated[str, Meta(description="Host name of the node's machine.")] = ""
    labels: Annotated[
        dict[str, str],
        Meta(description="Labels that the node was given, which load requests can ask for."),
    ] = {}
    nebula_version: Annotated[str, Meta(description="Version of Nebula that the node runs.")] = ""
    engine_version: Annotated[
        str, Meta(description="Version of the engine that is installed there; empty if unknown.")
    ] = ""
    weights: Annotated[
        tuple[Weights, ...], Meta(description="The sources whose files are on the node's disk.")
    ] = ()
    measures: Annotated[
        bool,
        Meta(
            description="Whether the node reports with `ModelMeasured` how much memory a model "
            "needs."
        ),
    ] = False
    reads: Annotated[
        Count, Meta(description="The newest cluster version that the node's Nebula can read.")
    ] = 0
    rehearsal: Annotated[
        bool, Meta(description="Whether the node's engines may be killed on request.")
    ] = False


class DownloadWaits(Struct, frozen=True, gc=False):
    """A node is to fetch a source, and has been waiting for some time before it can begin."""

    source: SourceName
    reason: Annotated[
        str,
        Meta(description="What the node waits for, as the rest of a sentence after “the node”."),
    ]


class DownloadStarted(Struct, frozen=True, gc=False):
    """A node has begun to fetch a source's files, or continues an interrupted download."""

    source: SourceName
    revision: Revision = ""
    files: Annotated[Count, Meta(description="Number of files that are still to be fetched.")] = 0
    done: Done = 0
    total: Total = 0


class DownloadProgressed(Struct, frozen=True, gc=False):
    """A node has fetched a further part of a source."""

    source: SourceName
    done: Done
    total: Total


class DownloadFinished(Struct, frozen=True, gc=False):
    """A source's files are on a node, complete and checked; or a missing folder has appeared."""

    source: SourceName
    bytes: Total
    revision: Revision = ""
    seconds: Annotated[
        float, Meta(description="Time that the download took, in seconds; 0 if there was none.")
    ] = 0.0


class DownloadFailed(Struct, frozen=True, gc=False):
    """A node could not fetch a source, or does not have this folder."""

    source: SourceName
    reason: Annotated[str, Meta(description="What went wrong, in words.")]
    retry_in: Annotated[
        float | None,
        Meta(
            description="Seconds until the node tries again; null if it does not try again by "
            "itself. A missing folder is looked for again in any case."
        ),
    ] = None


class WeightsRemoved(Struct, frozen=True, gc=False):
    """A source's files are no longer on a node."""

    source: SourceName
    reason: Annotated[str, Meta(description="Why they were removed, in words.")] = ""


class NodeHeard(Struct, frozen=True, gc=False):
    """A suspected node is alive: the node itself reports it, or a router that hears the node."""

    reason: Annotated[str, Meta(description="What shows that the node is alive, in words.")] = ""


class NodeStopped(Struct, frozen=True, gc=False):
    """A node has ended in good order, after its engines: its replicas are placed elsewhere."""

    registration: Annotated[
        Count,
        Meta(description="Sequence of the registration that this ends; 0 if unknown."),
    ] = 0


class NodeDeregistered(Struct, frozen=True, gc=False):
    """A node has left for good."""


class ClusterFounded(Struct, frozen=True, gc=False):
    """The log belongs to the cluster whose id is in this event's subject.

    Only the first event of this type in a log counts.
    """

    name: Annotated[str, Meta(description="Name of the cluster, for people.")] = ""
    version: Annotated[
        Count,
        Meta(
            description="Cluster version that the log begins with; 0 for a log that is older than "
            "cluster ids."
        ),
    ] = 0
