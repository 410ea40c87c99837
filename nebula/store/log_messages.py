"""A message of the log's stream, read as an entry byte for byte, or as a record."""

from nebula.events.original import ORIGINAL_HEADER, original
from nebula.events.record import Entry, Record, parse_headers, read, read_entry

_NO_HEADERS = b"NATS/1.0\r\n\r\n"


def entry_of(seq: int, time: int, subject: str, headers: bytes, body: bytes) -> Entry:
    """Return a message as it was first stored, with its sequence and time (ns)."""
    return original(Entry(seq, time, subject, b"" if headers == _NO_HEADERS else headers, body))


def record_of(seq: int, time: int, subject: str, headers: bytes, body: bytes) -> Record:
    """Return a message as a record, as it was first stored."""
    if not headers:
        return read(seq, time, subject, body)
    found = parse_headers(headers)
    if ORIGINAL_HEADER in found:
        return read_entry(entry_of(seq, time, subject, headers, body))
    return read(seq, time, subject, body, found)
