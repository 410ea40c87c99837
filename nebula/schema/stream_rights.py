"""What each role may do with each stream: the subjects of JetStream's API. Pure.

JetStream's API is used by messages to `$JS.API.…`, so that permissions to publish decide what a
role may do with a stream (NATS's "JetStream API reference"). A role that may create
a consumer of a stream can read all of it.
"""

from typing import Literal, TypeAlias

from nebula.schema.parties import RoleName
from nebula.store import batch_queue, captures, demand, files, ledger, responses, snapshots, usage
from nebula.store.streams import CLAIMS, EVENTS, INFERENCE, STATUS
from nebula.store.upkeep import ADVISORIES

Use: TypeAlias = Literal[
    "look", "make", "change", "delete", "purge", "get", "follow", "read", "take", "put"
]
"""`look`: its settings and state. `get`: single messages. `follow`: all of it, by a consumer that
the server pushes. `read`: by one that is asked and ended, too. `take`: messages as work, which are
acknowledged. `put`: messages of an object store."""

SNAPSHOTS = f"OBJ_{snapshots.BUCKET}"
_API = "$JS.API"

_SUBJECTS: dict[Use, tuple[str, ...]] = {
    "look": (f"{_API}.STREAM.INFO.{{}}",),
    "make": (f"{_API}.STREAM.CREATE.{{}}",),
    "change": (f"{_API}.STREAM.UPDATE.{{}}",),
    "delete": (f"{_API}.STREAM.DELETE.{{}}",),
    "purge": (f"{_API}.STREAM.PURGE.{{}}",),
    "get": (
        f"{_API}.STREAM.MSG.GET.{{}}",
        f"{_API}.DIRECT.GET.{{}}",
        f"{_API}.DIRECT.GET.{{}}.>",
    ),
    "follow": (
        f"{_API}.CONSUMER.CREATE.{{}}",
        f"{_API}.CONSUMER.CREATE.{{}}.>",
        "$JS.FC.{}.>",
        "$JS.FC.*.*.{}.>",
    ),
    "read": (
        f"{_API}.CONSUMER.CREATE.{{}}",
        f"{_API}.CONSUMER.CREATE.{{}}.>",
        f"{_API}.CONSUMER.MSG.NEXT.{{}}.*",
        f"{_API}.CONSUMER.DELETE.{{}}.*",
        "$JS.FC.{}.>",
        "$JS.FC.*.*.{}.>",
    ),
    "take": (
        f"{_API}.CONSUMER.CREATE.{{}}",
        f"{_API}.CONSUMER.CREATE.{{}}.>",
        f"{_API}.CONSUMER.DURABLE.CREATE.{{}}.*",
        f"{_API}.CONSUMER.MSG.NEXT.{{}}.*",
        "$JS.ACK.{}.>",
        "$JS.ACK.*.*.{}.>",
    ),
}
"""The subjects of a use, with the stream's name for braces. Flow control and acknowledgements have
two forms (NATS's ADR-15)."""

_MEMORY: dict[RoleName, tuple[Use, ...]] = {
    "router": ("look", "make", "change", "delete"),
    "node": ("look",),
    "provision": ("look", "make", "change", "delete"),
}
"""Rights on the streams in memory: a gateway or a router creates them again."""

_GATEWAYS_OWN: dict[RoleName, tuple[Use, ...]] = {
    "gateway": ("look", "make", "change", "get", "read", "take", "purge"),
    "operator": ("look", "make"),
    "provision": ("look", "make", "change"),
}
"""Rights on the streams that only gateways write to; `nebula batch` asks for them early."""

RIGHTS: dict[str, dict[RoleName, tuple[Use, ...]]] = {
    EVENTS: {
        "gateway": ("look", "get", "follow"),
        "router": ("look", "get", "follow"),
        "node": ("look", "get", "follow"),
        "operator": ("look", "get", "follow"),
        "viewer": ("look", "get", "follow"),
        "provision": ("look", "make", "change", "get", "follow"),
    },
    STATUS: {
        **_MEMORY,
        "gateway": ("look", "make", "change", "delete", "get"),
        "router": (*_MEMORY["router"], "get"),
        "node": ("look", "get"),
        "operator": ("look", "get"),
        "viewer": ("look", "get"),
    },
    INFERENCE: {
        **_MEMORY,
        "gateway": ("look", "make", "change", "delete", "get", "read"),
        "operator": ("look", "get", "read"),
    },
    CLAIMS: {**_MEMORY, "gateway": ("look", "make", "change", "delete", "get")},
    batch_queue.LINES: _GATEWAYS_OWN,
    batch_queue.RESULTS: _GATEWAYS_OWN,
    responses.STREAM: _GATEWAYS_OWN,
    ledger.STREAM: {
        **_GATEWAYS_OWN,
        "operator": ("look", "make", "get"),
        "viewer": ("look", "get"),
    },
    usage.STREAM: {
        "gateway": ("look", "make", "get", "read"),
        "operator": ("look", "get", "read"),
        "viewer": ("look", "get", "read"),
        "provision": ("look", "make", "change"),
    },
    captures.STREAM: {
        "gateway": ("look", "make", "get", "read"),
        "provision": ("look", "make", "change"),
    },
    demand.STREAM: {
        "gateway": ("look", "get", "read"),
        "router": ("look", "make"),
        "operator": ("look", "get", "read"),
        "viewer": ("look", "get", "read"),
        "provision": ("look", "make", "change"),
    },
    files.STREAM: {
        "gateway": ("look", "make", "get", "read", "purge", "put"),
        "operator": ("look", "make", "get", "read", "purge", "put"),
        "provision": ("look", "make", "change"),
    },
    SNAPSHOTS: {
        "gateway": ("look", "get", "read"),
        "router": ("look", "make", "get", "read", "purge", "put"),
        "node": ("look", "get", "read"),
        "operator": ("look", "get", "read"),
        "viewer": ("look", "get", "read"),
        "provision": ("look", "make", "get", "read", "purge", "put"),
    },
}
"""What each role may do with each stream. Every later start believes a snapshot, so that only
routers make them: what they decide is believed anyway."""

_ALL_STREAMS: dict[RoleName, tuple[str, ...]] = {
    **dict.fromkeys(("gateway", "router", "node", "viewer"), (f"{_API}.STREAM.NAMES",)),
    **dict.fromkeys(
        ("operator", "provision"),
        (f"{_API}.INFO", f"{_API}.STREAM.NAMES", f"{_API}.STREAM.LIST"),
    ),
}
"""What is asked of the account: which stream has a subject, which streams there are."""

ADVISED: tuple[RoleName, ...] = ("gateway", "router", "node", "provision")
"""The roles that hear when a stream was created, changed or deleted."""

__all__ = ["ADVISED", "ADVISORIES", "RIGHTS", "SNAPSHOTS", "Use", "stream_subjects"]


def stream_subjects(role: RoleName) -> tuple[str, ...]:
    """Return the subjects of JetStream's API to which a role may publish."""
    found = list(_ALL_STREAMS.get(role, ()))
    for stream, rights in RIGHTS.items():
        for use in rights.get(role, ()):
            found += _subjects(stream, use)
    return tuple(dict.fromkeys(found))


def _subjects(stream: str, use: Use) -> tuple[str, ...]:
    if use == "put":
        bucket = stream.removeprefix("OBJ_")
        return f"$O.{bucket}.C.*", f"$O.{bucket}.M.*"
    return tuple(subject.format(stream) for subject in _SUBJECTS[use])
