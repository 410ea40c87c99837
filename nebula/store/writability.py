"""Whether a NATS server's store takes events, and when the server is to be started anew. Pure.

The rule: a store takes events while its disk takes a file and the server knows of no failed write.
nats-server (2.15) keeps the error of a failed write for good, whatever room there is afterwards;
only a restart makes it try again. What failed it tells at `/healthz`, JetStream's use at `/jsz`.
"""

from msgspec import Struct

from nebula.events.memory import GIB, fine
from nebula.events.status import StoreStatus
from nebula.store.disk import PROBE, Disk

NEARLY = 0.1
"""The part of a disk, or of a limit, with less than which left it counts as nearly full."""

WARN_BELOW = GIB
"""Bytes; the default of `--log-warning`: on a large disk a tenth is nothing to worry about."""

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds between restarts of a server that a restart has not helped; doubled each time."""

HEALED = 60.0
"""Seconds without a failed write after which the next one may be answered at once again."""


class Probed(Struct, frozen=True):
    """What was found out about a store.

    `refusal`: why its disk takes no file, in words that go on after the disk's name; empty where it
    does. `server`: what the server says is wrong with it; `silent`: it says nothing at all. `used`
    bytes that JetStream keeps in files, of `limit` (0: none).
    """

    store: str
    disk: Disk | None = None
    refusal: str = ""
    server: str = ""
    silent: bool = False
    used: int = 0
    limit: int = 0


def why_refused(probed: Probed) -> str:
    """Return why the store takes no events, in one clause that names the disk; "" where it does."""
    disk = probed.disk
    if probed.refusal:
        if disk is None:
            return f"the log's disk under {probed.store} {probed.refusal}"
        if disk.files and not disk.files_free and disk.free >= PROBE:
            return f"the log's disk {disk.mount} has no inodes left for another file"
        return f"the log's disk {disk.mount} {probed.refusal}{_room(disk)}"
    if probed.limit and probed.used + PROBE > probed.limit:
        return (
            f"the log's store {probed.store} has reached JetStream's limit, max_file_store: "
            f"{fine(probed.used)} of {fine(probed.limit)} are used"
        )
    if probed.silent:
        return f"the log's NATS server with the store {probed.store} does not answer"
    if probed.server:
        return f"the log's NATS server holds an error and is to be restarted: {probed.server}"
    return ""


def warning(probed: Probed, below: int) -> str:
    """Return what will soon keep events out; `below`: bytes of free room that count as little.

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
            f"{fine(probed.used)} of {fine(probed.limit)} are used"
        )
    return ""


def status(probed: Probed, below: int, since: float) -> StoreStatus:
    """Return the store's heartbeat; `since`: seconds for which it has refused events."""
    disk, refused = probed.disk, why_refused(probed)
    return StoreStatus(
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
    """The restarts so far: how many in a row, when the last was, since when all has been well."""

    count: int = 0
    at: float = float("-inf")
    well_since: float | None = None


def restart(restarts: Restarts, probed: Probed, now: float) -> tuple[Restarts, bool]:
    """Return what to remember, and whether the server is to be started anew now.

    It is where it holds an error although its disk takes files: a restart can't help before. Each
    one that does not help doubles the pause before the next; `now`: seconds of a monotonic clock.
    """
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
    return f": {fine(disk.free)} of {fine(disk.size)} are free"
