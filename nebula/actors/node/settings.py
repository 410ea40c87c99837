"""What a node is told when it starts, by its command line."""

from pathlib import Path

from msgspec import Struct

from nebula.actors.node.reconciliation import Restarts
from nebula.actors.node.starting import LIMIT
from nebula.store import child_output


class NodeSettings(Struct, frozen=True):
    """See the module.

    `grace`: seconds an engine gets to end by itself; `drain`: those that its requests get before
    that, where it is no longer wanted. `start_limit`: seconds that an engine may be silent while it
    starts; 0: for ever. `engine_log_limit`: bytes of an engine's log file before it is turned over
    to a second one. `stall_limit`: seconds without progress after which a ready engine is ended and
    started anew; 0: never. `leave_engines`: a node that is stopped leaves its engines running for
    the next one to adopt. `weights`: the folder of the hub's cache [the hub library's own].
    `fetches`: whether files are fetched before an engine starts, or by it. `rehearses`: devices and
    files are imagined. `measures`: it tells how much memory models need.
    """

    node: str
    folder: Path
    engine_command: tuple[str, ...]
    labels: dict[str, str] = {}
    grace: float = 20.0
    drain: float = 60.0
    restarts: Restarts = Restarts()
    start_limit: float = LIMIT
    engine_log_limit: int = child_output.LIMIT
    stall_limit: float = 300.0
    leave_engines: bool = False
    version: str = ""
    weights: Path | None = None
    fetches: bool = True
    rehearses: bool = False
    measures: bool = True
