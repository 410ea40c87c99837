"""A client of another API is told what is not offered, and never that it meant something else."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import anthropic
import openai
import pytest

from nebula.events.endpoints import REALTIME
from nebula.http.document.entries import ENTRIES
from nebula.http.near_misses import nearest
from nebula.http.not_offered import not_offered
from nebula.http.paths import no_path

SERVED = {REALTIME.path, *(operation.partition(" ")[2] for operation in ENTRIES)}
IS_SERVED = re.compile("|".join(re.sub(r"{\w+}", "[^/]+", path) for path in SERVED))
LITERAL = re.compile(r'"(/[a-z0-9_/{}]+)[?"]')


def paths(client: ModuleType, base: str) -> set[str]:
    """Return the paths that a client's methods ask for, with a name in each of their places."""
    resources = Path(str(client.__file__)).parent / "resources"
    found = {
        base + re.sub(r"{\w+}", "x_1", path)
        for file in resources.rglob("*.py")
        for path in LITERAL.findall(file.read_text())
    }
    return {path for path in found if "/v1/v1/" not in path and not IS_SERVED.fullmatch(path)}


@pytest.mark.parametrize(("client", "base"), [(openai, "/v1"), (anthropic, "")])
def test_no_path_of_a_client_is_taken_for_another_one(client: ModuleType, base: str) -> None:
    asked = paths(client, base)
    assert len(asked) > 50
    assert {path for path in asked if not not_offered(path)} == set()


@pytest.mark.parametrize("path", sorted(SERVED))
def test_what_is_served_is_offered_whatever_the_base_url_is(path: str) -> None:
    plain = re.sub(r"{\w+}", "name", path)
    for asked in (plain, f"/openai{plain}", plain.removeprefix("/v1")):
        if not plain.startswith("/admin/"):
            assert not_offered(asked) == ""


def test_what_does_the_same_is_told_as_clients_see_it() -> None:
    path = "/v1/messages/batches"
    said = no_path(path, {}, None, "/ai", not_offered(path, "/ai"))
    assert said == (
        "there is nothing at '/ai/v1/messages/batches': Nebula does not offer Anthropic's message "
        "batches: POST /ai/v1/batches does it, for requests to /v1/messages too. "
        "GET /ai/docs lists all paths, and GET /ai/openapi.json too"
    )


@pytest.mark.parametrize("path", ["/v1/threads/t/messages", "/threads", "/openai/v1/threads"])
def test_a_part_of_another_api_is_known_below_any_base_url(path: str) -> None:
    assert "does not offer threads" in not_offered(path)


def test_gemini_s_methods_are_known_by_their_colon() -> None:
    for method in ("generateContent", "streamGenerateContent", "countTokens"):
        assert "Gemini's API" in not_offered(f"/v1beta/models/chat:{method}")
    assert not_offered("/v1beta/models/llama3:8b") == ""


def test_other_paths_have_their_nearest_one() -> None:
    assert not_offered("/v1/nothing") == not_offered("/") == ""
    assert nearest("/v1/batchs", SERVED) is not None
