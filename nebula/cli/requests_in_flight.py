"""`nebula requests`: the requests in flight in the whole cluster, and an end to one."""

import time

import click

from nebula.actors.in_flight_asking import InFlight, cancel_in_flight, list_in_flight
from nebula.cli import tables
from nebula.cli.cluster import joined, person
from nebula.cli.columns import Columns
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.submit import model_in
from nebula.events.advised import command
from nebula.events.requests_in_flight import CancelQuestion, InFlightQuestion, RequestInFlight
from nebula.events.showing import shown

_COLUMNS = ("ID", "MODEL", "TENANT", "KEY", "AGE", "STATE", "AT", "PLACE", "TOKENS", "STREAM")


@click.group("requests", invoke_without_command=True)
@nats_option
@json_option
@click.pass_context
def requests(context: click.Context, nats: str, as_json: bool) -> None:
    """List the requests in flight; cancel one."""
    if context.invoked_subcommand is None:
        run(_list(nats, "", "", as_json))


@requests.command("list")
@click.option("--model", default="", help="Only requests for this model, by its id or name.")
@click.option("--tenant", default="", help="Only requests of this tenant's keys.")
@nats_option
@json_option
def list_requests(model: str, tenant: str, nats: str, as_json: bool) -> None:
    """List the requests in flight of all gateways, the oldest first."""
    run(_list(nats, model, tenant, as_json))


@requests.command()
@click.argument("request")
@nats_option
@json_option
def cancel(request: str, nats: str, as_json: bool) -> None:
    """Cancel REQUEST, wherever it is: its client gets an error. The id may be its caller's."""
    run(_cancel(nats, request, as_json))


async def _list(nats: str, model: str, tenant: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        identity = ""
        if model:
            identity = model_in(projection.state, model).id
        question = InFlightQuestion(identity, tenant)
        found = await list_in_flight(projection.log.connection, question)
    if as_json:
        tables.print_json(found)
    else:
        _print(found)


def _print(found: InFlight) -> None:
    table, now = Columns(_COLUMNS), time.time()
    for each in shown(found.requests):
        model = f"{each.model}/{each.adapter}" if each.adapter else each.model
        table.add_row(
            each.id,
            model,
            each.tenant,
            each.key,
            f"{max(0.0, now - each.started):.0f}s",
            each.state,
            each.replica or each.router,
            str(each.position or ""),
            str(each.tokens) if each.stream else "",
            _stream(each),
        )
    tables.console().print(table)
    if found.more:
        click.echo(f"and {found.more} more", err=True)
    if not found.gateways:
        click.echo("no gateway answers", err=True)


def _stream(each: RequestInFlight) -> str:
    words = ["stream" if each.stream else ""]
    if each.continued:
        words.append(f"continued {each.continued}x")
    if not each.attached:
        words.append("without a client")
    return ", ".join(filter(None, words))


async def _cancel(nats: str, request: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        connection = projection.log.connection
        was = await cancel_in_flight(connection, CancelQuestion(request, person()))
    if was is None:
        fail(
            f"no gateway has a request {request!r} in flight: "
            f"{command('why', 'request', request)} tells what became of it"
        )
    if as_json:
        tables.print_json(was)
    else:
        at = f" at {was.replica}" if was.replica else ""
        click.echo(f"{was.id}: cancelled, it was {was.state}{at}")
