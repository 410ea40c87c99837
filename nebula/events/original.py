"""The time and the headers that an imported entry had in its original log.

JetStream sets the time of every message and acts upon some headers, so an import can't publish an
entry as it was. It puts both into one header instead, and every reader restores them.
"""

import base64
import binascii

from nebula.events.record import Entry

ORIGINAL_HEADER = "Nebula-Original"
_MARK = ORIGINAL_HEADER.encode() + b":"


def wrapped(entry: Entry) -> dict[str, str]:
    """Return the only header under which an entry is imported."""
    return {ORIGINAL_HEADER: f"{entry.time} {base64.b64encode(entry.headers).decode()}".strip()}


def original(entry: Entry) -> Entry:
    """Return an imported entry in its original form; return any other entry unchanged."""
    if _MARK not in entry.headers:
        return entry
    line = entry.headers.partition(_MARK)[2].partition(b"\r\n")[0].split()
    if not line or not line[0].isdigit() or len(line[0]) > 19:
        return entry
    try:
        headers = base64.b64decode(line[1], validate=True) if len(line) > 1 else b""
    except binascii.Error:
        return entry
    return Entry(entry.seq, int(line[0]), entry.subject, headers, entry.body)
