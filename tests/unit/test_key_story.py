"""What `nebula why key` says about a key."""

from msgspec.structs import replace

from nebula.events.key import Key
from nebula.events.state import EMPTY
from nebula.history.key_story import key_verdict, keys_called

YEAR_2030 = 1_893_456_000 * 10**9
KEY = Key(id="k1", hash="h", scopes=("infer",), name="Ann", expires_ns=YEAR_2030, issued_ns=1)


def test_a_key_that_is_valid() -> None:
    said = key_verdict(KEY, YEAR_2030 - 1)
    assert said.headline == "key k1 (Ann) is valid, until 2030-01-01T00:00:00Z: infer; models: *"
    assert said.todo == ""


def test_a_key_that_has_expired() -> None:
    said = key_verdict(KEY, YEAR_2030)
    assert said.headline == "key k1 (Ann) has expired, on 2030-01-01T00:00:00Z"
    assert "nebula key change k1 --expires 30d" in said.todo


def test_a_key_that_was_revoked() -> None:
    key = Key(id="k1", hash="h", scopes=("infer",), revoked_ns=5, reason="lost")
    assert key_verdict(key, YEAR_2030).headline == "key k1 is revoked: lost"


def test_an_id_means_one_key_and_a_name_all_that_have_it() -> None:
    state = EMPTY
    second = Key(id="k2", hash="g", scopes=("infer",), name="Ann", issued_ns=2)
    third = Key(id="Ann2", hash="f", scopes=("infer",), name="k1")
    for key in (KEY, second, third):
        state = replace(state, keys=state.keys.insert(key.id, key))
    assert keys_called(state, "k1") == [KEY]
    assert keys_called(state, "Ann") == [second, KEY]
    assert keys_called(state, "Bob") == []
