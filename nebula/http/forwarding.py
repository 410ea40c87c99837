"""Header fields of a client's request that its engine gets too. Pure."""

from collections.abc import Mapping
from functools import lru_cache

from nebula.events.inference import HeaderFields
from nebula.http.errors import ApiError

_NAMES = frozenset({b"traceparent", b"tracestate"})
_PREFIXES = (b"anthropic-", b"openai-")

_REMEMBERED = 64
"""Number of lists of names whose result is remembered: a client's requests have the same names."""

MOST = 8 * 1024
"""Bytes of the fields that are passed on: they travel in the headers of one NATS message."""


@lru_cache(_REMEMBERED)
def _chosen(names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple([name for name in names if name.startswith(_PREFIXES) or name in _NAMES])


def forwarded(fields: Mapping[bytes, bytes]) -> HeaderFields:
    """Return the fields that an engine gets, by name: W3C's trace context, and those of the APIs.

    Raise ApiError 431 if they are too large.
    """
    chosen = _chosen(tuple(fields))
    if not chosen:
        return ()
    size = sum(len(name) + len(fields[name]) for name in chosen)
    if size > MOST:
        names = ", ".join(sorted(name.decode("latin-1") for name in chosen))
        raise ApiError(431, f"{names}: {size} bytes, and at most {MOST} are passed on")
    return tuple((name.decode("latin-1"), fields[name].decode("latin-1")) for name in chosen)
