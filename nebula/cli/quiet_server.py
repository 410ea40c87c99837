"""uvicorn without its signal handlers, which would end the process before the actor."""

import contextlib
from collections.abc import Generator
from typing import Any, cast

import uvicorn
from litestar.types import ASGIApp


class QuietServer(uvicorn.Server):
    """A server that ends when it is told to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield

    def stop(self) -> None:
        """Stop taking requests, finish the present ones, and return."""
        self.should_exit = True


def server_beside(app: ASGIApp, **options: Any) -> QuietServer:
    """Return a server for an app that is not the gateway; `options`: further ones of uvicorn."""
    config = uvicorn.Config(
        cast("Any", app),
        interface="asgi3",
        loop="none",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        **options,
    )
    return QuietServer(config)
