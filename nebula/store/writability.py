"""Whether a NATS server's store takes events, and when the server is to be restarted. Pure.

The rule: a store takes events while its disk takes a file and the server has had no failed write.
nats-server (2.15) keeps the error of a failed write for good, whatever room there is afterwards;
only a restart makes it try again. It reports failures at `/healthz` and JetStream's use at `/jsz`.
"""

from msgspec import Struct

from nebula.events import memory
from nebula.events.heartbeats import StoreHeartbeat
from nebula.events.memory import GIB
from nebula.store.disk import PROBE, Disk

NEARLY = 0.1
"""Free part below which a disk, or a limit, counts as nearly full."""

WARN_BELOW = GIB
"""Default of `--log-warning` in bytes: on a large disk a tenth is more than enough."""

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""First pause between restarts that did not help, in seconds; doubled each time."""

HEALED = 60.0
"""Seconds without a failed write after which the next one leads to a restart at once again."""


class Probed(Struct, frozen=True):
    """The observed state of a store.

    `refusal`: why its disk takes no file, as the rest of a sentence after the disk's name; empty if
    it does. `gone`: the log was deleted from it. `server`: the server's own error; `silent`: the
    server does not answer. `used`: bytes that JetStream keeps in files, of `limit` (0: none).
    """

    store: str
    disk: Disk | None = None
    refusal: str = ""
    gone: bool = False
    server: str = ""
    silent: bool = False
    used: int = 0
    limit: int = 0


def why_refused(probed: Probed) -> str:
    """Return why the store takes no events, in one clause that names the disk; "" if it does."""
    disk = probed.disk
    if probed.gone:
        return (
            f"the log was deleted from disk under {probed.store}, with all events that were "
            "acknowledged: save them with `nebula export FILE` while the server that runs still "
            "holds them, and restart nothing before"
        )
    if probed.refusal:
        if disk is None:
            return f"the log's disk under {probed.store} {probed.refusal}"
        if disk.files and not disk.files_free and disk.free >= PROBE:
            return f"the log's disk {disk.mount} has no inodes left for another file"
        return f"the log's disk {disk.mount} {probed.refusal}{_room(disk)}"
    if probed.limit and probed.used + PROBE > probed.limit:
        return (
            f"the log's store {probed.store} has reached JetStream's limit, max_file_store: "
            f"{memory.text(probed.used)} of {memory.text(probed.limit)} are used"
        )
    if probed.silent:
        return f"the log's NATS server with the store {probed.store} does not answer"
    if probed.server:
        return f"the log's NATS server has an error and will be restarted: {probed.server}"
    return ""


def warning(probed: Probed, below: int) -> str:
    """Return what will soon prevent events; `below`: bytes of free room that count as little.

    On a small disk a tenth of it counts, so that it does not begin with a warning.
    """
    disk = probed.disk
    if disk is not None and disk.size and disk.free < min(below, int(disk.size * NEARLY)):
        return f"the log's disk {disk.mount} is nearly full{_room(disk)}"
    if disk is not None and disk.files and disk.files_free < min(1000, int(disk.files * NEARLY)):
        left, files = disk.files_free, disk.files
        return f"the log's disk {disk.mount} has room for few files more: {left} of {files} inodes"
    if probed.limit and probed.limit - probed.used < min(below, int(probed.limit * NEARLY)):
        return (
            f"the log's store {probed.store} nears JetStream's limit, max_file_store: "
            f"{memory.text(probed.used)} of {memory.text(probed.limit)} are used"
        )
    return ""


def status(probed: Probed, below: int, since: float) -> StoreHeartbeat:
    """Return the store's heartbeat; `since`: seconds for which it has refused events."""
    disk, refused = probed.disk, why_refused(probed)
    return StoreHeartbeat(
        probed.store,
        disk.mount if disk is not None else "",
        disk.size if disk is not None else 0,
        disk.free if disk is not None else 0,
        probed.used,
        probed.limit,
        refused,
        "" if refused else warning(probed, below),
        since if refused else 0.0,
    )


class Restarts(Struct, frozen=True):
    """The restarts so far: how many in a row, when the last one was, since when all is well."""

    count: int = 0
    at: float = float("-inf")
    well_since: float | None = None


def restart(restarts: Restarts, probed: Probed, now: float) -> tuple[Restarts, bool]:
    """Return the new record of restarts, and whether to restart the server now.

    It is restarted if it has an error although its disk takes files, since a restart can't help
    before. It is never restarted if the log was deleted, since what the server still has would be
    lost. Each restart that does not help doubles the pause before the next; `now`: seconds of a
    monotonic clock.
    """
    if probed.gone:
        return Restarts(restarts.count, restarts.at), False
    if not probed.server:
        since = restarts.well_since if restarts.well_since is not None else now
        if probed.refusal or probed.silent:
            return Restarts(restarts.count, restarts.at), False
        if now - since >= HEALED:
            return Restarts(0, restarts.at, since), False
        return Restarts(restarts.count, restarts.at, since), False
    pause = min(FIRST_PAUSE * 2 ** (restarts.count - 1), LONGEST_PAUSE) if restarts.count else 0.0
    if probed.refusal or now - restarts.at < pause:
        return Restarts(restarts.count, restarts.at), False
    return Restarts(restarts.count + 1, now), True


def _room(disk: Disk) -> str:
    return f": {memory.text(disk.free)} of {memory.text(disk.size)} are free"
