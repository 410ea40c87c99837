"""`docs/events.md`: every event and subject, for people, made from the same code as the schemas."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from nebula.events import record
from nebula.events.upcasting import version_of
from nebula.events.version import LOCKS
from nebula.events.vocabulary import AGGREGATE_OF, INTENTS, TYPES
from nebula.schema import json_schema
from nebula.schema.channel import ID, Channel
from nebula.schema.channels import OTHERS, event_channels, kind_of
from nebula.schema.examples import EXAMPLES
from nebula.schema.json_schema import Schema
from nebula.schema.message_headers import EVENT_HEADERS

_KINDS = {
    "intent": (
        "Intents",
        "Anyone may publish these. An unknown field, or a request that can't be granted, is "
        "answered with `EventRejected`; nothing stops because of it.",
    ),
    "decision": ("Decisions", "What a router decides from the folded state."),
    "fact": ("Facts", "What happened, reported by the actor that it happened to."),
}

_FEW = 4
"""Most alternatives of a type that are listed one by one."""

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "length at least",
    "maxLength": "length at most",
}


_ID = "[A-Za-z0-9_-]"
"""What the patterns of ids have in common."""


def markdown() -> str:
    """Return the whole page."""
    return "\n".join(_lines())


def publish_command(name: str) -> str:
    """Return the `nats` command that publishes the example of an event."""
    identity, event = EXAMPLES[name]
    body = msgspec.json.encode(_said(event)).decode()
    return f"nats pub {record.subject_of(identity, event)} '{body}'"


def _said(event: Struct) -> dict[str, Any]:
    """Return what a person has to write: the fields that differ from their defaults."""
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
    yield "An event is one message. Its subject names the aggregate and the type of the event,"
    yield "`nebula.events.<aggregate>.<id>.<EventType>`; its body is the JSON of its fields."
    yield "All events are kept, in order and for ever, in the JetStream stream `NEBULA_EVENTS`."
    yield "An event is identified by its sequence there (`nebula why seq 42`)."
    yield ""
    yield "For programs: `nebula schema` prints JSON Schema of every event, and `nebula schema"
    yield "--asyncapi` an AsyncAPI 3 document of all subjects, which is also in"
    yield "[asyncapi.json](asyncapi.json)."
    yield ""
    yield "## By hand"
    yield ""
    yield "Every intent as a `nats` command. The log must exist; the first actor of Nebula that"
    yield "starts creates it. Otherwise Nebula need not run: a published intent takes effect when"
    yield "it does. `nebula events --rejected` shows which intents were rejected, and why."
    yield "The NATS server of `nebula up` wants an operator's credentials:"
    yield "`nats --context .nebula/nats/roles/operator.json pub ...`."
    yield ""
    yield "```sh"
    for name in TYPES:
        if name in INTENTS:
            yield publish_command(name)
    yield "```"
    yield ""
    yield "## Headers"
    yield ""
    yield "All of them are optional; actors write them."
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
    yield "The messages between actors that are not events. Requests, answers and heartbeats are"
    yield "kept in memory for minutes; messages without a stream are kept nowhere."
    for channel in OTHERS:
        yield from _other(channel)
    yield ""
    yield "## Parts of other messages"
    bodies = [each for channel in OTHERS for each in (channel.body, channel.reply)]
    whole = [each for each in bodies if not isinstance(each, str)]
    for name, schema in json_schema.definitions(whole, "").items():
        if name not in {each.__name__ for each in whole}:
            yield ""
            yield f"### {name}"
            yield ""
            yield schema["description"]
            yield from _fields(schema)
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
    if channel.older:
        yield f"Before cluster version {LOCKS} the node was not in the subject."
    yield from _fields(schema)
    yield ""
    yield f"Example, of {AGGREGATE_OF[name]} `{identity}`:"
    yield ""
    yield "```json"
    yield msgspec.json.encode(_said(event)).decode()
    yield "```"


def _fields(schema: Schema) -> Iterator[str]:
    if "prefixItems" in schema:
        yield ""
        yield "A list of these items:"
        for item in schema["prefixItems"]:
            yield f"- {_type(item)}: {item['description']}"
    if not schema.get("properties"):
        return
    yield ""
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in schema["properties"].items():
        default = "needed" if name in schema["required"] else f"`{_json(field['default'])}`"
        yield f"| `{name}` | {_type(field)} | {default} | {field['description']} |"


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
        if "prefixItems" in field:
            kinds = dict.fromkeys(_type(each) for each in field["prefixItems"])
            return f"{len(field['prefixItems'])} of {' or '.join(kinds)}"
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) and values else "object"
    if _ID in field.get("pattern", ""):
        return f"string: {ID}"
    if field.get("format") == "date-time":
        return "string: a time as in RFC 3339, with its zone"
    limits = ", ".join(f"{word} {field[key]}" for key, word in _LIMITS.items() if key in field)
    return f"{kind}, {limits}" if limits else str(kind)


def _other(channel: Channel) -> Iterator[str]:
    yield ""
    yield f"### `{channel.address}`"
    yield ""
    yield channel.summary + (f" In the stream `{channel.stream}`." if channel.stream else "")
    yield ""
    for title, body in (("Body", channel.body), ("Reply", channel.reply)):
        if isinstance(body, str):
            if body:
                yield f"{title}: {body}."
        else:
            if title == "Reply":
                yield ""
            yield f"{title}: JSON."
            yield from _fields(json_schema.definitions([body], "")[body.__name__])
    if channel.headers:
        yield ""
        yield "| header | meaning |"
        yield "|---|---|"
        for header in channel.headers:
            yield f"| `{header.name}` | {header.meaning} |"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
