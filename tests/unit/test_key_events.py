"""API keys as the log tells of them: issued once, changed as a whole, revoked for good."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import evolve_key
from nebula.events.key import Key
from nebula.events.key_events import KeyChanged, KeyIssued, KeyRevoked, Scope
from nebula.events.usage_limits import UsageLimits
from nebula.events.validation import rejection_reason
from nebula.events.version import LOCKS
from nebula.events.vocabulary import ClusterFounded, KeyEvent
from nebula.history.description import describe
from tests.unit.story import SECOND, Story

HASH, OTHER = "a" * 64, "b" * 64
ISSUED = KeyIssued(HASH, ("infer",), name="ci", prefix="nbl_ci_x", models=("org/*",), tenant="t")


def begun(*events: KeyEvent, version: int = LOCKS) -> Story:
    return Story().given("c1", ClusterFounded("lab", version)).given("ci", *events)


def test_an_issued_key_has_what_its_event_says() -> None:
    key = begun(ISSUED).state.keys["ci"]
    assert (key.hash, key.scopes, key.name, key.prefix) == (HASH, ("infer",), "ci", "nbl_ci_x")
    assert (key.models, key.tenant, key.issued_ns) == (("org/*",), "t", 2 * SECOND)
    assert key.invalid(10**19) == ""


def test_a_change_replaces_all_rights_and_leaves_the_key_itself() -> None:
    key = begun(ISSUED, KeyChanged(("view",))).state.keys["ci"]
    assert (key.scopes, key.models, key.tenant, key.name) == (("view",), ("*",), "", "")
    assert (key.hash, key.prefix, key.old_hash) == (HASH, "nbl_ci_x", "")


@pytest.mark.parametrize(("overlap", "old", "until"), [(0.0, "", 0), (60.0, HASH, 63 * SECOND)])
def test_a_rotated_key_overlaps_with_the_old_one_for_as_long_as_asked(
    overlap: float, old: str, until: int
) -> None:
    changed = KeyChanged(("infer",), hash=OTHER, prefix="nbl_ci_y", overlap=overlap)
    key = begun(ISSUED, changed).state.keys["ci"]
    assert (key.hash, key.prefix) == (OTHER, "nbl_ci_y")
    assert (key.old_hash, key.old_until_ns) == (old, until)


def test_a_revoked_key_stays_revoked() -> None:
    story = begun(ISSUED, KeyRevoked("left"))
    assert story.state.keys["ci"].invalid(0) == "revoked"
    for event in (KeyChanged(("admin",)), KeyRevoked(), ISSUED):
        assert rejection_reason(story.state, "ci", event) is not None
    assert story.given("ci", KeyChanged(("admin",))).state.keys["ci"].scopes == ("infer",)


def test_a_key_is_valid_until_it_expires() -> None:
    event = KeyIssued(HASH, ("infer",), expires=datetime(2027, 1, 1, tzinfo=UTC))
    key = begun(event).state.keys["ci"]
    end = 1_798_761_600 * SECOND
    assert (key.expires, key.invalid(end - 1), key.invalid(end)) == (
        "2027-01-01T00:00:00Z",
        "",
        "expired",
    )


def test_a_key_with_a_date_before_1970_has_expired() -> None:
    event = KeyIssued(HASH, ("infer",), expires=datetime(1960, 1, 1, tzinfo=UTC))
    assert begun(event).state.keys["ci"].invalid(1) == "expired"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (KeyIssued(HASH, ("infer", "infer")), "scopes: one of them stands there twice"),
        (
            KeyIssued(HASH, ("infer",), limits=UsageLimits(priority=(5, 1))),
            "limits: priority goes from 5 to 1",
        ),
        (KeyChanged(("infer",)), "there is no key 'ci'"),
        (KeyRevoked(), "there is no key 'ci'"),
    ],
)
def test_what_a_key_can_t_be_is_rejected_with_the_reason(event: KeyEvent, reason: str) -> None:
    story = begun(event)
    assert not story.state.keys
    (rejection,) = [each for _, each in story.state.rejections.items()]
    assert reason in rejection.reason


def test_keys_need_a_cluster_whose_actors_all_know_them() -> None:
    story = begun(ISSUED, version=LOCKS - 1)
    assert not story.state.keys
    assert "cluster version" in (rejection_reason(story.state, "ci", ISSUED) or "")


def test_the_number_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve_key, "VALID", 1)
    monkeypatch.setattr(evolve_key, "REMEMBERED", 2)
    story = Story().given("c1", ClusterFounded("lab", LOCKS))
    for number in range(4):
        story = story.given(f"k{number}", ISSUED)
        assert "as many as may be" in (rejection_reason(story.state, "more", ISSUED) or "")
        story = story.given(f"k{number}", KeyRevoked())
    assert sorted(story.state.keys) == ["k2", "k3"]


SCOPES: list[tuple[Scope, set[Scope]]] = [
    ("infer", {"infer"}),
    ("view", {"view"}),
    ("operate", {"operate", "view"}),
    ("admin", {"admin", "operate", "view", "infer"}),
]


@pytest.mark.parametrize(("scope", "included"), SCOPES)
def test_a_scope_includes_smaller_ones(scope: Scope, included: set[Scope]) -> None:
    key = Key(id="k", hash=HASH, scopes=(scope,))
    assert {each for each, _ in SCOPES if key.has(each)} == included


@pytest.mark.parametrize(
    ("pattern", "name", "may"),
    [
        ("*", "anything/at all", True),
        ("qwen", "qwen", True),
        ("qwen", "qwen2", False),
        ("org/*", "org/chat", True),
        ("org/*", "other/chat", False),
        ("*-sql", "chat-sql", True),
        ("[a-z]*", "chat", False),
        ("c?at*", "chat", False),
        ("[x]*", "[x]y", True),
    ],
)
def test_a_star_stands_for_any_text_and_nothing_else_does(
    pattern: str, name: str, *, may: bool
) -> None:
    assert Key(id="k", hash=HASH, scopes=("infer",), models=(pattern,)).may_use(name) is may


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_name_without_a_star_is_that_name_alone(pattern: str, name: str) -> None:
    if "*" not in pattern:
        key = Key(id="k", hash=HASH, scopes=("infer",), models=(pattern,))
        assert key.may_use(name) is (pattern == name)


def test_the_story_of_a_key_is_told_without_its_hash() -> None:
    story = begun(ISSUED, KeyChanged(("infer",), hash=OTHER), KeyRevoked("left the team"))
    told = [describe(record) for record in story.log[-3:]]
    assert told == [
        "key issued: for ci, scopes infer, models org/*, tenant t",
        "key replaced by a new one: scopes infer",
        "key revoked: left the team",
    ]
