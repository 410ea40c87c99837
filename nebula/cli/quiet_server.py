"""uvicorn without its signal handlers, which would end the process before the actor."""

import contextlib
from collections.abc import Generator

import uvicorn


class QuietServer(uvicorn.Server):
    """A server that ends when it is told to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield

    def stop(self) -> None:
        """Stop taking requests, finish the present ones, and return."""
        self.should_exit = True
