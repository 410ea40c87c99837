"""JSON Schema (2020-12) of all that Nebula writes as JSON, made from the structs themselves."""

import inspect
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


def definitions(kinds: Iterable[type[Struct]], prefix: str) -> dict[str, Schema]:
    """Return the schemas of structs and of the structs in them; references begin with `prefix`.

    Each field is described at the field (`Meta(description=…)`). Events also get an
    example and the version of their payload.
    """
    _, found = msgspec.json.schema_components(
        tuple(kinds), schema_hook=anything, ref_template=prefix + "{name}"
    )
    return {name: finished(name, schema) for name, schema in sorted(found.items())}


def of_all_events() -> Schema:
    """Return one document that defines every event."""
    return {
        "$schema": DIALECT,
        "$id": "urn:nebula:events",
        "title": "Nebula's events",
        "description": (
            "The body of a message on nebula.events.<aggregate>.<id>.<EventType> "
            "has the schema #/$defs/<EventType>."
        ),
        "$defs": definitions(TYPES.values(), "#/$defs/"),
    }


def of_event(name: str) -> Schema:
    """Return a document that defines one event. Raise KeyError for an unknown type."""
    found = definitions([TYPES[name]], "#/$defs/")
    own = found.pop(name)
    document = {"$schema": DIALECT, "$id": f"urn:nebula:events:{name}", **own}
    return {**document, "$defs": found} if found else document


def of_struct(kind: type[Struct], identity: str) -> Schema:
    """Return a document that defines a struct, and the structs in it; `identity` is its `$id`."""
    found = definitions([kind], "#/$defs/")
    own = found.pop(kind.__name__)
    return {"$schema": DIALECT, "$id": identity, **own, "$defs": found}


def anything(kind: type) -> Schema:
    """Return the schema of `object`, which stands for any JSON in the vocabulary."""
    if kind is object:
        return {"description": "any JSON"}
    raise NotImplementedError(kind)


def finished(name: str, schema: Schema) -> Schema:
    """Return the schema of a struct with its description, and of an event with an example."""
    found: Schema = _portable(schema)
    found["description"] = inspect.cleandoc(found.get("description", ""))
    if name in TYPES:
        found["x-nebula-version"] = version_of(name)
        found["examples"] = [msgspec.json.decode(record.encode(EXAMPLES[name][1]))]
    return found


def _portable(value: Any) -> Any:
    """Return a schema whose patterns mean the same everywhere: other languages have no `\\Z`."""
    if isinstance(value, dict):
        return {
            key: each.replace(r"\Z", "$") if key == "pattern" else _portable(each)
            for key, each in value.items()
        }
    return [_portable(each) for each in value] if isinstance(value, list) else value
