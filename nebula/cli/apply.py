"""`nebula apply`: make the cluster as a file says, by the plan that was shown and no other."""

from pathlib import Path

import click
from msgspec import Struct
from rich.console import Console
from rich.markup import escape

from nebula.actors.projection import Projection
from nebula.cli import progress, tables
from nebula.cli.cluster import joined
from nebula.cli.cluster_file import read_file, show_differences, with_causes
from nebula.cli.confirming import confirmed
from nebula.cli.exits import NOT_DONE, USAGE
from nebula.cli.log_source import LivePast, state_at
from nebula.cli.models import gone
from nebula.cli.options import Whole, json_option, nats_option
from nebula.cli.plan_first import show_plan
from nebula.cli.process import fail, run, say
from nebula.cli.submit import wait_option
from nebula.cli.tables import print_json
from nebula.events.advised import command
from nebula.events.intents import ModelUnloadRequested
from nebula.events.state import State
from nebula.events.subjects import EVENTS
from nebula.events.vocabulary import AGGREGATE_OF, Event
from nebula.history.change_plan import ChangePlan, plan_change
from nebula.history.cluster_file.change import FileChange, change_to
from nebula.history.cluster_file.declaration import ClusterFile
from nebula.history.cluster_file.difference import Comparison, compare
from nebula.history.cluster_file.moved import moved
from nebula.history.moments import BadMoment, Moment
from nebula.history.outcome import asked
from nebula.store import batch
from nebula.store.log import Conflict, Guard, TooLarge
from nebula.store.reach import trouble
from nebula.store.refusals import NOTHING, NotAppended

MOVED = 3
"""Exit code if the cluster is not as it was when the plan was shown: plan again."""


class Appended(Struct, frozen=True):
    """An intent in the log, and the state before it."""

    id: str
    event: Event
    seq: int
    before: State


@click.command()
@click.option(
    "-f",
    "--file",
    "path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The cluster file, as `nebula dump` prints one.",
)
@click.option("--prune", is_flag=True, help="Remove what the file does not have.")
@click.option("--plan", "only_plan", is_flag=True, help="Only show the plan; nothing is recorded.")
@click.option(
    "--at",
    default=None,
    metavar="SEQ",
    type=Whole(1),
    help="Apply only the plan that was shown on this event: exit code 3 if it is another now.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@nats_option
@wait_option
@json_option
def apply(
    path: Path,
    prune: bool,
    only_plan: bool,
    at: int | None,
    yes: bool,
    nats: str,
    wait: bool,
    as_json: bool,
) -> None:
    """Make the cluster as a file says: show what differs and the plan, ask, and wait for the end.

    Exit codes: 0 it is so; 1 something is refused or did not come to serve; 2 the file is not
    valid; 3 the cluster has changed since the plan was shown, and nothing was done.
    """
    if as_json and not (yes or only_plan):
        fail("--json can't ask for confirmation: add --yes or --plan", USAGE)
    run(
        _Apply(read_file(path), path, prune=prune, as_json=as_json).run(
            nats, at, only_plan, yes, wait
        )
    )


class _Apply:
    """One run of the command."""

    def __init__(self, file: ClusterFile, path: Path, *, prune: bool, as_json: bool) -> None:
        self._file = file
        self._path = path
        self._prune = prune
        self._as_json = as_json
        self._output: Console = tables.console(errors=as_json)

    async def run(self, nats: str, at: int | None, only_plan: bool, yes: bool, wait: bool) -> None:
        async with joined(nats) as projection:
            shown = projection.state
            basis = shown if at is None else await self._basis(projection, at)
            await self._still_holds(projection, basis, shown)
            change = change_to(self._file, shown, prune=self._prune)
            plan = plan_change(shown, change.intents)
            found = compare(self._file, shown, prune=self._prune)
            found = await with_causes(LivePast(projection.log), shown, found)
            if not self._as_json:
                self._show(found, change, plan)
            if change.refused and not change.waits:
                self._end(found, change, plan, [], NOT_DONE)
            if not change.intents or only_plan:
                impossible = only_plan and not (plan.possible and not change.refused)
                self._end(found, change, plan, [], NOT_DONE if impossible else 0)
            if not yes and not confirmed("Append these events?"):
                raise SystemExit(NOT_DONE)
            appended, left = await self._append(projection, basis)
            served = await self._outcome(projection, appended, wait)
            if not self._as_json and served and not left:
                self._output.print(f"applied: its last event is {appended[-1].seq}")
            self._end(found, change, plan, appended, 0 if served and not left else NOT_DONE)

    async def _basis(self, projection: Projection, at: int) -> State:
        """Return the state on which a plan was shown earlier."""
        try:
            return await state_at(LivePast(projection.log), Moment(seq=at))
        except BadMoment as error:
            fail(f"--at {at}: {error}", USAGE)

    async def _still_holds(self, projection: Projection, basis: State, now: State) -> None:
        """End the command if the plan that was shown on `basis` is another one now."""
        if now.seq == basis.seq:
            return
        since = await projection.log.read(basis.seq, now.seq)
        reasons = moved(basis, now, since, self._file, prune=self._prune)
        if not reasons:
            return
        for each in reasons:
            say(each, warning=True)
        fail(
            f"the cluster has changed since the plan on event {basis.seq}, and nothing was done: "
            f"plan again with {command('apply', '-f', str(self._path), '--plan')}",
            MOVED,
        )

    def _show(self, found: Comparison, change: FileChange, plan: ChangePlan) -> None:
        show_differences(found)
        if change.intents:
            show_plan(self._output, plan)
        for reason in change.refused:
            word = "waits" if change.waits else "refused"
            self._output.print(f"{word}: {escape(reason)}", soft_wrap=True, highlight=False)
        if not (change.intents or change.refused):
            self._output.print(f"event {plan.at}: the cluster is as the file says")
        elif change.intents:
            words = ["apply", "-f", str(self._path), *(["--prune"] if self._prune else [])]
            again = command(*words, "--at", str(plan.at), "--yes")
            self._output.print(
                f"to apply this plan and no other: {escape(again)}",
                soft_wrap=True,
                highlight=False,
            )

    def _end(
        self,
        found: Comparison,
        change: FileChange,
        plan: ChangePlan,
        appended: list[Appended],
        code: int,
    ) -> None:
        """End the command."""
        if self._as_json:
            print_json(
                {
                    "at": plan.at,
                    "drifts": found.drifts,
                    "alone": found.alone,
                    "intents": [
                        {"id": each, "type": type(event).__name__, "event": event}
                        for each, event in change.intents
                    ],
                    "refused": change.refused,
                    "plan": plan,
                    "appended": [each.seq for each in appended],
                }
            )
        raise SystemExit(code)

    async def _append(
        self, projection: Projection, basis: State
    ) -> tuple[list[Appended], tuple[str, ...]]:
        """Append all intents; wait in between for models whose names are needed to be gone.

        Return them, and what is refused at last.
        """
        appended: list[Appended] = []
        while True:
            change, now = await self._append_once(projection, None if appended else basis)
            appended += now
            if not now or not (change.refused or len(change.intents) > batch.LIMIT):
                break
            for each in change.waits:
                if not await gone(projection, self._output, each, now[-1].seq):
                    raise SystemExit(NOT_DONE)
        for reason in change.refused:
            say(f"refused: {reason}", warning=True)
        return appended, change.refused

    async def _append_once(
        self, projection: Projection, basis: State | None
    ) -> tuple[FileChange, list[Appended]]:
        """Append what differs under the guard that nothing at all has come in between."""
        refused, warning = await trouble(projection.log.connection)
        if refused:
            raise NotAppended(refused, NOTHING)
        if warning:
            say(warning, warning=True)
        while True:
            state = projection.state
            if basis is not None:
                await self._still_holds(projection, basis, state)
            change = change_to(self._file, state, prune=self._prune)
            intents = change.intents[: batch.LIMIT]
            if not intents:
                return change, []
            try:
                last = await projection.log.append_all(
                    intents, guard=Guard(EVENTS, state.seq), actor="apply"
                )
            except Conflict:
                await projection.reached(state.seq + 1)
                continue
            except TooLarge as error:
                fail(str(error))
            await projection.reached(last)
            first = last - len(intents) + 1
            return change, [
                Appended(each, event, first + place, state)
                for place, (each, event) in enumerate(intents)
            ]

    async def _outcome(self, projection: Projection, appended: list[Appended], wait: bool) -> bool:
        """Wait for the models that were asked for otherwise; return whether all is as asked."""
        good = True
        for each in appended:
            reason = projection.refusal(each.seq)
            if reason is not None:
                say(f"{each.id}: event {each.seq} was rejected: {reason}", warning=True)
                good = False
        last = {
            each.id: each for each in appended if AGGREGATE_OF[type(each.event).__name__] == "model"
        }
        for each in last.values() if wait else ():
            console = tables.console(errors=True)
            if isinstance(each.event, ModelUnloadRequested):
                good &= await gone(projection, console, each.id, each.seq)
            else:
                wish = asked(projection.state, each.id, each.seq, "", each.before)
                good &= await progress.follow(projection, each.id, console, wish)
        return good
