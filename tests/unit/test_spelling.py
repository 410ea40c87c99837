"""Paths are what they are spelled as, and none is mended to mean another one."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from litestar.handlers import HTTPRouteHandler

from nebula.http import admin, history, openai, resuming
from nebula.http.spelling import WITHIN, Misspelled, read

HANDLERS = [
    each
    for module in (admin, history, openai, resuming)
    for each in vars(module).values()
    if isinstance(each, HTTPRouteHandler)
]
PARTS = r"/ // %2f %2F %5c \ . .. %2e v1 admin models nodes adapters weights a %61 %252f health"
PATHS = st.lists(st.sampled_from(PARTS.split()), max_size=12).map(lambda them: "/" + "".join(them))


def test_slashes_may_be_encoded_in_those_names_that_may_hold_them() -> None:
    named = {
        tuple(None if each.startswith("{") else each for each in path.split("/")[:-1])
        for handler in HANDLERS
        for path in handler.paths
        if path.endswith(":path}")
    }
    assert named == set(WITHIN)


@given(PATHS)
def test_what_is_taken_has_the_segments_that_it_is_spelled_with(path: str) -> None:
    taken = read(path.encode())
    if isinstance(taken, Misspelled):
        return
    segments = taken.removesuffix("/").split("/")
    assert "" not in segments[1:]
    slashes = taken.count("/") - path.count("/")
    if slashes:
        assert any(_before(segments, pattern) for pattern in WITHIN)


def _before(segments: list[str], pattern: tuple[str | None, ...]) -> bool:
    told = zip(segments, pattern, strict=False)
    return len(segments) > len(pattern) and all(want in (None, said) for said, want in told)


@given(st.text("ab/%é ", min_size=1))
def test_a_name_is_read_back_however_it_is_encoded(name: str) -> None:
    for safe in ("", "/"):
        taken = read(f"/v1/models/{quote(name, safe)}".encode())
        if "" in name.split("/"):
            assert isinstance(taken, Misspelled) or name.split("/").index("") == name.count("/")
        else:
            assert taken == f"/v1/models/{name}"
