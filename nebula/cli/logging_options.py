"""The options of every process of Nebula about what it logs."""

from collections.abc import Callable
from functools import wraps
from typing import cast

import click
from msgspec import Struct

from nebula.cli import log_lines
from nebula.cli.log_lines import LogFormat


class LogOptions(Struct, frozen=True):
    """What a process logs, and in which form."""

    verbose: bool = False
    form: LogFormat = "text"

    def set_up(self, worker: int = 0) -> None:
        """Log so from now on. `worker`: the number of the worker that this process is, if any."""
        log_lines.set_up(self.verbose, self.form, worker)

    def arguments(self) -> tuple[str, ...]:
        """Return the arguments by which a child's lines have the same form."""
        return () if self.form == "text" else ("--log-format", self.form)


def logging_options(wrapped: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as `logs`."""

    @click.option(
        "--log-format",
        envvar="NEBULA_LOG_FORMAT",
        default="text",
        show_default=True,
        type=click.Choice(["text", "json"]),
        help="Form of log lines: text, or a JSON object for each. [env: NEBULA_LOG_FORMAT]",
    )
    @click.option("--verbose", is_flag=True, help="Log more.")
    @wraps(wrapped)
    def gathered(*, verbose: bool, log_format: str, **given: object) -> None:
        wrapped(**given, logs=LogOptions(verbose, cast("LogFormat", log_format)))

    return gathered
