"""Reads messages whose bodies tell whose they are: it must be the sender that their subjects name.

NATS lets a user publish on its own subjects alone (ADR 59): the subject proves what a body claims.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from nebula.events import subjects
from nebula.events.cache_news import CacheNews
from nebula.events.heartbeats import NodeHeartbeat, ReplicaHeartbeat, RouterHeartbeat
from nebula.events.inference import Finished
from nebula.events.reading import decoded
from nebula.store.users import inbox_of

log = logging.getLogger(__name__)
T = TypeVar("T", bound=Struct)

KEPT = 1024
"""Subjects that are remembered, so that a wrong body is logged once for each."""


def _model_of(replica: str) -> str:
    return replica.rpartition("-")[0]


SUBJECT_OF: Mapping[type[Struct], Callable[[Any], str]] = {
    ReplicaHeartbeat: lambda said: subjects.replica_status(_model_of(said.replica), said.replica),
    RouterHeartbeat: lambda said: subjects.router_status(said.router),
    NodeHeartbeat: lambda said: subjects.node_status(said.node),
    CacheNews: lambda said: subjects.cache(_model_of(said.replica), said.replica),
    Finished: lambda said: subjects.finished(_model_of(said.replica)),
}
"""The subject that the sender of a message publishes on, by what its body tells."""


def attributed(subject: bytes, body: bytes, kind: type[T]) -> T | None:
    """Return a message whose body tells the sender that its subject names; None for others.

    What is not valid is passed over as everywhere. A body of another sender is logged once for each
    subject.
    """
    said = decoded(body, kind)
    if said is None:
        return None
    if SUBJECT_OF[kind](said).encode("utf-8", "replace") != subject:
        _warn(subject)
        return None
    return said


def is_inbox(reply: str) -> bool:
    """Return whether a question's reply subject is an inbox, the only place for an answer.

    NATS lets a user that may reply do so on whatever subject the question names: also on one that
    the asker itself may not publish on, such as an event's.
    """
    return reply.startswith(("_INBOX.", "_INBOX_"))


def is_inbox_of_engine(reply: str, model: str, replica: str = "") -> bool:
    """Return whether a reply subject may be an inbox of an engine of a model, or of its `replica`.

    The inboxes of an engine with a user of its own name both, and it hears no others (ADR 59).
    """
    tokens = reply.split(".")
    if tokens[0] != _ENGINE or len(tokens) <= _SHARED:
        return is_inbox(reply)
    return tokens[1] == model and replica in ("", tokens[2])


_ENGINE = inbox_of("engine")
_SHARED = 3
"""Tokens of an inbox of engines that share a user: the prefix, and two that a client draws."""


@functools.lru_cache(maxsize=KEPT)
def _warn(subject: bytes) -> None:
    name = subject[:500].decode("utf-8", "replace")
    log.warning("passed over a message on %s: its body is of another sender", name)
