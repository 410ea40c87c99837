"""Has the commands that a message advises run here, and reach the cluster that it is about.

A command that was given `--nats` speaks of a cluster that the same command without it would miss.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click

from nebula.events.advised import reaching
from nebula.events.showing import shown_text
from nebula.store.reaching import shown

DEFAULT_NATS = "nats://127.0.0.1:4222"
_NOTED = "nebula.nats"


def note(nats: str) -> None:
    """Have messages from now on speak of the cluster at `nats`, for a command that starts it."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[_NOTED] = nats


def elsewhere() -> str:
    """Return the address, without secrets, that advised commands need; "" where they need none."""
    context = click.get_current_context(silent=True)
    if context is None:
        return ""
    nats = context.meta.get(_NOTED) or context.params.get("nats")
    found_anyhow = os.environ.get("NEBULA_NATS_URL") or DEFAULT_NATS
    return shown(nats) if nats and nats != found_anyhow else ""


def program() -> str:
    """Return how the `nebula` command is called here: by its path, where it is not on the PATH."""
    called = sys.argv[0]
    by_path = Path(called).name == "nebula" and os.sep in called
    return called if by_path and shutil.which("nebula") is None else "nebula"


def shown_message(text: str, escape: Callable[[str], str] = str) -> str:
    """Return a text for people: without secrets, its commands as they reach this cluster.

    `escape`: how an address is written in a text of that kind.
    """
    text = shown_text(text)
    if "`nebula " not in text:
        return text
    nats = elsewhere()
    text = reaching(text, escape(nats)) if nats else text
    called = program()
    return text if called == "nebula" else text.replace("`nebula ", f"`{escape(called)} ")
