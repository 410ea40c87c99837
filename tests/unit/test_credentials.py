"""Whose request it is: by the key that each API's clients send."""

import pytest

from nebula.http.credentials import owner

ALICE = owner({b"authorization": b"Bearer Alice"})
WAYS = (
    (b"authorization", b"bearer Alice"),
    (b"authorization", b"BEARER \t Alice  "),
    (b"authorization", b"Alice"),
    (b"x-api-key", b"Alice"),
    (b"api-key", b" Alice "),
    (b"sec-websocket-protocol", b"realtime, openai-insecure-api-key.Alice"),
)
OTHERS = (
    (b"authorization", b"Bearer alice"),
    (b"authorization", b"Bearer Al ice"),
    (b"authorization", b"alice"),
    (b"authorization", b"Basic Alice"),
    (b"x-api-key", b"Basic Alice"),
    (b"x-api-key", b"Bearer Alice"),
    (b"api-key", b"ALICE"),
)


@pytest.mark.parametrize(("name", "value"), WAYS)
def test_a_key_has_one_owner_in_whichever_field_and_spelling(name: bytes, value: bytes) -> None:
    assert owner({name: value}) == owner({name: value, b"host": b"here"}) == ALICE


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_another_key_or_scheme_is_another_owner(name: bytes, value: bytes) -> None:
    assert owner({name: value}) not in ("", ALICE)


def test_a_scheme_s_case_and_spaces_mean_nothing() -> None:
    basic = owner({b"authorization": b"Basic QTpi"})
    assert owner({b"authorization": b"bASIC   QTpi"}) == basic
    assert owner({b"authorization": b"Basic qtpi"}) != basic


@pytest.mark.parametrize(
    "headers",
    [
        {b"host": b"here"},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"bearer "},
        {b"x-api-key": b" ", b"sec-websocket-protocol": b"realtime"},
    ],
)
def test_requests_without_a_key_have_one_owner(headers: dict[bytes, bytes]) -> None:
    assert owner(headers) == ""


def test_the_first_of_several_keys_counts() -> None:
    both = {b"x-api-key": b"Bob", b"authorization": b"Bearer Alice"}
    assert owner(both) == ALICE
    assert owner({b"authorization": b"Bearer", b"x-api-key": b"Alice"}) == ALICE
