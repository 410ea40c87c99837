"""Keys are recognized: by their hash, until they expire, and for no longer than they are valid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rpds import HashTrieMap

from nebula.events import key_text
from nebula.events.key import Key
from nebula.http import principals
from nebula.http.errors import ApiError
from nebula.http.field_lines import FieldLines
from nebula.http.principals import KeyRing, Principal, required

NEW = key_text.made("ci", b"a" * 32)
OTHER = key_text.made("ci", b"b" * 32)
KEY = Key(id="ci", hash=NEW.hash, scopes=("infer",), prefix=NEW.prefix)
NOW = 1_000


class World:
    """The keys of a cluster, and the time."""

    def __init__(self, *keys: Key, opened: tuple[str, ...] = ()) -> None:
        self.now = NOW
        self.keys = HashTrieMap({key.id: key for key in keys})
        self.ring = KeyRing(lambda: self.keys, opened, lambda: self.now)  # type: ignore[arg-type]

    def change(self, key: Key) -> None:
        self.keys = self.keys.insert(key.id, key)

    def asks(self, text: str, field: bytes = b"authorization") -> Principal:
        value = f"Bearer {text}" if field == b"authorization" else text
        return self.ring.principal({field: value.encode()})

    def refusal(self, text: str) -> str | int | None:
        with pytest.raises(ApiError) as caught:
            self.asks(text)
        assert caught.value.status == 401
        return caught.value.body.code


@pytest.mark.parametrize("field", [b"authorization", b"x-api-key", b"api-key"])
def test_the_holder_of_a_key_is_known_by_its_id(field: bytes) -> None:
    found = World(KEY).asks(NEW.text, field)
    assert (found.name, found.owner, found.scopes) == ("key:ci", "key:ci", frozenset({"infer"}))


def test_a_key_is_recognized_only_as_a_whole() -> None:
    assert World(KEY).refusal(OTHER.text) == "invalid_api_key"
    assert World(KEY).refusal(NEW.text[:-1]) == "invalid_api_key"
    assert World(KEY).refusal(f"{NEW.text}x") == "invalid_api_key"
    assert World().refusal(NEW.text) == "invalid_api_key"


def test_a_change_counts_from_the_next_request_on() -> None:
    world = World(KEY)
    assert world.asks(NEW.text).scopes == {"infer"}
    world.change(replace(KEY, scopes=("view",)))
    assert world.asks(NEW.text).scopes == {"view"}
    world.change(replace(KEY, revoked_ns=NOW))
    assert world.refusal(NEW.text) == "key_revoked"


def test_a_key_that_was_recognized_before_expires_too() -> None:
    world = World(replace(KEY, expires_ns=NOW + 1))
    assert world.asks(NEW.text).owner == "key:ci"
    world.now = NOW + 1
    assert world.refusal(NEW.text) == "key_expired"


def test_the_previous_key_is_valid_until_the_overlap_ends() -> None:
    world = World(replace(KEY, hash=OTHER.hash, old_hash=NEW.hash, old_until_ns=NOW + 1))
    assert world.asks(NEW.text).owner == world.asks(OTHER.text).owner
    world.now = NOW + 1
    assert world.refusal(NEW.text) == "key_replaced"
    assert world.asks(OTHER.text).owner == "key:ci"


def test_any_other_text_is_not_a_key_but_has_an_owner() -> None:
    world = World(KEY, opened=("infer",))
    first, second = world.asks("none"), world.asks("another")
    assert first.key is second.key is None
    assert first.owner != second.owner
    assert first.scopes == {"infer"}
    assert world.ring.principal({}).owner == ""


def test_what_is_open_is_open_to_keys_of_other_scopes_too() -> None:
    world = World(replace(KEY, scopes=("view",)), opened=("infer",))
    assert world.asks(NEW.text).scopes == {"infer", "view"}


def test_few_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals, "_REMEMBERED", 2)
    world = World(KEY, opened=("infer",))
    for number in range(10):
        world.asks(f"text-{number}")
    assert len(world.ring._known) <= 2


def test_the_owner_of_something_stored_has_the_rights_of_today() -> None:
    world = World(KEY)
    assert world.ring.of_owner("key:ci").scopes == {"infer"}
    for changed in (replace(KEY, revoked_ns=NOW), replace(KEY, expires_ns=NOW)):
        world.change(changed)
        with pytest.raises(ApiError):
            world.ring.of_owner("key:ci")
    for absent in ("key:absent", "0123456789abcdef"):
        with pytest.raises(ApiError):
            world.ring.of_owner(absent)
    assert World(opened=("infer",)).ring.of_owner("0123456789abcdef").key is None


@pytest.mark.parametrize(("scope", "status"), [("infer", None), ("view", 403), ("admin", 403)])
def test_a_scope_that_is_missing_is_named(scope: str, status: int | None) -> None:
    asked = {"state": {principals.STATE: World(KEY).asks(NEW.text)}}
    if status is None:
        assert required(asked, scope).owner == "key:ci"  # type: ignore[arg-type]
        return
    with pytest.raises(ApiError, match=f"needs {scope}") as caught:
        required(asked, scope)  # type: ignore[arg-type]
    assert caught.value.status == status


@given(st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True), st.binary(min_size=32, max_size=32))
def test_the_id_is_found_in_every_key(identity: str, secret: bytes) -> None:
    new = key_text.made(identity, secret)
    assert key_text.identity_in(new.text) == identity
    assert key_text.hashed(new.text) == new.hash
    shown, long, rest = new.prefix.partition("..")  # of a long id only the beginning is shown
    assert new.text.startswith(shown if long else new.prefix)
    assert new.text.startswith(f"nbl_{identity}{rest or new.prefix[len(identity) + 4 :]}")
    assert len(new.text) - len(new.prefix) >= 37


@given(st.text(max_size=200))
def test_reading_a_key_never_fails(text: str) -> None:
    key_text.identity_in(text)
    key_text.hashed(text)


def test_fields_that_came_before_are_recognized_until_the_keys_change() -> None:
    world, lines = World(KEY), FieldLines([(b"authorization", f"Bearer {NEW.text}".encode())])
    assert world.ring.principal_again(lines) is None
    found = world.ring.principal(dict(lines), lines)
    assert world.ring.principal_again(lines) is found
    world.change(replace(KEY, revoked_ns=1))
    assert world.ring.principal_again(lines) is None
    with pytest.raises(ApiError):
        world.ring.principal(dict(lines), lines)
    assert world.ring.principal_again(lines) is None


def test_what_ends_by_itself_is_looked_at_each_time() -> None:
    old = key_text.made("ci", b"o" * 32)
    for key, text in (
        (replace(KEY, expires_ns=NOW + 1), NEW.text),
        (replace(KEY, old_hash=old.hash, old_until_ns=NOW + 1), old.text),
    ):
        world, lines = World(key), FieldLines([(b"authorization", f"Bearer {text}".encode())])
        world.ring.principal(dict(lines), lines)
        assert world.ring.principal_again(lines) is None


def test_a_caller_without_a_key_is_recognized_too() -> None:
    world, lines = World(opened=("infer",)), FieldLines([])
    found = world.ring.principal({}, lines)
    assert world.ring.principal_again(lines) is found
    assert found.key is None
