"""NATS's wildcards, written down a second time for the tests."""

from collections.abc import Iterable


def covers(patterns: Iterable[str], subject: str) -> bool:
    """Return whether one of the patterns matches a subject."""
    return any(_matches(each.split("."), subject.split(".")) for each in patterns)


def _matches(pattern: list[str], subject: list[str]) -> bool:
    for number, token in enumerate(pattern):
        if token == ">":
            return len(subject) > number
        if number >= len(subject) or token not in ("*", subject[number]):
            return False
    return len(pattern) == len(subject)
