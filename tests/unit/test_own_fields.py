"""Header fields that are Nebula's own: what is not valid is refused, not guessed at."""

import pytest

from nebula.http import own_fields
from nebula.http.errors import ApiError


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"30", 30.0), (b"0.5", 0.5), (b"007", 7.0), (b"999999999", 999999999.0)]
)
def test_a_time_limit_is_seconds(value: bytes, seconds: float) -> None:
    assert own_fields.time_limit({b"x-request-timeout": value}) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        *[
            "0",
            "0.0",
            "-1",
            "+1",
            "1_0",
            "1e3",
            "nan",
            "inf",
            "soon",
            "1,5",
            ".5",
            "5.",
            "1111111111",
            "٣",
        ],
    ],
)
def test_what_is_not_a_number_of_seconds_is_refused(value: str) -> None:
    with pytest.raises(ApiError, match="X-Request-Timeout") as refused:
        own_fields.time_limit({b"x-request-timeout": value.encode()})
    assert refused.value.status == 400


@pytest.mark.parametrize("value", [b"1", b"true", b"YES", b"True"])
def test_an_answer_is_kept_where_it_is_asked_for(value: bytes) -> None:
    assert own_fields.kept({b"x-resumable": value}) == ""
    assert own_fields.kept({b"x-resumable": value, b"idempotency-key": b"k"}) == "k"


@pytest.mark.parametrize("value", [b"0", b"false", b"No"])
def test_it_is_not_kept_where_it_is_not_to_be_but_for_a_key(value: bytes) -> None:
    assert own_fields.kept({b"x-resumable": value}) is None
    assert own_fields.kept({b"x-resumable": value, b"idempotency-key": b"k"}) == "k"
    assert own_fields.kept({}) is None


@pytest.mark.parametrize("value", [b"", b"maybe", b"2", b"true, true", b"on"])
def test_another_wish_is_refused(value: bytes) -> None:
    with pytest.raises(ApiError, match="X-Resumable must be true or false"):
        own_fields.kept({b"x-resumable": value})


def test_a_key_is_not_empty() -> None:
    with pytest.raises(ApiError, match="Idempotency-Key must not be empty"):
        own_fields.kept({b"idempotency-key": b""})


@pytest.mark.parametrize("name", ["X-Request-Timeout", "Idempotency-Key", "X-Resumable"])
def test_none_of_them_comes_twice(name: str) -> None:
    field = (name.lower().encode(), b"1")
    assert own_fields.fields({"headers": [field]}) == dict([field])
    with pytest.raises(ApiError, match=f"{name} may occur once, and occurred 2 times"):
        own_fields.fields({"headers": [field, (b"accept", b"*/*"), field]})
    twice = [(b"accept", b"a"), (b"accept", b"b"), field]
    assert own_fields.fields({"headers": twice})[b"accept"] == b"b"
