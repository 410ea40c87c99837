"""The error for a path that is just missed names the path that was meant."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from nebula.events.endpoints import ENDPOINTS
from nebula.http.near_misses import advice, nearest

SERVED = (
    *ENDPOINTS,
    *("/v1/models", "/v1/models/{name}", "/v1/streams/{identity}", "/health", "/ready"),
    *("/admin/models", "/admin/models/{model}", "/admin/models/{model}/adapters", "/admin/nodes"),
)
VERSIONS = ("v1", "v2")
FOR_CLIENTS = [each for each in SERVED if not each.startswith("/admin/") and "{" not in each]
WORDS = {segment for path in SERVED for segment in path.split("/")} - set(VERSIONS)
ALIEN = st.from_regex(r"\A[a-z0-9.-]{1,12}\Z").filter(lambda each: each not in WORDS)
BASES = st.lists(st.sampled_from(["v1", "v2", "openai", "api", "v1beta"]) | ALIEN, max_size=3).map(
    lambda each: "".join(f"/{one}" for one in each)
)


def own(path: str) -> str:
    """Return a path without the version that is the base of a client."""
    first, rest = path[1:].partition("/")[::2]
    return f"/{rest}" if first in VERSIONS else path


@given(st.sampled_from(FOR_CLIENTS), BASES, st.sampled_from(["", "/", "//"]))
def test_whatever_the_base_url_is_the_path_is_told(path: str, base: str, slashes: str) -> None:
    asked = f"{base}{own(path)}{slashes}"
    miss = nearest(asked, SERVED)
    assert miss is not None
    assert own(miss.meant) == own(path)
    if miss.base or miss.wrong_base:
        rest = miss.meant.removeprefix(miss.base)
        assert asked.rstrip("/") == miss.wrong_base + rest
        assert repr(miss.base) in advice(miss) or not miss.base
    else:
        assert miss.meant == asked.rstrip("/")


@given(st.sampled_from(FOR_CLIENTS), st.data())
def test_a_letter_too_few_or_of_another_case_still_tells_the_path(
    path: str, data: st.DataObject
) -> None:
    head, _, last = path.rpartition("/")
    assume(len(last) > 4)
    at = data.draw(st.integers(0, len(last) - 1))
    for other in (last[:at] + last[at + 1 :], last[:at] + last[at:].upper()):
        miss = nearest(f"{head}/{other}", SERVED)
        assert miss is not None
        assert miss.meant == path


@given(st.text(max_size=60))
def test_any_path_has_an_answer_and_an_alien_one_has_none(path: str) -> None:
    miss = nearest(path, SERVED)
    assert miss is None or miss.meant in SERVED


@given(BASES, ALIEN.filter(lambda each: len(each) < 4))
def test_a_path_whose_end_is_unknown_is_near_none(base: str, last: str) -> None:
    assert nearest(f"{base}/{last}", SERVED) is None


def test_the_admin_api_is_told_to_those_alone_that_name_it() -> None:
    told = {path: nearest(path, SERVED) for path in ("/models", "/v1/admin/models", "/nodes")}
    assert {path: miss and miss.meant for path, miss in told.items()} == {
        "/models": "/v1/models",
        "/v1/admin/models": "/admin/models",
        "/nodes": None,
    }


def test_what_is_wrong_with_a_base_url_is_told() -> None:
    wrong = {
        "/chat/completions": "the client's base URL lacks '/v1'",
        "/v1/v1/chat/completions": "the client's base URL has '/v1' too much",
        "/openai/v1/models": "the client's base URL has '/openai' too much",
        "/api/models": "the client's base URL has '/api' in place of '/v1'",
        "/v1/chat/completion": "",
        "/v1/chatt/completions": "",
    }
    for path, text in wrong.items():
        miss = nearest(path, SERVED)
        assert miss is not None
        assert advice(miss) == text
