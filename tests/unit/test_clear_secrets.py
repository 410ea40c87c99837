"""What looks like a secret in clear is refused where it is asked for; real options never are."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import record
from nebula.events.clear_secrets import holds_secret, in_clear
from nebula.events.evolve import evolve
from nebula.events.intents import AdapterLoadRequested, ModelLoadRequested
from nebula.events.key_events import KeyIssued
from nebula.events.masking import MASK, masked, secret_name
from nebula.events.showing import entry_without_secrets, shown, without_secrets
from nebula.events.state import EMPTY, State
from nebula.events.validation import rejection_reason
from nebula.events.values import Adapter, SecretReference
from nebula.events.version import SECRETS
from nebula.events.vocabulary import ClusterFounded, Event
from nebula.history.load_command import load_words, quoted

NAMES = json.loads((Path(__file__).parent / "data" / "vllm_names.json").read_text())
"""All options and variables of vLLM; tests/e2e holds them to the installed one."""

HF = SecretReference("hf")

TOKENS = [
    "hf_abcDEF12345",
    "sk-proj-abcdEFGH1234ijklMNOP",
    "AKIAABCDEFGHIJKLMNOP",
    "ghp_" + "a1" * 18,
]
VALUES = st.from_regex(r"[A-Za-z][A-Za-z0-9]{7,30}", fullmatch=True)


def load(**fields: Any) -> ModelLoadRequested:
    return ModelLoadRequested("org/m", **fields)


def founded(version: int) -> State:
    return add(EMPTY, "c", ClusterFounded("", version))


def add(state: State, identity: str, event: Event) -> State:
    subject = record.subject_of(identity, event)
    return evolve(state, record.read(state.seq + 1, 1, subject, record.encode(event)))


TEXTS: list[Event] = [
    load(labels={"owner": "hf_abcDEF12345"}),
    load(labels={"token": "abc"}),
    load(name="sk-proj-abcdEFGH1234ijklMNOP"),
    KeyIssued("a" * 64, ("infer",), name="ghp_" + "a1" * 18),
]
"""Where there is no way to give a secret."""

CLEAR: list[Event] = [
    *TEXTS,
    load(env={"HF_TOKEN": "abc"}),
    load(env={"DB_PASSWORD": "1234"}),
    load(env={"AWS_SECRET_ACCESS_KEY": "abc"}),
    load(env={"GOOGLE_APPLICATION_CREDENTIALS": '{"private_key": "x"}'}),
    load(env={"PROXY": "http://user:word@proxy:3128"}),
    load(env={"KEY": "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"}),
    load(options={"hf-token": "abc"}),
    load(options={"hf_token": "abc"}),
    load(options={"otlp-traces-endpoint": "https://user:word@traces:4317"}),
    load(options={"model-loader-extra-config": {"s3": {"secret_access_key": "abc"}}}),
    load(options={"kv-transfer-config": {"extra": {"list": [{"api_key": "abc"}]}}}),
    load(adapters=(Adapter("a", "https://user:word@host/a"),)),
    ModelLoadRequested("https://host/m?token=abc"),
    AdapterLoadRequested("a", "https://user:word@host/a"),
    *(load(env={"PLAIN": token}) for token in TOKENS),
    *(load(options={"served": token}) for token in TOKENS),
]


@pytest.mark.parametrize("event", [*CLEAR, load(env={"A": f"x {TOKENS[0]} y"})])
def test_a_secret_in_clear_is_refused_with_the_right_way_and_without_its_value(
    event: Event,
) -> None:
    reason = in_clear(event)
    assert reason is not None
    if event in TEXTS:
        assert "leave it out" in reason
    else:
        assert "give its name instead" in reason
        assert "nebula load --secret NAME:" in reason
    assert not any(each in reason for each in ("abc", "word", "1234", *TOKENS))
    assert masked(reason) == reason, "whoever is refused reads all of it"


@pytest.mark.parametrize(
    "event",
    [
        load(env={"HF_TOKEN": HF, "DB_PASSWORD": SecretReference("db-password")}),
        load(options={"hf-token": True}),
        load(options={"hf-token": None}),
        load(env={"GOOGLE_APPLICATION_CREDENTIALS": "/etc/gcp/key.json"}),
        load(env={"AWS_SHARED_CREDENTIALS_FILE": "/etc/aws", "HF_TOKEN_PATH": "/run/hf"}),
        load(options={"allow-credentials": "true", "max-num-batched-tokens": 8192}),
        load(options={"hf-overrides": {"pad_token": "<pad>", "turn_token": "<|turn|>"}}),
        load(options={"hf-overrides": {"turn-token": "[TURN]"}}),
        load(options={"chat-template": "***{{ bold }}***", "tokenizer": "org/tok", "seed": 0}),
        load(options={"long-prefill-token-threshold": 512, "tokenizer-mode": "slow"}),
        ModelLoadRequested("/models/sk-learn-2000-model"),
        ModelLoadRequested("s3://bucket/models/llama"),
        AdapterLoadRequested("a", "/adapters/a"),
    ],
)
def test_other_values_are_let_pass(event: Event) -> None:
    assert in_clear(event) is None


def test_of_vllm_s_options_only_the_hub_s_token_can_hold_a_secret_and_be_set() -> None:
    assert len(NAMES["options"]) > 200
    found = {name for name in NAMES["options"] if holds_secret(name, "abc")}
    assert found == {"api-key", "hf-token", "allow-credentials"}  # the last is a switch
    assert not any(holds_secret(name, value) for name in found for value in (True, "false", None))


def test_of_vllm_s_variables_only_secrets_are_taken_for_secrets() -> None:
    assert len(NAMES["variables"]) > 200
    found = {name for name in NAMES["variables"] if secret_name(name)}
    assert found == {"S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "VLLM_API_KEY"}


@pytest.mark.parametrize("event", CLEAR)
def test_a_mask_is_refused_in_the_words_of_what_it_stands_for(event: Event) -> None:
    hidden = without_secrets(event)
    assert MASK in repr(hidden)
    assert in_clear(hidden) == in_clear(event)


@given(
    st.dictionaries(
        st.sampled_from(["HF_TOKEN", "A", "pad_token", "x_key", "credentials"]),
        VALUES | st.sampled_from([*TOKENS, "<pad>", "/a/b", "http://u:p@h", "x --api-key abc"]),
    )
)
def test_what_is_masked_is_refused_and_nothing_else(values: dict[str, str]) -> None:
    for event in (load(env=values), load(options={"nested": [values]})):
        assert (in_clear(event) is not None) == (without_secrets(event) is not event)


def test_a_secret_where_the_name_of_one_belongs_is_refused() -> None:
    reason = in_clear(load(env={"X": SecretReference("hf_abcDEF12345")}))
    assert reason is not None
    assert "hf_abc" not in reason


def test_old_logs_mean_what_they_meant() -> None:
    clear, by_name = load(env={"HF_TOKEN": "abc"}), load(env={"HF_TOKEN": HF})
    before, after = founded(SECRETS - 1), founded(SECRETS)
    assert rejection_reason(before, "m", clear) is None
    assert "looks like a secret in clear" in (rejection_reason(after, "m", clear) or "")
    assert f"needs cluster version {SECRETS}" in (rejection_reason(before, "m", by_name) or "")
    assert rejection_reason(after, "m", by_name) is None
    assert add(before, "m", clear).models["m"].spec == clear
    assert not add(after, "m", clear).models
    assert add(after, "m", by_name).models["m"].spec == by_name


def test_the_name_of_a_secret_is_shown_wherever_a_value_would_be_hidden() -> None:
    spec = load(env={"HF_TOKEN": HF, "DB_PASSWORD": "abc"})
    assert shown(spec).env == {"HF_TOKEN": HF, "DB_PASSWORD": MASK}
    built = msgspec.to_builtins(spec)
    hidden = without_secrets({"spec": built})["spec"]["env"]
    assert hidden == {"HF_TOKEN": {"secret": "hf"}, "DB_PASSWORD": MASK}
    entry = record.Entry(1, 1, record.subject_of("m", spec), b"", record.encode(spec))
    assert entry_without_secrets(entry).body == msgspec.json.encode(
        msgspec.to_builtins(shown(spec))
    )


def test_elsewhere_a_field_with_that_name_stays_hidden() -> None:
    for value in (
        {"options": {"extra": {"secret": "hunter"}}},
        {"env": {"HF_TOKEN": {"secret": "hunter", "other": "hunter"}}},
        {"env": {"HF_TOKEN": {"secret": ["hunter"]}}},
        {"env": {"X": {"secret": "hf_hunterABC123"}}},
        {"secret": "hunter"},
    ):
        assert "hunter" not in repr(without_secrets(value))


@given(st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True), st.sampled_from(["A", "HF_TOKEN"]))
def test_the_command_that_loads_again_names_the_secret(name: str, variable: str) -> None:
    spec = load(env={variable: SecretReference(name)})
    words = load_words("m", shown(spec))
    if masked(name) == name:
        assert words[-2:] == ("--secret", f"{name}:{variable}")
        assert masked(quoted(words)) == quoted(words)


@pytest.mark.parametrize("name", ["a b", "", "x" * 129, "../x", "a.b", "a/b", "ä"])
def test_a_name_that_no_secret_can_have_is_not_valid(name: str) -> None:
    body = msgspec.json.encode({"source": "m", "env": {"A": {"secret": name}}})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=ModelLoadRequested)


def test_a_reference_has_no_other_fields() -> None:
    body = b'{"source": "m", "env": {"A": {"secret": "hf", "key": "x"}}}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=ModelLoadRequested)
