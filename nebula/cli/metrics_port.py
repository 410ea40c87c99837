"""`--metrics-port` of routers and nodes: a port at which their metrics can be scraped."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import wraps
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from nebula.actors.figures import Figures
from nebula.cli.options import PORT
from nebula.cli.process import FATAL, fail
from nebula.http.server.listening import CantListen, HostPort, NotAHost, reached_at

if TYPE_CHECKING:
    from nebula.http.metrics_app import Engines

AT_ONCE = 32
"""Requests that are answered at a time."""


class MetricsPort(Struct, frozen=True):
    """Where metrics can be scraped, if there is a `port`, and whether without a key."""

    host: str
    port: int | None
    is_open: bool

    @contextlib.asynccontextmanager
    async def serving(
        self, figures: Figures, engines: "Engines | None" = None
    ) -> AsyncIterator[None]:
        """Serve an actor's metrics meanwhile. End the program if that is impossible."""
        if not self.port:
            yield
            return
        from nebula.cli.quiet_server import server_beside  # a web server, which most do without
        from nebula.http.metrics_app import metrics_app

        place = HostPort(self.host, self.port)
        try:
            listening = place.listen()
        except NotAHost as error:
            fail(f"--metrics-host: {error}", FATAL)
        except CantListen as error:
            fail(str(error.strerror).replace("--port", "--metrics-port"), FATAL)
        app = metrics_app(figures, engines, self.host, is_open=self.is_open)
        server = server_beside(app, limit_concurrency=AT_ONCE)
        figures.address = reached_at(self.host, self.port)
        serving = asyncio.create_task(server.serve(sockets=listening), name="serve metrics")
        try:
            yield
        finally:
            server.stop()
            await asyncio.gather(serving, return_exceptions=True)


def metrics_options(wrapped: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as `metrics`."""

    @click.option(
        "--metrics-port",
        default=None,
        type=PORT,
        help="Port at which its metrics can be scraped, too [none: a gateway hands them on].",
    )
    @click.option(
        "--metrics-host",
        default="127.0.0.1",
        show_default=True,
        help="Address on which that port is.",
    )
    @click.option("--metrics-open", is_flag=True, help="Tell metrics there without an API key.")
    @wraps(wrapped)
    def gathered(
        *, metrics_port: int | None, metrics_host: str, metrics_open: bool, **given: object
    ) -> None:
        wrapped(**given, metrics=MetricsPort(metrics_host, metrics_port, metrics_open))

    return gathered
