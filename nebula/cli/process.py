"""What every process of Nebula sets up: logging, signals, exit codes, the event loop."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
import uvloop
from nats.errors import Error as NatsError

from nebula.actors.actor import Actor
from nebula.actors.founding import OtherCluster
from nebula.actors.node.namesake import NameTaken
from nebula.actors.projection import NewerCluster
from nebula.cli.elsewhere import shown_message
from nebula.cli.exits import FATAL, INTERRUPTED, fail
from nebula.cli.log_lines import as_json
from nebula.events.subjects import EVENTS
from nebula.store.connection import NotLetIn, Unavailable
from nebula.store.forbidden import Forbidden
from nebula.store.log import TooLarge
from nebula.store.needs import Unfit
from nebula.store.refusals import NOTHING
from nebula.store.server import ServerFailed
from nebula.store.streams import StreamMismatch
from nebula.store.tail import LogReplaced

__all__ = [
    "FATAL",
    "INTERRUPTED",
    "fail",
    "on_stop",
    "run",
    "say",
    "until_stopped",
]

T = TypeVar("T")


class _Lines(logging.Handler):
    """Writes Nebula's own log messages for the user of a command: one line each, no traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        print(shown_message(f"nebula: {record.getMessage()}"), file=sys.stderr)


def _set_up_lines() -> None:
    """Print Nebula's own warnings as lines, and nothing from the libraries that it uses.

    Libraries log tracebacks of what Nebula handles, such as a refused connection.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("nebula").addHandler(_Lines(logging.WARNING))
    # A missing snapshot costs a command some milliseconds; users need not know.
    logging.getLogger("nebula.actors.projection").setLevel(logging.ERROR)


_YOUNG = 10_000
"""New objects after which Python looks for unreachable cycles among them. A request makes hundreds
and leaves no cycle behind; Python's own number, 700, costs a gateway a twentieth of its time."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop; an error from outside becomes one line and an exit code."""
    if not logging.getLogger().handlers:
        _set_up_lines()
    gc.set_threshold(_YOUNG)
    try:
        return uvloop.run(main)
    except (StreamMismatch, LogReplaced, NameTaken, TooLarge) as error:
        fail(str(error), FATAL)
    except Forbidden as error:
        fail(_forbidden(error), FATAL)
    except (NewerCluster, OtherCluster, NotLetIn, Unfit) as error:
        fail(str(error), FATAL)
    except (Unavailable, ServerFailed) as error:
        fail(str(error))
    except BrokenPipeError:
        raise
    except NatsError as error:
        fail(f"NATS refused a request: {_words(error)}; see `nebula status`")
    except OSError as error:
        fail(_words(error))
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)


def _forbidden(error: Forbidden) -> str:
    """Return what a user may not do, and which role may."""
    from nebula.schema.roles import role_to_publish  # not for every command

    if error.subscribing:
        return f"{error}: a file with credentials must have the `inbox_prefix` of its user's role"
    role = role_to_publish(error.subject)
    recorded = f"; {NOTHING}" if error.subject.startswith(EVENTS.rstrip(">")) else ""
    return f"{error}, which the role {role} may{recorded}"


def _words(error: Exception) -> str:
    """Return an error's message, or the name of its class if it has none."""
    return str(error).removeprefix("nats: ") or type(error).__name__


def say(text: str, *, warning: bool = False) -> None:
    """Print a message to stderr, without secrets and without control characters."""
    if as_json():
        logging.getLogger("nebula").log(logging.WARNING if warning else logging.INFO, "%s", text)
        return
    click.secho(shown_message(text), fg="yellow" if warning else None, err=True)


def on_stop(action: Callable[[], None]) -> None:
    """Call `action` for SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, action)


async def until_stopped(actor: Actor) -> None:
    """Run an actor until a signal or its own end; a second signal hurries it."""
    on_stop(lambda: (actor.hurry if actor.stopping else actor.stop)())
    try:
        await actor.run()
    finally:
        await actor.connection.close()
