"""`nebula load`: everything that a load request may say, as options."""

import click
import msgspec

from nebula.cli.asking import absolute, ask, intent_of, pairs, wait_option
from nebula.cli.options import Whole, json_option, nats_option
from nebula.cli.process import fail, run
from nebula.events import subjects
from nebula.events.engine_options import option
from nebula.events.intents import ModelLoadRequested
from nebula.events.values import OptionValue


@click.command()
@click.argument("source")
@nats_option
@click.option("--name", default="", help="What requests call it [the last part of SOURCE].")
@click.option("--id", "identity", default=None, help="Its id in subjects and commands.")
@click.option("--task", type=click.Choice(["chat", "embedding"]), default="chat", show_default=True)
@click.option("--replicas", default=1, show_default=True, type=Whole(0, 1024))
@click.option(
    "--max-in-flight",
    default=256,
    show_default=True,
    type=Whole(1, 65_536),
    help="Requests that one replica is given at a time; the others wait in line.",
)
@click.option(
    "--max-waiting",
    default=1024,
    show_default=True,
    type=Whole(0, 65_536),
    help="Requests that may wait in each router before more are refused.",
)
@click.option(
    "--policy", type=click.Choice(["spread", "binpack"]), default="spread", show_default=True
)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Nodes must carry it.")
@click.option("--apart", multiple=True, metavar="MODEL", help="Share no node with it; repeatable.")
@click.option("--node", default="", help="The only node that it may run on.")
@click.option("--device", "devices", multiple=True, type=Whole(0), help="Of --node; repeatable.")
@click.option(
    "--tensor-parallel", default=None, type=Whole(1, 9999), help="GPUs of a node for each replica."
)
@click.option("--memory", default=None, help="A replica's share of its device, like 6GiB.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=SOURCE", help="Repeatable.")
@click.option("--lora/--no-lora", default=None, help="Take adapters at run time.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="For the engine.")
@click.option("--env", "environment", multiple=True, metavar="KEY=VALUE", help="For the engine.")
@click.option("--on-request", is_flag=True, help="Start its engines with the first request only.")
@click.option(
    "--idle-after",
    default=None,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End its engines when nobody has asked for so long, until somebody does.",
)
@click.option(
    "--evictable", is_flag=True, help="End its engines where another model needs their room."
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
    help="Who answers while it has no ready replica; repeatable, in order.",
)
@wait_option
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
    on_request: bool,
    idle_after: float | None,
    evictable: bool,
    autoscale: str | None,
    fallback: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Load a model: SOURCE is a folder on the nodes or a hub id."""
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
        "env": dict(pairs("env", environment)),
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
    run(ask(nats, lambda _: (model, event), wait=wait, as_json=as_json, names=fallback))


def _autoscale(text: str) -> dict[str, OptionValue]:
    """Read LEAST:MOST and what may follow it; ends the command for anything else."""
    bounds, *rest = text.split(",")
    least, colon, most = bounds.partition(":")
    known = {"in-flight", "wait", "calm"}
    chosen = [each.partition("=") for each in rest]
    if not colon or any(not equals or key not in known for key, equals, _ in chosen):
        fail(f"--autoscale {text!r}: write LEAST:MOST, like 1:4 or 1:4,in-flight=8,calm=60", 2)
    fields = {"least": _value(least), "most": _value(most)}
    return fields | {key.replace("-", "_"): _value(value) for key, _, value in chosen}


def _value(text: str) -> OptionValue:
    """Read an option's value: JSON where it is some, else the text itself."""
    try:
        value: OptionValue = msgspec.json.decode(text.encode(), type=OptionValue)
    except msgspec.MsgspecError:
        return text
    return value
