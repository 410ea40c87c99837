"""An AsyncAPI 3 document of every subject, made from the channels and structs themselves.

In the specification's terms (AsyncAPI 3.0.0) a channel is a subject, an operation is what Nebula
does there, and the components are the messages.
"""

import re
from typing import Any

from msgspec import Struct

from nebula.events.version import LOCKS
from nebula.events.vocabulary import TYPES
from nebula.schema import json_schema
from nebula.schema.channel import Channel
from nebula.schema.channels import MEANINGS, OTHERS, event_channels
from nebula.schema.json_schema import Schema
from nebula.schema.message_headers import Header

_SCHEMAS = "#/components/schemas/"
_JSON = "application/json"


def document(version: str) -> Schema:
    """Return the whole document; `version` is that of Nebula."""
    channels = (*event_channels(), *OTHERS)
    bodies = [each for channel in channels for each in (channel.body, channel.reply)]
    structs = [each for each in bodies if isinstance(each, type)]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Nebula",
            "version": version,
            "description": (
                "Every message between Nebula's actors, and every message that they take from "
                "outside. Events are kept for ever in the stream NEBULA_EVENTS. Publish intents "
                "with JetStream's acknowledgement; everything else is for reading."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _JSON,
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {channel.name: _channel(channel) for channel in channels},
        "operations": {f"{each.action}{_upper(each.name)}": _operation(each) for each in channels},
        "components": {
            "messages": {name: message for each in channels for name, message in _messages(each)},
            "schemas": json_schema.definitions(structs, _SCHEMAS),
        },
    }


def _channel(channel: Channel) -> Schema:
    found: Schema = {
        "address": channel.address,
        "summary": channel.summary,
        "messages": {channel.name: _ref("components", "messages", channel.name)},
    }
    parameters = re.findall(r"{(\w+)}", channel.address)
    found["parameters"] = {name: {"description": MEANINGS[name]} for name in parameters}
    if channel.stream:
        found["description"] = f"Kept in the JetStream stream {channel.stream}."
    if channel.older:
        found["description"] += f" Before cluster version {LOCKS} its address was {channel.older}."
    if channel.reply:
        found["messages"][_reply(channel)] = _ref("components", "messages", _reply(channel))
    return found


def _operation(channel: Channel) -> Schema:
    found: Schema = {
        "action": channel.action,
        "channel": _ref("channels", channel.name),
        "summary": channel.summary,
        "messages": [_ref("channels", channel.name, "messages", channel.name)],
    }
    if channel.reply:
        found["reply"] = {
            "address": {"location": "$message.header#/reply", "description": "NATS's reply-to"},
            "channel": _ref("channels", channel.name),
            "messages": [_ref("channels", channel.name, "messages", _reply(channel))],
        }
    return found


def _messages(channel: Channel) -> list[tuple[str, Schema]]:
    found: Schema = {"name": channel.name, "summary": channel.summary, **_payload(channel.body)}
    if channel.headers:
        found["headers"] = _headers(channel.headers)
    if not channel.reply:
        return [(channel.name, found)]
    reply = _reply(channel)
    return [(channel.name, found), (reply, {"name": reply, **_payload(channel.reply)})]


def _payload(body: type[Struct] | str) -> Schema:
    if isinstance(body, str):
        return {"payload": {"description": body}, "contentType": "application/octet-stream"}
    payload: Schema = {"payload": {"$ref": _SCHEMAS + body.__name__}, "contentType": _JSON}
    if body.__name__ in TYPES:
        [example] = json_schema.of_event(body.__name__)["examples"]
        payload["examples"] = [{"payload": example}]
    return payload


def _headers(headers: tuple[Header, ...]) -> Schema:
    found: Schema = {
        "type": "object",
        "properties": {
            each.name: {"type": "string", "description": each.meaning} for each in headers
        },
    }
    needed = [each.name for each in headers if each.needed]
    return {**found, "required": needed} if needed else found


def _reply(channel: Channel) -> str:
    return f"{channel.name}Reply"


def _upper(name: str) -> str:
    return name[0].upper() + name[1:]


def _ref(*path: str) -> dict[str, Any]:
    return {"$ref": "#/" + "/".join(path)}
