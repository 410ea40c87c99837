"""The commands that look back: the state at a moment, what changed between two, and the events."""

from contextlib import aclosing
from pathlib import Path

import click
import msgspec
from rich.markup import escape

from nebula.cli import tables
from nebula.cli.options import Numbered, Whole, json_option, nats_option
from nebula.cli.past import LivePast, Past, log_option, moment, opened, state_at
from nebula.cli.process import fail, run
from nebula.cli.tables import print_json
from nebula.events.evolve import evolve
from nebula.events.record import Record
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import TYPES
from nebula.history import difference, moments
from nebula.history.moments import BadMoment, Moment
from nebula.history.selection import Selection, Sieve, is_rejection
from nebula.history.telling import told
from nebula.http.views import event_view, state_view


@click.command()
@click.option("--at", default=None, metavar="SEQ|TIME", help="The moment [now].")
@log_option
@nats_option
@json_option
def state(at: str | None, file: Path | None, nats: str, as_json: bool) -> None:
    """Show the cluster as it was: models, plans, replicas, nodes, adapters."""
    run(_state(nats, file, moment(at), as_json))


async def _state(nats: str, file: Path | None, at: Moment | None, as_json: bool) -> None:
    async with opened(nats, file) as past:
        found = await state_at(past, at)
        if as_json:
            print_json(state_view(found))
            return
        output = tables.console()
        output.print(f"after event {found.seq}, {moments.clock(found.time)}\n")
        tables.status(output, found)


@click.command(cls=Numbered)
@click.argument("before", metavar="A")
@click.argument("after", metavar="[B]", required=False)
@log_option
@nats_option
@json_option
def diff(before: str, after: str | None, file: Path | None, nats: str, as_json: bool) -> None:
    """Show what changed from the moment A to B, each a sequence or a time; without B, until now."""
    first, second = moment(before), moment(after)
    run(_diff(nats, file, first, second, as_json))


async def _diff(
    nats: str, file: Path | None, first: Moment | None, second: Moment | None, as_json: bool
) -> None:
    async with opened(nats, file) as past:
        one, two = await state_at(past, first), await state_at(past, second)
        changes = difference.differences(one, two)
        if as_json:
            print_json({"from": one.seq, "to": two.seq, "changes": changes})
            return
        output = tables.console()
        output.print(
            f"from event {one.seq}, {moments.clock(one.time)}\n"
            f"to event {two.seq}, {moments.clock(two.time)}\n"
        )
        output.print(tables.changes(changes) if changes else "nothing changed")


@click.command()
@click.argument("aggregates", metavar="[AGGREGATE]...", nargs=-1)
@click.option(
    "--type", "types", multiple=True, type=click.Choice(sorted(TYPES)), help="Repeatable."
)
@click.option("--node", default="", help="What happened to a node, on it, or was planned for it.")
@click.option("--since", default=None, metavar="SEQ|TIME", help="Begin with this moment.")
@click.option("--until", default=None, metavar="SEQ|TIME", help="End with this moment.")
@click.option("--cause", default=None, type=Whole(1), help="What this event led to.")
@click.option("--rejected", is_flag=True, help="Only what was not acted upon, and the answers.")
@click.option("-n", "--last", default=None, type=Whole(1), help="Only the last so many.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@log_option
@nats_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
def events(
    aggregates: tuple[str, ...],
    types: tuple[str, ...],
    node: str,
    since: str | None,
    until: str | None,
    cause: int | None,
    rejected: bool,
    last: int | None,
    follow: bool,
    file: Path | None,
    nats: str,
    as_json: bool,
) -> None:
    """List the events of all or some aggregates: `model`, `chat` (with its replicas), `node/n1`."""
    if follow and (file is not None or until is not None):
        fail("--follow goes with neither --log nor --until: what is over does not grow", 2)
    chosen = Selection(aggregates, types, node, cause, rejected)
    begin, end = moment(since), moment(until)
    if begin is not None and end is not None and _after(begin, end):
        fail(f"--since {since} is after --until {until}: nothing can lie between them", 2)
    listing = _Listing(chosen, begin, end, last, as_json)
    run(_events(nats, file, listing, follow))


def _after(one: Moment, other: Moment) -> bool:
    if one.seq is not None and other.seq is not None:
        return one.seq > other.seq
    return one.time is not None and other.time is not None and one.time > other.time


async def _events(nats: str, file: Path | None, listing: "_Listing", follow: bool) -> None:
    async with opened(nats, file) as past:
        await listing.check(past)
        unknown = await listing.read(past)
        if listing.nothing and not follow:
            raise BadMoment(f"{past.name} is empty: nothing has happened yet")
        if unknown and not follow:
            state = listing.state
            there = ", ".join(sorted({*state.models, *state.nodes})) or "nothing"
            fail(f"no event of {past.name} is about {unknown[0]!r}; there are: {there}")
        if not listing.printed and not follow:
            click.echo("nothing that happened is what was asked for", err=True)
        if follow and isinstance(past, LivePast):
            async with aclosing(past.log.follow(listing.state.seq)) as batches:
                async for batch in batches:
                    for record in batch:
                        listing.take(record)


class _Listing:
    """Prints the selected events, as they come or the last of them at the end."""

    def __init__(
        self,
        chosen: Selection,
        since: Moment | None,
        until: Moment | None,
        last: int | None,
        as_json: bool,
    ) -> None:
        self.state: State = EMPTY
        self.nothing = True
        """Whether no event was there at all."""
        self.printed = 0
        self._chosen = chosen
        self._sieve = Sieve(chosen)
        self._since = since
        self._until = until
        self._last = last
        self._kept: list[tuple[Record, State]] | None = [] if last is not None else None
        self._as_json = as_json
        self._output = tables.console()

    async def check(self, past: Past) -> None:
        """Raise BadMoment for a sequence that the log does not have."""
        bounds = (each.seq for each in (self._since, self._until) if each is not None)
        asked = max((seq for seq in (*bounds, self._chosen.cause) if seq is not None), default=0)
        if asked and asked > (last := await past.last()) > 0:
            raise BadMoment(f"there is no sequence {asked}: {past.name} ends with {last}")

    async def read(self, past: Past) -> list[str]:
        """Print what there is; give what was selected and is not in the log at all."""
        async with aclosing(past.records()) as batches:
            async for batch in batches:
                self.nothing = False
                for record in batch:
                    if self._until is None or not self._until.passed(record.seq, record.time):
                        self.take(record)
        kept, self._kept = self._kept, None
        for record, after in kept or ():
            self._print(record, after)
        return self._sieve.unknown

    def take(self, record: Record) -> None:
        before, self.state = self.state, evolve(self.state, record)
        if not self._sieve.passes(record, before, self.state) or not self._begun(record):
            return
        if self._kept is None:
            self._print(record, self.state)
            return
        self._kept.append((record, self.state))
        if self._last is not None and len(self._kept) > self._last:
            del self._kept[0]

    def _begun(self, record: Record) -> bool:
        since = self._since
        if since is None:
            return True
        if since.seq is not None:
            return record.seq >= since.seq
        return since.time is None or record.time >= since.time

    def _print(self, record: Record, after: State) -> None:
        self.printed += 1
        if self._as_json:
            click.echo(msgspec.json.encode(event_view(record)))
            return
        colour = "red" if is_rejection(record, after) else "default"
        cause = f" [dim]<- {record.cause}[/dim]" if record.cause is not None else ""
        actor = f" [dim]{escape(record.actor)}[/dim]" if record.actor else ""
        who = f"{record.aggregate} {record.id}" if record.id else record.subject
        self._output.print(
            f"[bold]{record.seq:>6}[/bold]  {moments.clock(record.time)}  "
            f"[cyan]{escape(who):<24}[/cyan] [{colour}]{escape(record.type):<20} "
            f"{escape(told(record))}[/{colour}]{cause}{actor}",
            soft_wrap=True,
        )
