"""Shows what a command waits for: a changing line in a terminal, else a line now and then."""

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.status import Status

FIRST = 5.0
"""Seconds of waiting before the first line, if there is no terminal."""

LONGEST = 60.0
"""Longest time between such lines, in seconds: they become rarer."""


class Meanwhile:
    """Shows what is awaited. Use it as a context manager.

    `longest`: seconds between two lines at most, where there is no terminal.
    """

    def __init__(self, console: Console, text: str, longest: float = LONGEST) -> None:
        self._longest = longest
        self._console = console
        self._status: Status | None = None
        if console.is_terminal:
            self._status = console.status(escape(text))
        self._due, self._pause = FIRST, FIRST

    def __enter__(self) -> "Meanwhile":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, text: str, waited: float) -> None:
        """Show what is awaited, after this many seconds of waiting."""
        if self._status is not None:
            self._status.update(escape(f"{text} ({waited:.0f} s)"))
        elif waited >= self._due:
            self._console.print(f"{escape(text)} ({waited:.0f} s)", soft_wrap=True)
            self._pause = min(self._pause * 2, self._longest)
            self._due = waited + self._pause
