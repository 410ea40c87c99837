"""The events by which nodes report what happened to the engines of replicas. Pure.

Each report names the node that makes it: a node that does not hold the replica, or no longer
holds it, says nothing about the replica that has this id now.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from nebula.events.values import Count, Pid, Port

Reporter: TypeAlias = Annotated[
    str,
    Meta(description="Name of the node that reports this; empty in events of older versions."),
]
Attempt: TypeAlias = Annotated[
    int, Meta(description="Number of this start among consecutive failing starts, from 1.")
]
AdapterName: TypeAlias = Annotated[
    str, Meta(description="Name of the adapter, as requests use it in `model`.")
]
AdapterSource: TypeAlias = Annotated[
    str, Meta(description="Folder on the nodes, or hub id, of the adapter's files.")
]
Answered: TypeAlias = Annotated[
    int,
    Meta(
        description="Sequence of the load request that this answers; 0 in events of older versions."
    ),
]


class EngineStarted(Struct, frozen=True, gc=False):
    """A node has spawned an engine process for a replica."""

    pid: Annotated[Pid, Meta(description="Process id of the engine.")]
    created: Annotated[
        float, Meta(description="Start time of the process, in seconds since the Unix epoch.")
    ]
    port: Annotated[
        Port,
        Meta(
            description="Port number of the engine on its node: the name of its Unix socket, or "
            "where it listens with `--engine-listen port`."
        ),
    ]
    log_file: Annotated[str, Meta(description="Path of the engine's log file on its node.")]
    plan: Annotated[
        int, Meta(description="Version of the placement plan that the engine was started for.")
    ]
    attempt: Attempt = 1
    node: Reporter = ""
    birth: Annotated[
        str,
        Meta(
            description="Boot id of the machine, and the clock ticks from that boot to the start "
            "of the process. Together with `pid` it identifies the process, also after process "
            "ids were reused or the clock was changed."
        ),
    ] = ""


class EngineReady(Struct, frozen=True, gc=False):
    """The engine serves requests: it has subscribed to its subject and its `/health` is good."""

    engine_version: Annotated[
        str,
        Meta(description="Version that the engine reports; empty if it reports none."),
    ] = ""
    seconds: Annotated[
        float,
        Meta(description="Time from the process's start until it was ready, in seconds."),
    ] = 0.0
    node: Reporter = ""
    tasks: Annotated[
        tuple[str, ...],
        Meta(
            description="Tasks that the engine supports, by vLLM's names (`generate`, `embed`, "
            "...); empty if it reports none."
        ),
    ] = ()
    max_model_len: Annotated[
        int,
        Meta(
            description="Tokens that prompt and answer may have together; 0 if the engine reports "
            "none."
        ),
    ] = 0


class EngineFailed(Struct, frozen=True, gc=False):
    """An engine ended unexpectedly, or could not be started."""

    reason: Annotated[str, Meta(description="What went wrong, in words.")]
    exit_code: Annotated[
        int | None,
        Meta(
            description="Exit code of the process: negative for a signal, null if it is unknown "
            "(the node had adopted the process from an earlier node process)."
        ),
    ] = None
    log_tail: Annotated[
        tuple[str, ...],
        Meta(description="Lines of the engine's log that show what went wrong."),
    ] = ()
    attempt: Attempt = 1
    retry_in: Annotated[
        float | None,
        Meta(description="Seconds until the node starts the engine again; null if it gave up."),
    ] = None
    node: Reporter = ""


class EngineStopped(Struct, frozen=True, gc=False):
    """An engine ended because its node ended it."""

    reason: Annotated[str, Meta(description="Why the node ended the engine, in words.")] = ""
    node: Reporter = ""


class EngineStalled(Struct, frozen=True, gc=False):
    """A ready engine has requests and makes no progress: no token, no step, no probe answered."""

    seconds: Annotated[
        float, Meta(description="Time without progress when this was noticed, in seconds.")
    ] = 0.0
    requests: Annotated[
        Count,
        Meta(description="Number of requests that the engine has, or has left without an answer."),
    ] = 0
    ends_in: Annotated[
        float | None,
        Meta(
            description="Seconds until the node ends the engine if it makes no progress; null if "
            "the node never ends a stalled engine."
        ),
    ] = None
    reason: Annotated[str, Meta(description="What shows that the engine stalls, in words.")] = ""
    node: Reporter = ""


class EngineResumed(Struct, frozen=True, gc=False):
    """A stalled engine makes progress again."""

    seconds: Annotated[
        float,
        Meta(
            description="Time for which it made no progress, in seconds; 0 if the node's process "
            "was restarted meanwhile."
        ),
    ] = 0.0
    node: Reporter = ""


class AdapterLoaded(Struct, frozen=True, gc=False):
    """An engine has loaded a version of an adapter.

    The previous version keeps answering requests until every replica has the new one.
    """

    name: AdapterName
    source: AdapterSource
    node: Reporter = ""
    digest: Annotated[
        str,
        Meta(description="Digest of the loaded files; empty in events of older versions."),
    ] = ""
    asked: Answered = 0


class AdapterLoadFailed(Struct, frozen=True, gc=False):
    """A version of an adapter could not be loaded."""

    name: AdapterName
    source: AdapterSource
    reason: Annotated[
        str, Meta(description="Why it could not be loaded, in the words of the engine or its node.")
    ]
    node: Reporter = ""
    asked: Answered = 0


class AdapterUnloaded(Struct, frozen=True, gc=False):
    """An engine unloads a version of an adapter, or all versions of it.

    Requests that already run with the version finish first.
    """

    name: AdapterName
    node: Reporter = ""
    digest: Annotated[
        str, Meta(description="Digest of the version that is unloaded; empty for all versions.")
    ] = ""
