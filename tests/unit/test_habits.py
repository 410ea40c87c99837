"""How code and tests are written here: modules are short, and tests assert no times.

No test passes either way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wording import nodes

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
MODULES = sorted((TESTS.parent / "nebula").rglob("*.py"))
LONGEST = 400
"""Lines of a module, at most: a longer one has more than one concern."""
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "elapsed"}


def asserts(text: str) -> Iterator[ast.Assert]:
    for node in nodes(ast.parse(text)):
        if isinstance(node, ast.Assert):
            yield node


def names(node: ast.AST) -> set[str]:
    inside = nodes(node)
    found = {each.attr for each in inside if isinstance(each, ast.Attribute)}
    return found | {each.id for each in inside if isinstance(each, ast.Name)}


def timed(node: ast.Assert) -> bool:
    """Return whether an assertion reads a clock, which a busy machine makes late."""
    calls = (each for each in nodes(node) if isinstance(each, ast.Call))
    loop = any(ast.unparse(call.func).endswith(("loop.time", "loop().time")) for call in calls)
    return loop or bool(names(node.test) & CLOCKS)


def either(node: ast.Assert) -> bool:
    """Return whether an assertion is content with one of several texts."""
    test = node.test
    if not (isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or)):
        return False
    return all(
        isinstance(value, ast.Compare) and isinstance(value.ops[0], ast.In) for value in test.values
    )


def test_each_file_of_tests_has_a_name_of_its_own() -> None:
    """So `pytest tests` collects all of them: pytest imports test files by their names alone."""
    named = [file.name for file in FILES if file.name.startswith("test_")]
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_no_test_asserts_how_long_something_took_or_one_of_two_texts(file: Path) -> None:
    lines = [node.lineno for node in asserts(file.read_text()) if timed(node) or either(node)]
    assert lines == []


@pytest.mark.parametrize(
    "text",
    [
        "assert time.monotonic() - began < 5",
        "assert answer.elapsed.total_seconds() < 1",
        "assert loop.time() - began > 0.2",
        "assert 'a' in text or 'b' in text",
    ],
)
def test_what_is_not_to_be_written_is_found(text: str) -> None:
    [node] = asserts(text)
    assert timed(node) != either(node)


def test_no_module_is_longer_than_one_concern_needs() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in MODULES}
    assert len(lengths) > 500
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}
