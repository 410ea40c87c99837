"""`nebula alias` and `nebula aliases`: names that stand for models, and who gets their requests."""

import re
from collections.abc import Sequence

import click
from msgspec.structs import replace

from nebula.actors.intents import Refused
from nebula.cli import tables
from nebula.cli.asking import ask, intent_of
from nebula.cli.cluster import joined
from nebula.cli.options import json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.tables import print_json
from nebula.events.intents import AliasRemoveRequested, AliasRequested
from nebula.events.state import Alias, State
from nebula.events.vocabulary import Event

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
"""What no id may have."""


@click.command()
@click.argument("name")
@click.argument("targets", nargs=-1, metavar="[TARGET[=WEIGHT]]...")
@click.option("--mirror", default="", metavar="MODEL", help="Who gets a copy of each request.")
@click.option("--remove", is_flag=True, help="Take the name away.")
@nats_option
@json_option
def alias(
    name: str, targets: tuple[str, ...], mirror: str, remove: bool, nats: str, as_json: bool
) -> None:
    """Let NAME stand for models: each TARGET gets its WEIGHT of the requests, 1 if not said."""
    if not name:
        fail("an alias's name is empty: give what requests are to call it", 2)
    if remove and (targets or mirror):
        fail("--remove takes a name alone", 2)
    if not remove and not targets:
        fail("name at least one TARGET, or give --remove", 2)
    fields: dict[str, object] = {"targets": _targets(targets), "name": name, "mirror": mirror}
    wanted = None if remove else intent_of(fields, AliasRequested)

    def intent(state: State) -> tuple[str, Event]:
        known = _find(state, name)
        if known is not None:
            if wanted is None:
                return known.id, AliasRemoveRequested()
            return known.id, replace(wanted, name=known.name, replaces=known.changed)
        if wanted is None:
            there = ", ".join(sorted(each.name for each in state.aliases.values())) or "none"
            raise Refused(f"there is no alias {name!r}; there are: {there}")
        identity = _UNSAFE.sub("-", name)[:128]
        if identity in state.aliases:
            raise Refused(f"alias {state.aliases[identity].name!r} has the id {identity!r} already")
        return identity, replace(wanted, replaces=0)

    names = [] if wanted is None else [target.model for target in wanted.targets]
    names += [mirror] * bool(mirror)
    run(ask(nats, intent, wait=False, as_json=as_json, names=names))


@click.command()
@nats_option
@json_option
def aliases(nats: str, as_json: bool) -> None:
    """List the aliases, and who gets their requests."""
    run(_show(nats, as_json))


async def _show(nats: str, as_json: bool) -> None:
    async with joined(nats) as projection:
        state = projection.state
        if as_json:
            print_json([state.aliases[identity] for identity in sorted(state.aliases)])
        else:
            tables.console().print(tables.aliases(state))


def _targets(given: Sequence[str]) -> list[dict[str, object]]:
    """Split TARGET=WEIGHT. Ends the command where what stands after a `=` is no weight."""
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


def _find(state: State, reference: str) -> Alias | None:
    """Find an alias by its name, or else by its id."""
    named = state.names.get(reference)
    if named is not None and named.alias:
        return state.aliases[named.alias]
    return state.aliases.get(reference)
