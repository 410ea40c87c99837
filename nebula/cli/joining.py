"""How `nebula up --nats` joins a cluster: whether its NATS answers, and whose cluster it is."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nebula.actors.founding import told
from nebula.cli.cluster import CONNECT_PATIENCE, joined
from nebula.cli.process import FATAL, fail
from nebula.store import private
from nebula.store.connection import Connection, NotLetIn, Unavailable
from nebula.store.reaching import shown

LOOK = 3.0
"""Seconds to wait for the user's own NATS before `nebula up` prints what is wrong."""

MEMORY = "cluster"
"""File in the folder of `nebula up --nats` with the cluster that it joined."""


async def answers(nats: str, console: Console) -> bool:
    """Return whether a NATS answers; if not, print why and that it is tried again.

    Raise NotLetIn if waiting would not help, as for a wrong password.
    """
    connection = Connection(nats, "nebula up")
    try:
        await connection.open(patience=LOOK)
    except NotLetIn:
        raise
    except Unavailable as error:
        console.print(f"{escape(str(error))}; tried again until it answers", soft_wrap=True)
        return False
    finally:
        await connection.close()
    return True


async def same_cluster(nats: str, cluster: str, home: Path) -> str:
    """Return the cluster that a folder belongs to; "" if that is not known.

    `cluster`: the cluster that its user asked to join, "" for none. `home`: the folder.

    End the program if that NATS has another cluster which the user did not ask to join.
    """
    memory = home / MEMORY
    if cluster:
        return cluster
    if memory.exists():
        return memory.read_text().strip()
    if (home / "logs").exists():
        return ""  # it is older than cluster ids
    try:
        async with joined(nats, patience=CONNECT_PATIENCE) as projection:
            there = projection.state.cluster
    except Unavailable:
        return ""
    if there.id:
        fail(
            f"there is a cluster at {shown(nats)} already, {told(there)}. To join it with a "
            f"gateway, router and node of this folder: --cluster {there.name or there.id}. For a "
            "cluster of its own: another NATS, or none, and `nebula up` starts one",
            FATAL,
        )
    return ""


async def remember(nats: str, folder: Path) -> None:
    """Write to a folder which cluster it belongs to, so that it never joins another by mistake."""
    async with joined(nats, patience=CONNECT_PATIENCE) as projection:
        with private.opened(private.folder(folder) / MEMORY, "w") as memory:
            memory.write(projection.state.cluster.id + "\n")
