"""The message with the body of a request that goes ahead of it without one. Pure."""

from nebula.events.envelope import REQUEST
from nebula.events.subjects import is_token

_BEFORE = f"NATS/1.0\r\n{REQUEST}: ".encode()
_AFTER = b"\r\n\r\n"


def header_of(request: str) -> bytes:
    """Return the header block of the message with a request's body."""
    return b"%b%b%b" % (_BEFORE, request.encode(), _AFTER)


def request_of(header: bytes) -> str | None:
    """Return the id of the request whose body a message has; None if it does not tell."""
    if not (header.startswith(_BEFORE) and header.endswith(_AFTER)):
        return None
    name = header[len(_BEFORE) : -len(_AFTER)].decode("ascii", "replace")
    return name if is_token(name) else None
