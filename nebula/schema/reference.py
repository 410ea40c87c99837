"""`docs/events.md`: every event and subject for people, from the same source as the schemas."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from nebula.events import record
from nebula.events.upcasting import version_of
from nebula.events.vocabulary import AGGREGATE_OF, INTENTS, TYPES
from nebula.schema import json_schema
from nebula.schema.channels import EVENT_HEADERS, ID, OTHERS, Channel, event_channels, kind_of
from nebula.schema.examples import EXAMPLES
from nebula.schema.json_schema import Schema

_KINDS = {
    "intent": (
        "Intents",
        "Anyone may publish these. A field that Nebula does not know is answered with "
        "`EventRejected`, and so is what can't be granted; nothing stops because of it.",
    ),
    "decision": ("Decisions", "What a router concludes from the folded state."),
    "fact": ("Facts", "What happened, told by the actor that it happened to."),
}

_FEW = 4
"""Alternatives of a type that are told one by one."""

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "length at least",
    "maxLength": "length at most",
}


def markdown() -> str:
    """Give the whole page."""
    return "\n".join(_lines())


def publish_command(name: str) -> str:
    """Give the nats command that publishes the example of an event."""
    identity, event = EXAMPLES[name]
    body = msgspec.json.encode(_said(event)).decode()
    return f"nats pub {record.subject_of(identity, event)} '{body}'"


def _said(event: Struct) -> dict[str, Any]:
    """What a person has to write: fields at their defaults are left out."""
    return {
        field.encode_name: value
        for field in msgspec.structs.fields(event)
        if (value := getattr(event, field.name)) != _default(field)
    }


def _default(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _lines() -> Iterator[str]:
    yield "<!-- Made by `make docs` from nebula/schema: change the code, not this page. -->"
    yield ""
    yield "# Events and subjects"
    yield ""
    yield "An event is one message: its subject says what it is about and what happened,"
    yield "`nebula.events.<aggregate>.<id>.<EventType>`, and its body is the JSON of its fields."
    yield "All of them are kept, in order and for ever, in the JetStream stream `NEBULA_EVENTS`;"
    yield "an event's sequence there is its name (`nebula why seq 42`)."
    yield ""
    yield "For programs: `nebula schema` prints JSON Schema of every event, `nebula schema"
    yield "--asyncapi` an AsyncAPI 3 document of all subjects, which is also in"
    yield "[asyncapi.json](asyncapi.json)."
    yield ""
    yield "## By hand"
    yield ""
    yield "Every intent with the nats command. Once the log is there (whatever of Nebula starts"
    yield "first makes it), nothing else need run: what was published takes effect when it does."
    yield "`nebula events --rejected` shows what was not acted upon, and why."
    yield ""
    yield "```sh"
    for name in TYPES:
        if name in INTENTS:
            yield publish_command(name)
    yield "```"
    yield ""
    yield "## Headers"
    yield ""
    yield "None is needed; actors write them."
    yield ""
    yield "| header | meaning |"
    yield "|---|---|"
    for header in EVENT_HEADERS:
        yield f"| `{header.name}` | {header.meaning} |"
    channels = event_channels()
    for kind, (title, text) in _KINDS.items():
        yield ""
        yield f"## {title}"
        yield ""
        yield text
        for channel in channels:
            if kind_of(channel.name) == kind:
                yield from _event(channel)
    yield ""
    yield "## Parts of events"
    schemas = json_schema.definitions(TYPES.values(), "")
    for name, schema in schemas.items():
        if name not in TYPES:
            yield ""
            yield f"### {name}"
            yield ""
            yield schema["description"]
            yield from _fields(schema)
    yield ""
    yield "## Other subjects"
    yield ""
    yield "What actors say to each other beside the log. Requests, answers and heartbeats are kept"
    yield "in memory for minutes; what has no stream is kept nowhere."
    for channel in OTHERS:
        yield from _other(channel)
    yield ""


def _event(channel: Channel) -> Iterator[str]:
    name = channel.name
    identity, event = EXAMPLES[name]
    schema = json_schema.definitions([TYPES[name]], "")[name]
    version = version_of(name)
    yield ""
    yield f"### {name}"
    yield ""
    yield f"`{channel.address}`" + (f", version {version}" if version > 1 else "")
    yield ""
    yield schema["description"]
    yield from _fields(schema)
    yield ""
    yield f"Example, of {AGGREGATE_OF[name]} `{identity}`:"
    yield ""
    yield "```json"
    yield msgspec.json.encode(_said(event)).decode()
    yield "```"


def _fields(schema: Schema) -> Iterator[str]:
    if not schema["properties"]:
        return
    yield ""
    told = any("description" in field for field in schema["properties"].values())
    yield "| field | type | default |" + " meaning |" * told
    yield "|---|---|---|" + "---|" * told
    for name, field in schema["properties"].items():
        default = "needed" if name in schema["required"] else f"`{_json(field['default'])}`"
        line = f"| `{name}` | {_type(field)} | {default} |"
        yield f"{line} {field.get('description', '')} |" if told else line


def _type(field: Schema) -> str:
    if "$ref" in field:
        return str(field["$ref"])
    if "enum" in field:
        return " or ".join(f"`{_json(each)}`" for each in field["enum"])
    if "anyOf" in field:
        if len(field["anyOf"]) > _FEW:
            return "any JSON"
        return " or ".join(dict.fromkeys(_type(each) for each in field["anyOf"]))
    kind = field.get("type", "any JSON")
    if kind == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) and values else "object"
    if "pattern" in field:
        return f"string: {ID}"
    limits = ", ".join(f"{word} {field[key]}" for key, word in _LIMITS.items() if key in field)
    return f"{kind}, {limits}" if limits else str(kind)


def _other(channel: Channel) -> Iterator[str]:
    yield ""
    yield f"### `{channel.address}`"
    yield ""
    yield channel.summary + (f" In the stream `{channel.stream}`." if channel.stream else "")
    yield ""
    yield f"Body: {_body(channel.body)}."
    if channel.reply:
        yield f"Reply: {_body(channel.reply)}."
    if channel.headers:
        yield ""
        yield "| header | meaning |"
        yield "|---|---|"
        for header in channel.headers:
            yield f"| `{header.name}` | {header.meaning} |"


def _body(body: type[Struct] | str) -> str:
    if isinstance(body, str):
        return body
    fields = ", ".join(f"`{each}`" for each in body.__struct_fields__)
    return f"JSON with {fields}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
