"""The options of gateways, routers and nodes for traces."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from nebula.cli.exits import FATAL, fail
from nebula.tracing.settings import TraceSettings, endpoint_of, found

if TYPE_CHECKING:
    from nebula.actors.actor import Actor
    from nebula.actors.gateway.actor import Gateway
    from nebula.actors.router.dispatch import Post
    from nebula.http.inference import InferenceRoutes
    from nebula.tracing.exporting import Tracing


class TraceOptions(Struct, frozen=True):
    """The options as they were given."""

    endpoint: str = ""
    ratio: float | None = None
    prompts: bool = False
    engines: bool = True

    def settings(self) -> TraceSettings | None:
        """Return the settings; None if no traces are to be made."""
        try:
            endpoint = self.endpoint or found(os.environ)
        except ValueError as error:
            fail(str(error), FATAL)
        return TraceSettings(endpoint, self.ratio, self.prompts) if endpoint else None

    @contextmanager
    def tracing(self, service: str) -> "Iterator[Tracing | None]":
        """Yield what makes the spans of a service; None if no traces are to be made."""
        settings = self.settings()
        if settings is None:
            yield None
            return
        from nebula.tracing.exporting import tracing  # the SDK, which others do without

        with tracing(settings, service) as made:
            yield made

    def arguments(self, *, prompts: bool = False, engines: bool = False) -> tuple[str, ...]:
        """Return them as arguments of another process.

        `prompts`, `engines`: it takes the option about these too.
        """
        return (
            *(("--otlp-traces-endpoint", self.endpoint) if self.endpoint else ()),
            *(() if self.ratio is None else ("--trace-ratio", str(self.ratio))),
            *(("--trace-prompts",) if prompts and self.prompts else ()),
            *(("--no-trace-engines",) if engines and not self.engines else ()),
        )


def _endpoint(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        return endpoint_of(value) if value else ""
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS = (
    click.option(
        "--otlp-traces-endpoint",
        envvar="NEBULA_OTLP_TRACES_ENDPOINT",
        default="",
        metavar="URL",
        callback=_endpoint,
        help="Collector of OTLP/HTTP that gets traces, such as http://localhost:4318 "
        "[OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT, else none]. "
        "[env: NEBULA_OTLP_TRACES_ENDPOINT]",
    ),
    click.option(
        "--trace-ratio",
        envvar="NEBULA_TRACE_RATIO",
        default=None,
        type=click.FloatRange(0.0, 1.0),
        help="Part of the traces that is recorded, where the client does not decide it "
        "[OTEL_TRACES_SAMPLER, else all]. [env: NEBULA_TRACE_RATIO]",
    ),
)
_PROMPTS = click.option(
    "--trace-prompts",
    envvar="NEBULA_TRACE_PROMPTS",
    is_flag=True,
    help="Record in traces what clients and models say, 64 KiB of each at most. "
    "[env: NEBULA_TRACE_PROMPTS]",
)


_ENGINES = click.option(
    "--trace-engines/--no-trace-engines",
    envvar="NEBULA_TRACE_ENGINES",
    default=True,
    show_default=True,
    help="Have engines send spans to the same collector. [env: NEBULA_TRACE_ENGINES]",
)


def tracing_options(
    *, prompts: bool = False, engines: bool = False
) -> Callable[[Callable[..., None]], Any]:
    """Add the options to a command, which gets them as `traces`.

    `prompts`, `engines`: the option about these too.
    """

    def decorated(wrapped: Callable[..., None]) -> Callable[..., None]:
        @wraps(wrapped)
        def gathered(**given: Any) -> None:
            endpoint, ratio = given.pop("otlp_traces_endpoint"), given.pop("trace_ratio")
            said, run = given.pop("trace_prompts", False), given.pop("trace_engines", True)
            wrapped(**given, traces=TraceOptions(endpoint, ratio, said, run))

        more = ((_PROMPTS,) if prompts else ()) + ((_ENGINES,) if engines else ())
        for option in reversed((*_OPTIONS, *more)):
            gathered = option(gathered)
        return gathered

    return decorated


def traced(
    tracing: "Tracing", *, prompts: bool
) -> "tuple[Callable[..., Gateway], Callable[..., InferenceRoutes]]":
    """Return what makes a gateway, and its paths that engines answer, with traces."""
    from nebula.actors.gateway.flight_traces import TracedGateway
    from nebula.http.traced import TracedRoutes

    tracer = tracing.requests
    return partial(TracedGateway, tracer), partial(TracedRoutes, tracer, prompts)


def router_posting(tracing: "Tracing | None") -> "Callable[[Post, Actor], Post]":
    """Return what a router's messages about requests pass through, to be traced."""
    if tracing is None:
        return lambda post, _: post
    from nebula.actors.router.traced import traced_posting

    return traced_posting(tracing.requests)


def trace_events(actor: "Actor", tracing: "Tracing | None") -> None:
    """Have what an actor writes into the log become spans, if any are made."""
    if tracing is not None:
        from nebula.actors.event_traces import EventTraces

        EventTraces(tracing, actor)
