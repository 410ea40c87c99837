"""How lines of an engine's log are asked for over NATS, and read from its file."""

from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from nebula.events.values import Token
from nebula.store import child_output

MAX_REPLY = 512 * 1024


class LogRequest(Struct, frozen=True):
    """Ask a node for an engine's log: its last `lines`, or all from byte `offset` on.

    `offset`: as the reply before gave it; it stays valid when the log is turned over.
    """

    replica: Token
    lines: int = 100
    offset: int | None = None


class LogReply(Struct, frozen=True):
    """Text of a log and the offset at which the next request goes on; or why there is none."""

    text: str = ""
    offset: int = 0
    error: str = ""


def answer(request: bytes, path_of: Callable[[str], Path]) -> bytes:
    """Answer a request as it comes over NATS; `path_of` gives the log of a replica."""
    try:
        asked = msgspec.json.decode(request, type=LogRequest)
        reply = read_log(path_of(asked.replica), asked)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        reply = LogReply(error=str(error))
    return msgspec.json.encode(reply)


def read_log(path: Path, request: LogRequest) -> LogReply:
    """Answer a request from the log at `path`; a reply holds 512 KiB at most."""
    if not path.exists():
        return LogReply(error=f"this node has no log of {request.replica!r}")
    if request.offset is None:
        offset = child_output.end(path)
        lines = child_output.tail(path, max(1, min(request.lines, 10_000)))
        return LogReply("".join(f"{line}\n" for line in lines)[-MAX_REPLY:], offset)
    data, offset = child_output.read(path, request.offset, MAX_REPLY)
    return LogReply(data.decode(errors="replace"), offset)
