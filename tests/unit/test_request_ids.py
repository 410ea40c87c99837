"""Every answer names its request, by the caller's id if it has a fit one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula.http import request_ids
from nebula.http.request_ids import LONGEST

VALUES = st.binary(max_size=LONGEST + 1) | st.from_regex(rb"\A[!-~]{1,40}\Z")
FIELDS = st.dictionaries(
    st.sampled_from([b"x-request-id", b"x-client-request-id", b"host", b"accept"]), VALUES
)


def named(own: bytes, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the fields of an answer that name its request."""
    lines = request_ids.lines(own, request_ids.given(fields))
    assert all(line.endswith(b"\r\n") and line.count(b"\r\n") == 1 for line in lines)
    pairs = [tuple(line[:-2].split(b": ", 1)) for line in lines]
    assert len(dict(pairs)) == len(pairs)  # type: ignore[arg-type]
    return dict(pairs)  # type: ignore[arg-type]


@given(FIELDS)
def test_nebulas_own_id_is_always_told_and_the_callers_only_if_it_fits(
    fields: dict[bytes, bytes],
) -> None:
    told = named(b"own", fields)
    assert b"own" in told.values()
    assert b"x-request-id" in told
    for name, value in told.items():
        if value != b"own":
            assert fields[name] == value
            assert 0 < len(value) <= LONGEST
            assert all(33 <= each < 127 for each in value)


@given(FIELDS)
def test_what_is_told_is_what_the_request_is_found_by(fields: dict[bytes, bytes]) -> None:
    told = {value.decode() for value in named(b"own", fields).values()} - {"own"}
    assert told == set(request_ids.texts(fields)) - {"own"}


def test_a_callers_own_id_is_x_request_id_and_openais_stands_beside_it() -> None:
    assert named(b"own", {}) == {b"x-request-id": b"own"}
    both = {b"x-request-id": b"order-7", b"x-client-request-id": b"c9"}
    assert named(b"own", both) == {**both, b"x-nebula-request-id": b"own"}
    client = {b"x-client-request-id": b"c9"}
    assert named(b"own", client) == {**client, b"x-request-id": b"own"}


def test_anthropics_clients_read_a_name_of_their_own() -> None:
    told = request_ids.lines(b"own", ((b"x-request-id", b"theirs"),), "anthropic")
    assert b"request-id: own\r\n" in told
    assert b"x-request-id: theirs\r\n" in told


def test_an_id_that_would_not_fit_into_a_line_is_passed_over() -> None:
    for unfit in (b"", b"two words", b"\xc3\xa9", b"a" * (LONGEST + 1), b"a\tb"):
        assert named(b"own", {b"x-request-id": unfit}) == {b"x-request-id": b"own"}
