"""`nebula replay`: fold a log again, check its decisions, or decide under other conditions."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nebula.actors.placement.decision import Decision
from nebula.cli import tables
from nebula.cli.log_source import LivePast, Past, log_option, moment, opened, state_at
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run, say
from nebula.cli.replay_request import replay_request
from nebula.cli.tables import print_json
from nebula.events import snapshot
from nebula.events.record import Record
from nebula.events.state import EMPTY, State
from nebula.history import what_if
from nebula.history.description import describe
from nebula.history.difference import differences
from nebula.history.invariants import broken, following
from nebula.history.moments import BadMoment, Moment, clock
from nebula.history.replay import Difference, Replay, from_the_future
from nebula.history.what_if import BadCondition, Condition, Outcome, WhatIf

LISTED = 20
"""Differences, and decisions that would come next, that are listed at most."""


@click.group(invoke_without_command=True)
@click.option(
    "--since",
    default=None,
    metavar="SEQ|TIME",
    help="Check only the decisions from this moment on, and begin with the state before it.",
)
@click.option("--until", default=None, metavar="SEQ|TIME", help="Fold up to this moment [all].")
@click.option("--all", "everything", is_flag=True, help="List every difference, not the first.")
@click.option("--step", is_flag=True, help="Show what each event changes.")
@click.option("--snapshot", "from_snapshot", is_flag=True, help="Begin with the newest snapshot.")
@click.option(
    "--what-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="policy=binpack, 'without n3' or 'with n4:80GiB'; repeatable.",
)
@log_option
@nats_option
@json_option
@click.pass_context
def replay(
    context: click.Context,
    since: str | None,
    until: str | None,
    everything: bool,
    step: bool,
    from_snapshot: bool,
    conditions: tuple[str, ...],
    file: Path | None,
    nats: str,
    as_json: bool,
) -> None:
    """Fold a log from its beginning and check that today's decisions are the recorded ones.

    Also check that the states hold what always must hold. End with exit code 1 at the first
    decision that differs, or if something does not hold.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        parsed = [what_if.parse(each) for each in conditions]
    except BadCondition as error:
        fail(str(error), 2)
    if parsed and (step or from_snapshot or since is not None or everything):
        fail("--what-if begins with the first event and shows only the end", 2)
    if from_snapshot and since is not None:
        fail("--since begins with its moment, --snapshot with the newest snapshot: take one", 2)
    if from_snapshot and file is not None:
        fail("--snapshot needs a cluster: a file holds none", 2)
    at = moment(until)
    if parsed:
        run(_what_if(nats, file, parsed, at, as_json))
    else:
        asked = _Asked(moment(since), at, from_snapshot, everything, step)
        run(_replay(nats, file, asked, as_json))


replay.add_command(replay_request)


class _Asked(NamedTuple):
    """What to replay: since and until which moment, and what to show of it."""

    since: Moment | None
    until: Moment | None
    shortcut: bool
    everything: bool
    step: bool


async def _replay(nats: str, file: Path | None, asked: _Asked, as_json: bool) -> None:
    until = asked.until
    async with opened(nats, file) as past:
        begin = await _begin(past, asked)
        folding = Replay(begin)
        output = tables.console()
        shown = output if asked.step else None
        started = time.perf_counter()
        found = await _fold(past, folding, until, shown, asked.everything)
        seconds = time.perf_counter() - started
        if until is None and (found is None or asked.everything):
            found = folding.end() or found
        if folding.state.seq == 0:
            raise BadMoment(
                f"{past.name} is empty: nothing has happened yet"
                if until is None or until.seq is not None
                else f"no event of {past.name} was stored by {clock(until.time or 0)}"
            )
        if found is None and until is not None and (until.seq or 0) > folding.state.seq:
            raise BadMoment(
                f"there is no sequence {until.seq}: {past.name} ends with {folding.state.seq}"
            )
        ending = _End.of(folding.state)
        if as_json:
            summary = _summary(folding, begin.seq, seconds, found) | ending.summary
            print_json(summary | {"chain": past.chain or None})
        else:
            _report(output, folding, begin.seq, seconds)
            _show_differences(output, folding.differences)
            ending.show(output)
            if past.chain:
                output.print(f"the file ends with chain {past.chain}", soft_wrap=True)
        if folding.differences or ending.failed:
            raise SystemExit(1)


class _End(NamedTuple):
    """What the last state breaks, and what would be decided next, and whether that ends."""

    broken: list[str]
    due: list[Decision]
    ends: bool

    @classmethod
    def of(cls, state: State) -> "_End":
        return cls(broken(state), *following(state))

    @property
    def failed(self) -> bool:
        return bool(self.broken) or not self.ends

    @property
    def summary(self) -> dict[str, object]:
        due = [_decided(each) for each in self.due[:LISTED]]
        return {"broken": self.broken, "due": due, "due_count": len(self.due), "ends": self.ends}

    def show(self, output: Console) -> None:
        for each in self.broken:
            output.print(f"[red]the last state is not sound[/red]: {escape(each)}", soft_wrap=True)
        if not self.ends:
            output.print(f"[red]after {len(self.due)} decisions there are still more[/red]")
        if self.due:
            count = "1 thing" if len(self.due) == 1 else f"{len(self.due)} things"
            output.print(f"\nfrom the last state this version would decide {count}:")
        for next_one in self.due[:LISTED]:
            output.print(f"  {escape(_plain(next_one.id, next_one.event))}", soft_wrap=True)


async def _begin(past: Past, asked: _Asked) -> State:
    """Return the state to begin with."""
    since = asked.since
    if since is None:
        return await past.snapshot(asked.until or Moment()) if asked.shortcut else EMPTY
    if since.seq == 1:
        return EMPTY
    if since.seq is not None:
        return await state_at(past, Moment(seq=since.seq - 1))
    try:
        return await state_at(past, since)
    except BadMoment:
        return EMPTY  # it was before the first event


async def _fold(
    past: Past,
    folding: Replay,
    until: Moment | None,
    output: Console | None,
    everything: bool = False,
) -> Difference | None:
    now, warned = time.time_ns(), not isinstance(past, LivePast)
    async with aclosing(past.records(folding.state.seq)) as batches:
        async for batch in batches:
            problem = "" if warned else from_the_future(batch, now)
            if problem:
                warned = True
                say(f"nebula: {past.name}: {problem}", warning=True)
            for record in batch:
                if until is not None and until.passed(record.seq, record.time):
                    return None
                found = folding.take(record) if output is None else _step(folding, record, output)
                if found is not None and not everything:
                    return found
    return folding.differences[0] if folding.differences else None


def _step(folding: Replay, record: Record, output: Console) -> Difference | None:
    before = folding.state
    found = folding.take(record)
    who = f"{record.aggregate} {record.id}"
    output.print(
        f"[bold]{record.seq:>6}[/bold]  {clock(record.time)}  [cyan]{escape(who)}[/cyan]: "
        f"{escape(describe(record, before))}",
        soft_wrap=True,
    )
    for change in differences(before, folding.state):
        what = f"{change.aggregate} {change.id}" + (f" {change.field}" if change.field else "")
        turned = " -> ".join(filter(None, (change.before, change.after)))
        output.print(f"{'':>8}{change.sign} {escape(what)}: {escape(turned)}", soft_wrap=True)
    return found


def _summary(
    folding: Replay, begin: int, seconds: float, found: Difference | None
) -> dict[str, object]:
    return {
        "from": begin,
        "to": folding.state.seq,
        "seconds": round(seconds, 3),
        "checked": folding.checked,
        "by_hand": folding.by_hand,
        "beyond": folding.beyond,
        "by_older": folding.by_older,
        "state": snapshot.digest(folding.state),
        "difference": None if found is None else _both_sides(found),
        "differences": [_both_sides(each) for each in folding.differences],
    }


def _both_sides(found: Difference) -> dict[str, object]:
    return {
        "seq": found.seq,
        "basis": found.basis,
        "id": found.id,
        "recorded": None
        if found.recorded is None
        else {"type": type(found.recorded).__name__, "event": found.recorded},
        "decided": [_decided(each) for each in found.decided],
    }


def _decided(each: Decision) -> dict[str, object]:
    return {"id": each.id, "type": type(each.event).__name__, "event": each.event}


def _report(output: Console, folding: Replay, begin: int, seconds: float) -> None:
    count = folding.state.seq - begin
    output.print(
        f"folded events {begin + 1} to {folding.state.seq} in {seconds:.2f} s "
        f"({count / max(seconds, 1e-9):,.0f}/s), state {snapshot.digest(folding.state)[:16]}",
        soft_wrap=True,
    )
    parts = [f"{folding.checked} decisions are the same as recorded"]
    if folding.by_hand:
        parts.append(f"{folding.by_hand} were written by hand")
    if folding.beyond:
        parts.append(f"{folding.beyond} can't be checked: their basis was not folded")
    if folding.by_older:
        parts.append(f"{folding.by_older} are an older version's, which did not know the event")
    output.print("; ".join(parts), soft_wrap=True)


def _show_differences(output: Console, found: Sequence[Difference]) -> None:
    for number, each in enumerate(found[:LISTED]):
        head = "difference" if number else "first difference"
        output.print(
            f"\n[red]{head} at event {each.seq}[/red], decided from the state "
            f"after event {each.basis}:",
            soft_wrap=True,
        )
        recorded = "nothing" if each.recorded is None else _plain(each.id, each.recorded)
        output.print(f"  recorded: {escape(recorded)}", soft_wrap=True)
        for decision in each.decided:
            output.print(
                f"  decided:  {escape(_plain(decision.id, decision.event))}", soft_wrap=True
            )
        if not each.decided:
            output.print("  decided:  nothing")
    if len(found) > LISTED:
        output.print(f"\n{len(found) - LISTED} more differ; --json has all of them")


def _plain(identity: str, event: object) -> str:
    return f"{type(event).__name__} {identity} {msgspec.json.encode(event).decode()}"


async def _what_if(
    nats: str,
    file: Path | None,
    conditions: list[Condition],
    until: Moment | None,
    as_json: bool,
) -> None:
    async with opened(nats, file) as past:
        imagined = WhatIf(conditions)
        async with aclosing(past.records()) as batches:
            async for batch in batches:
                for record in batch:
                    if until is None or not until.passed(record.seq, record.time):
                        imagined.take(record)
        seq = imagined.actual.state.seq
        if seq == 0:
            raise BadMoment(f"{past.name} is empty: nothing has happened yet")
        if until is not None and (until.seq or 0) > seq:
            raise BadMoment(f"there is no sequence {until.seq}: {past.name} ends with {seq}")
        try:
            imagined.check()
        except BadCondition as error:
            fail(str(error))
        outcomes = imagined.outcomes()
        if as_json:
            print_json({"seq": seq, "outcomes": outcomes})
            return
        output = tables.console()
        differing = [each for each in outcomes if each.differs]
        output.print(
            f"after event {seq}: {len(differing)} of {len(outcomes)} models would be elsewhere\n"
        )
        output.print(_outcomes(outcomes))


def _outcomes(outcomes: list[Outcome]) -> Table:
    table = tables.columns("SIGN", "MODEL", "CHANGE")
    for each in outcomes:
        table.add_row(
            "[yellow]~[/yellow]" if each.differs else "",
            each.model,
            _change(each),
        )
    return table


def _change(each: Outcome) -> str:
    was = _places(each.actual, each.missing)
    return f"{was} -> {_places(each.otherwise, each.otherwise_missing)}" if each.differs else was


def _places(places: tuple[str, ...], missing: int) -> str:
    listed = ", ".join(places) or "nowhere"
    return f"{listed} [red]({missing} not placed)[/red]" if missing else listed
