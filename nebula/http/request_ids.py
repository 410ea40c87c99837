"""The ids of a request: Nebula's own, and those that its caller gave it. Pure.

OpenAI's clients read `x-request-id` of every answer, and Anthropic's `request-id`. Callers and
proxies name requests by `X-Request-Id` or OpenAI's `X-Client-Request-Id`.
"""

import re
from collections.abc import Mapping
from typing import TypeAlias

from nebula.events.endpoints import Dialect

Given: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""The ids that a caller gave, by the names of their fields."""

_REQUEST, _CLIENT = b"x-request-id", b"x-client-request-id"

OWN = b"x-nebula-request-id"
"""The name of Nebula's own id where the caller's is in `x-request-id`."""

_ANTHROPIC = b"request-id"

LONGEST = 512
"""Bytes of an id that is handed back, at most: as many as OpenAI takes."""

_FIT = re.compile(rb"[!-~]{1,%d}" % LONGEST)


def given(fields: Mapping[bytes, bytes]) -> Given:
    """Return the ids that a caller gave; an id that does not fit is passed over.

    An id has visible ASCII characters only, so that it can stand in any header, log or command.
    """
    if _REQUEST not in fields and _CLIENT not in fields:
        return ()
    return tuple(
        (name, fields[name])
        for name in (_REQUEST, _CLIENT)
        if name in fields and _FIT.fullmatch(fields[name])
    )


def texts(fields: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """Return the different ids that a caller gave."""
    ids = given(fields)
    return tuple(dict.fromkeys(value.decode("ascii") for _, value in ids)) if ids else ()


def lines(own: bytes, ids: Given, dialect: Dialect = "openai") -> list[bytes]:
    """Return the field lines of an answer that name its request.

    `x-request-id` is the caller's id if it gave one, and Nebula's `own` has another name then.
    """
    found = [b"%b: %b\r\n" % each for each in ids]
    name = OWN if ids and ids[0][0] == _REQUEST else _REQUEST
    found.append(b"%b: %b\r\n" % (name, own))
    if dialect == "anthropic":
        found.append(b"%b: %b\r\n" % (_ANTHROPIC, own))
    return found
