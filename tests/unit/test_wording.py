"""The rules of wording find what they are meant to find, and nothing breaks one of them."""

from __future__ import annotations

import pytest

from tests import wording
from tests.wording import Rule

RULES = {rule.name: rule for rule in wording.rules().rule}


def found(path: str, source: str, *names: str) -> list[tuple[str, int]]:
    """Return (rule, line) of each breach in a source."""
    chosen = tuple(RULES[name] for name in names) or tuple(RULES.values())
    return [(each.rule.name, each.line) for each in wording.breaches(path, source, chosen)]


def test_no_docstring_comment_message_page_or_test_name_breaks_a_rule_of_wording() -> None:
    """Where this fails: `python -m tests.wording` lists the places and what to write instead."""
    assert [str(breach) for breach in wording.all_breaches()] == []


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        ('"""See the module."""', ("see the module", 1)),
        ('def f():\n    """Give the size."""', ("give or say", 2)),
        ("x = 1\n# The body is no\n# JSON.", ("is no X", 2)),
        ('x = f"{x!r} is no number"', ("is no X", 1)),
        ("# A router who sends it.", ("who", 1)),
        ('"""What it is.\n\nRouters of before did not."""', ("of before", 3)),
        ("# It ends the one before.", ("the one before", 1)),
        ('"""It ends. One that waits goes on."""', ("sentence without a noun", 1)),
        ("def test_what_is_no_number_is_refused():\n    pass", ("is no X", 1)),
        ("async def test_nobody_waits():\n    pass", ("who", 1)),
    ],
)
def test_a_breach_is_found_with_its_line(source: str, breach: tuple[str, int]) -> None:
    assert found("nebula/x.py", source) == [breach]


@pytest.mark.parametrize(
    "source",
    [
        "# There is no router, and the model is no longer wanted.",
        "# Users who ask, and people who look.",
        'x = "there are no nodes"',
        "nobody = who()",
        '"""Return the size."""',
        "# The table is not the one that was asked for.",
    ],
)
def test_plain_words_break_no_rule(source: str) -> None:
    assert found("nebula/x.py", source) == []


def test_texts_of_tests_are_data_and_their_names_and_docstrings_are_not() -> None:
    source = 'def test_it():\n    """Who waits."""\n    assert f("nobody")'
    assert found("tests/unit/test_x.py", source) == [("who", 2)]


def test_a_page_is_read_without_code_and_targets_of_links() -> None:
    page = "`is no x`, [text](who.md)\n\n```\nnobody\n```\nThe body is\nno JSON."
    assert found("docs/x.md", page) == [("is no X", 6)]


def test_an_exemption_holds_for_its_files_and_sentences_only() -> None:
    rule = RULES["is no X"]
    source = "x = f'{x} is no amount; write bytes'\ny = 'it is no file'"
    inside = list(wording.breaches("nebula/events/memory.py", source, (rule,)))
    outside = list(wording.breaches("nebula/http/x.py", source, (rule,)))
    assert [each.line for each in inside] == [2]
    assert [each.line for each in outside] == [1, 2]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_a_rule_says_what_to_write_and_why_it_has_exceptions(rule: Rule) -> None:
    assert rule.instead
    assert all(each.why for each in rule.exempt)


def test_a_breach_is_printed_with_its_place_and_what_to_write() -> None:
    [breach] = wording.breaches("nebula/x.py", "# The body is no JSON.", (RULES["is no X"],))
    assert str(breach).startswith("nebula/x.py:1: is no X: 'The body is no JSON.': write ")
