"""How the command line shows the whole cluster: its tables, and what needs attention below them."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.markup import escape as as_it_is

from nebula.actors.founding import told
from nebula.cli import tables
from nebula.events.adapter_status import adapter_status
from nebula.events.advised import command, why
from nebula.events.cluster import at_risk
from nebula.events.heartbeats import QueueLength
from nebula.events.intents import ModelLoadRequested
from nebula.events.model_status import model_status
from nebula.events.showing import secrets_of
from nebula.events.state import State
from nebula.history import attention, long_lines, moments
from nebula.history.attention import Concern, Severity, Survey

LISTED = attention.MOST_ADVISED
"""Concerns that are listed, at most."""

_COLOURS: dict[Severity, str] = {"bad": "red", "warning": "yellow", "working": "cyan"}


def status(
    output: Console,
    state: State,
    now: int | None = None,
    lines: Mapping[str, QueueLength] | None = None,
) -> None:
    """Print the whole cluster, what needs attention, and what else is to be said of models.

    `now`: nanoseconds since the epoch; None for a state that is looked back at. `lines`: how many
    requests wait for each model.
    """
    if not state.models and not state.nodes:
        output.print(f"No nodes and no models yet. {ends(state)[:1].upper()}{ends(state)[1:]}.")
        return
    output.print(tables.nodes(state))
    if state.models:
        for table in (tables.models, tables.plans, tables.replicas):
            output.print()
            output.print(table(state))
    if any(model.adapters or model.leaving for model in state.models.values()):
        output.print()
        output.print(tables.adapters(state))
    if state.aliases:
        output.print()
        output.print(tables.aliases(state))
    found = attention.survey(state, LISTED, now)
    if now is not None and lines:
        found = long_lines.with_lines(found, state, lines, now)
    output.print()
    _attention(output, found)
    for identity, detail in _details_of_healthy(state, now):
        output.print(f"\n[bold]{identity}[/bold]: {as_it_is(detail)}", soft_wrap=True)
    listed = {each.id for each in found.concerns if each.kind == "adapter"}
    for name, reason in _troubled_adapters(state):
        if name not in listed:
            text = f"{as_it_is(reason)} ({as_it_is(why(name))} tells more)"
            output.print(f"\n[bold]{as_it_is(name)}[/bold]: {text}", soft_wrap=True)
    for identity in sorted(state.models):
        secrets = _recorded(state.models[identity].spec)
        if secrets:
            output.print(f"\n[bold]{identity}[/bold]: [yellow]{as_it_is(secrets)}[/yellow]")
    if at_risk(state.cluster.risks):
        risk = at_risk(state.cluster.risks)
        since = moments.clock(state.cluster.risks.since)
        more = f"since {since} ({command('resilience')} tells more)"
        output.print(f"\n[yellow]{as_it_is(risk)}[/yellow] {more}", soft_wrap=True)
    output.print(f"\n{ends(state)}", soft_wrap=True)


def _attention(output: Console, found: Survey) -> None:
    """Print what needs attention, the most urgent first."""
    if not found.concerns:
        output.print("[green]All is well:[/green] nothing needs attention.")
        return
    for each in found.concerns:
        _concern(output, each)
    if found.more:
        output.print(f"and {found.more} more, which {command('top')} lists", soft_wrap=True)


def _concern(output: Console, concern: Concern) -> None:
    colour, mark = _COLOURS[concern.severity], attention.MARKS[concern.severity]
    output.print(f"[{colour}]{mark}:[/{colour}] {as_it_is(concern.text)}", soft_wrap=True)
    when = f", {moments.clock(concern.since)}" if concern.since else ""
    more = f" (`{as_it_is(concern.why)}` tells more)" if concern.why else ""
    event = f" event {concern.seq}" if concern.seq else ""
    since = f"{event}{when}" if event else when.removeprefix(",")
    output.print(f"  since{since}{more}", soft_wrap=True)
    if concern.todo:
        output.print(f"  {as_it_is(concern.todo)}", soft_wrap=True)


def _details_of_healthy(state: State, now: int | None) -> Iterator[tuple[str, str]]:
    """Yield each model that needs no attention, and of which there is something to say."""
    for identity in sorted(state.models):
        model = state.models[identity]
        detail = model_status(state, model, now).detail
        if detail and attention.healthy(state, model):
            yield identity, detail


def _recorded(spec: ModelLoadRequested) -> str:
    """Return a sentence about a load request's secrets in the log; "" if there are none."""
    names = (*secrets_of(spec.env), *secrets_of(spec.options), *secrets_of({"source": spec.source}))
    if not names:
        return ""
    are = "is" if len(names) == 1 else "are"
    return f"{', '.join(names)} {are} in the log in clear"


def _troubled_adapters(state: State) -> Iterator[tuple[str, str]]:
    """Yield the adapters that do not answer as they should, each with the reason."""
    for identity in sorted(state.models):
        model = state.models[identity]
        for name in sorted(model.adapters):
            stands = adapter_status(state, model, name)
            if stands.reason:
                where = f"adapter of {identity}, on {stands.loaded} of {stands.serving} replicas"
                yield name, f"{where}: {stands.reason}"


def ends(state: State) -> str:
    """Return a line with the cluster's name and the length of its log."""
    cluster = state.cluster
    named = f"cluster {tables.escape(told(cluster))}, version {cluster.version}; "
    return f"{named if cluster.id else ''}{state.seq} events"
