"""The settings of a node, from its command line."""

from pathlib import Path

from msgspec import Struct

from nebula.actors.node.policy.rules import NodePolicy
from nebula.actors.node.reconciliation import Restarts
from nebula.actors.node.starting import LIMIT
from nebula.store import child_output


class NodeSettings(Struct, frozen=True):
    """The settings of a node.

    `grace`: seconds that an engine gets to end by itself; `drain`: seconds that its requests get
    before that if it is no longer wanted. `start_limit`: seconds without output after which a start
    is ended; 0: never. `engine_log_limit`: bytes of an engine's log file before it is rotated.
    `stall_limit`: seconds without progress after which a ready engine is restarted; 0: never.
    `leave_engines`: a stopped node leaves its engines running for the next one to adopt. `weights`:
    the folder of the hub's cache [the hub library's own]. `fetches`: whether the node fetches files
    before an engine starts. `simulated`: devices and files are simulated. `measures`: whether it
    measures how much memory models need. `engine_nats`: the NATS URL that its engines get [its
    own]. `policy`: what load requests may use here. `engine_sockets`: engines listen on Unix
    sockets instead of TCP ports. `secrets_folder`, `secret_command`: where it finds the secrets
    that load requests name. `traces`: the URL of the collector that gets the spans of its engines;
    "" for none. `rehearsal`: whether its engines may be killed on request. `kv_events`: whether
    its engines tell which beginnings of prompts they evict.
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
    simulated: bool = False
    measures: bool = True
    engine_nats: str = ""
    policy: NodePolicy = NodePolicy()
    secrets_folder: Path = Path("secrets")
    secret_command: str = ""
    engine_sockets: bool = True
    traces: str = ""
    rehearsal: bool = False
    kv_events: bool = False

    def log_file(self, replica: str) -> Path:
        """Return the file that a replica's engines write to."""
        return self.folder / "logs" / f"{replica}.log"
