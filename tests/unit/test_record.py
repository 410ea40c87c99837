"""Events as bytes: what is written can be read for ever, and reading never fails."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nebula.events import record
from nebula.events.batch_facts import Problem
from nebula.events.capture_events import CaptureStarted, CaptureStopped
from nebula.events.decisions import NodeRisk
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    BatchCancelRequested,
    BatchRequested,
    EngineKillRequested,
    ModelLoadRequested,
    ModelRebalanceRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.key_events import KeyChanged, KeyIssued, KeyRevoked
from nebula.events.limit_events import LimitsSet
from nebula.events.record import Entry, Malformed, Record
from nebula.events.state import EMPTY
from nebula.events.upcasting import version_of
from nebula.events.usage import UsageRolledUp, UsageSum
from nebula.events.usage_limits import UsageLimits
from nebula.events.validation import rejection_reason
from nebula.events.values import Adapter, Assignment, Autoscale, Device, Target, Weights
from nebula.events.vocabulary import (
    AGGREGATE_OF,
    AGGREGATES,
    INTENTS,
    TYPES,
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    BatchCancelled,
    BatchFinished,
    BatchProgressed,
    BatchStarted,
    ClusterFounded,
    ClusterVersionRaised,
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
    DownloadWaits,
    EngineFailed,
    EngineReady,
    EngineResumed,
    EngineStalled,
    EngineStarted,
    EngineStopped,
    Event,
    EventRejected,
    ModelAssigned,
    ModelMeasured,
    ModelRolledBack,
    ModelScaled,
    ModelSlept,
    ModelUnloaded,
    ModelUnschedulable,
    ModelWoken,
    NodeDeregistered,
    NodeHeard,
    NodeLost,
    NodeRegistered,
    NodeStopped,
    NodeSuspected,
    ResilienceChanged,
    WeightsRemoved,
)
from tests.unit.typed import typed

GOLDEN = Path(__file__).parents[1] / "golden" / "events.json"
OLD = GOLDEN.with_name("old_events.json")
NESTED = (
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"source":"/m","options":{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    b'{"source":"/m","options":{"deep":' + b'{"b":' * 5_000 + b"1" + b"}" * 5_000 + b"}}",
)
"""Every one of them deeper than the stack of most Pythons; 3.13 reads the last."""

EVENTS: dict[str, tuple[str, Event]] = {
    type(event).__name__: (identity, event)
    for identity, event in (
        (
            "chat",
            ModelLoadRequested(
                "org/chat",
                name="org/chät",
                task="embedding",
                replicas=2,
                adapters=(Adapter("sql", "/adapters/sql"),),
                lora=True,
                memory="6GiB",
                options={"max-model-len": 4096, "enforce-eager": True, "rope": {"type": [1.5]}},
                env={"VLLM_LOGGING_LEVEL": "DEBUG"},
                max_in_flight=64,
                max_waiting=512,
                policy="binpack",
                labels={"zone": "a"},
                apart=("chat", "other"),
                node="alpha",
                devices=(0, 1),
                autoscale=Autoscale(2, 5, 8.5, 1.5, 60.5),
                on_request=True,
                idle_after=600.5,
                evictable=True,
                fallback=("org/small", "org/smaller"),
            ),
        ),
        (
            "batch_1",
            BatchRequested(
                "file-1",
                "/v1/embeddings",
                window=3600.5,
                owner="0a1b",
                idempotency="2c3d",
                metadata={"run": "nächtlich"},
                wake=True,
                keep=7200,
            ),
        ),
        (
            "ci",
            KeyIssued(
                "0123456789abcdef" * 4,
                ("infer", "view"),
                name="für Prüfungen",
                prefix="nbl_ci_Ab3",
                models=("org/*", "embed"),
                tenant="team-a",
                expires=datetime(2027, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC),
                limits=UsageLimits(
                    requests_per_minute=600,
                    tokens_per_minute=200_000,
                    in_flight=16,
                    waiting=0,
                    priority=(-5, 9),
                    tokens_per_day=10**7,
                    tokens_per_month=10**8,
                    max_tokens=4096,
                ),
            ),
        ),
        (
            "ci",
            KeyChanged(
                ("operate",),
                name="ci",
                models=("embed",),
                tenant="team-b",
                expires=datetime(2028, 1, 1, tzinfo=UTC),
                limits=UsageLimits(in_flight=2),
                hash="fedcba9876543210" * 4,
                prefix="nbl_ci_Xy9",
                overlap=3600.5,
            ),
        ),
        ("ci", KeyRevoked("verloren")),
        (
            "slow",
            CaptureStarted(
                60.5, "chat", "ci", "team-a", 0.25, "keep", ("email", "url"), ("Projekt Ö",)
            ),
        ),
        ("slow", CaptureStopped()),
        ("chat", LimitsSet("model", UsageLimits(tokens_per_day=1_000_000, max_tokens=2048))),
        (
            "20261129T053000000000",
            UsageRolledUp(
                3,
                9,
                (
                    UsageSum(
                        1795928400,
                        "ci",
                        "chat",
                        "/v1/completions",
                        tenant="team-a",
                        user="5f0c",
                        adapter="sql",
                        requests=5,
                        prompt=70,
                        cached=16,
                        completion=40,
                        estimated=8,
                    ),
                ),
                lost=1,
                dropped=2,
            ),
        ),
        ("batch_1", BatchStarted(50)),
        ("batch_1", BatchProgressed(20, 1)),
        ("batch_1", BatchCancelRequested()),
        ("batch_1", BatchCancelled(21, 1, "file-2", "file-3")),
        (
            "batch_1",
            BatchFinished(
                "failed", problems=(Problem("invalid_json_line", "it is not JSON", 3, "body"),)
            ),
        ),
        ("chat", ModelScaleRequested(3)),
        ("chat", ModelUnloadRequested()),
        ("chat", AdapterLoadRequested("sql", "/adapters/sql")),
        ("chat", AdapterUnloadRequested("sql")),
        ("chat", ModelAssigned(2, (Assignment("chat-0", "alpha", (0, 1), 6 * 2**30, 1),))),
        ("chat", ModelUnschedulable("no node has 80.0 GiB free", 2)),
        ("chat", ModelUnloaded()),
        ("chat", ModelMeasured("org/chat", 2**30, 12_288, 4096, "its config has no vocabulary")),
        ("chat", ModelScaled(3, "20 requests are in flight")),
        ("chat", ModelSlept("no request for 600.5 s")),
        ("chat", ModelWoken("2 requests wait")),
        ("chat", ModelRolledBack("chat-1 gave up after 3 attempts")),
        (
            "chat-0",
            EngineStarted(4711, 1760000000.25, 8001, "/logs/chat-0.log", plan=2, attempt=3),
        ),
        ("chat-0", EngineReady("0.11.0", 12.5, "", ("generate",), 4096)),
        ("chat-0", EngineFailed("CUDA out of memory", -9, ("line 1", "line 2"), 2, 4.0)),
        ("chat-0", EngineKillRequested(4711)),
        ("chat-0", EngineStopped("no plan holds it")),
        ("chat-0", EngineStalled(31.5, 3, 268.5, "no token, no step")),
        ("chat-0", EngineResumed(40.0)),
        ("chat-0", AdapterLoaded("sql", "/adapters/sql")),
        ("chat-0", AdapterLoadFailed("sql", "/adapters/sql", "rank 64 is too large")),
        ("chat-0", AdapterUnloaded("sql")),
        (
            "alpha",
            NodeRegistered(
                (
                    Device(0, "gpu", "NVIDIA H100", 80 * 2**30, "GPU-5fd4f087"),
                    Device(1, "cpu", "x86_64", 2**30, "memory-7c1b"),
                ),
                host="alpha.example",
                labels={"zone": "a"},
                nebula_version="0.1.0",
                engine_version="0.12.0",
                weights=(Weights("org/chat", 2**30),),
                measures=True,
                reads=1,
                rehearsal=True,
            ),
        ),
        ("alpha", NodeDrainRequested()),
        ("alpha", NodeUndrainRequested()),
        ("alpha", WeightsPinRequested("org/chat", pinned=False)),
        ("alpha", WeightsRemoveRequested("org/chat")),
        ("alpha", DownloadWaits("org/chat", "asks the hub for its files")),
        ("alpha", DownloadStarted("org/chat", "c0ffee", 7, 2**20, 2**30)),
        ("alpha", DownloadProgressed("org/chat", 2**29, 2**30)),
        ("alpha", DownloadFinished("org/chat", 2**30, "c0ffee", 12.5)),
        ("alpha", DownloadFailed("org/chat", "HTTP 503", 4.0)),
        ("alpha", WeightsRemoved("org/chat", "asked for")),
        ("chat", ModelRebalanceRequested(("chat-1", "chat-2"))),
        ("alpha", NodeSuspected("not heard from for 20.4 s")),
        ("alpha", NodeHeard("it reads this log")),
        ("alpha", NodeLost("silent for 15 s")),
        ("4f1d0c", ClusterFounded("lab", 1)),
        ("4f1d0c", ClusterVersionRaised(2, "2 routers and 3 nodes know version 2")),
        ("4f1d0c", ResilienceChanged((NodeRisk("n1", ("chat",), 1, 2**30),), 1, 1, "too full")),
        ("n1", NodeStopped(2)),
        ("alpha", NodeDeregistered()),
        (
            "prod",
            AliasRequested(
                (Target("org/chat", 9), Target("org/other", 2)), "prod/chät", "org/shadow", 17
            ),
        ),
        ("prod", AliasRemoveRequested()),
        ("17", EventRejected("nebula.events.model.chat.Nonsense", "no event type of Nebula")),
    )
}
"""One of every type, no field left at its default."""

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = sorted({field for kind in TYPES.values() for field in kind.__struct_fields__})
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4).map(
        lambda value: json.dumps(value).encode()
    ),
)
SUBJECTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.text(max_size=6), min_size=5, max_size=5).map(".".join),
    st.builds(
        "nebula.events.{}.{}.{}".format,
        st.sampled_from(AGGREGATES),
        st.sampled_from(["chat", "chat-0", "7", "", " ", "*", "é"]),
        st.sampled_from([*sorted(TYPES), "Nonsense"]),
    ),
)


IDS = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_type_of_event_comes_through_its_bytes(name: str) -> None:
    @given(IDS, typed(TYPES[name]))
    def comes_through(identity: str, event: Event) -> None:
        subject, payload = record.subject_of(identity, event), record.encode(event)
        entry = record.read(1, 2, subject, payload, record.headers_for(event))
        assert (entry.aggregate, entry.id, entry.content) == (AGGREGATE_OF[name], identity, event)

    comes_through()


def test_every_type_of_event_has_its_golden_json() -> None:
    assert set(EVENTS) == set(TYPES)
    assert list(golden()) == sorted(TYPES)


@pytest.mark.parametrize("name", sorted(TYPES))
def test_what_was_stored_once_is_read_for_ever(name: str) -> None:
    identity, event = EVENTS[name]
    stored = golden()[name]
    payload, version = msgspec.json.encode(stored["payload"]), stored.get("version", 1)
    read = record.decode(stored["subject"], payload, str(version))
    assert read == (AGGREGATE_OF[name], identity, event)


def test_every_version_that_ever_was_is_in_the_corpus_and_read_as_today_s() -> None:
    versions = [(stored["subject"].rpartition(".")[2], stored["version"]) for stored in old()]
    assert versions == [
        (name, version) for name in sorted(TYPES) for version in range(1, version_of(name))
    ]
    for stored, (name, version) in zip(old(), versions, strict=True):
        payload = msgspec.json.encode(stored["payload"])
        read = record.decode(stored["subject"], payload, str(version))
        assert read == (AGGREGATE_OF[name], *EVENTS[name])


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("3", "EngineStarted of version 3 is newer than this Nebula, which reads up to 2"),
        ("0", "'0' is no version"),
        ("-1", "'-1' is no version"),
        ("two", "'two' is no version"),
        ("9" * 400, "is no version"),
    ],
)
def test_a_version_that_is_unknown_is_malformed(version: str, reason: str) -> None:
    stored = golden()["EngineStarted"]
    payload = msgspec.json.encode(stored["payload"])
    headers = {record.VERSION_HEADER: version}
    content = record.read(1, 2, stored["subject"], payload, headers).content
    assert isinstance(content, Malformed)
    assert reason in content.reason


@pytest.mark.parametrize("name", sorted(TYPES))
def test_what_is_written_is_the_golden_json(name: str) -> None:
    identity, event = EVENTS[name]
    stored = golden()[name]
    assert record.subject_of(identity, event) == stored["subject"]
    assert record.headers_for(event) == (
        {record.VERSION_HEADER: str(stored["version"])} if "version" in stored else {}
    )
    assert record.encode(event) == msgspec.json.encode(stored["payload"])
    for struct, written in structs(event, stored["payload"]):
        assert list(written) == list(struct.__struct_fields__)


@pytest.mark.parametrize("name", sorted(INTENTS))
def test_a_typing_error_in_an_intent_is_answered(name: str) -> None:
    stored = golden()[name]
    payload = msgspec.json.encode({**stored["payload"], "replcias": 2})
    _, _, content = record.decode(stored["subject"], payload)
    assert isinstance(content, Malformed)
    assert "replcias" in content.reason


def test_a_typing_error_inside_a_target_is_answered() -> None:
    payload = b'{"targets":[{"model":"a","wieght":2}]}'
    _, _, content = record.decode("nebula.events.alias.prod.AliasRequested", payload)
    assert isinstance(content, Malformed)
    assert "wieght" in content.reason


def test_a_typing_error_inside_an_adapter_is_answered() -> None:
    _, _, content = record.decode(
        "nebula.events.model.chat.ModelLoadRequested",
        b'{"source":"/m","adapters":[{"name":"a","source":"/a","rank":8}]}',
    )
    assert isinstance(content, Malformed)
    assert "rank" in content.reason


@pytest.mark.parametrize("name", sorted(set(TYPES) - INTENTS))
def test_what_a_newer_actor_reports_is_read_by_an_older_one(name: str) -> None:
    stored = golden()[name]
    payload = msgspec.json.encode({**stored["payload"], "since_version_2": {"a": [1]}})
    assert record.decode(stored["subject"], payload)[2] == EVENTS[name][1]


@given(SUBJECTS, PAYLOADS, st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_reading_never_raises(subject: str, payload: bytes, headers: dict[str, str]) -> None:
    entry = record.read(1, 2, subject, payload, headers)
    assert entry.subject == subject
    if not isinstance(entry.content, Malformed):
        assert subject == record.subject_of(entry.id, entry.content)
        assert entry.type == type(entry.content).__name__
    else:
        assert entry.content.reason


@pytest.mark.parametrize("name", sorted(TYPES))
@pytest.mark.parametrize("payload", NESTED, ids=["lists", "objects", "options", "values"])
def test_json_that_is_nested_deeper_than_most_stacks_is_rejected(name: str, payload: bytes) -> None:
    identity, event = EVENTS[name]
    _, _, content = record.decode(record.subject_of(identity, event), payload)
    if name in INTENTS and not isinstance(content, Malformed):
        reason = rejection_reason(EMPTY, identity, content)
        assert reason is not None
        assert "is nested more than" in reason


@pytest.mark.parametrize(
    ("subject", "payload", "reason"),
    [
        ("", b"{}", "the subject is not"),
        ("nebula.events.model.chat", b"{}", "the subject is not"),
        ("nebula.events.model.a.b.ModelUnloadRequested", b"{}", "the subject is not"),
        ("nebula.events.cat.chat.ModelUnloadRequested", b"{}", "'cat' is none of model, replica"),
        ("nebula.events.model.ch t.ModelUnloadRequested", b"{}", "'ch t' is no id"),
        ("nebula.events.model.chät.ModelUnloadRequested", b"{}", "'chät' is no id"),
        ("nebula.events.model.chat.ModelUnload", b"{}", "'ModelUnload' is no event type"),
        ("nebula.events.model.chat.EngineReady", b"{}", "an event of a replica, not of a model"),
        ("nebula.events.model.chat.ModelScaleRequested", b"", "`replicas`"),
        ("nebula.events.model.chat.ModelScaleRequested", b"[]", "ModelScaleRequested: Expected"),
        ("nebula.events.model.chat.ModelScaleRequested", b'{"replicas":-1}', "$.replicas"),
        ("nebula.events.model.chat.ModelScaleRequested", b'{"replicas":1025}', "$.replicas"),
        ("nebula.events.model.chat.ModelScaleRequested", b'{"replicas":"2"}', "$.replicas"),
        ("nebula.events.model.chat.ModelScaleRequested", b'{"replicas":2', "ModelScaleRequested"),
        ("nebula.events.model.chat.ModelLoadRequested", b'{"source":""}', "$.source"),
        (
            "nebula.events.model.chat.ModelLoadRequested",
            b'{"source":"m","max_in_flight":0}',
            "$.max_in_flight",
        ),
        (
            "nebula.events.model.chat.ModelLoadRequested",
            b'{"source":"m","max_waiting":-1}',
            "$.max_waiting",
        ),
        ("nebula.events.model.chat.ModelLoadRequested", b'{"source":"\xff"}', "not UTF-8"),
        ("nebula.events.model.chat.ModelLoadRequested", b'{"source":"\\ud800"}', "ModelLoad"),
    ],
)
def test_what_is_not_an_event_says_why(subject: str, payload: bytes, reason: str) -> None:
    content = record.decode(subject, payload)[2]
    assert isinstance(content, Malformed)
    assert reason in content.reason


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_report_names_a_process_whose_end_would_be_everybodys(pid: int) -> None:
    stored = golden()["EngineStarted"]
    stored["payload"]["pid"] = pid
    _, _, content = record.decode(stored["subject"], msgspec.json.encode(stored["payload"]))
    assert isinstance(content, Malformed)
    assert "$.pid" in content.reason


@pytest.mark.parametrize("field", ["replica", "node"])
@pytest.mark.parametrize("bad", ["", "a.b", "a b", "*", "chat-0\n", "é", "x" * 129])
def test_an_assignment_names_its_replica_and_node_by_safe_ids(field: str, bad: str) -> None:
    stored = golden()["ModelAssigned"]
    stored["payload"]["replicas"][0][field] = bad
    _, _, content = record.decode(stored["subject"], msgspec.json.encode(stored["payload"]))
    assert isinstance(content, Malformed)
    assert f"$.replicas[0].{field}" in content.reason


def test_an_empty_payload_is_an_event_without_fields() -> None:
    content = record.decode("nebula.events.model.chat.ModelUnloadRequested", b"")[2]
    assert content == ModelUnloadRequested()


def test_the_headers_tell_what_led_to_an_event() -> None:
    subject, payload = "nebula.events.model.chat.ModelUnloaded", b"{}"
    headers = {
        "Nebula-Cause": "7",
        "Nebula-Basis": "9",
        "Nebula-Actor": "router-1",
        "Nats-Msg-Id": "x",
    }
    entry = record.read(10, 11, subject, payload, headers)
    assert entry == Record(
        10, 11, subject, "model", "chat", ModelUnloaded(), cause=7, basis=9, actor="router-1"
    )
    bare = record.read(10, 11, subject, payload)
    assert (bare.cause, bare.basis, bare.actor) == (None, None, "")


def test_a_header_block_is_read_as_nats_writes_it() -> None:
    block = b"NATS/1.0\r\nNebula-Cause: 7\r\nX:a:b \r\nX: second\r\nno colon\r\n\xff:\xff\r\n\r\n"
    assert record.parse_headers(block) == {"Nebula-Cause": "7", "X": "a:b", "\ufffd": "\ufffd"}
    entry = Entry(10, 11, "nebula.events.model.chat.ModelUnloaded", block, b"{}")
    assert record.read_entry(entry).cause == 7


@given(st.text(max_size=8))
@example("9" * 5000)
@example("٣")
@example("-1")
@example("²")
@example("1_0")
@example(" 1")
@example("7")
@example("8")
def test_a_cause_that_is_not_an_earlier_sequence_is_left_out(cause: str) -> None:
    headers = {record.CAUSE_HEADER: cause, record.BASIS_HEADER: cause}
    entry = record.read(8, 2, "nebula.events.model.chat.ModelUnloaded", b"{}", headers)
    number = int(cause) if len(cause) < 20 and cause.isascii() and cause.isdigit() else 0
    assert entry.cause == (number if 0 < number < 8 else None)
    assert entry.basis == (number or None), "what it says may be wrong, but it says it"


def golden() -> dict[str, dict[str, Any]]:
    return dict(json.loads(GOLDEN.read_text("utf-8")))


def old() -> list[dict[str, Any]]:
    return list(json.loads(OLD.read_text("utf-8")))


def structs(value: Any, written: Any) -> list[tuple[msgspec.Struct, dict[str, Any]]]:
    """Pair every struct inside a value with its JSON."""
    if isinstance(value, msgspec.Struct):
        inner = [structs(getattr(value, name), written[name]) for name in value.__struct_fields__]
        return [(value, written), *(pair for pairs in inner for pair in pairs)]
    if isinstance(value, tuple):
        return [pair for one, two in zip(value, written, strict=True) for pair in structs(one, two)]
    return []
