"""`nebula limits`: how much keys, all keys of a tenant, or all requests to a model, may use."""

import click
import msgspec

from nebula.actors.projection import Projection
from nebula.cli import tables
from nebula.cli.cluster import joined
from nebula.cli.columns import Columns
from nebula.cli.limit_options import limit_option
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import plan_option
from nebula.cli.process import fail, run
from nebula.cli.submit import append
from nebula.cli.tables import print_json
from nebula.events.limit_events import Kind, LimitsSet
from nebula.events.state import State
from nebula.events.subjects import model_id
from nebula.events.usage_limits import NO_LIMITS, UsageLimits, limit_texts, limits_of
from nebula.events.vocabulary import Event
from nebula.events.wrong_values import in_words
from nebula.history.limits import present_limits
from nebula.store.connection import Unavailable
from nebula.store.ledger import LedgerStore


@click.group()
def limits() -> None:
    """Set the limits of tenants and models, and list all; `nebula key change` sets a key's."""


@limits.command("set")
@click.argument("kind", type=click.Choice(("tenant", "model")))
@click.argument("identity", metavar="ID")
@limit_option
@plan_option
@nats_option
@json_option
def set_limits(
    kind: Kind, identity: str, limits: dict[str, object], nats: str, as_json: bool
) -> None:
    """Set limits of a tenant or a model; the others stay. `--limit NAME=` ends a limit."""
    if not limits:
        fail("no limit is given: name one, such as --limit tokens-per-day=1000000", 2)
    identity = model_id(identity) if kind == "model" else identity

    def intent(state: State) -> tuple[str, Event]:
        known = state.limits.get(limits_of(kind, identity), NO_LIMITS)
        try:
            changed = msgspec.convert({**msgspec.to_builtins(known), **limits}, UsageLimits)
        except msgspec.ValidationError as error:
            fail(in_words(error), 2)
        return identity, LimitsSet(kind, changed)

    async def change() -> None:
        async with joined(nats) as projection:
            await append(projection, intent)
            await _show(projection, as_json=as_json)

    run(change())


@limits.command("list")
@nats_option
@json_option
def list_limits(nats: str, as_json: bool) -> None:
    """List the limits of keys, tenants and models, and what is used of them."""

    async def show() -> None:
        async with joined(nats) as projection:
            await _show(projection, as_json=as_json)

    run(show())


async def _used(store: LedgerStore, place: str) -> dict[str, int] | None:
    try:
        return await store.used(*place.split(".", 1))
    except Unavailable:
        return None


async def _show(projection: Projection, *, as_json: bool) -> None:
    there, store = present_limits(projection.state), LedgerStore(projection.log.connection)
    used = {place: await _used(store, place) for place in there}
    if as_json:
        shown = {
            place: {**msgspec.to_builtins(each), "used": used[place]}
            for place, each in there.items()
        }
        print_json(shown)
        return
    table = Columns(("KIND", "ID", "LIMITS"))
    for place, found in there.items():
        kind, _, identity = place.partition(".")
        table.add_row(kind, identity, ", ".join(limit_texts(found, used[place])))
    tables.console().print(table)
