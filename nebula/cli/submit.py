"""How a command changes the cluster: it makes an intent, appends it and waits for the outcome."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from nebula.actors.intents import Refused, submit
from nebula.actors.projection import Projection
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.plan_first import end_with_plan, only_planned
from nebula.cli.process import fail, say
from nebula.cli.tables import print_json
from nebula.events.state import Model, Node, State
from nebula.events.validation import model_by_reference
from nebula.events.vocabulary import Event
from nebula.events.wrong_values import in_words
from nebula.history.outcome import Outcome, asked
from nebula.history.subject import other_than_model
from nebula.http.views import model_view
from nebula.store.log import TooLarge
from nebula.store.reach import trouble
from nebula.store.refusals import NOTHING, NotAppended

E = TypeVar("E", bound=Event)

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait and show the progress."
)


def intent_of(fields: dict[str, object], kind: type[E]) -> E:
    """Make an intent from the given fields; end the command if they are not valid."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        fail(in_words(error), 2)


def absolute(source: str) -> str:
    """Make a folder's path absolute, because nodes have other working folders.

    Text that is written as a path is one, whether it exists or not; other text may be a hub id.
    """
    if not source.strip():
        fail("the source must not be empty: give a folder on the nodes or a hub id", 2)
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:  # ~somebody
        fail(f"{source}: {error}", 2)
    written_as_path = source in (".", "..") or source.startswith(("./", "../", "/", "~"))
    return str(path.resolve()) if written_as_path or path.exists() else source


def pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    """Split texts of the form KEY=VALUE; end the command if one has another form."""
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
    """Find a model by its id or name. Raise Refused."""
    model = model_by_reference(state, reference)
    if model is None:
        other = other_than_model(state, reference)
        if other:
            raise Refused(other)
        there = ", ".join(sorted(state.models)) or "none"
        raise Refused(f"there is no model {reference!r}; there are: {there}")
    return model


def absent(state: State, names: Sequence[str]) -> list[str]:
    """Return a line for each unknown name: it may appear later, or be misspelt."""
    said = []
    for name in names:
        model = state.models.get(name)
        hint = f"; the model with that id has the name {model.name!r}" if model is not None else ""
        if name not in state.names:
            said.append(f"nothing has the name {name!r} yet, so no requests go there{hint}")
    return said


def node_in(state: State, identity: str) -> Node:
    """Find a node. Raise Refused."""
    node = state.nodes.get(identity)
    if node is None:
        there = ", ".join(sorted(state.nodes)) or "none"
        raise Refused(f"there is no node {identity!r}; there are: {there}")
    return node


async def append(
    projection: Projection, intent: Callable[[State], tuple[str, Event]]
) -> tuple[str, int]:
    """Append an intent and return its id and sequence; end the command if it is rejected.

    With `--plan` the command ends with the plan instead. Raise NotAppended, at once if the log is
    known to take no events now.
    """
    if only_planned():
        try:
            end_with_plan(projection.state, [intent(projection.state)])
        except Refused as error:
            fail(str(error))
    refused, warning = await trouble(projection.log.connection)
    if refused:
        raise NotAppended(refused, NOTHING)
    if warning:
        say(warning, warning=True)
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
    adapter: str = "",
    what: str = "for",
    told: Callable[[State, State], Iterable[str]] = lambda *_: (),
    changes: Callable[[State, State], tuple[str, ...]] | None = None,
    look: Callable[..., Outcome] | None = None,
) -> None:
    """Append an intent, wait for its outcome unless told not to, and print it.

    `names`: public names that it refers to; each that nothing has is reported. `adapter`: the
    adapter that it is about. `what`: the request as "to …", if "for" is not enough. `told`: further
    lines to print once it is recorded, from the states before and after. `changes`: what it
    changed, which is in the JSON too. `look`: returns the outcome from a state, the id and the
    sequence, if it is not that of a loaded model.
    """
    async with joined(nats) as projection:
        before = projection.state
        identity, seq = await append(projection, intent)
        wish = asked(projection.state, identity, seq, adapter, before)
        after = projection.state
        for text in told(before, after):
            say(text, warning=True)
        for text in absent(projection.state, names):
            say(text)
        served = True
        if wait:
            console = tables.console(errors=True)
            if look is None:
                served = await progress.follow(projection, identity, console, wish)
            else:
                seen = partial(look, identity=identity, seq=seq)
                served = await progress.settled(projection, console, identity, seen, seq)
        if as_json:
            model = projection.state.models.get(identity)
            shown = model_view(projection.state, model) if model is not None else None
            fields = {"id": identity, "seq": seq, "model": shown}
            if changes is not None:
                fields["changes"] = changes(before, after)
            print_json(fields)
        elif not wait:
            click.echo(f"{identity}: asked {what}, event {seq}")
        if not served:
            raise SystemExit(1)
