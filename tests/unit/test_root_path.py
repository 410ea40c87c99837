"""A gateway behind a prefix reads a path alike whether or not a proxy has removed the prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.endpoints import ENDPOINTS
from nebula.http import spelling
from nebula.http.root_path import NotARoot, check, plain, without
from nebula.http.server import heads
from nebula.http.server.heads import Head

SERVED = (*ENDPOINTS, "/v1/models/{name}", "/admin/models", "/health")
FIRSTS = {path.split("/")[1] for path in SERVED}
ROOTS = st.from_regex(r"\A(/[A-Za-z0-9._~-]{1,8}){1,3}\Z").filter(
    lambda root: not {".", ".."} & set(root.split("/")) and root.split("/")[1] not in FIRSTS
)
PATHS = st.sampled_from([*ENDPOINTS, "/v1/models/org%2Fname", "/health", "/", "/nothing"])


def read(target: str, root: str) -> Head | heads.Objection:
    return heads.read(b"GET", target.encode(), "1.1", [(b"host", b"a")], root)


@given(ROOTS, PATHS, st.sampled_from(["", "?a=/b"]))
def test_a_path_is_read_alike_with_the_prefix_and_without_it(
    root: str, path: str, query: str
) -> None:
    check(root, SERVED)
    bare, whole = (read(f"{front}{path}{query}", root) for front in ("", root))
    assert bare == whole == read(f"{path}{query}", "")


@given(ROOTS, st.from_regex(r"\A[A-Za-z0-9._~-][A-Za-z0-9/._~-]{0,9}\Z"))
def test_only_whole_segments_are_the_prefix(root: str, more: str) -> None:
    assert without(root, f"{root}{more}".encode()) == f"{root}{more}".encode()
    assert without(root, root.encode()) == b"/"


@pytest.mark.parametrize("first", sorted(FIRSTS))
def test_a_prefix_that_is_the_gateways_own_is_refused(first: str) -> None:
    for root in (f"/{first}", f"/{first}/more"):
        with pytest.raises(NotARoot, match="Choose another prefix"):
            check(root, SERVED)


@pytest.mark.parametrize("text", ["llm", "//llm", "/a//b", "/a b", "/..", "/a/./b", "/%61", "/é"])
def test_what_is_not_a_prefix_is_refused(text: str) -> None:
    with pytest.raises(NotARoot):
        plain(text)


def test_a_slash_at_its_end_is_dropped() -> None:
    assert [plain(each) for each in ("", "/", "/llm", "/llm/")] == ["", "", "/llm", "/llm"]


def test_the_spelling_that_is_told_has_the_prefix() -> None:
    told = spelling.read(b"/v1//models", "/llm")
    assert isinstance(told, spelling.Misspelled)
    assert "'/llm/v1/models'" in told.text
