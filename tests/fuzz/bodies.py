"""Bodies that break a rule of JSON, of a form, or of a coding: each with what may become of it."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**400, "", "x", "\x00", "\ud800", [], [[]], {}, {"": 0}),
)
"""Values of other types than a field has."""

DEEP = 100_000
MIB = 1024 * 1024


class Bad(NamedTuple):
    """A body. `refused`: whether only a 4xx is right."""

    name: str
    body: bytes
    refused: bool = True
    fields: Mapping[str, str] = {}


def of_json(example: Mapping[str, Any]) -> Iterator[Bad]:
    """Yield what can be wrong with a JSON body."""
    good = json.dumps(example)
    inside = good[1:-1]
    for name, text in {
        "nothing": "",
        "null": "null",
        "a number": "1",
        "a string": '"x"',
        "a list": f"[{good}]",
        "half of it": good[: len(good) // 2],
        "something after it": f"{good} {good}",
        "single quotes": good.replace('"', "'"),
        "a comment": f"/* */{good}",
        "a comma too many": f"{{{inside},}}",
        "NaN": f'{{{inside}, "temperature": NaN}}',
        "Infinity": f'{{{inside}, "temperature": -Infinity}}',
        "a number with zeros before it": f'{{{inside}, "temperature": 007}}',
        "a control character": f'{{{inside}, "user": "a\x01"}}',
        "half an escape": f'{{{inside}, "user": "\\u12"}}',
    }.items():
        yield Bad(name, text.encode())
    yield Bad("a byte order mark", b"\xef\xbb\xbf" + good.encode())
    yield Bad("UTF-16", good.encode("utf-16"))
    yield Bad("bytes that are not UTF-8", f'{{{inside}, "x": "'.encode() + b'\xff"}')
    yield Bad("lists in lists", f'{{{inside}, "x": {"[" * DEEP}{"]" * DEEP}}}'.encode())
    deep = '{"a":' * DEEP + "1" + "}" * DEEP
    yield Bad("objects in objects", f'{{{inside}, "x": {deep}}}'.encode())
    yield Bad("a model of another type", json.dumps({**example, "model": ["chat"]}).encode())
    for name, text in {
        "keys twice": f'{{"model": "nobody", {inside}}}',
        "keys twice, the other last": f'{{{inside}, "stream": true, "stream": false}}',
        "an escaped key": good.replace('"model"', '"mod\\u0065l"'),
        "a lone surrogate": f'{{{inside}, "user": "\\ud800"}}',
        "a large exponent": f'{{{inside}, "temperature": 1e400}}',
        "many digits": f'{{{inside}, "seed": {"9" * 5000}}}',
        "many keys": json.dumps({**example, **{f"k{n}": 0 for n in range(20_000)}}),
    }.items():
        yield Bad(name, text.encode(), refused=False)


def of_types(example: Mapping[str, Any]) -> Iterator[Bad]:
    """Yield an example whose fields, at any depth, have values of other types."""
    for path in _paths(example):
        for value in WRONG:
            body = json.dumps(_with(example, path, value)).encode()
            where = ".".join(map(str, path))
            yield Bad(f"{where} is {str(value)[:20]!r}", body, refused=False)
    for field in (*example, "stream", "user", "priority", "safety_identifier", "temperature"):
        for value in WRONG:
            body = json.dumps({**example, field: value}).encode()
            yield Bad(f"{field} is {str(value)[:20]!r}", body, refused=False)


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, each in inside:
        yield (*before, key)
        if isinstance(each, Mapping | list):
            yield from _paths(each, (*before, key))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[path[0]] = _with(copy[path[0]], path[1:], new)
    return copy


def of_codings(example: Mapping[str, Any], bomb: int) -> Iterator[Bad]:
    """Yield compressed bodies that are broken, or that unfold to `bomb` bytes."""
    good = json.dumps(example).encode()
    packed = gzip.compress(good)
    zeros = _zeros(bomb)
    for name, body, coding in (
        ("half of gzip", packed[: len(packed) // 2], "gzip"),
        ("no gzip at all", good, "gzip"),
        ("something after gzip", packed + b"more", "gzip"),
        ("another coding than told", zlib.compress(good), "br"),
        ("an unknown coding", good, "rot13"),
        ("codings within codings", packed, ", ".join(["gzip"] * 50)),
        ("a bomb", zeros, "gzip"),
        ("a bomb in a bomb", gzip.compress(zeros, 9), "gzip, gzip"),
    ):
        yield Bad(name, body, fields={"content-encoding": coding})


@cache
def _zeros(size: int) -> bytes:
    return gzip.compress(b" " * size, 9)


def of_forms(fields: Mapping[str, str]) -> Iterator[Bad]:
    """Yield what can be wrong with a form that has a file."""
    parts = [_part(name, value.encode()) for name, value in fields.items()]
    file = _part("file", b"RIFF and so on", 'filename="a.wav"')
    good = b"".join([*parts, file]) + b"--b--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for name, body, told in (
        ("nothing", b"", kind),
        ("half a form", good[: len(good) // 2], kind),
        ("no end", good.removesuffix(b"--b--\r\n"), kind),
        ("no boundary", good, {"content-type": "multipart/form-data"}),
        ("another boundary", good, {"content-type": "multipart/form-data; boundary=other"}),
        ("JSON", b"{}", {"content-type": "application/json"}),
        ("a part without a name", b"--b\r\n\r\nx\r\n--b--\r\n", kind),
        ("a part without an end of its head", b"--b\r\nContent-Disposition: form-data", kind),
        ("many parts", _part("x", b"y") * 5000 + good, kind),
        ("a long name", _part("x" * 2 * MIB, b"y") + good, kind),
        ("a long field", _part("x", b"y" * 2 * MIB) + good, kind),
        ("a field twice", b"".join(parts) + good, kind),
        ("no file", b"".join(parts) + b"--b--\r\n", kind),
    ):
        yield Bad(name, body, fields=told)


def _part(name: str, value: bytes, more: str = "") -> bytes:
    said = f'form-data; name="{name}"' + (f"; {more}" if more else "")
    return b"--b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (said.encode(), value)
