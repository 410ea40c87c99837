"""`nebula alias` and `nebula aliases`: names that stand for models."""

from collections.abc import Sequence
from functools import partial

import click
from msgspec.structs import replace

from nebula.actors.intents import Refused
from nebula.cli import tables
from nebula.cli.cluster import joined
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import plan_option
from nebula.cli.process import fail, run
from nebula.cli.submit import ask, intent_of
from nebula.cli.tables import print_json
from nebula.events.advised import command
from nebula.events.alias import Alias
from nebula.events.intents import AliasRemoveRequested, AliasRequested
from nebula.events.state import State
from nebula.events.subjects import model_id
from nebula.events.vocabulary import Event
from nebula.history.outcome import Outcome, Progress
from nebula.history.subject import Subject, verdict


@click.command()
@click.argument("name")
@click.argument("targets", nargs=-1, metavar="[TARGET[=WEIGHT]]...")
@click.option(
    "--mirror", default="", metavar="MODEL", help=("A model that gets a copy of each request.")
)
@click.option("--remove", is_flag=True, help="Remove the alias.")
@plan_option
@nats_option
@json_option
def alias(
    name: str, targets: tuple[str, ...], mirror: str, remove: bool, nats: str, as_json: bool
) -> None:
    """Let NAME stand for models: each TARGET gets requests by its WEIGHT [1].

    Without a TARGET it shows what NAME stands for.
    """
    if not name:
        fail("the name of an alias must not be empty", 2)
    if remove and (targets or mirror):
        fail("--remove takes a name alone", 2)
    if not remove and not targets and mirror:
        fail("name at least one TARGET beside --mirror", 2)
    if not remove and not targets:
        run(_show_one(nats, name, as_json))
        return
    fields: dict[str, object] = {"targets": _targets(targets), "name": name, "mirror": mirror}
    wanted = None if remove else intent_of(fields, AliasRequested)

    def intent(state: State) -> tuple[str, Event]:
        known = _find(state, name)
        if known is not None:
            if wanted is None:
                return known.id, AliasRemoveRequested()
            return known.id, replace(wanted, name=known.name, replaces=known.changed)
        if wanted is None:
            raise Refused(_no_alias(state, name))
        identity = model_id(name)
        if identity in state.aliases:
            raise Refused(f"alias {state.aliases[identity].name!r} has the id {identity!r} already")
        return identity, replace(wanted, replaces=0)

    names = [] if wanted is None else [target.model for target in wanted.targets]
    if mirror:
        names.append(mirror)
    stands = partial(_stands, name=name)
    run(ask(nats, intent, wait=not as_json, as_json=as_json, names=names, look=stands))


@click.command()
@nats_option
@json_option
def aliases(nats: str, as_json: bool) -> None:
    """List the aliases and the models that get their requests."""
    run(_show(nats, as_json))


async def _show_one(nats: str, name: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        found = _find(state, name) or state.aliases.get(name)
        if found is None:
            fail(_no_alias(state, name) + f"; {command('alias', name, 'TARGET')} makes one")
        if as_json:
            print_json(found)
        else:
            tables.console().print(tables.aliases(state, found.id))


def _no_alias(state: State, name: str) -> str:
    there = ", ".join(sorted(each.name for each in state.aliases.values())) or "none"
    return f"there is no alias {name!r}; there are: {there}"


async def _show(nats: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        if as_json:
            print_json([state.aliases[identity] for identity in sorted(state.aliases)])
        else:
            tables.console().print(tables.aliases(state))


def _targets(given: Sequence[str]) -> list[dict[str, object]]:
    """Split TARGET=WEIGHT. End the command if the text after `=` is not a valid weight."""
    found: list[dict[str, object]] = []
    for each in given:
        name, equals, weight = each.rpartition("=")
        if not equals:
            found.append({"model": each})
        elif name and weight.isascii() and weight.isdigit():
            found.append({"model": name, "weight": int(weight)})
        else:
            fail(f"{each!r}: write TARGET=WEIGHT, the weight as a whole number from 0 on", 2)
    return found


def _stands(state: State, name: str, identity: str, seq: int) -> Outcome:
    """Return the outcome of an alias request, which takes effect with its event."""
    found = state.aliases.get(identity)
    if found is None:
        return Outcome(Progress.FULFILLED, f"{name} is an alias no more, since event {seq}")
    return Outcome(
        Progress.FULFILLED, f"{verdict(state, Subject('alias', identity)).headline}: event {seq}"
    )


def _find(state: State, name: str) -> Alias | None:
    """Return the alias with this name.

    Ids are not looked up: another alias may have one as its name.
    """
    binding = state.names.get(name)
    return state.aliases[binding.alias] if binding is not None and binding.alias else None
