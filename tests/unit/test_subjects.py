"""Ids and subjects: no name that a person chooses reaches a subject that it should not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nebula.events import subjects
from nebula.events.subjects import default_id, is_token, model_id

STRANGE = [
    "",
    "*",
    ">",
    ".",
    "..",
    "a.b",
    "a b",
    " ",
    "chat.>",
    "org/chat",
    "../../etc/passwd",
    "$JS.API.>",
    "名前",
    "é",
    "e\u0301",
    "-",
    "a\n",
    "a\0b",
    "\u0661",
    "x" * 128,
    "x" * 129,
    "x" * 4096,
]
names = st.one_of(
    st.sampled_from(STRANGE),
    st.text(max_size=200),
    st.text("ab-_.*>/ é", max_size=12),
)
ids = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)


@given(names)
def test_any_name_becomes_a_safe_token_and_always_the_same(name: str) -> None:
    identity = model_id(name)
    assert is_token(identity)
    assert identity.isascii()
    assert not set(identity) & set(".*> \t\r\n/")
    assert model_id(name) == identity


@given(names)
def test_an_id_is_an_id_of_itself(name: str) -> None:
    assert model_id(model_id(name)) == model_id(name)


@given(ids)
def test_a_name_that_is_a_token_stays_as_it_is(name: str) -> None:
    assert model_id(name) == name


@given(st.lists(names, unique=True, max_size=10))
@example(["a.b", "a b", "a/b", "a-b", "a_b"])
@example(["é", "e\u0301", "", "model"])
def test_different_names_get_different_ids(different: list[str]) -> None:
    assert len({model_id(name) for name in different}) == len(different)


@given(names, names)
def test_a_model_without_an_id_gets_a_safe_one_from_its_name_or_its_source(
    source: str, name: str
) -> None:
    assert is_token(default_id(source, name))
    assert is_token(default_id(source))
    if name:
        assert default_id(source, name) == model_id(name)


@pytest.mark.parametrize(
    ("source", "identity"),
    [
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("/models/chat", "chat"),
        ("/models/chat/", "chat"),
        ("chat", "chat"),
    ],
)
def test_the_default_id_is_the_last_part_of_the_source(source: str, identity: str) -> None:
    assert default_id(source) == identity


def test_the_id_of_a_strange_name_still_reads_like_it() -> None:
    assert model_id("org/chat").startswith("org-chat-")
    assert model_id("Qwen2.5").startswith("Qwen2-5-")
    assert model_id("名前").startswith("model-")


@given(names, names, st.sampled_from(["model", "replica", "node", "log"]))
def test_no_subject_that_is_built_from_an_id_has_another_number_of_tokens(
    name: str, other: str, aggregate: str
) -> None:
    model, replica = model_id(name), model_id(other)
    expected = {
        subjects.event(aggregate, model, "EngineReady"): 5,
        subjects.requests(model): 4,
        subjects.router_requests(model, replica): 5,
        subjects.replica_requests(model, replica): 5,
        subjects.responses(model, replica): 5,
        subjects.cancel(model, replica): 5,
        subjects.finished(model): 4,
        subjects.cache(model, replica): 4,
        subjects.node_status(model): 4,
        subjects.replica_status(model, replica): 5,
        subjects.logs(model): 3,
        subjects.waiting(model): 3,
    }
    for subject, tokens in expected.items():
        parts = subject.split(".")
        assert len(parts) == tokens
        assert all(is_token(part) for part in parts)


@given(names.filter(lambda name: not is_token(name)))
def test_an_event_of_an_unsafe_id_has_no_subject(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid id"):
        subjects.event("model", name, "ModelUnloadRequested")


def test_what_is_subscribed_to_covers_what_is_published() -> None:
    for pattern, subject in [
        (subjects.EVENTS, subjects.event("node", "n", "NodeLost")),
        (subjects.MODEL_EVENTS, subjects.event("model", "m", "ModelUnloaded")),
        (subjects.STATUS, subjects.node_status("n")),
        (subjects.STATUS, subjects.replica_status("m", "m-0")),
        (subjects.INFERENCE, subjects.cancel("m", "r")),
        (subjects.REQUESTS, subjects.requests("m")),
        (subjects.ALL_REQUESTS, subjects.requests("m")),
        (subjects.ALL_REQUESTS, subjects.router_requests("m", "r")),
        (subjects.INFERENCE, subjects.router_requests("m", "r")),
        (subjects.router_requests("*", "r"), subjects.router_requests("m", "r")),
        (subjects.FINISHED, subjects.finished("m")),
        (subjects.CACHES, subjects.cache("m", "m-0")),
        (subjects.REPLICA_STATUS, subjects.replica_status("m", "m-0")),
        (subjects.NODE_STATUS, subjects.node_status("n")),
    ]:
        assert covers(pattern, subject)


def covers(pattern: str, subject: str) -> bool:
    """Whether a NATS subscription to `pattern` gets what is published on `subject`."""
    wanted, given_ = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, given_ = wanted[:-1], given_[: len(wanted) - 1]
    pairs = zip(wanted, given_, strict=False)
    return len(wanted) == len(given_) and all(one in ("*", other) for one, other in pairs)
