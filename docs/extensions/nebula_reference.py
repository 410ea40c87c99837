"""Sphinx directives which write the reference's tables from Nebula's own code.

`{environment-variables}` lists the variables that options of the command line read,
`{engine-paths}` the paths that engines answer, `{http-routes} PREFIX` the gateway's other routes
under a path, and `{subjects}` the NATS subjects that carry no events.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from nebula.cli.main import COMMANDS, main
from nebula.events.endpoints import ENDPOINTS, GENERATION, POOLING
from nebula.http.authentication import needs
from nebula.http.routes import HANDLERS
from nebula.schema.channels import OTHERS

Row = tuple[str, ...]


def environment_variables() -> Iterator[Row]:
    """Yield (variable, option, commands that have it, the option's help), sorted by variable."""
    found: dict[str, tuple[click.Option, list[str]]] = {}
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        for option in command.params if command is not None else ():
            if isinstance(option, click.Option) and isinstance(option.envvar, str):
                found.setdefault(option.envvar, (option, []))[1].append(name)
    for variable, (option, commands) in sorted(found.items()):
        few = ", ".join(commands) if len(commands) < 8 else "every command that asks the cluster"
        yield f"`{variable}`", f"`{option.opts[0]}`", few, " ".join((option.help or "").split())


def http_routes(prefix: str) -> Iterator[Row]:
    """Yield (request, scope, what it does) of the gateway's routes under a path, sorted."""
    routes = [
        (path, method, needs(each), " ".join((each.fn.__doc__ or "").split("\n\n")[0].split()))
        for each in HANDLERS
        for path in each.paths
        for method in each.http_methods
        if method not in ("HEAD", "OPTIONS")
    ]
    for path, method, scope, text in sorted(routes):
        if path.startswith(prefix):
            shown = path.replace(":str", "").replace(":path", "")
            yield f"`{method} {shown}`", f"`{scope}`" if scope else "", text


def engine_paths() -> Iterator[Row]:
    """Yield (path, tasks that serve it, whether it streams, form of its errors)."""
    forms = {"openai": "OpenAI's", "responses": "OpenAI's", "anthropic": "Anthropic's"}
    for path, endpoint in ENDPOINTS.items():
        every = endpoint.tasks == GENERATION | POOLING
        tasks = "any" if every else ", ".join(f"`{task}`" for task in sorted(endpoint.tasks))
        yield f"`{path}`", tasks, "yes" if endpoint.streams else "", forms[endpoint.dialect]


def subjects() -> Iterator[Row]:
    """Yield (subject, what is said there, the stream that keeps it)."""
    for channel in OTHERS:
        yield (
            f"`{channel.address}`",
            channel.summary,
            f"`{channel.stream}`" if channel.stream else "",
        )


class Table(Directive):
    """A table whose rows the code gives; its cells are Markdown."""

    optional_arguments = 1
    tables: ClassVar[dict[str, tuple[Any, Row]]] = {
        "environment-variables": (
            environment_variables,
            ("Variable", "Option", "Commands", "Meaning"),
        ),
        "engine-paths": (engine_paths, ("Path", "Tasks", "Streams", "Errors")),
        "http-routes": (http_routes, ("Request", "Scope", "What it does")),
        "subjects": (subjects, ("Subject", "What is said there", "Stream")),
    }

    def run(self) -> list[nodes.Node]:
        """Return the table, parsed from Markdown as the page around it is."""
        rows, head = self.tables[self.name]
        lines = [head, tuple("---" for _ in head), *rows(*self.arguments)]
        text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]
        node = nodes.Element()
        self.state.nested_parse(StringList(text, self.name), self.content_offset, node)
        return node.children


def as_restructured(_: Any, __: click.Context, lines: list[str]) -> None:
    """Rewrite help texts in place: sphinx-click reads reStructuredText, help is Markdown."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((".. ", ":")):
            lines[number] = line.replace("*", "\\*").replace("`", "``")


def setup(app: Any) -> dict[str, bool]:
    """Register the directives with Sphinx."""
    for name in Table.tables:
        app.add_directive(name, Table)
    for part in ("description", "usage", "options", "arguments", "epilog"):
        app.connect(f"sphinx-click-process-{part}", as_restructured)
    return {"parallel_read_safe": True}
