"""What an engine tells of the beginnings of prompts that its cache holds. Pure."""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

MOST = 4096
"""Digests that a message has of each kind at most."""

Digests: TypeAlias = Annotated[
    tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=MOST)
]


class CacheNews(Struct, frozen=True, kw_only=True):
    """What has changed in the prefix cache of a replica's engine since its last such message."""

    replica: Annotated[str, Meta(description="Id of the replica.")]
    pid: Annotated[int, Meta(description="Process id of the engine.")]
    serial: Annotated[int, Meta(description="Number of the message, from 1.")]
    held: Annotated[
        Digests,
        Meta(
            description="Digests of beginnings of prompts that the engine has got, or that it has "
            "got again. Those that are needed soonest come last."
        ),
    ] = ()
    gone: Annotated[
        Digests,
        Meta(description="Digests of beginnings that its cache does not hold any more."),
    ] = ()
    evictions: Annotated[
        bool,
        Meta(
            description="Whether the engine tells what it evicts. If not, what it holds is a guess."
        ),
    ] = False
    forgotten: Annotated[
        bool,
        Meta(
            description="Whether all that was told before is void: the cache was cleared, or the "
            "engine's own report of it has a gap."
        ),
    ] = False
