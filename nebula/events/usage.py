"""What was used of what: the record of each request, and the event that sums them. Pure.

A gateway writes a record when the answer of a request has ended there. From time to time a gateway
sums the records of a range of the stream in an event; what `UsageRolledUp` says of a range and what
follows from its records is the same, to the token (ADR 63).
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from nebula.events.values import Count

Counted: TypeAlias = Literal["engine", "tokens", "events"]
"""How tokens were counted: the engine told its usage; by the ids of the tokens that the client got;
or by the events of a stream that was cut before its engine told it, of which each has at least one
token."""

_Hour: TypeAlias = Annotated[
    Count, Meta(description="Begin of the hour in which the requests ended, in seconds since 1970.")
]
_Key: TypeAlias = Annotated[str, Meta(description="The API key, as in the `user` of a request.")]
_Tenant: TypeAlias = Annotated[str, Meta(description="Tenant of the key; empty for none.")]
_User: TypeAlias = Annotated[
    str, Meta(description="Hash of the request's `user`; empty for none, `*` for many others.")
]
_Model: TypeAlias = Annotated[str, Meta(description="Id of the model.")]
_Adapter: TypeAlias = Annotated[str, Meta(description="Name of the adapter; empty for none.")]
_Path: TypeAlias = Annotated[str, Meta(description="Path of the HTTP requests.")]
_Prompt: TypeAlias = Annotated[Count, Meta(description="Tokens of prompts, each prompt once.")]
_Cached: TypeAlias = Annotated[
    Count, Meta(description="Those of them that engines took from their caches, where they told.")
]
_Completion: TypeAlias = Annotated[Count, Meta(description="Tokens of answers.")]


class UsageRecord(Struct, frozen=True, omit_defaults=True, gc=False):
    """What one request used: a request that got an answer, or a part of it."""

    id: Annotated[str, Meta(description="Id of the request, or of what it was made for.")]
    time: Annotated[Count, Meta(description="When the answer ended, in seconds since 1970.")]
    key: _Key
    model: _Model
    path: _Path
    tenant: _Tenant = ""
    user: _User = ""
    adapter: _Adapter = ""
    prompt: _Prompt = 0
    cached: _Cached = 0
    completion: _Completion = 0
    counted: Annotated[Counted, Meta(description="How its tokens were counted.")] = "engine"
    cut: Annotated[bool, Meta(description="Whether the answer ended before its end.")] = False
    replica: Annotated[str, Meta(description="Id of the replica that answered last.")] = ""
    batch: Annotated[str, Meta(description="Id of the batch; empty for none.")] = ""
    cancelled_by: Annotated[
        str, Meta(description="Operator that cancelled the request; empty for none.")
    ] = ""


class UsageRecords(Struct, frozen=True, omit_defaults=True):
    """Records that one gateway writes together."""

    records: Annotated[tuple[UsageRecord, ...], Meta(description="The records.")] = ()
    dropped: Annotated[
        Count,
        Meta(description="Records that the gateway could not keep while they were not stored."),
    ] = 0


class UsageSum(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the requests of an hour used that have all else in common."""

    hour: _Hour
    key: _Key
    model: _Model
    path: _Path
    tenant: _Tenant = ""
    user: _User = ""
    adapter: _Adapter = ""
    requests: Annotated[Count, Meta(description="Number of requests.")] = 0
    prompt: _Prompt = 0
    cached: _Cached = 0
    completion: _Completion = 0
    estimated: Annotated[
        Count, Meta(description="Tokens of answers that were counted by events: at least so many.")
    ] = 0


class UsageRolledUp(Struct, frozen=True):
    """A gateway sums the usage records of a range of their stream."""

    after: Annotated[Count, Meta(description="Sequence in the stream after which they begin.")]
    until: Annotated[Count, Meta(description="Sequence of the last of them.")]
    sums: Annotated[tuple[UsageSum, ...], Meta(description="The sums.")] = ()
    lost: Annotated[
        Count,
        Meta(
            description="Messages of the range that the stream had dropped before, to stay small."
        ),
    ] = 0
    dropped: Annotated[
        Count, Meta(description="Records that gateways could not keep, by the range's messages.")
    ] = 0
