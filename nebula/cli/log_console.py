"""The console on stderr of a process that logs there too."""

from typing import IO, cast

from rich.console import Console

from nebula.cli import log_lines, tables
from nebula.cli.log_lines import log


class _LogStream:
    """A stream for a console: each line that is written to it becomes a line of the log."""

    def __init__(self) -> None:
        self._begun = ""

    def write(self, text: str) -> int:
        """Log the lines that are complete."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                log.info("%s", line.rstrip())
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is logged when it ends."""


def console() -> Console:
    """Return the console on stderr of a process that logs there too; as JSON it is the log."""
    if not log_lines.as_json():
        return tables.console(errors=True)
    stream = cast("IO[str]", _LogStream())
    return tables.Shown(file=stream, width=tables.LONGEST_LINE, highlight=False, color_system=None)
