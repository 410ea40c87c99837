"""Makes the commands in messages runnable as they stand, on this machine, for this cluster or log.

A command that was given `--nats` or `--log` advises commands that need the same option.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click

from nebula.events.advised import looking_back, reaching
from nebula.events.showing import shown_text
from nebula.store.reaching import shown

DEFAULT_NATS = "nats://127.0.0.1:4222"
_NOTED = "nebula.nats"


def note(nats: str) -> None:
    """Set the NATS address that advised commands need from now on."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[_NOTED] = nats


def elsewhere() -> str:
    """Return the address, without secrets, that advised commands need; "" if they need none."""
    context = click.get_current_context(silent=True)
    if context is None:
        return ""
    nats = context.meta.get(_NOTED) or context.params.get("nats")
    found_anyhow = os.environ.get("NEBULA_NATS_URL") or DEFAULT_NATS
    return shown(nats) if nats and nats != found_anyhow else ""


def log_file() -> str:
    """Return the file that the command was given with `--log`; "" if it was given none."""
    context = click.get_current_context(silent=True)
    for each in context.command.params if context is not None else ():
        if "--log" in each.opts and each.name and context is not None:
            return str(context.params.get(each.name) or "")
    return ""


def program() -> str:
    """Return how to call `nebula` here: by its path if it is not on the PATH."""
    called = sys.argv[0]
    by_path = Path(called).name == "nebula" and os.sep in called
    return called if by_path and shutil.which("nebula") is None else "nebula"


def shown_message(text: str, escape: Callable[[str], str] = str) -> str:
    """Return a text for people: without secrets, its commands as they reach this cluster or log.

    `escape` prepares an address for that kind of text.
    """
    text = shown_text(text)
    if "`nebula " not in text:
        return text
    if file := log_file():
        text = looking_back(text, escape(file))
    elif nats := elsewhere():
        text = reaching(text, escape(nats))
    called = program()
    return text if called == "nebula" else text.replace("`nebula ", f"`{escape(called)} ")
