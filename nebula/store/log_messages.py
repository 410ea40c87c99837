"""A message of the log's stream, read as an entry byte for byte, or as a record."""

from nats.aio.msg import Msg

from nebula.events import record as records
from nebula.events.original import ORIGINAL_HEADER, original
from nebula.events.record import Entry, Record
from nebula.store.client import Headers


def entry_of(seq: int, time: int, message: Msg) -> Entry:
    """Return a message as it was first stored, with its sequence and time (ns)."""
    headers = message.headers
    block = headers.block if isinstance(headers, Headers) else b""
    return original(Entry(seq, time, message.subject, block, message.data))


def record_of(seq: int, time: int, message: Msg) -> Record:
    """Read a message without parsing its headers again, unless it was imported."""
    headers = message.headers
    if headers and ORIGINAL_HEADER in headers:
        return records.read_entry(entry_of(seq, time, message))
    return records.read(seq, time, message.subject, message.data, headers)
