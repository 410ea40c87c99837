"""How the command line shows the cluster: tables for people, JSON for programs."""

from collections.abc import Sequence

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nebula.events import memory
from nebula.events.standing import standing
from nebula.events.state import Node, Replica, State
from nebula.history.difference import Change
from nebula.history.telling import place

_COLOURS = {
    "ready": "green",
    "loading": "yellow",
    "starting": "yellow",
    "assigned": "yellow",
    "failed": "red",
    "unschedulable": "red",
    "unloading": "magenta",
    "asleep": "blue",
    "lost": "red",
}


def console(*, errors: bool = False) -> Console:
    """Give a console for people; text that goes into a file or a pipe is not cut at 80 columns."""
    made = Console(stderr=errors, highlight=False)
    return made if made.is_terminal else Console(stderr=errors, highlight=False, width=200)


def coloured(word: str) -> str:
    """Mark a word with the colour it has everywhere."""
    colour = _COLOURS.get(word)
    return f"[{colour}]{word}[/{colour}]" if colour else word


def columns(*names: str) -> Table:
    """Give an empty table as all of them look."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def print_json(value: object) -> None:
    """Print for programs, indented for people."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def models(state: State) -> Table:
    """Show the models, one a line, with their adapters below them."""
    table = columns("MODEL", "NAME", "TASK", "STATE", "REPLICAS", "SOURCE")
    for identity in sorted(state.models):
        model = state.models[identity]
        stands = standing(state, model)
        table.add_row(
            identity,
            escape(model.name),
            model.task,
            coloured(stands.word),
            f"{stands.ready}/{stands.wanted}",
            escape(model.spec.source),
        )
    return table


def adapters(state: State) -> Table:
    """Show the adapters and on how many replicas each is in place."""
    table = columns("ADAPTER", "MODEL", "LOADED", "SOURCE", "REASON")
    for identity in sorted(state.models):
        model = state.models[identity]
        replicas = [replica for replica in state.replicas_of(model) if replica.serving]
        for name in sorted(model.adapters):
            known = [
                status for replica in replicas if (status := replica.adapters.get(name)) is not None
            ]
            loaded = sum(status.loaded for status in known)
            reason = next((status.reason for status in known if not status.loaded), "")
            table.add_row(
                escape(name),
                identity,
                f"{loaded}/{len(replicas)}",
                escape(model.adapters[name]),
                escape(reason),
            )
    return table


def aliases(state: State) -> Table:
    """Show the aliases, a line for each target, and who of them is there."""
    table = columns("ALIAS", "NAME", "TARGET", "WEIGHT", "STATE", "MIRROR")
    for identity in sorted(state.aliases):
        alias = state.aliases[identity]
        for number, target in enumerate(alias.targets):
            named = state.names.get(target.model)
            model = state.models.get(named.model) if named is not None else None
            table.add_row(
                *((identity, escape(alias.name)) if not number else ("", "")),
                escape(target.model),
                str(target.weight),
                coloured(standing(state, model).word) if model is not None else "not there",
                escape(alias.mirror) if not number else "",
            )
    return table


def replicas(state: State) -> Table:
    """Show the replicas with their engines."""
    table = columns("REPLICA", "NODE", "DEVICE", "MEMORY", "STATE", "PID", "PORT", "REASON")
    for identity in sorted(state.replicas):
        replica = state.replicas[identity]
        engine = replica.engine
        table.add_row(
            identity,
            replica.node,
            ",".join(map(str, replica.devices)),
            memory.text(replica.memory),
            coloured(_phase(state, replica)),
            str(engine.pid) if engine else "",
            str(engine.port) if engine else "",
            escape(replica.reason),
        )
    return table


def _phase(state: State, replica: Replica) -> str:
    """Say where a replica stands; how an engine on a lost node is nobody knows."""
    node = state.nodes.get(replica.node)
    if node is not None and node.lost and replica.engine is not None:
        return "lost"
    if replica.serving and replica.engine is not None and replica.engine.stalled:
        return "stands still"
    return "retired" if replica.retired else replica.phase


def plans(state: State) -> Table:
    """Show the plan of each model: what a router has decided."""
    table = columns("MODEL", "PLAN", "REPLICAS", "NOT PLACED")
    for identity in sorted(state.models):
        model = state.models[identity]
        table.add_row(
            identity,
            str(model.version),
            "\n".join(place(each) for each in model.assignments),
            escape(f"{model.missing}: {model.unschedulable}" if model.unschedulable else ""),
        )
    return table


def changes(found: Sequence[Change]) -> Table:
    """Show what changed between two moments."""
    table = columns("", "WHAT", "FIELD", "BEFORE", "AFTER")
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for each in found:
        colour = colours[each.sign]
        table.add_row(
            f"[{colour}]{each.sign}[/{colour}]",
            f"{each.aggregate} {each.id}",
            each.field,
            escape(each.before),
            escape(each.after),
        )
    return table


def nodes(state: State) -> Table:
    """Show the nodes with their devices and what is promised of them.

    What a lost one was to have counts no more, and what still runs there nobody knows.
    """
    table = columns("NODE", "HOST", "DEVICE", "NAME", "MEMORY", "PROMISED", "ENGINES", "LABELS")
    for identity in sorted(state.nodes):
        node = state.nodes[identity]
        for device in node.devices:
            here = [
                replica
                for replica in state.replicas.values()
                if replica.node == identity and device.index in replica.devices
            ]
            promised = memory.text(sum(replica.memory for replica in here))
            engines = str(sum(replica.engine is not None for replica in here))
            table.add_row(
                identity + _flags(node),
                escape(node.host),
                f"{device.kind}{device.index}",
                escape(device.name),
                memory.text(device.memory),
                "void" if node.lost else promised,
                "unknown" if node.lost else engines,
                escape(" ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))),
            )
    return table


def _flags(node: Node) -> str:
    words = (
        ("draining", node.draining),
        ("suspected", bool(node.suspected)),
        ("lost", node.lost),
    )
    flags = [word for word, on in words if on]
    return f" ({', '.join(flags)})" if flags else ""


def status(output: Console, state: State) -> None:
    """Print the whole cluster, and a line for each model that is not well."""
    if not state.models and not state.nodes:
        output.print(f"The log holds {state.seq} events: no nodes and no models yet.")
        return
    output.print(nodes(state))
    if state.models:
        output.print()
        output.print(models(state))
        output.print()
        output.print(plans(state))
        output.print()
        output.print(replicas(state))
    if any(model.adapters for model in state.models.values()):
        output.print()
        output.print(adapters(state))
    if state.aliases:
        output.print()
        output.print(aliases(state))
    for identity in sorted(state.models):
        detail = standing(state, state.models[identity]).detail
        if detail:
            output.print(f"\n[bold]{identity}[/bold]: {escape(detail)}", soft_wrap=True)
    output.print(f"\n{state.seq} events")
