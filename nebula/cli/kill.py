"""`nebula kill`: in a rehearsal, an engine is killed, as if it had crashed."""

import click

from nebula.actors.intents import Refused
from nebula.cli.options import json_option, nats_option
from nebula.cli.plan_first import plan_option
from nebula.cli.process import run
from nebula.cli.submit import ask, wait_option
from nebula.events.intents import EngineKillRequested
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.history.leaving import killing


@click.command()
@click.argument("replica")
@nats_option
@wait_option
@plan_option
@json_option
def kill(replica: str, nats: str, wait: bool, as_json: bool) -> None:
    """In a rehearsal, kill the engine of REPLICA, as if it had crashed.

    Only a node that was started with --rehearsal does it.
    """
    run(
        ask(
            nats,
            lambda state: _intent(state, replica),
            wait=wait,
            as_json=as_json,
            what="to kill its engine",
            look=killing,
        )
    )


def _intent(state: State, replica: str) -> tuple[str, Event]:
    """Return the request to kill the engine that a replica has now. Raise Refused."""
    found = state.replicas.get(replica)
    if found is None:
        there = ", ".join(sorted(state.replicas)) or "none"
        raise Refused(f"there is no replica {replica!r}; there are: {there}")
    return replica, EngineKillRequested(found.engine.pid if found.engine is not None else None)
