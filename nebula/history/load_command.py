"""The command that asks again for what a load request asked for, with other fields. Pure.

A load request replaces the whole one before it, so a command that is advised carries all of it.
"""

from collections.abc import Mapping
from itertools import starmap

import msgspec

from nebula.events import subjects
from nebula.events.advised import command
from nebula.events.engine_options import option_name
from nebula.events.intents import ModelLoadRequested
from nebula.events.masking import MASK
from nebula.events.showing import shown
from nebula.events.state import Model
from nebula.events.values import OptionValue, SecretReference, Variable
from nebula.history.load_requests import autoscale_text

SECRET = "SECRET"
"""What stands in a command for a secret, which is not shown: for its name, once it has one."""

_TO_COMPLETE = f" (put each {SECRET} on the nodes, and write its name for it)"

_DEFAULTS = ModelLoadRequested("/")
_TEXTS = {
    "task": "--task",
    "replicas": "--replicas",
    "memory": "--memory",
    "max_in_flight": "--max-in-flight",
    "max_waiting": "--max-waiting",
    "policy": "--policy",
    "node": "--node",
    "idle_after": "--idle-after",
}
_SWITCHES = {"on_request": "--on-request", "evictable": "--evictable"}
_LISTS = {"devices": "--device", "apart": "--apart", "fallback": "--fallback"}


def load_words(identity: str, request: ModelLoadRequested) -> tuple[str, ...]:
    """Return the words after `nebula` that ask for exactly what a load request asked for."""
    spec = shown(request)
    words = ["load", spec.source]
    if identity != subjects.default_id(request.source, request.name):
        words += ["--id", identity]
    if spec.name:
        words += ["--name", spec.name]
    for field, option in _TEXTS.items():
        if (value := getattr(spec, field)) != getattr(_DEFAULTS, field):
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    if spec.lora is not None:
        words.append("--lora" if spec.lora else "--no-lora")
    words += [option for field, option in _SWITCHES.items() if getattr(spec, field)]
    for field, option in _LISTS.items():
        for value in getattr(spec, field):
            words += [option, str(value)]
    if spec.autoscale is not None:
        words += ["--autoscale", autoscale_text(spec.autoscale)]
    pairs: dict[str, Mapping[str, object]] = {
        "--adapter": {each.name: each.source for each in spec.adapters},
        "--label": spec.labels,
        "--option": {
            key: _option_text(value)
            for key, value in spec.options.items()
            if not _hub_token(key, value)
        },
        "--env": {key: each for key, each in spec.env.items() if _in_clear(each)},
    }
    for option, values in pairs.items():
        for key, text in values.items():
            words += [option, f"{key}={text}"]
    variables = {"HF_TOKEN": MASK} if any(starmap(_hub_token, spec.options.items())) else {}
    for key, each in {**variables, **spec.env}.items():
        if not _in_clear(each):
            name = each.secret if isinstance(each, SecretReference) else SECRET
            words += ["--secret", f"{name}:{key}"]
    return tuple(word.replace(MASK, SECRET) for word in words)


def _hub_token(key: str, value: OptionValue) -> bool:
    """Return whether an option is the hub's token, which engines have from a variable."""
    return option_name(key) == "hf-token" and value == MASK


def _in_clear(value: Variable) -> bool:
    return isinstance(value, str) and MASK not in value


def load_again(model: Model, **fields: object) -> str:
    """Return the command that loads a model as it was loaded, with these fields changed.

    Adapters that were loaded at run time stay without being named.
    """
    changed = msgspec.structs.replace(model.spec, **fields)
    return quoted(load_words(model.id, changed))


def quoted(words: tuple[str, ...]) -> str:
    """Return a command of `load_words` as a message quotes it, and how to complete it."""
    return command(*words) + (_TO_COMPLETE if any(SECRET in word for word in words) else "")


def _option_text(value: OptionValue) -> str:
    """Return a value as `--option` takes it: a text that would read as JSON is written as JSON."""
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    try:
        msgspec.json.decode(value.encode(), type=OptionValue)
    except msgspec.MsgspecError:
        return value
    return msgspec.json.encode(value).decode()
