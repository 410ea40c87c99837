"""The JetStream streams of Nebula: their definitions, and the check against them.

The first actor creates the streams. A log with other settings is reported and never silently used,
since a log that may lose events is worse than none. The other streams are created again.

The log is kept on `replicas` servers of a cluster, and so are the few bytes of the claims: without
them no resumable request is accepted. The other two streams are short-lived, in one server's
memory: three copies of every token would cost the servers three times the work (ADR 27). If that
server fails they are lost, and nothing blocks on them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServerError

from nebula.events import subjects
from nebula.store import needs

log = logging.getLogger(__name__)

EVENTS = "NEBULA_EVENTS"
STATUS = "NEBULA_STATUS"
INFERENCE = "NEBULA_INFERENCE"
CLAIMS = "NEBULA_CLAIMS"

MIB = 1024 * 1024
REPEATS = 120
"""Seconds for which JetStream remembers the message ids of the log."""

_TRIES = 20
CHECKED = (
    "subjects",
    "retention",
    "storage",
    "discard",
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "no_ack",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "persist_mode",
    "subject_transform",
    "sealed",
    "mirror",
    "sources",
)


class StreamMismatch(Exception):
    """A stream exists with other settings than Nebula needs; the text names every difference."""


def definitions(replicas: int = 1) -> tuple[StreamConfig, ...]:
    """Return the streams for a server (`replicas` 1) or a cluster (3) of NATS servers."""
    return (
        StreamConfig(
            name=EVENTS,
            description="Nebula's log: the source of truth, kept for ever",
            subjects=[subjects.EVENTS],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=0,
            max_bytes=-1,
            max_msgs=-1,
            num_replicas=replicas,
            duplicate_window=REPEATS,
            deny_delete=True,
            deny_purge=True,
            allow_direct=True,
            allow_atomic=True,
        ),
        _in_memory(
            STATUS,
            "Nebula's heartbeats: the last of each",
            subjects.STATUS,
            max_age=60,
            max_bytes=16 * MIB,
            per_subject=1,
            no_ack=True,
        ),
        _in_memory(
            INFERENCE,
            "Nebula's data plane: the last minutes of requests and answers",
            subjects.INFERENCE,
            max_age=300,
            max_bytes=256 * MIB,
            no_ack=True,
        ),
        _in_memory(
            CLAIMS,
            "Nebula's claims: the last minutes of requests that can be resumed",
            subjects.CLAIMS,
            max_age=300,
            max_bytes=64 * MIB,
            per_subject=1,
            replicas=replicas,
            discard=DiscardPolicy.NEW,
        ),
    )


def _in_memory(
    name: str,
    description: str,
    subject: str,
    *,
    max_age: float,
    max_bytes: int,
    per_subject: int = -1,
    no_ack: bool = False,
    replicas: int = 1,
    discard: DiscardPolicy = DiscardPolicy.OLD,
) -> StreamConfig:
    """Return a stream in memory that keeps messages for `max_age` seconds and up to `max_bytes`.

    `discard`: whether the oldest is dropped at the limit, or the newest is refused.
    """
    return StreamConfig(
        name=name,
        description=description,
        subjects=[subject],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.MEMORY,
        discard=discard,
        max_age=max_age,
        max_bytes=max_bytes,
        max_msgs=-1,
        max_msgs_per_subject=per_subject,
        num_replicas=replicas,
        duplicate_window=1,
        no_ack=no_ack,
        allow_direct=True,
    )


async def ensure(jetstream: JetStreamContext, replicas: int = 1) -> None:
    """Create the streams that are missing and check those that exist.

    Raise StreamMismatch, and nats-py's errors if JetStream does not answer.
    """
    for wanted in definitions(replicas):
        try:
            found = await find_or_create(jetstream, wanted)
        except (TimeoutError, ServerError):
            if not await out_of_reach(jetstream, wanted):
                raise
            log.warning("stream %s does not answer: its NATS server may be gone", wanted.name)
            continue
        wanted = as_older_actors_need(wanted, found)
        if (found.num_replicas or 1) < (wanted.num_replicas or 1):
            found = await _copied(jetstream, wanted, found)
        if wanted.storage == StorageType.MEMORY and differences(wanted, found):
            wrong = "; ".join(differences(wanted, found))
            log.warning(
                "stream %s is created again with the right settings: %s", wanted.name, wrong
            )
            await jetstream.delete_stream(wanted.name or "")
            found = await find_or_create(jetstream, wanted)
        else:
            _compare(wanted, found)
        if wanted.allow_atomic and not found.allow_atomic:
            await _allow_atomic(jetstream, found)
    if lost := damage(await jetstream.stream_info(EVENTS)):
        raise StreamMismatch(lost)


def as_older_actors_need(wanted: StreamConfig, found: StreamConfig) -> StreamConfig:
    """Return what a stream must be where actors of cluster version 0 may start beside this one.

    They made the stream of claims so that a full one pushes the oldest out, and refuse any other.
    """
    return replace(wanted, discard=found.discard) if wanted.name == CLAIMS else wanted


def damage(info: StreamInfo, wrong: Sequence[str] = ()) -> str:
    """Return how many entries a log has lost, as a sentence; "" if none.

    `wrong`: its wrong settings, which may be the reason.
    """
    missing = int(info.state.last_seq) - int(info.state.messages)
    if missing <= 0:
        return ""
    why = f" ({'; '.join(wrong)})" if wrong else ""
    return (
        f"the log has lost {missing} of {info.state.last_seq} events{why}: "
        "restore a backup, or import an export into an empty log"
    )


async def _copied(
    jetstream: JetStreamContext, wanted: StreamConfig, found: StreamConfig
) -> StreamConfig:
    """Raise a stream's number of copies to the wanted number.

    The claims work with fewer until all servers are there: upkeep tries again.
    """
    try:
        return (
            await jetstream.update_stream(replace(found, num_replicas=wanted.num_replicas))
        ).config
    except APIError as error:
        log.warning("stream %s gets no more copies: %s", found.name, error.description)
        if wanted.storage != StorageType.MEMORY:
            return found
        return replace(found, num_replicas=wanted.num_replicas)


async def ensure_memory(jetstream: JetStreamContext, replicas: int = 1) -> None:
    """Create the in-memory streams again if they were lost with their NATS server.

    Raise nats-py's errors. The log is never created again here.
    """
    for wanted in definitions(replicas):
        if wanted.storage == StorageType.MEMORY:
            await find_or_create(jetstream, wanted)


async def _allow_atomic(jetstream: JetStreamContext, found: StreamConfig) -> None:
    """Enable batches on a log that is older than their use; older servers can't."""
    found.allow_atomic = True
    try:
        await jetstream.update_stream(found)
    except APIError as error:
        log.info("stream %s takes no batches: %s", found.name, error.description)


async def check_log(jetstream: JetStreamContext) -> str:
    """Check the log's stream, however many copies it has, and create nothing.

    Return how many events it has lost, in words, "" for none: it can still be read. Raise
    StreamMismatch, and nats-py's errors, NotFoundError if there is no log.
    """
    wanted = definitions()[0]
    info = await jetstream.stream_info(EVENTS)
    _compare(wanted, info.config)
    return damage(info)


def _compare(wanted: StreamConfig, found: StreamConfig) -> None:
    wrong = differences(wanted, found)
    if wrong:
        raise StreamMismatch(
            f"stream {wanted.name} is not configured as Nebula needs it: " + "; ".join(wrong)
        )


async def find_or_create(jetstream: JetStreamContext, wanted: StreamConfig) -> StreamConfig:
    """Return the stream's configuration as the server has it.

    A refusal is final only if it is repeated and the stream still does not exist: while several
    actors create it at once, the server counts its memory several times or says that the name is
    taken, and a cluster without a leader refuses everything for a moment.
    """
    name = wanted.name or ""
    refusal: APIError | None = None
    for number in range(_TRIES):
        try:
            return (await jetstream.stream_info(name)).config
        except NotFoundError:
            pass
        try:
            return (await jetstream.add_stream(wanted)).config
        except APIError as error:
            refusal = error
            if number >= _TRIES // 2 and wanted.storage == StorageType.MEMORY:
                wanted = replace(wanted, num_replicas=1)  # a server of the cluster may be gone
        await asyncio.sleep(0.25)
    if refusal is not None and refusal.err_code == needs.OVERLAP and wanted.subjects:
        subject = wanted.subjects[0]
        with contextlib.suppress(NatsError, TimeoutError):
            other = await jetstream.find_stream_name_by_subject(subject)
            raise StreamMismatch(needs.overlapping(name, subject, other))
    reason = refusal.description if refusal is not None else "no reason given"
    raise StreamMismatch(f"stream {name} can't be created: {reason}")


async def out_of_reach(jetstream: JetStreamContext, wanted: StreamConfig) -> bool:
    """Return whether it is an in-memory stream of a server that is gone.

    Then there is no responder for it, or "stream is offline"; the cluster still lists it.
    """
    if wanted.storage != StorageType.MEMORY or not wanted.subjects:
        return False
    try:
        listed = await jetstream.find_stream_name_by_subject(wanted.subjects[0])
        return listed == wanted.name
    except NotFoundError:
        return False


def differences(wanted: StreamConfig, found: StreamConfig) -> list[str]:
    """Return in words which settings of a stream differ from what Nebula needs."""
    wrong = [
        f"{field} is {_plain(getattr(found, field))}, needed {_plain(getattr(wanted, field))}"
        for field in CHECKED
        if _plain(getattr(found, field)) != _plain(getattr(wanted, field))
    ]
    wrong += [
        f"{field} is {getattr(found, field)}, needed {getattr(wanted, field)} or more"
        for field in ("num_replicas", "duplicate_window")
        if (getattr(found, field) or 0) < (getattr(wanted, field) or 0)
    ]
    return wrong


def _plain(value: object) -> object:
    """Return a value with one form of "no limit", which server and client write differently."""
    if value is None or value in (0, -1):
        return 0
    if isinstance(value, list):
        return tuple(value) or 0
    return getattr(value, "value", value)
