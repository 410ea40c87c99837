"""`nebula schema` prints what Nebula reads, and docs/ holds what it prints."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from msgspec import Struct

from nebula.events import (
    decisions,
    engine_facts,
    heartbeats,
    inference,
    node_facts,
    record,
    subjects,
    values,
)
from nebula.events import intents as intents_
from nebula.events.record import Malformed
from nebula.events.vocabulary import INTENTS, REPORTS, TYPES, Event
from nebula.history.cluster_file.declaration import ClusterFile
from nebula.schema import asyncapi, json_schema, metrics_page, reference, roles_page
from nebula.schema.channel import Channel
from nebula.schema.channels import OTHERS, kind_of
from nebula.schema.examples import EXAMPLES
from nebula.schema.parties import channels, parties
from tests.unit.story import Story, decisions_by_hand, facts, intents

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "events.json").read_bytes())
VALIDATORS = {name: Draft202012Validator(json_schema.of_event(name)) for name in TYPES}
ASYNCAPI = asyncapi.document("1")


# JSON Schema


@pytest.mark.parametrize("name", TYPES)
def test_every_event_has_a_valid_schema_and_a_valid_example(name: str) -> None:
    document = json_schema.of_event(name)
    Draft202012Validator.check_schema(document)
    assert document["description"]
    [example] = document["examples"]
    VALIDATORS[name].validate(example)
    assert record.encode(EXAMPLES[name][1]) == json.dumps(example, separators=(",", ":")).encode()


@pytest.mark.parametrize("name", TYPES)
def test_what_the_log_holds_fits_the_schema(name: str) -> None:
    VALIDATORS[name].validate(GOLDEN[name]["payload"])


@given(facts | intents | decisions_by_hand)
def test_whatever_is_written_fits_the_schema(said: tuple[str, Event]) -> None:
    _, event = said
    VALIDATORS[type(event).__name__].validate(json.loads(record.encode(event)))


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("ModelLoadRequested", {}),
        ("ModelLoadRequested", {"source": ""}),
        ("ModelLoadRequested", {"source": 5}),
        ("ModelLoadRequested", {"source": "m", "sauce": 1}),
        ("ModelLoadRequested", {"source": "m", "task": "paint"}),
        ("ModelLoadRequested", {"source": "m", "replicas": -1}),
        ("ModelLoadRequested", {"source": "m", "adapters": [{"name": "a"}]}),
        ("ModelLoadRequested", {"source": "m", "env": {"A": 1}}),
        ("ModelScaleRequested", {"replicas": 1.5}),
        ("ModelScaleRequested", {"replicas": 1025}),
        ("ModelUnloadRequested", {"force": True}),
        ("AliasRequested", {"targets": []}),
        ("AliasRequested", {"targets": [{"model": "a", "weight": -1}]}),
        ("AliasRequested", {"targets": [{"model": "a", "wieght": 1}]}),
        (
            "ModelAssigned",
            {
                "version": 1,
                "replicas": [
                    {"replica": "a.b", "node": "n", "devices": [0], "memory": 1, "version": 1}
                ],
            },
        ),
    ],
)
def test_what_nebula_rejects_the_schema_rejects_too(name: str, payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VALIDATORS[name].validate(payload)
    body = json.dumps(payload).encode()
    identity, event = EXAMPLES[name]
    _, _, content = record.decode(record.subject_of(identity, event), body)
    assert isinstance(content, Malformed)


def test_patterns_mean_the_same_in_every_language() -> None:
    text = json.dumps(json_schema.of_all_events())
    assert "pattern" in text
    assert "\\\\Z" not in text


def test_one_document_holds_all_events() -> None:
    document = json_schema.of_all_events()
    Draft202012Validator.check_schema(document)
    assert set(TYPES) <= set(document["$defs"])
    chosen = Draft202012Validator({**document, "$ref": "#/$defs/ModelAssigned"})
    chosen.validate(GOLDEN["ModelAssigned"]["payload"])


# AsyncAPI


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [each for part in value.values() for each in references(part)]
    if isinstance(value, list):
        return [each for part in value for each in references(part)]
    return []


def resolved(reference: str) -> Any:
    found: Any = ASYNCAPI
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_every_reference_leads_somewhere() -> None:
    assert references(ASYNCAPI)
    for each in references(ASYNCAPI):
        assert resolved(each), each


def test_every_event_is_a_channel_with_an_operation() -> None:
    for name in TYPES:
        channel = ASYNCAPI["channels"][name]
        assert channel["address"].endswith(f".{name}.{{node}}" if name in REPORTS else f".{name}")
        action = "receive" if kind_of(name) == "intent" else "send"
        operation = ASYNCAPI["operations"][f"{action}{name}"]
        assert resolved(operation["channel"]["$ref"]) == channel


def test_every_subject_that_the_code_knows_is_a_channel() -> None:
    addresses = {channel["address"] for channel in ASYNCAPI["channels"].values()}
    assert len(addresses) == len(ASYNCAPI["channels"])
    speaking = {
        name: function
        for name, function in inspect.getmembers(subjects, inspect.isfunction)
        if (function.__doc__ or "").startswith("Return the subject") or name == "logs"
    }
    assert len(speaking) >= 9
    for name, function in speaking.items():
        if name == "event":
            continue
        names = inspect.signature(function).parameters
        assert function(*(f"{{{each}}}" for each in names)) in addresses, name


def test_an_operation_s_messages_are_those_of_its_channel() -> None:
    for operation in ASYNCAPI["operations"].values():
        own = operation["channel"]["$ref"]
        said = operation["messages"] + operation.get("reply", {}).get("messages", [])
        assert said
        for message in said:
            assert message["$ref"].startswith(f"{own}/messages/")


def test_every_parameter_of_an_address_is_explained() -> None:
    for channel in ASYNCAPI["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])


def test_the_bodies_schemas_are_valid() -> None:
    for message in ASYNCAPI["components"]["messages"].values():
        payload = message["payload"]
        whole = {**payload, "components": ASYNCAPI["components"]}
        Draft202012Validator.check_schema(whole)
        for example in message.get("examples", ()):
            jsonschema.validate(example["payload"], whole, cls=Draft202012Validator)


# Descriptions of fields


def public_fields() -> list[tuple[str, str, str]]:
    """Return (struct, field, description) of every field of every public struct."""
    modules = (decisions, engine_facts, inference, intents_, node_facts, heartbeats, values)
    structs = {
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Struct) and each is not Struct
    }
    bodies = (each for channel in OTHERS for each in (channel.body, channel.reply))
    structs |= {each for each in bodies if isinstance(each, type) and issubclass(each, Struct)}
    found = json_schema.definitions(structs, "")
    rows = []
    for name, schema in found.items():
        fields = schema.get("properties") or dict(enumerate(schema.get("prefixItems", ())))
        rows += [(name, str(key), field.get("description", "")) for key, field in fields.items()]
    return rows


def is_struct(body: object) -> bool:
    return isinstance(body, type) and issubclass(body, Struct)


@pytest.mark.parametrize(("struct", "field", "description"), public_fields())
def test_every_public_field_has_a_description_of_its_own(
    struct: str, field: str, description: str
) -> None:
    """Write it at the field: `Annotated[..., Meta(description="…")]`, one or more sentences."""
    assert description, f"{struct}.{field} has no description"
    assert re.match(r"[A-Zv`].*[.]$", description), f"{struct}.{field}: {description}"
    assert not re.search(r"`\w+`: ", description), f"{struct}.{field} describes another field too"


def test_the_description_of_a_field_is_in_every_document() -> None:
    schema = json_schema.of_event("EngineFailed")["properties"]["retry_in"]
    assert schema["description"].startswith("Seconds until the node starts the engine again")
    schemas = ASYNCAPI["components"]["schemas"]
    assert schemas["EngineFailed"]["properties"]["retry_in"] == schema
    assert f"| {schema['description']} |" in reference.markdown()


# What is in docs/


def test_the_documents_are_those_of_the_code() -> None:
    """Where this fails: `make docs`."""
    assert (ROOT / "docs" / "events.md").read_text("utf-8") == reference.markdown()
    found = json.loads((ROOT / "docs" / "asyncapi.json").read_bytes())
    assert found == json.loads(json.dumps(asyncapi.document(version("nebula-serving"))))
    found = json.loads((ROOT / "docs" / "cluster-file.schema.json").read_bytes())
    of_file = json_schema.of_struct(ClusterFile, "urn:nebula:cluster-file")
    assert found == json.loads(msgspec.json.encode(of_file))


def test_the_documented_commands_publish_what_nebula_understands() -> None:
    page = (ROOT / "docs" / "events.md").read_text("utf-8")
    commands = [line for line in page.splitlines() if line.startswith("nats pub ")]
    assert len(commands) == len(INTENTS)
    for command in commands:
        _, _, subject, body = shlex.split(command)
        _, identity, content = record.decode(subject, body.encode())
        assert (identity, content) == EXAMPLES[subject.rpartition(".")[2]]


def test_the_examples_tell_one_story_that_nebula_accepts() -> None:
    assert set(EXAMPLES) == set(TYPES)
    story = Story()
    for identity, event in EXAMPLES.values():
        if kind_of(type(event).__name__) != "decision" or identity == "chat":
            story.append(identity, event)
            assert not story.state.rejections, event


# Roles


@pytest.mark.parametrize("channel", channels(), ids=lambda channel: channel.name)
def test_every_subject_has_roles_that_publish_there(channel: Channel) -> None:
    assert parties(channel).publish


def test_the_reference_lists_every_metric() -> None:
    page = ROOT / "docs" / "reference" / "metrics.md"
    assert page.read_text("utf-8") == metrics_page.markdown(), "make docs"


def test_the_reference_lists_what_each_role_may_do() -> None:
    page = ROOT / "docs" / "reference" / "roles.md"
    assert page.read_text("utf-8") == roles_page.markdown(), "make docs"
