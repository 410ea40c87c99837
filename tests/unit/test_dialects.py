"""Errors in the form that the clients of each path expect."""

import json

import anthropic
import pytest
from openai._streaming import SSEDecoder

from nebula.events.endpoints import Dialect
from nebula.http import dialects
from nebula.http.errors import ApiError, unavailable

BUSY = unavailable("no replica of 'm' is ready", 3)


def test_each_path_has_its_form() -> None:
    assert dialects.dialect_of("/v1/messages") == "anthropic"
    assert dialects.dialect_of("/v1/messages/count_tokens/") == "anthropic"
    assert dialects.dialect_of("/v1/responses") == "responses"
    assert dialects.dialect_of("/v1/chat/completions") == "openai"
    assert dialects.dialect_of("/admin/models") == "openai"


@pytest.mark.parametrize("dialect", ["openai", "responses"])
def test_openai_s_clients_get_openai_s_errors(dialect: Dialect) -> None:
    said = json.loads(dialects.payload(BUSY, dialect))
    assert said["error"]["message"] == "no replica of 'm' is ready"
    assert said["error"]["code"] == "unavailable"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropic_s_clients_get_anthropic_s_errors(status: int, kind: str) -> None:
    said = json.loads(dialects.payload(ApiError(status, "no"), "anthropic"))
    assert said == {"type": "error", "error": {"type": kind, "message": "no"}}
    if kind != "request_too_large":  # Anthropic documents it; its client has no type for it
        assert anthropic.types.ErrorResponse.model_validate({**said, "request_id": None})


def decoded(event: bytes) -> tuple[str | None, dict[str, object]]:
    (read,) = SSEDecoder().iter_bytes(iter([event]))
    return read.event, read.json()


def test_a_stream_ends_with_the_error_event_of_its_protocol() -> None:
    assert decoded(dialects.event(BUSY, "openai"))[1]["error"]
    kind, said = decoded(dialects.event(BUSY, "anthropic"))
    assert (kind, said["type"]) == ("error", "error")
    kind, said = decoded(dialects.event(BUSY, "responses"))
    assert (kind, said["type"], said["sequence_number"]) == ("error", "error", 0)
    assert said["message"] == "no replica of 'm' is ready"


def test_an_error_s_number_follows_the_last_event_s() -> None:
    sent = b'data: {"sequence_number":7}\n\ndata: {"type":"x","sequence_number": 8}\n\n'
    assert decoded(dialects.event(BUSY, "responses", sent))[1]["sequence_number"] == 9


OPENAI_S = b'{"error":{"message":"max_tokens: Field required","type":"Bad Request","code":400}}'
ANTHROPIC_S = b'{"type":"error","error":{"type":"BadRequestError","message":"no"}}'


def test_an_engine_s_error_in_openai_s_form_is_translated_for_anthropic_s_clients() -> None:
    said = json.loads(dialects.translated(400, OPENAI_S, "anthropic"))
    assert said["error"]["type"] == "invalid_request_error"
    assert said["error"]["message"] == "max_tokens: Field required"
    assert dialects.translated(400, ANTHROPIC_S, "anthropic") == ANTHROPIC_S
    assert dialects.translated(400, OPENAI_S, "openai") == OPENAI_S


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
def test_a_path_that_the_engine_does_not_have_is_told_so(dialect: Dialect) -> None:
    said = json.loads(dialects.translated(404, b'{"detail":"Not Found"}', dialect))
    assert said["error"]["message"] == "the engine of this model does not have this path"


@pytest.mark.parametrize("body", [b"", b"\xff", b"Internal Server Error", b"[]", b'{"error":7}'])
def test_an_engine_s_error_that_can_t_be_read_is_told_as_it_is(body: bytes) -> None:
    said = json.loads(dialects.translated(500, body, "anthropic"))
    assert said["error"]["type"] == "api_error"
    assert said["error"]["message"].startswith("the engine answered with 500: ")


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
def test_what_an_engines_framework_refuses_has_the_form_of_the_path(dialect: Dialect) -> None:
    """FastAPI answers so if Python's `json` can't read a body that is JSON all the same."""
    body = b'{"detail":"There was an error parsing the body"}'
    told = json.loads(dialects.translated(400, body, dialect))
    assert told["error"]["message"] == "There was an error parsing the body"
    assert (told.get("type") == "error") == (dialect == "anthropic")
    for other in (b'{"detail":[{"loc":["body"]}]}', b'{"detail":'):
        assert dialects.translated(400, other, "openai") == other
