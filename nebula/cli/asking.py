"""How a command asks the cluster for something: an intent is made, appended and waited for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from nebula.actors.intents import Refused, submit
from nebula.actors.projection import Projection
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.process import fail
from nebula.cli.tables import print_json
from nebula.events.objections import model_by_reference
from nebula.events.state import Model, Node, State
from nebula.events.vocabulary import Event
from nebula.http.views import model_view
from nebula.store.log import TooLarge
from nebula.store.reach import trouble
from nebula.store.refusals import NOTHING, NotAppended

E = TypeVar("E", bound=Event)

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait and show the progress."
)


def intent_of(fields: dict[str, object], kind: type[E]) -> E:
    """Make an intent of what was given; ends the command where that is none."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        fail(str(error), 2)


def absolute(source: str) -> str:
    """Make a folder absolute: the nodes have other working folders.

    What is written as a path is one, there or not; anything else may be a hub id.
    """
    if not source.strip():
        fail("a source is empty: give a folder on the nodes or a hub id", 2)
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:  # ~somebody
        fail(f"{source}: {error}", 2)
    written_as_path = source in (".", "..") or source.startswith(("./", "../", "/", "~"))
    return str(path.resolve()) if written_as_path or path.exists() else source


def pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    """Split what was given as KEY=VALUE; ends the command where something is not."""
    split = []
    for pair in given:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            fail(
                f"--{option} {pair!r}: write it as {'NAME' if option == 'adapter' else 'KEY'}=…", 2
            )
        split.append((key, value))
    return split


def model_in(state: State, reference: str) -> Model:
    """Find a model by its id or name. Raises Refused."""
    model = model_by_reference(state, reference)
    if model is None:
        there = ", ".join(sorted(state.models)) or "none"
        raise Refused(f"there is no model {reference!r}; there are: {there}")
    return model


def absent(state: State, names: Sequence[str]) -> list[str]:
    """Say of each name that nobody has now: it may come yet, or be misspelt, or be an id."""
    said = []
    for name in names:
        model = state.models.get(name)
        hint = f"; the model {name!r} is called {model.name!r}" if model is not None else ""
        if name not in state.names:
            said.append(f"nobody is called {name!r} yet: no requests go there until then{hint}")
    return said


def node_in(state: State, identity: str) -> Node:
    """Find a node. Raises Refused."""
    node = state.nodes.get(identity)
    if node is None:
        there = ", ".join(sorted(state.nodes)) or "none"
        raise Refused(f"there is no node {identity!r}; there are: {there}")
    return node


async def append(
    projection: Projection, intent: Callable[[State], tuple[str, Event]]
) -> tuple[str, int]:
    """Append an intent, give its id and sequence; ends the command where it is refused.

    Raises NotAppended, at once where it is known that the log takes no events now.
    """
    refused, warning = await trouble(projection.log.connection)
    if refused:
        raise NotAppended(refused, NOTHING)
    if warning:
        click.secho(warning, fg="yellow", err=True)
    try:
        identity, event = intent(projection.state)
        return identity, await submit(projection, identity, event)
    except (Refused, TooLarge) as error:
        fail(str(error))


async def ask(
    nats: str,
    intent: Callable[[State], tuple[str, Event]],
    *,
    wait: bool,
    as_json: bool,
    names: Sequence[str] = (),
) -> None:
    """Append an intent, wait for what comes of it if so told, and print it.

    `names`: the public names that it refers to, of which it is said if nobody has them.
    """
    async with joined(nats) as projection:
        identity, seq = await append(projection, intent)
        for text in absent(projection.state, names):
            click.echo(text, err=True)
        served = True
        if wait:
            served = await progress.follow(projection, identity, tables.console(errors=True))
        if as_json:
            model = projection.state.models.get(identity)
            shown = model_view(projection.state, model) if model is not None else None
            print_json({"id": identity, "seq": seq, "model": shown})
        elif not wait:
            click.echo(f"{identity}: asked for, event {seq}")
        if not served:
            raise SystemExit(1)
