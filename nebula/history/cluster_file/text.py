"""A cluster file as YAML, read with the line of each fault, written in a fixed order. Pure.

YAML 1.1, as PyYAML reads it, has surprises: `no` is false, `1:30` is 90. Where a text was meant,
the fault says so. A file may use anchors and merge keys, as far as they stay small.
"""

import difflib
import functools
import math
import re
from collections.abc import Iterator
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Struct
from msgspec.structs import FieldInfo, fields

from nebula.events import subjects
from nebula.events.plain_text import one_line
from nebula.events.reading import UNREADABLE
from nebula.history.cluster_file.declaration import (
    ClusterFile,
)

LARGEST = 16 * 1024 * 1024
"""Characters of a file, at most."""

MOST_VALUES = 1_000_000
"""Values of a file, at most, counted as often as an anchor repeats them."""

DEEPEST = 32
"""Levels of nesting, at most."""

SCHEMA = "cluster-file.schema.json"

Path: TypeAlias = tuple[str | int, ...]


class Fault(Struct, frozen=True):
    """What is wrong in a file, on which line (0: in the file as a whole)."""

    line: int
    path: str
    text: str

    def __str__(self) -> str:
        """Return it as one line."""
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.path}{': ' if self.path else ''}{self.text}"


class BadFile(Exception):
    """A cluster file is not valid; `faults` are all that were found."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def write(file: ClusterFile, schema: str = SCHEMA) -> str:
    """Return a file as YAML, without fields that have their default."""
    body: dict[str, Any] = {"version": file.version}
    for each in fields(file):
        found = _plain(getattr(file, each.name))
        if each.name != "version" and found:
            body[each.name] = found
    text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=100)
    return f"# yaml-language-server: $schema={schema}\n{text}"


def _plain(value: Any) -> Any:
    """Return a value as YAML has it: structs without the fields that have their default."""
    match value:
        case Struct():
            return {
                each.name: _plain(getattr(value, each.name))
                for each in _fields(type(value))
                if each.required or getattr(value, each.name) != _default(each)
            }
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case tuple() | list():
            return [_plain(each) for each in value]
        case _:
            return value


_fields = functools.cache(fields)


def _default(field: FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def read(text: str) -> ClusterFile:
    """Read a file. Raise BadFile with all faults, each with its line."""
    if len(text) > LARGEST:
        raise BadFile([Fault(0, "", f"it has more than {LARGEST:,} characters")])
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise BadFile([_of_yaml(error)]) from error
    except UNREADABLE as error:  # PyYAML calls itself for each level
        raise BadFile([Fault(0, "", f"it is nested more than {DEEPEST} levels deep")]) from error
    tree = _Tree()
    value = {} if root is None else _filled(tree.value(root, (), 0))
    known = {each.path for each in tree.faults}
    faults = list(tree.faults)
    if not tree.unfinished:
        faults += [each for each in _faults(value, ClusterFile, (), tree) if each.path not in known]
    if faults:
        raise BadFile(sorted(faults, key=lambda each: each.line))
    try:
        return msgspec.convert(value, ClusterFile)
    except msgspec.ValidationError as error:  # every field was looked at by itself
        raise BadFile([Fault(0, "", str(error))]) from error


def _filled(value: Any) -> Any:
    """Return a file without the groups that have no entries: `models:` alone is read as null."""
    if not isinstance(value, dict):
        return value
    return {
        key: _filled(each) if key == "limits" else each
        for key, each in value.items()
        if each is not None
    }


def _of_yaml(error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return Fault(mark.line + 1 if mark is not None else 0, "", f"not YAML: {problem}")


class _TooMuch(Exception):
    """The file has too many values, or they are nested too deep."""


class _Tree:
    """Makes values of YAML's nodes; knows the line of each and how it was written."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.written: dict[Path, tuple[str, str]] = {}
        self.faults: list[Fault] = []
        self.unfinished = False
        self._count = 0

    def value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        """Return the value of a node; note its faults."""
        try:
            return self._value(node, path, depth)
        except _TooMuch as error:
            self.unfinished = True
            self.faults = [Fault(node.start_mark.line + 1, _dotted(path), str(error))]
            return None

    def _value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise _TooMuch(f"it has more than {MOST_VALUES:,} values, repeated ones counted")
        if depth > DEEPEST:
            raise _TooMuch(f"it is nested more than {DEEPEST} levels deep")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(each, (*path, place), depth + 1)
                for place, each in enumerate(node.value)
            ]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged |= self._merged(value_node, path, depth)
                continue
            key = self._key(key_node, path)
            if key in seen:
                self._fault(line, (*path, key), f"is there already, on line {seen[key]}")
            seen[key] = line
            self.lines[*path, key] = line
            found[key] = self._value(value_node, (*path, key), depth + 1)
        return {**merged, **found}

    def _merged(self, node: yaml.Node, path: Path, depth: int) -> dict[str, Any]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for each in reversed(parts):
            value = self._value(each, path, depth + 1)
            if isinstance(value, dict):
                found |= value
            else:
                self._fault(each.start_mark.line + 1, path, "<< merges mappings only")
        return found

    def _key(self, node: yaml.Node, path: Path) -> str:
        text = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            self._fault(line, path, "a key must be a text")
        elif node.tag != "tag:yaml.org,2002:str":
            self._fault(line, path, f"the key {_misread(text, _kind(node.tag))}")
        return text

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text = str(node.value)
        kind = _kind(node.tag)
        line = node.start_mark.line + 1
        if kind == "str":
            return text
        self.written[path] = (text, kind)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind in ("int", "float") and not re.search(r":|^[-+]?0[0-9_]|_", text):
            try:
                number = int(text, 0) if kind == "int" else float(text.replace(".inf", "inf"))
            except ValueError:
                number = math.nan
            if math.isfinite(number):
                return number
        self._fault(line, path, _misread(text, kind))
        return None

    def _fault(self, line: int, path: Path, text: str) -> None:
        self.faults.append(Fault(line, _dotted(path), text))

    def fault(self, path: Path, text: str) -> Fault:
        """Return a fault of what stands at a path, or of the nearest that stands above it."""
        at = path
        while at and at not in self.lines:
            at = at[:-1]
        if path in self.written and "Expected `str" in text:
            text = _misread(*self.written[path])
        if "matching regex" in text and "{1,128}" in text:
            text = f"is not a valid id: use {subjects.ID_FORM}"
        return Fault(self.lines.get(at, 1), _dotted(path), text)


def _kind(tag: str) -> str:
    return tag.removeprefix("tag:yaml.org,2002:")


_MEANS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "null": "nothing",
    "timestamp": "a date",
}


def _misread(text: str, kind: str) -> str:
    """Return that a text is read as something else, and how to write it."""
    means = _MEANS.get(kind, "something else than a text")
    if kind == "bool":
        means = "true" if text.lower() in ("yes", "on", "true") else "false"
    short = one_line(text, 60)
    return f"{short} without quotes means {means} in YAML 1.1: write it as {short!r} with quotes"


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


# What a file must hold


def _faults(value: Any, kind: Any, path: Path, tree: _Tree) -> Iterator[Fault]:
    """Yield what is wrong with a value that is to be of a kind, field by field."""
    bare = _bare(kind)
    if isinstance(bare, type) and issubclass(bare, Struct) and isinstance(value, dict):
        yield from _struct_faults(value, bare, path, tree)
        return
    if get_origin(bare) is dict and isinstance(value, dict):
        keys, values = get_args(bare)
        for key, each in value.items():
            yield from _own_faults(key, keys, (*path, key), tree)
            yield from _faults(each, values, (*path, key), tree)
        return
    if get_origin(bare) is tuple and isinstance(value, list) and value:
        for place, each in enumerate(value):
            yield from _faults(each, get_args(bare)[0], (*path, place), tree)
    yield from _own_faults(value, kind, path, tree)


def _own_faults(value: Any, kind: Any, path: Path, tree: _Tree) -> Iterator[Fault]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, below = str(error).partition(" - at ")
        if not below.startswith("`$["):  # an element has told it already
            yield tree.fault(path, text + (f" at {below.strip('`')}" if below else ""))


def _struct_faults(
    value: dict[str, Any], kind: type[Struct], path: Path, tree: _Tree
) -> Iterator[Fault]:
    known = _known(kind)
    for key, each in value.items():
        if key in known:
            yield from _faults(each, known[key], (*path, key), tree)
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f": did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"
        yield tree.fault((*path, key), f"is not a known field{hint}")
    for name in _required(kind):
        if name not in value:
            yield tree.fault(path, f"{name} is missing")


@functools.cache
def _known(kind: type[Struct]) -> dict[str, Any]:
    """Return the types of a struct's fields, by their names."""
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind)}


@functools.cache
def _required(kind: type[Struct]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if each.required)


def _bare(kind: Any) -> Any:
    """Return a type without what bounds it."""
    while hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    return kind
