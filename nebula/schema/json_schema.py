"""JSON Schema (2020-12) of all that Nebula says in JSON, made from the structs themselves."""

import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from nebula.events import record
from nebula.events.upcasting import version_of
from nebula.events.vocabulary import TYPES
from nebula.schema.examples import EXAMPLES

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema: TypeAlias = dict[str, Any]

_FIELD = re.compile(r"^`(\w+)`: (.+?)$(?=\n`|\n\n|\Z)", re.MULTILINE | re.DOTALL)
"""How a docstring tells what one field means."""


def definitions(kinds: Iterable[type[Struct]], prefix: str) -> dict[str, Schema]:
    """Give the schemas of structs and of all that they consist of; references begin with `prefix`.

    Events bring an example along, and the version of their payload.
    """
    _, found = msgspec.json.schema_components(
        tuple(kinds), schema_hook=_anything, ref_template=prefix + "{name}"
    )
    return {name: _finished(name, schema) for name, schema in sorted(found.items())}


def of_all_events() -> Schema:
    """Give one document that defines every event."""
    return {
        "$schema": DIALECT,
        "$id": "urn:nebula:events",
        "title": "Nebula's events",
        "description": (
            "The body of a message on nebula.events.<aggregate>.<id>.<EventType> "
            "is as #/$defs/<EventType> says."
        ),
        "$defs": definitions(TYPES.values(), "#/$defs/"),
    }


def of_event(name: str) -> Schema:
    """Give a document of one event. Raises KeyError for a type that there is not."""
    found = definitions([TYPES[name]], "#/$defs/")
    own = found.pop(name)
    document = {"$schema": DIALECT, "$id": f"urn:nebula:events:{name}", **own}
    return {**document, "$defs": found} if found else document


def _anything(kind: type) -> Schema:
    """Any JSON stands where the vocabulary says `object`."""
    if kind is object:
        return {"description": "any JSON"}
    raise NotImplementedError(kind)


def _finished(name: str, schema: Schema) -> Schema:
    found: Schema = _portable(schema)
    text = inspect.cleandoc(found.get("description", ""))
    for field, meaning in _FIELD.findall(text):
        found["properties"][field]["description"] = " ".join(meaning.split())
    found["description"] = _FIELD.sub("", text).strip()
    if name in TYPES:
        found["x-nebula-version"] = version_of(name)
        found["examples"] = [msgspec.json.decode(record.encode(EXAMPLES[name][1]))]
    return found


def _portable(value: Any) -> Any:
    """Write patterns as every language reads them: Python's `\\Z` is only a Z to the others."""
    if isinstance(value, dict):
        return {
            key: each.replace(r"\Z", "$") if key == "pattern" else _portable(each)
            for key, each in value.items()
        }
    return [_portable(each) for each in value] if isinstance(value, list) else value
