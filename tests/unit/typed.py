"""Everything that a struct's field types allow, made from the types themselves."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import msgspec.inspect as types
from hypothesis import strategies as st
from msgspec import Struct

_FEW = 3
_TEXT = 20
_BIG = 2**53
"""The largest integer that every JSON reader keeps."""


def typed(kind: type[Struct]) -> st.SearchStrategy[Any]:
    """Return structs of one kind."""
    return _of(types.type_info(kind))


def _of(kind: types.Type) -> st.SearchStrategy[Any]:
    match kind:
        case types.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _of(field.type) for field in fields})
        case types.Metadata(type=described):
            return _of(described)
        case types.UnionType(types=several):
            return st.one_of(*map(_of, several))
        case types.StrType(pattern=str(pattern)):
            return st.from_regex(pattern.replace(r"\Z", ""), fullmatch=True)
        case types.StrType():
            most = min(kind.max_length or _TEXT, _TEXT)
            return st.text(min_size=kind.min_length or 0, max_size=most)
        case types.IntType():
            lowest = kind.gt + 1 if kind.gt is not None else kind.ge
            highest = kind.lt - 1 if kind.lt is not None else kind.le
            return st.integers(
                -_BIG if lowest is None else lowest, _BIG if highest is None else highest
            )
        case types.FloatType():
            return st.floats(
                kind.gt if kind.gt is not None else kind.ge,
                kind.le,
                exclude_min=kind.gt is not None,
                allow_nan=False,
                allow_infinity=False,
            )
        case types.LiteralType(values=values):
            return st.sampled_from(values)
        case types.VarTupleType(item_type=item) | types.ListType(item_type=item):
            least = kind.min_length or 0
            items = st.lists(_of(item), min_size=least, max_size=least + _FEW)
            return items if isinstance(kind, types.ListType) else items.map(tuple)
        case types.TupleType(item_types=items_of):
            return st.tuples(*map(_of, items_of))
        case types.DateTimeType():
            return st.datetimes(timezones=st.just(UTC))
        case types.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of(key), _of(value), max_size=_FEW)
        case types.BoolType():
            return st.booleans()
        case types.NoneType():
            return st.none()
        case types.CustomType() | types.AnyType():
            return st.one_of(st.none(), st.integers(-_BIG, _BIG), st.text(max_size=_TEXT))
    raise NotImplementedError(kind)
