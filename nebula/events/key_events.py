"""The events of API keys: issued, changed, revoked. They hold hashes of keys only. Pure."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from nebula.events.usage_limits import NO_LIMITS, UsageLimits
from nebula.events.values import PublicName, Seconds

Scope: TypeAlias = Literal["infer", "view", "operate", "admin"]
"""What a key is for. `operate` includes `view`, and `admin` includes everything."""

LONGEST_NAME = 256

_Name: TypeAlias = Annotated[
    str, Meta(max_length=LONGEST_NAME, description="Its holder, in words.")
]
_Hash: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{64}\Z", description="SHA-256 of the whole key, as hexadecimal digits."
    ),
]
_Prefix: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[!-~]{0,160}\Z",
        description="First characters of the key, by which its holder recognizes it.",
    ),
]
_Scopes: TypeAlias = Annotated[
    tuple[Scope, ...],
    Meta(
        min_length=1,
        max_length=4,
        description="What the key is for. `infer`: requests to models. `view`: the cluster's state "
        "and log. `operate`: changes of models, adapters, aliases and nodes; it includes `view`. "
        "`admin`: keys, and everything else.",
    ),
]
_Models: TypeAlias = Annotated[
    tuple[PublicName, ...],
    Meta(
        max_length=256,
        description="Names of the models that it may use; `*` in a name stands for any text.",
    ),
]
_Tenant: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{0,128}\Z",
        description="The tenant that the key belongs to; empty for none.",
    ),
]
_Expires: TypeAlias = Annotated[
    Annotated[datetime, Meta(tz=True)] | None,
    Meta(description="When the key stops being valid; null for never."),
]
_Limits: TypeAlias = Annotated[UsageLimits, Meta(description="How much it may use.")]


class Rights(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What a key may do, as people ask for it."""

    scopes: _Scopes = ("infer",)
    name: _Name = ""
    models: _Models = ("*",)
    tenant: _Tenant = ""
    expires: _Expires = None
    limits: _Limits = NO_LIMITS


class KeyIssued(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A new API key with these rights; its id is in the subject."""

    hash: _Hash
    scopes: _Scopes
    name: _Name = ""
    prefix: _Prefix = ""
    models: _Models = ("*",)
    tenant: _Tenant = ""
    expires: _Expires = None
    limits: _Limits = NO_LIMITS


class KeyChanged(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A key has these rights from now on; they replace all that it had before.

    With another `hash` the key itself is replaced, as after a rotation.
    """

    scopes: _Scopes
    name: _Name = ""
    models: _Models = ("*",)
    tenant: _Tenant = ""
    expires: _Expires = None
    limits: _Limits = NO_LIMITS
    hash: Annotated[
        str,
        Meta(
            pattern=r"^([0-9a-f]{64})?\Z",
            description="SHA-256 of the new key; empty if the key stays the same.",
        ),
    ] = ""
    prefix: _Prefix = ""
    overlap: Annotated[
        Seconds, Meta(description="Seconds for which the previous key stays valid beside a new.")
    ] = 0.0


class KeyRevoked(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A key is not valid any more, for good."""

    reason: Annotated[str, Meta(max_length=1024, description="Why, in words.")] = ""
