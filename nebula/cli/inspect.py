"""The commands that look back: the state at a moment, what changed between two, and the events."""

from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from rich.markup import escape

from nebula.cli import status_output, tables
from nebula.cli.cluster_file import end_with_differences
from nebula.cli.log_source import LivePast, Past, log_option, moment, opened, reader_time, state_at
from nebula.cli.options import Numbered, Whole, json_option, nats_option
from nebula.cli.process import fail, run, say
from nebula.cli.tables import print_json
from nebula.events.evolve import evolve
from nebula.events.plain_text import one_line, plain
from nebula.events.record import Record
from nebula.events.state import EMPTY, State
from nebula.events.vocabulary import TYPES
from nebula.history import difference, moments
from nebula.history.description import describe
from nebula.history.event_filter import EventFilter, FilterSpec, is_rejection
from nebula.history.moments import BadMoment, Moment
from nebula.http.views import event_view, state_view

WIDEST = 40
"""Width in characters of the column that names what an event is about; longer names move the other
columns."""

PAGE = 500
"""Least number of events whose columns have the same width."""

_TYPE = max(map(len, TYPES))

LONGEST_LINE = 500
"""Characters of an event's sentence in a list of events; `nebula why seq` prints all of it."""


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
        found, now = await state_at(past, at), reader_time(past, at)
        if as_json:
            print_json(state_view(found, now))
            return
        output = tables.console()
        output.print(f"after event {found.seq}, {moments.clock(found.time)}\n")
        status_output.status(output, found, now)


@click.command(cls=Numbered)
@click.argument("before", metavar="A", required=False)
@click.argument("after", metavar="[B]", required=False)
@click.option(
    "-f",
    "--file",
    "declared",
    default=None,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Show instead what differs from a cluster file: now, or at the moment A. Exit codes: 0 "
    "nothing, 1 something differs, 2 the file is not valid, 3 the cluster can't be looked at.",
)
@click.option("--prune", is_flag=True, help="With -f: what the file does not have differs too.")
@log_option
@nats_option
@json_option
def diff(
    before: str | None,
    after: str | None,
    declared: Path | None,
    prune: bool,
    file: Path | None,
    nats: str,
    as_json: bool,
) -> None:
    """Show what changed from the moment A to B, each a sequence or a time; without B, until now."""
    if declared is not None:
        if after is not None:
            fail("-f takes one moment at most", 2)
        end_with_differences(nats, file, declared, moment(before), prune=prune, as_json=as_json)
    if before is None:
        fail("give a moment, such as 8h, or a cluster file with -f", 2)
    if prune:
        fail("--prune is for -f", 2)
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
@click.option("--node", default="", help="Only events about this node, or about what runs there.")
@click.option("--since", default=None, metavar="SEQ|TIME", help="Begin with this moment.")
@click.option("--until", default=None, metavar="SEQ|TIME", help="End with this moment.")
@click.option("--cause", default=None, type=Whole(1), help="Only events that this event led to.")
@click.option("--rejected", is_flag=True, help="Only rejected events and their rejections.")
@click.option("--by", default="", help="Only events of this principal, as key:ci, or actor.")
@click.option("-n", "--last", default=None, type=Whole(1), help="Only this number of last events.")
@click.option("-f", "--follow", is_flag=True, help="Continue as the log grows.")
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
    by: str,
    last: int | None,
    follow: bool,
    file: Path | None,
    nats: str,
    as_json: bool,
) -> None:
    """List the events of all or some aggregates: `model`, `chat` (with its replicas), `node/n1`."""
    if follow and (file is not None or until is not None):
        fail("--follow can't be combined with --log or --until: what they select does not grow", 2)
    chosen = FilterSpec(aggregates, types, node, cause, rejected, by)
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
            say(listing.instead(past))
        if follow and isinstance(past, LivePast):
            async with aclosing(past.log.follow(listing.state.seq)) as batches:
                async for batch in batches:
                    for record in batch:
                        listing.take(record)
                    listing.flush()


class _Listing:
    """Prints the selected events: each as it comes, or the last of them at the end."""

    def __init__(
        self,
        chosen: FilterSpec,
        since: Moment | None,
        until: Moment | None,
        last: int | None,
        as_json: bool,
    ) -> None:
        self.state: State = EMPTY
        self.nothing = True
        """Whether no event was printed."""
        self.printed = 0
        self._early = 0
        self._chosen = chosen
        self._sieve = EventFilter(chosen)
        self._since = since
        self._until = until
        self._last = last
        self._kept: list[tuple[Record, State, State]] | None = [] if last is not None else None
        self._as_json = as_json
        self._output = tables.console()
        self._page: list[_Row] = []
        self._width = 0

    def instead(self, past: Past) -> str:
        """Return what happened instead if nothing was printed."""
        if self._early:
            events = "1 event is" if self._early == 1 else f"{self._early} events are"
            return f"nothing happened since then: {events} of the kind asked for, but earlier"
        return self._sieve.nothing(past.name)

    async def check(self, past: Past) -> None:
        """Raise BadMoment for a sequence that the log does not have."""
        bounds = (each.seq for each in (self._since, self._until) if each is not None)
        asked = max((seq for seq in (*bounds, self._chosen.cause) if seq is not None), default=0)
        if asked and asked > (last := await past.last()) > 0:
            raise BadMoment(f"there is no sequence {asked}: {past.name} ends with {last}")

    async def read(self, past: Past) -> list[str]:
        """Print the selected events; return the selected ids that the log does not have at all."""
        async with aclosing(past.records()) as batches:
            async for batch in batches:
                self.nothing = False
                for record in batch:
                    if self._until is None or not self._until.passed(record.seq, record.time):
                        self.take(record)
        kept, self._kept = self._kept, None
        for record, before, after in kept or ():
            self._print(record, before, after)
        self.flush()
        return self._sieve.unknown

    def take(self, record: Record) -> None:
        before, self.state = self.state, evolve(self.state, record)
        if not self._sieve.passes(record, before, self.state):
            return
        if self._since is not None and not self._since.reached(record.seq, record.time):
            self._early += 1
            return
        if self._kept is None:
            self._print(record, before, self.state)
            return
        self._kept.append((record, before, self.state))
        if self._last is not None and len(self._kept) > self._last:
            del self._kept[0]

    def _print(self, record: Record, before: State, after: State) -> None:
        self.printed += 1
        if self._as_json:
            click.echo(msgspec.json.encode(event_view(record, before)))
            return
        self._page.append(_row(record, before, after))
        if len(self._page) >= PAGE:
            self.flush()

    def flush(self) -> None:
        """Print the collected rows, with columns as wide as all rows so far need."""
        if not self._page:
            return
        first = not self._width
        self._width = max([self._width, *(len(row.about) for row in self._page)])
        width = min(self._width, WIDEST)
        if first:
            head = f"{'SEQ':>6}  {'TIME':<23}  {'ABOUT':<{width}}  {'EVENT':<{_TYPE}}  WHAT"
            self._output.print(f"[bold]{head}[/bold]", soft_wrap=True)
        for row in self._page:
            about, kind = f"{row.about:<{width}}", f"{row.type:<{_TYPE}}"
            self._output.print(
                f"[bold]{row.seq:>6}[/bold]  {row.time}  [cyan]{escape(about)}[/cyan]  "
                f"[{row.colour}]{escape(kind)}  {escape(row.text)}[/{row.colour}]"
                f"[dim]{escape(row.whence)}[/dim]",
                soft_wrap=True,
            )
        self._page.clear()


class _Row(NamedTuple):
    """One line of a list of events."""

    seq: int
    time: str
    about: str
    type: str
    text: str
    whence: str
    colour: str


def _row(record: Record, before: State, after: State) -> _Row:
    text = describe(record, before)
    rejection = after.rejections.get(record.seq)
    if rejection is not None and rejection.reason not in text:
        text = f"{text}; rejected: {rejection.reason}"
    cause = f"<- {record.cause}" if record.cause is not None else ""
    whose = record.by or record.actor
    actor = f"({plain(whose)})" if whose else ""
    return _Row(
        record.seq,
        moments.clock(record.time),
        plain(f"{record.aggregate} {record.id}" if record.id else record.subject),
        plain(record.type),
        one_line(text, LONGEST_LINE),
        "".join(f" {each}" for each in (cause, actor) if each),
        "red" if is_rejection(record, after) else "default",
    )
