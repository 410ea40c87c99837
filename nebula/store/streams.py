"""The JetStream streams that Nebula lives on: their definitions, and the check against them.

Whoever comes first creates a stream. A log that is configured otherwise is reported and never
silently used: one that may lose events is worse than none. The others are made again.

The log is kept on `replicas` servers of a cluster, and so are the few bytes of the claims: without
them no resumable request is taken. The other two streams are there to be looked back at and lie in
the memory of one: three copies of every token would cost the servers three times the work (ADR 27).
While that server is gone they are, and nobody waits for them.
"""

import asyncio
import logging
from dataclasses import replace

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServerError

from nebula.events import subjects

log = logging.getLogger(__name__)

EVENTS = "NEBULA_EVENTS"
STATUS = "NEBULA_STATUS"
INFERENCE = "NEBULA_INFERENCE"
CLAIMS = "NEBULA_CLAIMS"

MIB = 1024 * 1024
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
    """A stream exists but is not what Nebula needs; the text names every difference."""


def definitions(replicas: int = 1) -> tuple[StreamConfig, ...]:
    """Give the streams for a server (`replicas` 1) or a cluster (3) of NATS servers."""
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
            duplicate_window=120,
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
) -> StreamConfig:
    """Give a stream that forgets: after `max_age` seconds, and what is more than `max_bytes`."""
    return StreamConfig(
        name=name,
        description=description,
        subjects=[subject],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.MEMORY,
        discard=DiscardPolicy.OLD,
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

    Raises StreamMismatch, and lets nats-py's errors through when JetStream does not answer.
    """
    for wanted in definitions(replicas):
        try:
            found = await find_or_create(jetstream, wanted)
        except (TimeoutError, ServerError):
            if not await out_of_reach(jetstream, wanted):
                raise
            log.warning("stream %s does not answer: its NATS server may be gone", wanted.name)
            continue
        if (found.num_replicas or 1) < (wanted.num_replicas or 1):
            found = await _copied(jetstream, wanted, found)
        if wanted.storage == StorageType.MEMORY and differences(wanted, found):
            wrong = "; ".join(differences(wanted, found))
            log.warning("stream %s is made again, as it must be: %s", wanted.name, wrong)
            await jetstream.delete_stream(wanted.name or "")
            found = await find_or_create(jetstream, wanted)
        else:
            _compare(wanted, found)
        if wanted.allow_atomic and not found.allow_atomic:
            await _allow_atomic(jetstream, found)


async def _copied(
    jetstream: JetStreamContext, wanted: StreamConfig, found: StreamConfig
) -> StreamConfig:
    """Have a stream that was made with fewer copies kept as often as is wanted now.

    The claims get along with fewer until all servers are there: upkeep tries again.
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
    """Create the streams in memory anew, where they went with their NATS server.

    Lets nats-py's errors through. The log is never made anew: one that is gone is another matter.
    """
    for wanted in definitions(replicas):
        if wanted.storage == StorageType.MEMORY:
            await find_or_create(jetstream, wanted)


async def _allow_atomic(jetstream: JetStreamContext, found: StreamConfig) -> None:
    """Let a log that was made before batches were used take them; older servers never do."""
    found.allow_atomic = True
    try:
        await jetstream.update_stream(found)
    except APIError as error:
        log.info("stream %s takes no batches: %s", found.name, error.description)


async def check_log(jetstream: JetStreamContext) -> None:
    """Check the log's stream, however many copies it has, and create nothing.

    Raises StreamMismatch, and lets nats-py's errors through, NotFoundError where there is none.
    """
    wanted = definitions()[0]
    _compare(wanted, (await jetstream.stream_info(EVENTS)).config)


def _compare(wanted: StreamConfig, found: StreamConfig) -> None:
    wrong = differences(wanted, found)
    if wrong:
        raise StreamMismatch(
            f"stream {wanted.name} is not configured as Nebula needs it: " + "; ".join(wrong)
        )


async def find_or_create(jetstream: JetStreamContext, wanted: StreamConfig) -> StreamConfig:
    """Give the stream's configuration as the server has it.

    A refusal is final only when it is repeated and the stream still is not there: while several
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
    reason = refusal.description if refusal is not None else "no reason given"
    raise StreamMismatch(f"stream {name} can't be created: {reason}")


async def out_of_reach(jetstream: JetStreamContext, wanted: StreamConfig) -> bool:
    """Say whether it is a stream in the memory of a server that is gone.

    Nobody answers for such a stream then, or "stream is offline"; the cluster still lists it.
    """
    if wanted.storage != StorageType.MEMORY or not wanted.subjects:
        return False
    try:
        listed = await jetstream.find_stream_name_by_subject(wanted.subjects[0])
        return listed == wanted.name
    except NotFoundError:
        return False


def differences(wanted: StreamConfig, found: StreamConfig) -> list[str]:
    """Return in words what a stream has otherwise than Nebula needs it."""
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
    """Level out what the server and the client write differently for "no limit"."""
    if value is None or value in (0, -1):
        return 0
    if isinstance(value, list):
        return tuple(value) or 0
    return getattr(value, "value", value)
