"""Streams that may go on for ever end with the key that asked for them."""

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from litestar import get

import nebula.http
from nebula.http.authentication import needing
from nebula.http.errors import ApiError
from nebula.http.lasting_streams import while_allowed
from nebula.http.principals import PRESENT, Principal

pytestmark = pytest.mark.anyio

ALLOWED = Principal("", frozenset(("view",)))
REVOKED = ApiError(401, "the API key is revoked")


async def numbers(most: int) -> AsyncGenerator[str, None]:
    for number in range(most):
        yield str(number)


@get("/")
async def handler() -> None:
    """Need the scope view."""


needing("view", handler)


def request(answers: list[Any]) -> Any:
    """Return a request whose key is looked at with these answers, one after the other."""

    def present(_: object) -> Any:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    scope = {"method": "GET", "state": {PRESENT: present}}
    return SimpleNamespace(scope=scope, route_handler=handler)


async def test_a_stream_whose_key_stays_valid_comes_to_its_end() -> None:
    asked = request([ALLOWED])
    assert [each async for each in while_allowed(asked, numbers(3), str)] == list("012")


async def test_a_stream_whose_key_is_revoked_says_so_and_ends() -> None:
    asked = request([ALLOWED, ALLOWED, REVOKED])
    found = [each async for each in while_allowed(asked, numbers(9), str)]
    assert found == ["0", "1", "the API key is revoked"]


async def test_a_silent_stream_is_looked_at_too() -> None:
    ended = False

    async def silent() -> AsyncGenerator[str, None]:
        nonlocal ended
        try:
            await asyncio.Event().wait()
            yield ""
        finally:
            ended = True

    asked = request([ALLOWED, REVOKED])
    found = [each async for each in while_allowed(asked, silent(), str, every=0.01)]
    assert found == ["the API key is revoked"]
    assert ended


def test_each_handler_that_answers_without_an_end_asks_for_its_key_again() -> None:
    """The content of a file has an end."""
    made = re.compile(r"(?<!def )\b(?:ServerSentEvent|Stream)\(\s*(\w+)")
    found = {
        (path.relative_to(Path(nebula.http.__path__[0])).as_posix(), each[1])
        for path in Path(nebula.http.__path__[0]).rglob("*.py")
        for each in made.finditer(path.read_text())
    }
    assert {each for each in found if each[1] not in ("while_allowed", "told")} == {
        ("files/routes.py", "_content")
    }
