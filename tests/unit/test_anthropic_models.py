"""Pages of models in Anthropic's form: following them either way gives every model once."""

from __future__ import annotations

from anthropic.types import ModelInfo as Official
from hypothesis import given
from hypothesis import strategies as st

from nebula.http.anthropic import ModelInfo, model_info, model_page

MODELS = st.lists(st.integers(0, 3), max_size=12).map(
    lambda ages: [model_info(f"m{number}", age, None) for number, age in enumerate(ages)]
)


def follow(models: list[ModelInfo], limit: int, param: str) -> list[str]:
    query, pages = {"limit": str(limit)}, []
    while True:
        page = model_page(models, query)
        pages.append([each.id for each in page["data"]])
        assert len(pages[-1]) <= limit
        if not page["has_more"]:
            break
        query[param] = page["last_id" if param == "after_id" else "first_id"]
    if param == "before_id":
        pages.reverse()
    return [name for names in pages for name in names]


@given(MODELS, st.integers(1, 5))
def test_following_the_pages_gives_every_model_once_the_newest_first(
    models: list[ModelInfo], limit: int
) -> None:
    seen = follow(models, limit, "after_id")
    ages = {each.id: each.created_at for each in models}
    assert sorted(seen) == sorted(ages)
    assert [ages[name] for name in seen] == sorted(ages.values(), reverse=True)


@given(MODELS, st.integers(1, 5))
def test_pages_before_a_model_end_at_it(models: list[ModelInfo], limit: int) -> None:
    newest = follow(models, limit, "after_id")
    if newest:
        page = model_page(models, {"limit": str(limit), "before_id": newest[-1]})
        assert [each.id for each in page["data"]] == newest[:-1][-limit:]
        assert page["has_more"] == (len(newest) - 1 > limit)


def test_a_model_is_what_anthropics_client_reads() -> None:
    info = model_info("org/chat", 1_700_000_000, 4096)
    fields = {name: getattr(info, name) for name in info.__struct_fields__}
    read = Official.model_validate(fields)
    assert (read.id, read.type, read.max_input_tokens) == ("org/chat", "model", 4096)
    assert read.created_at.timestamp() == 1_700_000_000
