"""Requests for lines of an engine's log over NATS, and how they are answered from its file."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from nebula.actors.node.secret_masks import Mask, unmasked
from nebula.events.reading import UNREADABLE
from nebula.events.values import Token
from nebula.store import child_output

MAX_REPLY = 512 * 1024


class LogRequest(Struct, frozen=True):
    """A request to a node for lines of an engine's log."""

    replica: Annotated[Token, Meta(description="Id of the replica whose log it is.")]
    lines: Annotated[
        int, Meta(description="Number of last lines to return if there is no `offset`.")
    ] = 100
    offset: Annotated[
        int | None,
        Meta(
            description="Byte from which on to return the log: the `offset` of the previous "
            "reply, which stays valid when the log is rotated."
        ),
    ] = None


class LogReply(Struct, frozen=True):
    """A node's reply with lines of an engine's log, or with the reason why there are none."""

    text: Annotated[str, Meta(description="The requested part of the log, 512 KiB at most.")] = ""
    offset: Annotated[
        int, Meta(description="Byte at which the next request continues the log.")
    ] = 0
    error: Annotated[str, Meta(description="Why the log can't be read; empty if it was read.")] = ""


async def answer(
    request: bytes, path_of: Callable[[str], Path], mask_of: Callable[[str], Awaitable[Mask | None]]
) -> bytes:
    """Return the reply to a request from NATS.

    `path_of` returns the path of a replica's log, `mask_of` what masks the replica's secrets in it;
    None for a replica that is gone, whose log is not shown, as its secrets may not be known.
    """
    asked = read_request(request)
    if isinstance(asked, LogRequest):
        mask = await mask_of(asked.replica)
        if mask is None:
            asked = LogReply(error=f"there is no replica {asked.replica!r}")
        else:
            asked = read_log(path_of(asked.replica), asked, mask)
    return msgspec.json.encode(asked)


def read_request(request: bytes) -> LogRequest | LogReply:
    """Return a request from NATS, or the reply that says what is wrong with it. Never raises."""
    try:
        return msgspec.json.decode(request, type=LogRequest)
    except UNREADABLE as error:
        return LogReply(error=str(error))


def read_log(path: Path, request: LogRequest, mask: Mask = unmasked) -> LogReply:
    """Return the reply to a request from the log at `path`, at most 512 KiB of it."""
    if not path.exists():
        return LogReply(error=f"this node has no log of {request.replica!r}")
    if request.offset is None:
        offset = child_output.end(path)
        lines = map(mask, child_output.tail(path, max(1, min(request.lines, 10_000))))
        return LogReply("".join(f"{line}\n" for line in lines)[-MAX_REPLY:], offset)
    data, offset = child_output.read(path, request.offset, MAX_REPLY)
    cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if cut or len(data) < MAX_REPLY:
        offset -= len(data) - cut  # what follows may be the beginning of a secret
        data = data[:cut]
    return LogReply(mask(data.decode(errors="replace")), offset)
