"""Whose request it is: by the key that each API's clients send."""

import pytest

from nebula.http.credentials import owner


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key"])
def test_each_key_has_an_owner_of_its_own(name: bytes) -> None:
    assert owner({name: b"alice"}) == owner({name: b"alice", b"host": b"here"})
    assert len({owner({name: b"alice"}), owner({name: b"bob"}), owner({})}) == 3


def test_requests_without_a_key_have_one_owner() -> None:
    assert owner({b"host": b"here"}) == ""


def test_the_first_of_several_keys_counts() -> None:
    both = {b"x-api-key": b"alice", b"authorization": b"Bearer bob"}
    assert owner(both) == owner({b"authorization": b"Bearer bob"})
