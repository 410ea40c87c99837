"""What a gateway reads of a request's body, and what it refuses before it wakes a model."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.endpoints import ENDPOINTS
from nebula.http import outline
from nebula.http.errors import ApiError

PATHS = sorted(path for path, endpoint in ENDPOINTS.items() if not endpoint.form)


def body(path: str, **fields: object) -> bytes:
    """A request with the first of the path's inputs."""
    return json.dumps({"model": "m", ENDPOINTS[path].inputs[0]: ["x"], **fields}).encode()


@pytest.mark.parametrize("path", PATHS)
def test_a_request_names_its_model_and_has_an_input(path: str) -> None:
    asked = outline.read(ENDPOINTS[path], body(path, stream=True, priority=-3, user="ada"))
    assert (asked.model, json.loads(asked.prompt)) == ("m", ["x"])
    assert (asked.stream, asked.priority, len(asked.user)) == (b"true", -3, 16)


@pytest.mark.parametrize("path", PATHS)
def test_without_an_input_a_request_is_refused_with_the_inputs_that_there_are(path: str) -> None:
    with pytest.raises(ApiError, match="is required") as refused:
        outline.read(ENDPOINTS[path], b'{"model":"m"}')
    assert refused.value.body.param == ENDPOINTS[path].inputs[0]
    for name in ENDPOINTS[path].inputs:
        assert name in str(refused.value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", [None, 3, ["m"]])
def test_without_a_model_a_request_is_refused(path: str, model: object) -> None:
    with pytest.raises(ApiError) as refused:
        outline.read(ENDPOINTS[path], body(path, model=model))
    assert (refused.value.status, refused.value.body.param) == (400, "model")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/tokenize"])
def test_messages_are_a_list(path: str) -> None:
    with pytest.raises(ApiError, match="messages must be an array"):
        outline.read(ENDPOINTS[path], b'{"model":"m","messages":"hello"}')


@pytest.mark.parametrize("path", PATHS)
@given(text=st.binary(max_size=40))
def test_what_is_not_a_request_is_refused_and_nothing_else_is_raised(
    path: str, text: bytes
) -> None:
    with pytest.raises(ApiError) as refused:
        outline.read(ENDPOINTS[path], text)
    assert refused.value.status == 400


@given(name=st.text(min_size=1))
def test_another_model_changes_nothing_else(name: str) -> None:
    asked = b'{"temperature": 1.50, "model": "a", "input": "\\u00e9", "big": 12345678901234567890}'
    renamed = outline.renamed(asked, name)
    assert json.loads(renamed) == {**json.loads(asked), "model": name}
    assert b"1.50" in renamed
