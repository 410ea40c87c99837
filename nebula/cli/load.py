"""`nebula load`: every field of a load request as an option."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import get_args

import click
import msgspec

from nebula.cli.options import Whole, json_option, nats_option
from nebula.cli.plan_first import plan_option
from nebula.cli.process import fail, run
from nebula.cli.submit import absolute, ask, intent_of, pairs, wait_option
from nebula.events import subjects
from nebula.events.engine_options import option
from nebula.events.intents import ModelLoadRequested
from nebula.events.state import State
from nebula.events.values import OptionValue, Task
from nebula.events.vocabulary import Event
from nebula.history.load_requests import changed


@click.command()
@click.argument("source")
@nats_option
@click.option("--name", default="", help="Name of the model in requests [the last part of SOURCE].")
@click.option("--id", "identity", default=None, help="Id of the model in subjects and commands.")
@click.option(
    "--task",
    type=click.Choice(get_args(Task)),
    default="chat",
    show_default=True,
    help="What the model is for: it selects vLLM's runner. A generating model that is loaded for "
    "classify gets a head for classes.",
)
@click.option("--replicas", default=1, show_default=True, type=Whole(0, 1024))
@click.option(
    "--max-in-flight",
    default=256,
    show_default=True,
    type=Whole(1, 65_536),
    help="Requests that one replica has at a time; further ones queue.",
)
@click.option(
    "--max-waiting",
    default=1024,
    show_default=True,
    type=Whole(0, 65_536),
    help="Requests that may queue in each router; further ones are refused.",
)
@click.option(
    "--policy", type=click.Choice(["spread", "binpack"]), default="spread", show_default=True
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help=("A label that a node must have to get a replica."),
)
@click.option(
    "--apart",
    multiple=True,
    metavar="MODEL",
    help=("Id of a model that must not be on the same node; repeatable."),
)
@click.option("--node", default="", help="The only node that may run it.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    type=Whole(0),
    help=("Index of a device of --node that may run it; repeatable."),
)
@click.option(
    "--tensor-parallel",
    default=None,
    type=Whole(1, 9999),
    help=("Number of GPUs of a node for each replica."),
)
@click.option(
    "--memory", default=None, help=("Memory of its device that a replica gets, such as 6GiB.")
)
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=SOURCE", help="Repeatable.")
@click.option(
    "--lora/--no-lora", default=None, help=("Start engines so that adapters can be loaded later.")
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of vLLM's, such as max-model-len=4096; repeatable.",
)
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="KEY=VALUE",
    help="Environment variable of the engine. It is recorded in the log for ever, so what looks "
    "like a secret is refused: see --secret.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME:VARIABLE",
    help="Environment variable of the engine whose value is a secret of its node, by name. Only "
    "the name is recorded; repeatable.",
)
@click.option(
    "--on-request", is_flag=True, help=("Start engines only when the first request arrives.")
)
@click.option(
    "--idle-after",
    default=None,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End its engines after this time without a request, until the next request.",
)
@click.option(
    "--evictable", is_flag=True, help="End its engines if another model needs their memory."
)
@click.option(
    "--autoscale",
    default=None,
    metavar="LEAST:MOST[,in-flight=16][,wait=2][,calm=300]",
    help="Let the load say how many replicas there are: one more for over so many requests in each "
    "or so many seconds in line, one fewer when for so many seconds fewer would have done.",
)
@click.option(
    "--fallback",
    multiple=True,
    metavar="MODEL",
    help="Name of a model that answers while it has no ready replica; repeatable, in order.",
)
@wait_option
@plan_option
@json_option
def load(
    source: str,
    nats: str,
    name: str,
    identity: str | None,
    task: str,
    replicas: int,
    max_in_flight: int,
    max_waiting: int,
    policy: str,
    labels: tuple[str, ...],
    apart: tuple[str, ...],
    node: str,
    devices: tuple[int, ...],
    tensor_parallel: int | None,
    memory: str | None,
    adapters: tuple[str, ...],
    lora: bool | None,
    options: tuple[str, ...],
    environment: tuple[str, ...],
    secrets: tuple[str, ...],
    on_request: bool,
    idle_after: float | None,
    evictable: bool,
    autoscale: str | None,
    fallback: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Load a model: SOURCE is a folder on the nodes or a hub id.

    Of a model that is there this replaces the whole request before it: what is not named is
    dropped, and told. Only adapters of `nebula adapters load` stay.
    """
    chosen = {key: _value(value) for key, value in pairs("option", options)}
    if tensor_parallel is not None:
        if option(chosen, "tensor-parallel-size") is not None:
            fail("--tensor-parallel says the same as --option tensor-parallel-size", 2)
        chosen["tensor-parallel-size"] = tensor_parallel
    fields = {
        "source": absolute(source),
        "name": name,
        "task": task,
        "replicas": replicas,
        "adapters": [
            {"name": key, "source": absolute(value)} for key, value in pairs("adapter", adapters)
        ],
        "lora": lora,
        "memory": memory,
        "options": chosen,
        "env": {**dict(pairs("env", environment)), **_by_name(secrets)},
        "max_in_flight": max_in_flight,
        "max_waiting": max_waiting,
        "policy": policy,
        "labels": dict(pairs("label", labels)),
        "apart": apart,
        "node": node,
        "devices": devices,
        "on_request": on_request,
        "idle_after": idle_after,
        "evictable": evictable,
        "autoscale": None if autoscale is None else _autoscale(autoscale),
        "fallback": fallback,
    }
    event = intent_of(fields, ModelLoadRequested)
    model = identity or subjects.default_id(event.source, event.name)
    if not subjects.is_token(model):
        fail(f"--id {model!r}: use {subjects.ID_FORM}", 2)
    told = partial(_changed, model=model, event=event, given=identity is not None)
    intent = partial(_intent, model=model, event=event)
    changes = partial(changed, model=model)
    run(
        ask(
            nats,
            intent,
            wait=wait,
            as_json=as_json,
            names=fallback,
            told=told,
            changes=changes,
        )
    )


def _intent(_: State, model: str, event: ModelLoadRequested) -> tuple[str, Event]:
    return model, event


def _changed(
    before: State, after: State, model: str, event: ModelLoadRequested, given: bool
) -> Iterator[str]:
    """Yield what to print once a load request is recorded; `given`: whether its id was given."""
    known = before.models.get(model)
    if known is not None and known.spec.source != event.source:
        own = "" if given else " (--id OTHER would load it beside that)"
        yield f"{model} was loaded from {known.spec.source}, and is now from {event.source}{own}"
    lines = changed(before, after, model)
    if lines:
        yield (
            f"{model} was loaded already. A new load request replaces the whole one before it, and "
            "what it does not name is dropped. This one changes:"
        )
        yield from (f"  {line}" for line in lines)


def _by_name(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read NAME:VARIABLE; end the command for anything else, without showing it."""
    found = {}
    for each in given:
        name, colon, variable = each.partition(":")
        if not colon or not subjects.is_token(name) or not variable:
            fail("--secret: write it as NAME:VARIABLE, such as hf:HF_TOKEN", 2)
        found[variable] = {"secret": name}
    return found


def _autoscale(text: str) -> dict[str, OptionValue]:
    """Read LEAST:MOST and its optional settings; end the command for anything else."""
    bounds, *rest = text.split(",")
    least, colon, most = bounds.partition(":")
    known = {"in-flight", "wait", "calm"}
    chosen = [each.partition("=") for each in rest]
    unknown = next((key for key, equals, _ in chosen if not equals or key not in known), None)
    if unknown is not None:
        fail(
            f"--autoscale {text!r}: {unknown!r} is not one of in-flight=N, wait=N and calm=N; "
            "write LEAST:MOST, like 1:4 or 1:4,in-flight=8,calm=60",
            2,
        )
    if not colon:
        fail(f"--autoscale {text!r}: write LEAST:MOST, like 1:4 or 1:4,in-flight=8,calm=60", 2)
    fields = {"least": _value(least), "most": _value(most)}
    return fields | {key.replace("-", "_"): _value(value) for key, _, value in chosen}


def _value(text: str) -> OptionValue:
    """Read an option's value: as JSON if it is valid JSON, else as text."""
    try:
        value: OptionValue = msgspec.json.decode(text.encode(), type=OptionValue)
    except msgspec.MsgspecError:
        return text
    return value
