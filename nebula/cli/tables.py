"""How the command line shows the cluster: tables for people, JSON for programs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape as as_it_is
from rich.table import Table
from rich.text import Text

from nebula.actors.placement.capacity import twins
from nebula.cli.columns import Columns
from nebula.cli.elsewhere import shown_message
from nebula.events import memory
from nebula.events.adapter_status import adapter_status
from nebula.events.advised import why
from nebula.events.batch import Batch
from nebula.events.evolve_adapter import short
from nebula.events.model_status import failed_before, model_status
from nebula.events.plain_text import one_line
from nebula.events.showing import shown
from nebula.events.state import Node, Replica, State
from nebula.history.difference import Change

_COLOURS = {
    "ready": "green",
    "loading": "yellow",
    "starting": "yellow",
    "assigned": "yellow",
    "failed": "red",
    "given-up": "red",
    "stalled": "red",
    "ending": "magenta",
    "unschedulable": "red",
    "unloading": "magenta",
    "asleep": "blue",
    "lost": "red",
}


LONGEST_CELL = 200
"""Longest text of a table's cell, in characters; `--json` prints all of it."""

LONGEST_REASON = 100
"""Longest reason in a table's cell, in characters; `nebula why` prints all of it."""


LONGEST_LINE = 100_000
"""Longest line in a file or a pipe, in characters."""


_TAG = re.compile(r"(?<!\\)(\[/?[a-z][a-z ]*\])")
"""A tag of Rich's markup, as commands write it; those of other texts are escaped."""


class Shown(Console):
    """A console that removes secrets and control characters from every text.

    The command decides what follows when the reader of its output has gone.
    """

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled."""
        raise

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a text, without secrets and control characters.

        What is between two tags is looked at by itself: a secret never contains a tag.
        """
        parts = _TAG.split(text)
        parts[::2] = [shown_message(part, as_it_is) for part in parts[::2]]
        return super().render_str("".join(parts), **options)


def console(*, errors: bool = False) -> Console:
    """Return a console for people; text for a file or a pipe has lines of any length."""
    made = Shown(stderr=errors, highlight=False)
    return made if made.is_terminal else Shown(stderr=errors, highlight=False, width=LONGEST_LINE)


def escape(text: str, most: int = LONGEST_CELL) -> str:
    """Return a text as a cell of a table: one line of bounded length."""
    return as_it_is(one_line(text, most))


def coloured(word: str) -> str:
    """Return a state's word in its colour."""
    colour = _COLOURS.get(word)
    return f"[{colour}]{word}[/{colour}]" if colour else word


def columns(*names: str) -> Table:
    """Return an empty table in the common style."""
    return Columns(names)


def print_json(value: object, *, ids: bool = False) -> None:
    """Print JSON for programs, indented for people.

    `ids`: its texts are ids and hashes, of which none is hidden, whatever the name of its field.
    """
    click.echo(msgspec.json.format(msgspec.json.encode(value if ids else shown(value)), indent=2))


def models(state: State) -> Table:
    """Show the models, one per line, with their adapters below them."""
    table = columns("MODEL", "NAME", "TASK", "STATE", "REPLICAS", "SOURCE")
    for identity in sorted(state.models):
        model = state.models[identity]
        stands = model_status(state, model)
        table.add_row(
            identity,
            escape(model.name),
            model.task,
            coloured(stands.phase),
            f"{stands.ready}/{stands.wanted}",
            escape(model.spec.source),
        )
    return table


def adapters(state: State) -> Table:
    """Show the adapters, which version answers, and how many replicas have loaded it."""
    table = columns("ADAPTER", "MODEL", "LOADED", "VERSION", "SOURCE", "REASON")
    for identity in sorted(state.models):
        model = state.models[identity]
        for name in sorted({**model.leaving, **model.adapters}):
            stands = adapter_status(state, model, name)
            table.add_row(
                escape(name),
                identity,
                f"{stands.loaded}/{stands.serving}",
                short(stands.version) if stands.version else "",
                escape(stands.source),
                _reason_of(stands.reason, name),
            )
    return table


def aliases(state: State, only: str = "") -> Table:
    """Show the aliases, a line for each target, and whether the target exists."""
    table = columns("ALIAS", "NAME", "TARGET", "WEIGHT", "STATE", "MIRROR")
    for identity in [only] if only else sorted(state.aliases):
        alias = state.aliases[identity]
        for target in alias.targets:
            binding = state.names.get(target.model)
            model = state.models.get(binding.model) if binding is not None else None
            table.add_row(
                identity,
                escape(alias.name),
                escape(target.model),
                str(target.weight),
                coloured(model_status(state, model).phase) if model is not None else "absent",
                escape(alias.mirror),
            )
    return table


def batches(found: Iterable[Batch]) -> Table:
    """Show batches, and how many of their lines have an answer."""
    table = columns("BATCH", "STATE", "ENDPOINT", "LINES", "COMPLETED", "FAILED")
    for batch in found:
        table.add_row(
            batch.id,
            coloured(batch.phase),
            escape(batch.request.endpoint),
            str(batch.lines),
            str(batch.completed),
            str(batch.failed),
        )
    return table


def replicas(state: State) -> Table:
    """Show the replicas with their engines."""
    table = columns("REPLICA", "NODE", "DEVICE", "MEMORY", "STATE", "PID", "PORT", "REASON")
    told: dict[tuple[str, str], str] = {}
    for identity in sorted(state.replicas):
        replica = state.replicas[identity]
        engine = replica.engine
        reason = _reason(replica)
        first = told.setdefault((replica.model, reason), identity)
        if first == identity:
            reason = _reason_of(reason, identity)
        elif reason:
            reason = f"as {first}"
        table.add_row(
            identity,
            replica.node,
            ",".join(map(str, replica.devices)),
            _size(replica.memory),
            coloured(_phase(state, replica)),
            str(engine.pid) if engine else "",
            str(engine.port) if engine else "",
            reason,
        )
    return table


def _reason_of(reason: str, name: str) -> str:
    """Return a reason as a cell; a long one is cut, and names the command that prints all of it."""
    if len(one_line(reason, LONGEST_REASON + 1)) <= LONGEST_REASON:
        return escape(reason)
    return f"{escape(reason, LONGEST_REASON)} ({as_it_is(why(name))})"


def _reason(replica: Replica) -> str:
    """Return why a replica has no engine, or why its last start failed.

    An engine that ran and has ended does not explain anything about the engine that starts now.
    """
    if replica.engine is None:
        return replica.reason
    before = failed_before(replica)
    return f"attempt {replica.attempt - 1} failed: {before}" if before else ""


def _phase(state: State, replica: Replica) -> str:
    """Return a replica's state; that of an engine on a lost node is unknown."""
    node = state.nodes.get(replica.node)
    if node is not None and node.lost and replica.engine is not None:
        return "lost"
    if replica.serving and replica.engine is not None and replica.engine.stalled:
        return "stalled"
    if replica.given_up:
        return "given-up"
    return "ending" if replica.retired else replica.phase


def plans(state: State) -> Table:
    """Show the plan of each model, as a router decided it."""
    table = columns("MODEL", "PLAN", "REPLICA", "NODE", "DEVICE", "MEMORY", "REASON")
    for identity in sorted(state.models):
        model = state.models[identity]
        version = str(model.version)
        for each in model.assignments:
            device = ",".join(map(str, each.devices))
            table.add_row(
                identity, version, each.replica, each.node, device, _size(each.memory), ""
            )
        if model.unschedulable:
            reason = escape(f"{model.missing} not placed: {model.unschedulable}")
            table.add_row(identity, version, "", "", "", "", reason)
        elif not model.assignments:
            table.add_row(identity, version, "", "", "", "", "no replicas")
    return table


def _size(size: int) -> str:
    """Return an amount of memory as one word, as `--memory` takes it."""
    return memory.word(size) if size else "0"


def changes(found: Sequence[Change]) -> Table:
    """Show what changed between two moments."""
    table = columns("SIGN", "KIND", "ID", "FIELD", "CHANGE")
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for each in found:
        colour = colours[each.sign]
        table.add_row(
            f"[{colour}]{each.sign}[/{colour}]",
            each.aggregate,
            each.id,
            each.field.replace(" ", "-"),
            _change(each),
        )
    return table


def _change(each: Change) -> str:
    """Return what became of it: of something that came or went, only what it is or was."""
    if each.sign == "~":
        return f"{escape(each.before)} -> {escape(each.after)}"
    return escape(each.after or each.before)


def nodes(state: State) -> Table:
    """Show the nodes with their devices and the memory that plans have assigned.

    A lost node has no assignments any more; what still runs there is unknown. SHARED: the nodes
    that offer the same device, as they run on the same machine.
    """
    table = columns(
        *("NODE", "STATE", "HOST", "DEVICE", "MEMORY", "PROMISED", "ENGINES", "SHARED", "LABELS"),
        "NAME",
    )
    same = twins(state)
    for identity in sorted(state.nodes):
        node = state.nodes[identity]
        for device in node.devices:
            here = [
                replica
                for replica in state.replicas.values()
                if replica.node == identity and device.index in replica.devices
            ]
            promised = _size(sum(replica.memory for replica in here))
            others = same.get((identity, device.index), ())
            engines = str(sum(replica.engine is not None for replica in here))
            table.add_row(
                identity,
                _flags(node),
                escape(node.host),
                f"{device.kind}{device.index}",
                _size(device.memory),
                "void" if node.lost else promised,
                "unknown" if node.lost else engines,
                ",".join(other for other, _ in others),
                escape(",".join(f"{key}={value}" for key, value in sorted(node.labels.items()))),
                escape(device.name),
            )
    return table


def _flags(node: Node) -> str:
    words = (
        ("draining", node.draining),
        ("suspected", bool(node.suspected)),
        ("stopped", node.stopped and not node.lost),
        ("lost", node.lost),
    )
    return ",".join(word for word, on in words if on) or "ready"
