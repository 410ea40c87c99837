"""The events that start and stop a capture: requests are copied, for a while and redacted. Pure."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Contents: TypeAlias = Literal["mask", "drop", "keep"]
"""`mask`: each letter and digit of a text becomes an x. `drop`: a text becomes its length. `keep`:
texts stay, but for what looks like a secret and what is to be hidden."""

Hidden: TypeAlias = Literal["email", "number", "url"]
"""What is hidden in texts that are kept; a number has at least six digits."""

Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]


class CaptureStarted(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Requests that match are captured from now on, until the time is over."""

    seconds: Annotated[
        float, Meta(gt=0, le=604_800, description="Time after which it ends, in seconds.")
    ]
    model: Annotated[str, Meta(description="Id of the model; empty for any.")] = ""
    key_id: Annotated[str, Meta(description="Id of the API key; empty for any.")] = ""
    tenant: Annotated[str, Meta(description="Tenant of the API key; empty for any.")] = ""
    share: Annotated[
        float, Meta(gt=0, le=1, description="Share of the matching requests that is captured.")
    ] = 1.0
    contents: Annotated[
        Contents, Meta(description="What becomes of the texts of requests and answers.")
    ] = "mask"
    hidden: Annotated[
        tuple[Hidden, ...], Meta(description="What is hidden in texts that are kept.")
    ] = ()
    words: Annotated[
        tuple[Word, ...], Meta(max_length=32, description="Words that are hidden in them too.")
    ] = ()


class CaptureStopped(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The capture ends; what it has captured is kept for its time."""
