"""The windows of `nebula top`, each a list made from a state: home, models, nodes. Pure."""

from functools import lru_cache

from nebula.cli.top.listing import Chosen, Column, Line, Listing, Span, Tone, fit, table
from nebula.events import memory
from nebula.events.state import State
from nebula.history import moments
from nebula.history.attention import MARKS, Concern, Severity, Survey
from nebula.http.console import rows
from nebula.http.console.rows import DeviceRow, NodeRow

WEIGHTS, PROMISED, FREE = "█", "▒", "░"
"""How a device's memory is drawn: what weights take, what else is promised, what is free."""

LEGEND = f"{WEIGHTS}weights {PROMISED}promised {FREE}free"

WELL = "All is well: nothing needs attention."

_TONES: dict[str, Tone] = {
    "ready": "good",
    "loading": "working",
    "unloading": "working",
    "draining": "working",
    "failed": "bad",
    "unschedulable": "bad",
    "lost": "bad",
    "suspected": "warning",
    "stopped": "warning",
    "asleep": "dim",
    "idle": "dim",
}

_SEVERE: dict[Severity, Tone] = {"bad": "bad", "warning": "warning", "working": "working"}


def tone(phase: str) -> Tone:
    """Return how a model's phase or a node's state is shown."""
    return _TONES.get(phase, "")


def summary(state: State, survey: Survey) -> str:
    """Return how much there is in one line."""
    phases = ", ".join(f"{number:,} {phase}" for phase, number in sorted(survey.phases.items()))
    closed = sum(bool(each.closed) for each in state.nodes.values())
    away = f" ({closed:,} closed)" if closed else ""
    serving = sum(each.serving for each in state.replicas.values())
    return (
        f"models: {phases or 'none'} · nodes: {len(state.nodes):,}{away} · "
        f"replicas: {serving:,} of {len(state.replicas):,} serve"
    )


def home(survey: Survey) -> Listing:
    """List what needs attention: what it is, since when and why, and what mends it."""
    found = survey.concerns
    more = [None] if survey.more else []

    def lines(number: int, width: int) -> tuple[Line, ...]:
        if number >= len(found):
            return (Span(fit(f"and {survey.more:,} more", width), "dim"),), (), ()
        return _concern(found[number], width)

    def about(number: int) -> Chosen | None:
        if number >= len(found):
            return None
        return Chosen(found[number].kind, found[number].id)

    return Listing(len(found) + len(more), lines, about, WELL, height=3)


def _concern(concern: Concern, width: int) -> tuple[Line, ...]:
    mark = f"{MARKS[concern.severity]}: "
    when = f", {moments.clock(concern.since)[:-4]}" if concern.since else ""
    explained = f" · why: {concern.why}" if concern.why else ""
    mends = f"mend: {concern.command}" if concern.command else concern.todo
    return (
        (
            Span(mark, _SEVERE[concern.severity]),
            Span(fit(concern.text, max(0, width - len(mark)))),
        ),
        (Span(fit(f"  since event {concern.seq}{when}{explained}", width), "dim"),),
        (Span(fit(f"  {mends}", width), "bold" if concern.command else ""),),
    )


_MODELS = (
    Column("MODEL", 14, share=2),
    Column("STATE", 13),
    Column("SERVE", 5),
    Column("TASK", 9, rank=3),
    Column("NODES", 12, share=1, rank=4, roomy=90),
    Column("NAMES", 12, share=1, rank=5, roomy=100),
    Column("DETAIL", 20, share=3, rank=1),
)


def models(state: State, find: str, now: int | None) -> Listing:
    """List the models whose id, name or phase has a text in it."""
    wanted = find.lower()
    found = [
        identity
        for identity in sorted(state.models)
        if wanted in identity.lower()
        or wanted in state.models[identity].name.lower()
        or wanted in rows.phase_of(state, state.models[identity])
    ]
    aliases = rows.shares(state)

    def cells(number: int, _: int) -> tuple[Span, ...]:
        each = rows.model_row(state, state.models[found[number]], aliases, now)
        nodes = ", ".join(each.nodes) + (f" +{each.more_nodes}" if each.more_nodes else "")
        return (
            Span(each.id),
            Span(each.phase, tone(each.phase)),
            Span(f"{each.ready}/{each.wanted}"),
            Span(each.task),
            Span(nodes),
            Span(", ".join((*each.aliases, *each.adapters))),
            Span(each.detail),
        )

    nothing = f"no model has {find!r} in its id, name or state" if find else "no models yet"
    return table(_MODELS, len(found), cells, lambda n: Chosen("model", found[n]), nothing)


_NODES = (
    Column("NODE", 8, share=1),
    Column("STATE", 9),
    Column("DEVICE", 6),
    Column("MEMORY", 8, share=3, rank=1),
    Column("PROMISED", 13, rank=2),
    Column("SERVE", 5, rank=3),
    Column("HOST", 12, share=1, rank=4),
)


def nodes(state: State, find: str) -> Listing:
    """List the devices of the nodes whose id, host or state has a text in it."""
    wanted = find.lower()
    found: list[tuple[str, int]] = []
    for identity in sorted(state.nodes):
        node = state.nodes[identity]
        stands = node.closed or ("suspected" if node.suspected else "ready")
        if wanted in f"{identity} {node.host} {stands}".lower():
            found += [(identity, number) for number in range(len(node.devices) or 1)]

    @lru_cache(maxsize=256)
    def of(identity: str) -> NodeRow:
        return rows.node_row(state, state.nodes[identity])

    def cells(number: int, width: int) -> tuple[Span, ...]:
        identity, index = found[number]
        node = of(identity)
        first = index == 0
        device = node.devices[index] if index < len(node.devices) else None
        return (
            Span(node.id if first else ""),
            Span(node.state if first else "", tone(node.state)),
            Span(f"{device.kind}{device.index}" if device else "none"),
            Span(bar(device, width) if device else ""),
            Span(_amounts(device) if device else ""),
            Span(f"{node.serving}/{node.replicas}" if first else ""),
            Span(node.host if first else "", "dim"),
        )

    nothing = f"no node has {find!r} in its id, host or state" if find else "no nodes yet"
    return table(_NODES, len(found), cells, lambda n: Chosen("node", found[n][0]), nothing)


def _amounts(device: DeviceRow) -> str:
    promised = sum(each.memory for each in device.held)
    return memory.part_of(promised, device.usable)


def bar(device: DeviceRow, width: int) -> str:
    """Return a device's memory as a bar; what was promised is never drawn as nothing."""
    if width < 1 or device.usable < 1:
        return ""
    weights = sum(each.weights for each in device.held)
    promised = sum(each.memory for each in device.held)
    taken = min(width, -(-promised * width // device.usable)) if promised else 0
    heavy = min(taken, weights * width // device.usable)
    return WEIGHTS * heavy + PROMISED * (taken - heavy) + FREE * (width - taken)
