"""What every process of Nebula does at its edges: logging, signals, exit codes, the event loop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import click
import uvloop

from nebula.actors.founding import OtherCluster
from nebula.actors.node.namesake import NameTaken
from nebula.actors.projection import NewerCluster
from nebula.store.connection import NotLetIn, Unavailable
from nebula.store.log import TooLarge
from nebula.store.server import ServerFailed
from nebula.store.streams import StreamMismatch
from nebula.store.tail import LogReplaced

T = TypeVar("T")

FATAL = 78
"""Exit code (EX_CONFIG) for what a restart can't mend: a supervisor must not try again."""


def set_up_logging(verbose: bool) -> None:
    """Log to stderr, one line a message."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("httpx", "httpcore", "nats", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop; known troubles become one line on stderr and an exit code."""
    try:
        return uvloop.run(main)
    except (StreamMismatch, LogReplaced, NameTaken, TooLarge) as error:
        fail(str(error), FATAL)
    except (NewerCluster, OtherCluster, NotLetIn) as error:
        fail(str(error), FATAL)
    except (Unavailable, ServerFailed) as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def fail(message: str, code: int = 1) -> NoReturn:
    """End with a message for people."""
    click.secho(f"nebula: {message}", fg="red", err=True)
    raise SystemExit(code)


def on_stop(action: Callable[[], None]) -> None:
    """Call `action` for SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, action)
