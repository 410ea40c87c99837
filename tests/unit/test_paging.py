"""Pages of a list: following them gives every item once."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.http.errors import ApiError
from nebula.http.paging import page


class Item(NamedTuple):
    id: str


@given(
    count=st.integers(0, 30),
    limit=st.integers(1, 40),
    order=st.sampled_from(["asc", "desc", ""]),
)
def test_following_the_pages_gives_every_item_once_in_order(
    count: int, limit: int, order: str
) -> None:
    items = [Item(f"i{number}") for number in range(count)]
    query = {"limit": str(limit), **({"order": order} if order else {})}
    seen: list[Item] = []
    while True:
        found = page(items, query, most=40, usual=20)
        seen += found["data"]
        assert len(found["data"]) <= limit
        if not found["has_more"]:
            break
        query["after"] = found["last_id"]
    assert seen == (items if order == "asc" else items[::-1])


def test_an_empty_list_has_no_first_and_no_last() -> None:
    found = page([], {}, most=5, usual=5)
    assert (found["first_id"], found["last_id"], found["has_more"]) == (None, None, False)


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "-1"}, {"limit": "²"}, {"order": "up"}, {"after": "x"}]
)
def test_a_page_that_makes_no_sense_is_refused_by_name(query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        page([Item("a")], query, most=10, usual=10)
    assert caught.value.status == 400
    assert caught.value.body.param in query
