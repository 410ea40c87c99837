"""What is wrong with a value, told in plain words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from nebula.events.usage_limits import UsageLimits
from nebula.events.vocabulary import TYPES
from nebula.events.wrong_values import in_words

Named = Annotated[str, Meta(min_length=1)]


class Inner(Struct, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=1, lt=100)] | None = None
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    name: Annotated[str, Meta(pattern="^x", min_length=2, max_length=5)] = "xx"
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] | None = None
    many: Annotated[list[int], Meta(min_length=1, max_length=2)] | None = None
    flag: bool = False
    by_name: dict[str, int] | None = None
    by_length: dict[Named, int | dict[Named, int]] | None = None
    inner: Inner | None = None


class Outer(Struct, forbid_unknown_fields=True):
    needed: int


def told(value: Any, kind: type[Struct] = Inner) -> str:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(msgspec.json.encode(value), type=kind)
    return in_words(raised.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"number": 0}, "number must be 1 or more"),
        ({"number": 100}, "number must be 99 or less"),
        ({"number": "x"}, "number must be a whole number or null, and is a string"),
        ({"number": 1.5}, "number must be a whole number or null, and is a number"),
        ({"share": 0}, "share must be more than 0"),
        ({"share": 1.5}, "share must be 1 or less"),
        ({"name": "x"}, "name must have at least 2 characters"),
        ({"name": "xxxxxx"}, "name must have at most 5 characters"),
        ({"name": "yy"}, "name must match the pattern '^x'"),
        ({"kind": "z"}, "kind can't be 'z'"),
        ({"pair": [1]}, "pair must have 2 items"),
        ({"pair": 5}, "pair must be an array or null, and is a whole number"),
        ({"many": []}, "many must have at least 1 item"),
        ({"many": ["a"]}, "many[0] must be a whole number, and is a string"),
        ({"flag": "yes"}, "flag must be true or false, and is a string"),
        ({"by_name": {"a": None}}, "by_name.* must be a whole number, and is null"),
        ({"by_length": {"": 1}}, "a name in by_length must have at least 1 character"),
        ({"by_length": {"a": {"": 1}}}, "a name in by_length.* must have at least 1 character"),
        ({"inner": {"number": 0}}, "inner.number must be 1 or more"),
        ({"inner": {"else": 0}}, "there is no field 'else' in inner"),
        ({"else": 0}, "there is no field 'else'"),
        ([], "this must be an object, and is an array"),
    ],
)
def test_what_is_wrong_with_a_value(value: Any, words: str) -> None:
    assert told(value) == words


def test_a_field_that_is_missing() -> None:
    assert told({}, Outer) == "the field 'needed' is missing"


def test_an_error_of_another_form_keeps_its_words() -> None:
    assert in_words(ValueError("something else")) == "something else"


ANY: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1.5, 2**70, "", "x", "x" * 300, [], [1], [[]], {}, {"": 1}]
)


@given(st.sampled_from([UsageLimits, *TYPES.values()]), st.data())
def test_no_field_of_an_event_is_told_about_in_words_of_the_schema(
    kind: type[Struct], data: st.DataObject
) -> None:
    names = [*kind.__struct_fields__, "else"]
    value = data.draw(st.one_of(ANY, st.dictionaries(st.sampled_from(names), ANY)))
    said = ""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said = in_words(error)
    assert "Expected" not in said
    assert "`" not in said
