"""The admin key that `nebula up` issues, in a file that only its owner can read."""

import secrets
import time
from pathlib import Path

from nebula.actors.intents import submit
from nebula.actors.new_keys import new_key
from nebula.actors.projection import Projection
from nebula.events import key_text
from nebula.events.key_events import KeyIssued
from nebula.events.state import State
from nebula.events.version import LOCKS
from nebula.store import private

NAME = "admin.key"
"""The file in Nebula's folder."""


async def ensure(projection: Projection, folder: Path) -> Path | None:
    """Return the file with a valid admin key; issue one if there is none.

    None in a cluster whose version has no keys yet. Raise OSError, Refused, Unavailable.
    """
    path = folder / NAME
    if projection.state.cluster.version < LOCKS:
        return None
    if path.exists() and valid(projection.state, path.read_text("utf-8", "replace").strip()):
        return path
    identity = f"admin-{secrets.token_hex(4)}"
    new = new_key(identity)
    # The file comes first: a key that is in the log and nowhere else is lost.
    private.folder(folder)
    path.unlink(missing_ok=True)
    with private.opened(path, "x") as file:
        file.write(new.text + "\n")
    event = KeyIssued(new.hash, ("admin",), name="nebula up", prefix=new.prefix)
    await submit(projection, identity, event)
    return path


def valid(state: State, text: str) -> bool:
    """Return whether a key's text is that of a key which is valid now, with the scope `admin`."""
    key = state.keys.get(key_text.identity_in(text))
    if key is None or key.hash != key_text.hashed(text):
        return False
    return not key.invalid(time.time_ns()) and key.has("admin")
