"""The part of a request's body that concerns the gateway; the engine reads all of it. Pure."""

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from nebula.events.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from nebula.events.envelope import JSON
from nebula.events.reading import UNREADABLE
from nebula.events.utf8 import check_text
from nebula.events.wrong_values import in_words
from nebula.http.bad_json import no_json
from nebula.http.errors import ApiError, field_at_fault
from nebula.openai import forms

_EMPTY = Raw(b"")
_LISTS = ("messages",)
"""Inputs that must be a list."""


class Fields(Struct, frozen=True, gc=False):
    """The JSON of the fields of a body that concern the gateway on all paths; empty if absent."""

    model: str | None = None
    stream: Raw = _EMPTY
    user: Raw = _EMPTY
    safety_identifier: Raw = _EMPTY
    priority: Raw = _EMPTY
    max_tokens: Raw = _EMPTY
    max_completion_tokens: Raw = _EMPTY
    max_output_tokens: Raw = _EMPTY
    n: Raw = _EMPTY
    best_of: Raw = _EMPTY
    cache_salt: Raw = _EMPTY


NO_FIELDS = Fields()


class Outline(Struct, frozen=True):
    """What a gateway needs of a request.

    `prompt`: the JSON of its input. `stream`: the JSON of that field, empty if it is absent.
    `user`: a hash of the user's name, "" for none. `priority`: as in vLLM. `lengths`: the
    fields of a form that name the length of its answer; `fields`: those of JSON.
    """

    model: str
    prompt: bytes
    stream: bytes = b""
    user: str = ""
    priority: int = 0
    lengths: Mapping[str, str] = {}
    fields: Fields = NO_FIELDS


class _Hot(Fields, frozen=True, gc=False):
    messages: Raw = _EMPTY
    prompt: Raw = _EMPTY
    prompt_embeds: Raw = _EMPTY
    input: Raw = _EMPTY


_hot = msgspec.json.Decoder(_Hot)
_common = msgspec.json.Decoder(Fields)
_fields = msgspec.json.Decoder(dict[str, Raw])
_HOT = frozenset({CHAT.path, COMPLETIONS.path, EMBEDDINGS.path})


def read(endpoint: Endpoint, body: bytes) -> Outline:
    """Read a JSON body. Raise ApiError 400 that names the field at fault.

    The engine validates the rest, but a request without a model or an input must not wake one.
    """
    try:
        check_text(body)
        if endpoint.path in _HOT:
            common: Fields = _hot.decode(body)
            fields = None
        else:
            common, fields = _common.decode(body), _fields.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, in_words(error), param=field_at_fault(error)) from error
    except UNREADABLE as error:
        raise no_json(body, error) from error
    if common.model is None:
        raise ApiError(400, "you must name a model", param="model")
    return Outline(
        common.model,
        _input(endpoint, common, fields),
        bytes(common.stream),
        _user(common) if common.user or common.safety_identifier else "",
        _number(common.priority) if common.priority else 0,
        fields=common,
    )


def renamed(body: bytes, name: str, content_type: str = JSON) -> bytes:
    """Return the same body, JSON or a form, with another model."""
    if content_type != JSON:
        return forms.renamed(content_type, body, name)
    fields = _fields.decode(body)
    fields["model"] = Raw(msgspec.json.encode(name))
    return msgspec.json.encode(fields)


def fingerprint(path: str, body: bytes, content_type: str = JSON) -> str:
    """Return a digest by which a repeated request is recognised."""
    digest = hashlib.blake2b(path.encode() + b"\n", digest_size=16)
    digest.update(body if content_type == JSON else forms.fingerprint(content_type, body))
    return digest.hexdigest()


def _input(endpoint: Endpoint, common: Fields, fields: dict[str, Raw] | None) -> bytes:
    """Return the request's input: the first present field of those that vLLM takes."""
    forms = endpoint.inputs
    for field in forms:
        raw = bytes(getattr(common, field) if fields is None else fields.get(field, b""))
        if not raw or raw == b"null":
            continue
        if field in _LISTS:
            if raw[:1] != b"[":
                raise ApiError(400, f"{field} must be an array", param=field)
        elif endpoint.path in _HOT and raw[:1] not in (b"[", b'"'):
            text = f"{field} must be a string or an array"
            raise ApiError(400, text, param=field)
        return raw
    raise ApiError(400, f"{' or '.join(forms)} is required", param=forms[0])


def _user(common: Fields) -> str:
    """Return a hash of a user's name; "" if it is not text, which the engine may refuse."""
    for raw in (common.user, common.safety_identifier):
        value = bytes(raw)
        if value.startswith(b'"') and value != b'""':
            return hashlib.blake2b(value, digest_size=8).hexdigest()
    return ""


def _number(raw: Raw) -> int:
    """Read a priority; the engine refuses values that are not numbers."""
    value = bytes(raw)
    digits = value.removeprefix(b"-")
    return int(value) if digits.isdigit() and len(digits) < 10 else 0
