"""A request that was captured, as the stream of captures keeps it. Pure."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from nebula.events.capture_events import Contents
from nebula.events.values import Count


class CapturedRequest(Struct, frozen=True, omit_defaults=True):
    """A request and its answer, redacted as its capture says; no header fields but those here."""

    id: Annotated[str, Meta(description="Id of the request.")]
    capture: Annotated[str, Meta(description="Id of the capture.")]
    time: Annotated[float, Meta(description="When it came, in seconds since 1970.")]
    gateway: Annotated[str, Meta(description="Id of its gateway.")]
    model: Annotated[str, Meta(description="Id of the model.")]
    path: Annotated[str, Meta(description="Path of the HTTP request.")]
    contents: Annotated[Contents, Meta(description="What became of its texts.")]
    size: Annotated[Count, Meta(description="Bytes of its body.")]
    adapter: Annotated[str, Meta(description="Name of the adapter; empty for none.")] = ""
    key: Annotated[str, Meta(description="Id of its API key; empty for none.")] = ""
    tenant: Annotated[str, Meta(description="Tenant of its API key; empty for none.")] = ""
    caller_ids: Annotated[tuple[str, ...], Meta(description="Ids that its caller gave it.")] = ()
    body: Annotated[Any, Meta(description="Its body, redacted; null if `omitted` says why.")] = None
    omitted: Annotated[str, Meta(description="Why it has no body.")] = ""
    status: Annotated[int, Meta(description="HTTP status of the answer; 0 if there was none.")] = 0
    failure: Annotated[str, Meta(description="Why the answer ended early; empty for none.")] = ""
    milliseconds: Annotated[Count, Meta(description="Time to the end of the answer.")] = 0
    replica: Annotated[str, Meta(description="Id of the replica that answered last.")] = ""
    stream: Annotated[bool, Meta(description="Whether the answer was a stream.")] = False
    prompt_tokens: Annotated[Count, Meta(description="Tokens of the prompt.")] = 0
    completion_tokens: Annotated[Count, Meta(description="Tokens of the answer.")] = 0
    answer_size: Annotated[Count, Meta(description="Bytes of the answer.")] = 0
    answer: Annotated[
        str, Meta(description="Text of the answer, if texts are kept; 64 KiB of it at most.")
    ] = ""
