"""What the console's pages show of the cluster, now or at any moment: short answers, page by page.

Everything that passes over all models lets other tasks run in between, because a gateway serves
tokens too.
"""

from itertools import islice
from typing import Annotated

from litestar import get
from litestar.params import QueryParameter
from msgspec import Struct
from msgspec.structs import replace

from nebula.events.cluster import at_risk
from nebula.events.intents import ModelLoadRequested
from nebula.events.showing import shown
from nebula.events.state import Node, Replica, State
from nebula.history import attention, long_lines, places
from nebula.history.attention import Concern, Findings, Healthy
from nebula.history.difference import Change, differences
from nebula.history.load_requests import to_change
from nebula.history.node_story import node_verdict
from nebula.history.subject import Subject, verdict
from nebula.http.console import paging, rows
from nebula.http.console.rows import ModelRow, NodeRow, PlaceRow
from nebula.http.console.shown_moment import (
    Pace,
    Shown,
    moment_fields,
    reader_time,
    state_shown,
)
from nebula.http.errors import ApiError
from nebula.http.history import reading
from nebula.http.intents import known
from nebula.http.scanning import Scans
from nebula.http.shown_log import ShownLog
from nebula.http.views import ClusterView, ModelView, cluster_view, model_view, moment

CONCERNS = 100
"""Concerns that are listed, at most."""

PLACES = 100
CHANGES = 500


class Attention(Shown, frozen=True, kw_only=True):
    """What needs attention (`more`: how many further lines there are), and how much there is.

    `models`: by phase. `nodes`: by state. `serving` of all `replicas` serve. `risk`: which nodes
    could not be lost, "" if each could, since the event `risk_seq`, stored at `risk_since` (ns).
    """

    cluster: ClusterView
    risk: str
    risk_seq: int
    risk_since: int
    lines: list[Concern]
    more: int
    models: dict[str, int]
    nodes: dict[str, int]
    replicas: int
    serving: int
    aliases: int
    adapters: int
    batches: int
    keys: int


class ModelPage(Shown, frozen=True, kw_only=True):
    """A page of models: the next one begins with `after` = `next`, unless that is null."""

    rows: list[ModelRow]
    next: int | None
    total: int
    phases: dict[str, int]


class NodePage(Shown, frozen=True, kw_only=True):
    """A page of nodes: the next one begins with `after` = `next`, unless that is null."""

    rows: list[NodeRow]
    next: int | None
    total: int


class ModelDetail(Shown, frozen=True, kw_only=True):
    """A model, how it stands and what to do, its replicas, and the places for one more.

    `request`: its load request as it is in effect, with adapters of now, so that it can be changed.
    """

    model: ModelView
    request: ModelLoadRequested
    aliases: list[str]
    headline: str
    todo: str
    replicas: list[Replica]
    places: list[PlaceRow]
    more_places: int


class NodeDetail(Shown, frozen=True, kw_only=True):
    """A node, how it stands and what to do, and its replicas."""

    row: NodeRow
    node: Node
    headline: str
    todo: str
    lines: tuple[str, ...]
    replicas: list[Replica]


class Differences(Struct, frozen=True):
    """What changed between the events at two sequences; `more`: changes that are not listed."""

    begin: int
    begin_time: str
    end: int
    end_time: str
    last: int
    last_time: str
    changes: list[Change]
    more: int


@get("/admin/attention")
async def show_attention(past: ShownLog, scans: Scans, at: str | None = None) -> Attention:
    """Show what needs attention, now or `at` a sequence or time."""
    state = await state_shown(past, scans, at)
    findings = Findings()
    async with reading(scans) as scan:
        pace = Pace(scan)
        for each in attention.suspects(state):
            findings.add(each)
            if isinstance(each, Healthy):
                await pace.pause()
        found = attention.order(findings.suspects)
        lines = _slow(past, state, reader_time(at, past))
        for concern in attention.concerns(state, found[:CONCERNS], reader_time(at, past)):
            lines.append(shown(concern))
            await pace.pause()
    lines.sort(key=lambda each: attention.URGENCY[each.severity])
    nodes: dict[str, int] = {}
    for node in state.nodes.values():
        stands = node.closed or "ready"
        nodes[stands] = nodes.get(stands, 0) + 1
    return Attention(
        **moment_fields(past, state),  # type: ignore[arg-type]
        cluster=cluster_view(state),
        risk=at_risk(state.cluster.risks),
        risk_seq=state.cluster.risks.changed,
        risk_since=state.cluster.risks.since,
        lines=lines,
        more=max(0, len(found) - CONCERNS),
        models=findings.phases,
        nodes=nodes,
        replicas=len(state.replicas),
        serving=sum(each.serving for each in state.replicas.values()),
        aliases=len(state.aliases),
        adapters=sum(len(each.adapters) for each in state.models.values()),
        batches=len(state.batches),
        keys=state.valid_keys,
    )


def _slow(past: ShownLog, state: State, now: int | None) -> list[Concern]:
    """Return the models with long lines, which are known of the present alone."""
    if now is None:
        return []
    found = long_lines.concerns(state, past.lines(), now)
    return [shown(each) for each in islice(found, CONCERNS)]


@get("/admin/outline/models")
async def outline_models(
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
    find: str = "",
    phase: str = "",
    after: str = "0",
    limit: str | None = None,
) -> ModelPage:
    """List models in short, page by page, now or `at` a sequence or time."""
    page = paging.asked(after, limit)
    state = await state_shown(past, scans, at)
    phases: dict[str, int] = {}
    matching = []
    wanted = find.lower()
    async with reading(scans) as scan:
        pace = Pace(scan)
        for number, identity in enumerate(sorted(state.models), 1):
            model = state.models[identity]
            if wanted not in identity.lower() and wanted not in model.name.lower():
                continue
            stands = rows.phase_of(state, model)
            phases[stands] = phases.get(stands, 0) + 1
            if phase in ("", stands):
                matching.append(model)
            if number % attention.PIECE == 0:
                await pace.pause()
    aliases = rows.shares(state)
    now = reader_time(at, past)
    lines = past.lines() if now is not None else {}
    return ModelPage(
        **page.fields(past, state, matching),  # type: ignore[arg-type]
        rows=[
            rows.model_row(state, each, aliases, now, lines.get(each.id))
            for each in page.rows(matching)
        ],
        phases=phases,
    )


@get("/admin/outline/nodes")
async def outline_nodes(
    past: ShownLog,
    scans: Scans,
    at: str | None = None,
    find: str = "",
    after: str = "0",
    limit: str | None = None,
) -> NodePage:
    """List nodes with their devices, page by page, now or `at` a sequence or time."""
    page = paging.asked(after, limit)
    state = await state_shown(past, scans, at)
    wanted = find.lower()
    matching = [
        each for each in sorted(state.nodes) if wanted in f"{each} {state.nodes[each].host}".lower()
    ]
    return NodePage(
        **page.fields(past, state, matching),  # type: ignore[arg-type]
        rows=[rows.node_row(state, state.nodes[each]) for each in page.rows(matching)],
    )


@get("/admin/outline/models/{model:str}")
async def outline_model(
    model: str, past: ShownLog, scans: Scans, at: str | None = None
) -> ModelDetail:
    """Show how one model stands, what to do, and the places for one more replica of it."""
    state = await state_shown(past, scans, at)
    found = known("model", state.models, model)
    told = verdict(state, Subject("model", model), reader_time(at, past))
    lines = past.lines() if reader_time(at, past) is not None else {}
    told = long_lines.with_line(state, found, told, lines.get(model))
    candidates = places.places(state, found)
    return ModelDetail(
        **moment_fields(past, state),  # type: ignore[arg-type]
        model=replace(model_view(state, found, reader_time(at, past)), queue=lines.get(model)),
        request=shown(to_change(found)),
        aliases=rows.shares(state).get(model, []),
        headline=shown(told.headline),
        todo=shown(told.todo),
        replicas=[shown(each) for each in state.replicas_of(found)],
        places=[rows.place_row(each) for each in candidates[:PLACES]],
        more_places=max(0, len(candidates) - PLACES),
    )


@get("/admin/outline/nodes/{node:str}")
async def outline_node(
    node: str, past: ShownLog, scans: Scans, at: str | None = None
) -> NodeDetail:
    """Show how one node stands, what to do, and what it runs."""
    state = await state_shown(past, scans, at)
    found = known("node", state.nodes, node)
    told = node_verdict(state, node, reader_time(at, past))
    occupancy = state.occupancy.get(node)
    here = sorted(occupancy.replicas) if occupancy is not None else []
    return NodeDetail(
        **moment_fields(past, state),  # type: ignore[arg-type]
        row=rows.node_row(state, found),
        node=shown(found),
        headline=shown(told.headline),
        todo=shown(told.todo),
        lines=shown(told.behind),
        replicas=[shown(state.replicas[each]) for each in here],
    )


@get("/admin/differences")
async def show_differences(
    past: ShownLog,
    scans: Scans,
    begin: Annotated[str, QueryParameter(name="from")] = "",
    to: str | None = None,
) -> Differences:
    """Show what changed between two moments, each a sequence or a time; without `to`, until now."""
    if not begin:
        raise ApiError(400, "from: give a sequence or a time", param="from")
    one, two = await state_shown(past, scans, begin), await state_shown(past, scans, to)
    changes = differences(one, two)
    newest = past.state
    return Differences(
        one.seq,
        moment(one.time),
        two.seq,
        moment(two.time),
        newest.seq,
        moment(newest.time),
        changes[:CHANGES],
        max(0, len(changes) - CHANGES),
    )
