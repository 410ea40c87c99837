"""Heartbeats: what replicas, routers and nodes say of themselves, over and over. Pure."""

from msgspec import Struct


class ReplicaStatus(Struct, frozen=True):
    """A replica's heartbeat. `running` counts the requests that came to its engine over NATS.

    `waiting` and `cache` are the engine's own word: requests it holds back, the part (0 to 1) of
    its KV cache in use. `stalled`: seconds for which it has had requests, or has left
    some without an answer, and has shown no progress.
    `context`: tokens that a prompt and its answer may have together; 0 where it is not known.
    """

    replica: str
    pid: int
    running: int
    version: int
    waiting: int = 0
    cache: float = 0.0
    stalled: float = 0.0
    context: int = 0


class QueueStatus(Struct, frozen=True):
    """How many requests wait in a router for one model, and for how long (s) the first of them."""

    waiting: int
    oldest: float


class RouterStatus(Struct, frozen=True):
    """A router's heartbeat, with its lines by model; models for which nobody waits are left out.

    `addressed`: it listens on a subject of its own, where gateways may send it requests. One that
    ends says false with its last heartbeat, as those of before Nebula had such subjects do.
    `silent`: for how long (s) nodes are silent to it, those alone that it does not hear; -1: not
    heard since it began to listen. None: it tells nothing of nodes, as one that hears few of them.
    `reads`: the newest cluster version that it knows; 0 of those before there was one.
    """

    router: str
    queues: dict[str, QueueStatus] = {}
    addressed: bool = False
    silent: dict[str, float] | None = None
    reads: int = 0


class NodeStatus(Struct, frozen=True):
    """A node's heartbeat. `engines` counts the engine processes it keeps; memory in bytes.

    `gpus_free`: what of each GPU's memory could be had right now, in the order of their indices.
    """

    node: str
    pid: int
    engines: int
    memory_free: int
    gpus_free: tuple[int, ...] = ()


class StoreStatus(Struct, frozen=True):
    """The heartbeat of the NATS server that `nebula up` runs: whether its store takes events.

    `store`: its folder, `disk`: where the disk under it is mounted, with `size` and `free` bytes.
    `used`: bytes that JetStream keeps in files, of `limit` (0: no limit but the disk). `refused`:
    why nothing can be written, empty while it can; `warning`: what will end that before long.
    `since`: seconds for which it has been refused.
    """

    store: str
    disk: str = ""
    size: int = 0
    free: int = 0
    used: int = 0
    limit: int = 0
    refused: str = ""
    warning: str = ""
    since: float = 0.0
