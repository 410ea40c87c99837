"""What a load request sets, and what it changes of the request before it, in plain lines. Pure.

A load request replaces the whole earlier one: what it does not name is dropped.
"""

from collections.abc import Iterator, Mapping, Set
from typing import Any

import msgspec
from msgspec import Struct

from nebula.events.intents import ModelLoadRequested
from nebula.events.plain_text import one_line
from nebula.events.showing import shown
from nebula.events.state import Model, State
from nebula.events.values import Adapter, Autoscale, SecretReference

LONGEST_VALUE = 200
"""Characters of a value that a line has room for."""

NOT_SET = "not set"

_DEFAULTS = ModelLoadRequested("/")


class _Setting(Struct, frozen=True):
    """One setting of a load request.

    `value` is compared, `text` is shown to people, `kind` gives its position among the others.
    """

    kind: int
    label: str
    value: object
    text: str
    default: bool = False


def settings(request: ModelLoadRequested) -> tuple[str, ...]:
    """Return what a load request sets beyond its defaults, one line for each, without secrets.

    Its source, its task and its number of replicas are not told.
    """
    return tuple(
        f"{each.label} {each.text}"
        for each in _settings(request)
        if not each.default and each.label not in ("source", "task", "replicas")
    )


def changes(before: ModelLoadRequested, after: ModelLoadRequested) -> tuple[str, ...]:
    """Return what a load request changes or drops of the previous one, one line for each.

    Both are shown without secrets; a changed secret is only reported as changed.
    """
    was = {each.label: each for each in _settings(before)}
    now = {each.label: each for each in _settings(after)}
    labels = sorted({**was, **now}.values(), key=lambda each: (each.kind, each.label))
    return tuple(
        _change(each.label, was.get(each.label), now.get(each.label))
        for each in labels
        if _value(was.get(each.label)) != _value(now.get(each.label))
    )


def replaced(before: Model, after: Model) -> tuple[str, ...]:
    """Return what a load request changed of a model as it was when the request came.

    `before` and `after` it was folded. Adapters that were loaded at run time are told where they
    go, or where they stay although no load request has ever named them.
    """
    if before.unloading:
        return ()
    named = {each.name for each in after.spec.adapters}
    was = in_effect(before, named)
    found = list(changes(was, in_effect(after, named)))
    for name in sorted(set(before.adapters) - named - {each.name for each in was.adapters}):
        goes = "stays" if name in after.adapters else "is unloaded"
        found.append(f"adapter {_text(name)}, loaded at run time: {goes}")
    return tuple(found)


def in_effect(model: Model, named: Set[str] = frozenset()) -> ModelLoadRequested:
    """Return a model's load request as it is in effect now.

    That is without adapters that were unloaded or replaced since, with those that are `named` now
    from wherever they come, and with LoRA on or off.
    """
    spec = model.spec
    asked = {each.name: each.source for each in spec.adapters}
    adapters = tuple(
        Adapter(name, source)
        for name, source in model.adapters.items()
        if asked.get(name) == source or name in named
    )
    return msgspec.structs.replace(spec, adapters=adapters, lora=model.lora)


def to_change(model: Model) -> ModelLoadRequested:
    """Return a model's load request as it is in effect, to be sent again with other fields.

    Sent as it is, it changes nothing: LoRA is named only where the adapters don't say it.
    """
    found = in_effect(model)
    implied = model.spec.lora is None and bool(found.adapters) == model.lora
    return msgspec.structs.replace(found, lora=None) if implied else found


def changed(before: State, after: State, model: str) -> tuple[str, ...]:
    """Return what a load request changed, in the states before and after it was folded."""
    was, now = before.models.get(model), after.models.get(model)
    return replaced(was, now) if was is not None and now is not None else ()


def _change(label: str, was: _Setting | None, now: _Setting | None) -> str:
    old = was.text if was is not None else NOT_SET
    new = now.text if now is not None else NOT_SET
    if old == new:
        return f"{label}: another value, which is not shown"
    back = " (the default)" if now is not None and now.default else ""
    return f"{label}: {old} -> {new}{back}"


def _value(setting: _Setting | None) -> object:
    return setting.value if setting is not None else None


def _settings(request: ModelLoadRequested) -> Iterator[_Setting]:
    """Yield all settings of a request; a default counts only if it is a value."""
    for kind, (field, label) in enumerate(_FIELDS.items()):
        value = getattr(request, field)
        default = field not in _REQUIRED and value == getattr(_DEFAULTS, field)
        if value is None or value in ((), "") or (value is False and field != "lora"):
            continue
        yield _Setting(kind, label, value, _text(value), default)
    if request.node:
        place = "/".join((request.node, *map(str, request.devices)))
        yield _Setting(len(_FIELDS), "only on", place, place)
    for kind, (label, pairs) in enumerate(_pairs(request).items(), len(_FIELDS) + 1):
        for key, value in sorted(pairs.items()):
            name, text = next(iter(shown({key: value}).items()))
            yield _Setting(kind, f"{label} {name}", (value,), _given(text))


def _pairs(request: ModelLoadRequested) -> dict[str, Mapping[str, object]]:
    return {
        "option": request.options,
        "env": request.env,
        "adapter": {each.name: each.source for each in request.adapters},
        "label": request.labels,
    }


_REQUIRED = ("source",)
_FIELDS = {
    "source": "source",
    "name": "name",
    "task": "task",
    "replicas": "replicas",
    "memory": "memory",
    "lora": "takes LoRA adapters",
    "max_in_flight": "max in flight",
    "max_waiting": "max waiting",
    "policy": "policy",
    "apart": "apart from",
    "autoscale": "autoscale",
    "on_request": "on request",
    "idle_after": "idle after",
    "evictable": "evictable",
    "fallback": "fallback",
}


def autoscale_text(value: Autoscale) -> str:
    """Return how a model follows its load, as `nebula load --autoscale` takes it."""
    return (
        f"{value.least}:{value.most},in-flight={value.in_flight:g},wait={value.wait:g},"
        f"calm={value.calm:g}"
    )


def _given(value: object) -> str:
    """Return a value as it was given: JSON, unless it is a text."""
    if isinstance(value, SecretReference):
        return f"the secret {value.secret}"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return one_line(text, LONGEST_VALUE)


def _text(value: Any) -> str:
    value = shown(value)
    match value:
        case True:
            text = "yes"
        case False:
            text = "no"
        case Autoscale():
            text = autoscale_text(value)
        case tuple() | list():
            text = ", ".join(map(str, value))
        case _:
            text = str(value)
    return one_line(text, LONGEST_VALUE)
