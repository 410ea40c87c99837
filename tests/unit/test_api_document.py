"""The gateway's OpenAPI document is valid, whole, and made of what its routes are."""

from __future__ import annotations

import warnings
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import jsonschema
import openapi_spec_validator
import pytest
from litestar import Litestar
from litestar.exceptions import LitestarDeprecationWarning

from nebula.events.endpoints import ENDPOINTS
from nebula.http import app
from nebula.http.document.entries import ENTRIES, MODELS
from nebula.http.document.making import document, operations
from nebula.http.document.page import page
from nebula.http.inference import Limits


def litestar() -> Litestar:
    """Return the application with all routes of a gateway, which itself is none."""
    made: list[Litestar] = []

    def make(**given: Any) -> Litestar:
        made.append(Litestar(**given))
        return made[0]

    gateway: Any = SimpleNamespace(connection=None, log=SimpleNamespace(replicas=1), limiting=None)
    with patch.object(app, "Litestar", make), warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        app.create_app(gateway, Limits())
    return made[0]


@pytest.fixture(scope="module")
def told() -> Any:
    return document(litestar(), "/llm", "1.2.3")


def test_every_route_has_an_entry_and_every_entry_a_route() -> None:
    """Where this fails: `nebula/http/document/entries.py` says how to add an entry."""
    served = {each.key for each in operations(litestar())}
    assert served - ENTRIES.keys() == set()
    assert ENTRIES.keys() - served == set()
    assert {f"POST {path}" for path in ENDPOINTS} <= served


def test_the_document_is_valid_openapi(told: Any) -> None:
    openapi_spec_validator.validate(told)
    assert told["servers"] == [{"url": "/llm"}]
    assert told["info"]["version"] == "1.2.3"


def test_every_operation_says_what_it_does_under_an_id_of_its_own(told: Any) -> None:
    all_of_them = [each for path in told["paths"].values() for each in path.values()]
    assert all(each["summary"].endswith((".", ":")) or each["summary"] for each in all_of_them)
    ids = [each["operationId"] for each in all_of_them]
    assert len(set(ids)) == len(ids)


def test_every_example_fits_its_own_schema(told: Any) -> None:
    tried = 0
    for methods in told["paths"].values():
        for operation in methods.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None:
                schema = {**body["schema"], "components": told["components"]}
                jsonschema.validate(body["example"], schema)
                tried += 1
    assert tried > len(ENDPOINTS) / 2


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_path_of_engines_has_an_example_for_a_model_that_the_tests_load(path: str) -> None:
    assert ENTRIES[f"POST {path}"].example["model"] in MODELS


class Page(HTMLParser):
    """Collects the ids and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links |= {str(value) for name, value in attrs if name in ("href", "src")}


def test_the_page_loads_nothing_and_its_links_lead_somewhere(told: Any) -> None:
    found = Page()
    text = page(told, "http://localhost:8000")
    found.feed(text)
    assert not {"script", "link", "img", "iframe"} & found.elements
    assert len(set(found.ids)) == len(found.ids)
    assert {each for each in found.links if not each.startswith("#")} == {"openapi.json"}
    assert {each[1:] for each in found.links if each.startswith("#")} <= set(found.ids)
    assert "http://localhost:8000/llm/v1/chat/completions" in text


def test_what_comes_from_a_request_is_escaped_in_the_page(told: Any) -> None:
    assert "<script>" not in page(told, "http://<script>")
