"""Marks where an engine's output begins in the file that all engines of a replica share.

The mark is a line of its own, so that a later node process finds it, also after the file was
rotated: an engine's output is what follows the last mark.
"""

import datetime
from pathlib import Path

from nebula.store import child_output, private

MARK = "nebula: an engine starts here"


def begin(path: Path) -> int:
    """Write a mark, and return its position. Raise OSError."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with private.opened(path, "ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(f"{MARK}, {now}\n".encode())
    return child_output.end(path)


def beginning(path: Path) -> int | None:
    """Return the position of the last engine's output; None if the end of the file has no mark.

    Without a mark, all of `child_output.tail` is its output, unless an older Nebula started it.
    """
    last = child_output.end(path)
    position = last - child_output.TAIL
    text = b""
    try:
        while position < last:
            data, after = child_output.read(path, position, child_output.TAIL)
            if not data or after <= position:
                break
            text += data
            position = after
    except OSError:
        return None
    found = text.rfind(f"{MARK}, ".encode())
    end = text.find(b"\n", found) if found >= 0 else -1
    return position - len(text) + end + 1 if end >= 0 else None
