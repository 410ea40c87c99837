"""The console over a log alone: its pages, and the paths of the admin API that they ask for.

The commands in its answers look at that log, and those that need a cluster are left out.
"""

from functools import partial

from litestar import Litestar, Response, get
from litestar.di import Provide
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.types import ASGIApp
from msgspec.structs import replace

from nebula.events.advised import looking_back
from nebula.events.showing import with_texts
from nebula.history.attention import Concern
from nebula.http import exceptions, history, paths, resilience
from nebula.http.console import aliases, batches, data, keys, pages, usage, why
from nebula.http.console.data import Attention
from nebula.http.console.why import Explanation
from nebula.http.guard import Guard
from nebula.http.origins import Doors
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog


@get("/", include_in_schema=False)
async def lead_to_console() -> Response[str]:
    """Lead a browser to the console."""
    return Response("", status_code=303, headers={"location": "/console"})


def create_log_app(past: ShownLog) -> ASGIApp:
    """Build the app that shows a log to browsers of this machine."""
    scans = Scans(share=1.0)
    respond_to_path = partial(paths.respond_to_path, "")

    def with_commands(response: Response[object]) -> Response[object]:
        response.content = _with_commands(response.content, past.file)
        return response

    app = Litestar(
        route_handlers=[
            lead_to_console,
            pages.show_console,
            pages.show_file,
            history.show_state,
            history.list_events,
            resilience.show_resilience,
            data.show_attention,
            data.outline_models,
            data.outline_model,
            data.outline_nodes,
            data.outline_node,
            data.show_differences,
            aliases.outline_aliases,
            aliases.outline_alias,
            batches.outline_batches,
            batches.outline_batch,
            keys.outline_keys,
            keys.outline_key,
            usage.show_usage,
            why.explain,
            usage.write_usage,
            usage.outline_limits,
        ],
        dependencies={
            "past": Provide(lambda: past, sync_to_thread=False),
            "scans": Provide(lambda: scans, sync_to_thread=False),
            "root": Provide(lambda: "", sync_to_thread=False),
        },
        after_request=with_commands,
        exception_handlers={
            NotFoundException: respond_to_path,
            MethodNotAllowedException: respond_to_path,
            Exception: exceptions.respond,
        },
        openapi_config=None,
        logging_config=None,
    )
    return Guard(app, Doors())


def _with_commands(content: object, file: str) -> object:
    """Return the content of an answer with commands that look at the log in a file."""

    def bare(line: str) -> str:
        return looking_back(f"`{line}`", file).strip("`") if line else ""

    def mended(concern: Concern) -> Concern:
        return replace(concern, command=bare(concern.command), why=bare(concern.why))

    if isinstance(content, Attention):
        content = replace(content, lines=[mended(each) for each in content.lines])
    elif isinstance(content, Explanation):
        content = replace(content, command=bare(content.command))
    return with_texts(content, lambda text: looking_back(text, file))
