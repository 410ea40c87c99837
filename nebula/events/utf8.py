"""Whether bytes are UTF-8, at any size and without a copy of them. Pure."""

import codecs

_AT_ONCE = 256 * 1024


def check_text(body: bytes) -> None:
    """Raise UnicodeDecodeError if bytes are not UTF-8: msgspec skips what it does not read."""
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(body), _AT_ONCE):
        decoder.decode(body[at : at + _AT_ONCE])
    decoder.decode(b"", final=True)


def not_text(body: bytes) -> str | None:
    """Return why bytes are not UTF-8, in the same words for each decoder; None if they are."""
    try:
        check_text(body)
    except UnicodeDecodeError as error:
        return error.reason
    return None
