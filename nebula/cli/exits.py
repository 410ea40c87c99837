"""How a command ends: its exit codes, and one line instead of a traceback if it ends early."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import click

DONE = 0
NOT_DONE = 1
USAGE = 2
FATAL = 78
"""EX_CONFIG of sysexits.h: a restart would not help, so a supervisor must not try again."""

INTERRUPTED = 130
"""128 plus the number of SIGINT, as shells report it."""

UNREAD = 141
"""128 plus the number of SIGPIPE: the reader of the output has gone, so nothing more is written."""

GIVEN = "nebula.given"
"""Where a command's context keeps what follows `nebula` on the command line."""

EPILOG = (
    "Exit codes: 0 success; 1 the request was rejected or failed, or NATS can't be reached; 2 "
    "the arguments are wrong; 78 trying again would not help (NATS refuses, the "
    "configuration is wrong); 130 ended by Ctrl-C, which takes nothing back; 141 the reader of "
    "the output has gone."
)


class Failed(SystemExit):
    """A command ends early; `message` says why."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message


def fail(message: str, code: int = NOT_DONE) -> NoReturn:
    """End with a message for people, without secrets and without control characters."""
    # Not for `nebula --help`, which takes no time.
    from nebula.cli.elsewhere import shown_message
    from nebula.cli.log_lines import as_json, log

    if as_json():
        log.critical("%s", message)
    else:
        click.secho(f"nebula: {shown_message(message)}", fg="red", err=True)
    raise Failed(message, code)


@contextmanager
def ends_well() -> Iterator[None]:
    """End a command with a line and an exit code if it is interrupted or its reader has gone."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _read_no_more()
        raise SystemExit(UNREAD) from None


def refuse_undecoded(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """End a command that was given bytes which are not valid UTF-8, before it uses them.

    Python keeps such bytes as lone surrogates, which can't be written to events or terminals.

    `arguments`: what follows `nebula`. `variables`: the environment; only Nebula's own are looked
    at.
    """
    for number, argument in enumerate(arguments, 1):
        if not _decoded(argument):
            fail(f"argument {number} is not valid UTF-8", USAGE)
    for name, value in variables.items():
        if name.startswith("NEBULA_") and not _decoded(value):
            fail(f"the variable {name!a} is not valid UTF-8", USAGE)


def _decoded(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_no_more() -> None:
    """Discard what is still to be written: Python would report an error when it flushes it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
