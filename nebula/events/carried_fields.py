"""Header fields of HTTP within the header of a message on NATS, written and read. Pure."""

import json

import msgspec

from nebula.events.inference import HeaderFields

_decoder = msgspec.json.Decoder(HeaderFields)


def written(fields: HeaderFields) -> str:
    """Return header fields of HTTP as one line of ASCII: their values may be any bytes."""
    return json.dumps(fields, separators=(",", ":"))


def size(fields: HeaderFields) -> int:
    """Return the bytes that header fields of HTTP take in a message."""
    return len(written(fields))


def read(text: str) -> HeaderFields:
    """Return header fields of HTTP. Raise msgspec.DecodeError for text that holds none."""
    return _decoder.decode(text) if text else ()
