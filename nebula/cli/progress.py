"""Follows a model while it loads and says what happens, until it is served or given up."""

import asyncio
import time

from rich.console import Console
from rich.markup import escape

from nebula.actors.projection import Projection
from nebula.events.standing import Standing, standing
from nebula.events.state import Held, Model, Replica


async def follow(
    projection: Projection, identity: str, console: Console, asked: int | None = None
) -> bool:
    """Show a model's progress; True once it is served with all its adapters, False if not.

    `asked` is when it was asked for, by the log's clock (ns) [the time of the newest event]. How it
    stands counts only once a router has answered what was asked for: until then it stands as it did
    before.
    """
    asked = projection.state.time if asked is None else asked
    began = time.monotonic()
    told: set[str] = set()
    changed = False
    first = projection.state.models.get(identity)
    before = first.rolled_back if first is not None else ""
    failing: Replica | None = None
    with console.status(f"{identity}: asked for") as line:
        while True:
            model = projection.state.models.get(identity)
            if model is None or model.unloading:
                console.print(f"{identity} was unloaded")
                return False
            if model.intent > model.answered:
                line.update(f"{identity}: waits for a router to place it")
                await _change_or_second(projection)
                continue
            stands = standing(projection.state, model)
            changed = changed or bool(stands.changing)
            fell_back = bool(model.rolled_back) and model.rolled_back != before
            failing = _failing(projection, model) or failing
            problem = _problem(projection, model)
            if problem and problem not in told:
                console.print(f"[yellow]{escape(problem)}[/yellow]", soft_wrap=True)
                told.add(problem)
            if stands.word in ("idle", "asleep") or (
                stands.ready == stands.wanted and not stands.changing
            ):
                waiting = _adapters_left(projection, model)
                if not waiting:
                    if fell_back:
                        _taken_back(model, stands, failing, console)
                        return False
                    after = _after(projection, model, asked, changed)
                    how = f"{stands.ready} of {stands.wanted} replicas{after}"
                    how = how if stands.wanted else _what_starts(model)
                    if problem:
                        console.print(f"[yellow]{identity} is not all there[/yellow]: {how}")
                        return False
                    with_adapters = ", ".join(sorted(model.adapters))
                    how += f", with {with_adapters}" if with_adapters and stands.ready else ""
                    console.print(f"[green]{identity} is {stands.word}[/green]: {how}")
                    return True
                line.update(f"{identity}: loading adapters {', '.join(waiting)}")
            elif stands.word == "failed" or (
                model.unschedulable
                and all(r.serving or r.retired for r in projection.state.replicas_of(model))
            ):
                _last_words(failing, console)
                how = f"is {stands.word}"
                if stands.ready:
                    how = f"is not as asked for, {stands.ready} of {stands.wanted} replicas serve"
                text = f"[red]{identity} {how}[/red]: {escape(stands.detail)}"
                console.print(text, soft_wrap=True)
                stays = "It is placed as soon as it fits. " if model.unschedulable else ""
                console.print(f"{stays}`nebula why {identity}` tells what to do.", soft_wrap=True)
                return False
            else:
                line.update(
                    f"{identity}: {stands.word} for {time.monotonic() - began:.0f} s; "
                    f"{escape(stands.detail[:200])}"
                )
            await _change_or_second(projection)


def _what_starts(model: Model) -> str:
    """Say what would start the engines of a model that is to have none now."""
    if model.asleep or model.spec.autoscale is not None:
        return "it has no engine until the first request for it comes"
    return f"it has 0 replicas, `nebula scale {model.id} 1` starts one"


def _after(projection: Projection, model: Model, asked: int, changed: bool) -> str:
    """Say how long it took: nobody may have looked at the moment when it was there.

    A plan touches all replicas that it keeps; what has changed since has become what was wanted.
    A change that was seen ends with such a plan.
    """
    if changed:
        return f" after {(projection.state.time - asked) / 1e9:.0f} s"
    came = [
        replica.since
        for replica in projection.state.replicas_of(model)
        if replica.serving and replica.changed > model.changed
    ]
    last = max(came, default=0)
    return f" after {(last - asked) / 1e9:.0f} s" if last > asked else " already"


def _problem(projection: Projection, model: Model) -> str:
    """Give the first trouble of any replica, in words that stay the same from try to try."""
    for replica in projection.state.replicas_of(model):
        if replica.phase == "failed" and not replica.given_up:
            return f"{replica.id} on {replica.node} failed and is tried again: {replica.reason}"
        held = _files(projection, replica)
        if held is not None and held.reason and held.retry_in is not None:
            return f"{replica.node} could not fetch its files and tries again: {held.reason}"
        for name, status in replica.adapters.items():
            if not status.loaded and name in model.adapters:
                return f"adapter {name} could not be loaded: {status.reason}"
    return ""


def _files(projection: Projection, replica: Replica) -> Held | None:
    """Give how a replica's files are that it still waits for."""
    node = projection.state.nodes.get(replica.node)
    if node is None or replica.launch is None or replica.engine is not None:
        return None
    return node.weights.get(replica.launch.source)


def _adapters_left(projection: Projection, model: Model) -> list[str]:
    return sorted(
        {
            name
            for name in model.adapters
            for replica in projection.state.replicas_of(model)
            if replica.serving and name not in replica.adapters
        }
    )


def _failing(projection: Projection, model: Model) -> Replica | None:
    """Give a replica whose engine has left last words: after a rollback it is there no more."""
    return next((each for each in projection.state.replicas_of(model) if each.log_tail), None)


def _last_words(replica: Replica | None, console: Console) -> None:
    if replica is None:
        return
    console.print(f"The last lines of {replica.id} ({replica.node}):", style="bold")
    for text in replica.log_tail[-15:]:
        console.print("  " + escape(text), style="dim", highlight=False, soft_wrap=True)


def _taken_back(model: Model, stands: Standing, failing: Replica | None, console: Console) -> None:
    """Say of a change that failed why, and last that nothing has changed."""
    _last_words(failing, console)
    serving = f"{stands.ready} of {stands.wanted} replicas serve as before"
    text = f"{model.id} was rolled back to what last worked: {model.rolled_back}; {serving}"
    console.print(f"[red]{escape(text)}[/red]", soft_wrap=True)


async def _change_or_second(projection: Projection) -> None:
    try:
        async with asyncio.timeout(1):
            await projection.changed()
    except TimeoutError:
        return
