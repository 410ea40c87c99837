"""The gateway's OpenAPI document, made from its routes, their structs, and `entries.py`."""

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from nebula.events.endpoints import ENDPOINTS, Endpoint
from nebula.http.document.entries import ENTRIES
from nebula.http.document.entry import Entry
from nebula.http.errors import ErrorBody
from nebula.schema import json_schema

Object: TypeAlias = dict[str, Any]

_REFERENCE = "#/components/schemas/"
_KIND = re.compile(r":\w+}")
_IN_PATH = re.compile(r"{(\w+)}")
_GIVEN = frozenset(("request", "scope", "state", "socket", "headers"))
"""Parameters of handlers that are not parts of a request's query."""

_TEXT = {"type": "string"}
_JSON = "application/json"

_INPUTS: Mapping[str, Object] = {
    "messages": {"type": "array"},
    "prompt": {"type": ["string", "array"]},
    "input": {"type": ["string", "array"]},
}
"""What gateways check of an input; the engine checks the rest."""

_ABOUT = (
    "One address for many vLLM engines. Bodies of the paths that engines answer pass through "
    "unchanged, so that every parameter of vLLM works; described is what gateways read of them. "
    "Names of models, adapters and files may contain slashes, encoded or not."
)

_TAGS = {
    "Models": "What clients of models use, as with OpenAI, Anthropic, Cohere, Jina and vLLM.",
    "State": "Whether the gateway lives and is ready, and what it is.",
    "Administration": "Changes of the cluster, and its state and history.",
}


class Operation(Struct, frozen=True):
    """One method of a path. `returns`: the annotation of its handler; None if an engine answers."""

    method: str
    path: str
    summary: str
    status: int = 200
    returns: Any = None
    query: tuple[str, ...] = ()
    endpoint: Endpoint | None = None

    @property
    def key(self) -> str:
        """What its entry is found by."""
        return f"{self.method} {self.path}"

    @property
    def entry(self) -> Entry:
        """What is told of it beyond the code."""
        return ENTRIES.get(self.key, Entry())


def operations(app: Litestar) -> list[Operation]:
    """Return every method of every path that a gateway serves."""
    found = [
        Operation("POST", path, ENTRIES.get(f"POST {path}", Entry()).says, endpoint=endpoint)
        for path, endpoint in ENDPOINTS.items()
    ]
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            for method in sorted(handler.http_methods - {"OPTIONS"}):
                found.append(_of_handler(method, _KIND.sub("}", route.path), handler))
    return found


def _of_handler(method: str, path: str, handler: HTTPRouteHandler) -> Operation:
    signature = handler.parsed_fn_signature
    beside = {*_GIVEN, *_IN_PATH.findall(path), *handler.resolve_dependencies()}
    query = [
        name
        for name, each in signature.parameters.items()
        if name not in beside and each.kwarg_definition is None
    ]
    summary = inspect.cleandoc(handler.fn.__doc__ or "")
    returns = signature.return_type.annotation
    return Operation(method, path, summary, handler.status_code, returns, tuple(query))


def document(app: Litestar, root: str, version: str) -> Object:
    """Return the OpenAPI document (3.1) of a gateway; `root`: the prefix of its paths."""
    served = operations(app)
    schemas = _Schemas(served)
    paths: dict[str, Object] = {}
    for each in served:
        if each.entry.hidden:
            continue
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schemas)
    told = {
        "openapi": "3.1.1",
        "info": {"title": "Nebula", "version": version, "description": _ABOUT},
        "servers": [{"url": root or "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "parameters": _PARAMETERS,
            "responses": {
                "Error": _answer("An error, in OpenAI's form.", {"$ref": _REFERENCE + "Error"}),
                "AnthropicError": _answer(
                    "An error, in Anthropic's form.", {"$ref": _REFERENCE + "AnthropicError"}
                ),
            },
        },
    }

    plain: Object = msgspec.json.decode(msgspec.json.encode(told))
    return plain


def _header(name: str, text: str, schema: Object) -> Object:
    return {"name": name, "in": "header", "description": text, "schema": schema}


_PARAMETERS: dict[str, Object] = {
    "RequestId": _header(
        "X-Request-Id", "Your own id of the request, which is handed back.", {"type": "string"}
    ),
    "RequestTimeout": _header(
        "X-Request-Timeout",
        "Seconds after which the request ends with 504.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 999999999},
    ),
    "Resumable": _header(
        "X-Resumable", "Whether the rest of the answer can be fetched.", {"type": "boolean"}
    ),
    "IdempotencyKey": _header(
        "Idempotency-Key",
        "An equal request with the same key gets the same answer.",
        {"type": "string", "minLength": 1},
    ),
}


class _Schemas:
    """The schemas of all structs that operations read or return."""

    def __init__(self, served: Sequence[Operation]) -> None:
        bodies = [body for each in served if (body := each.entry.body) is not None]
        answers = [kind for each in served if (kind := _returned(each.returns)) is not None]
        self._kinds = list(filter(_describable, dict.fromkeys([*answers, *bodies])))
        made, found = msgspec.json.schema_components(
            self._kinds, schema_hook=json_schema.anything, ref_template=_REFERENCE + "{name}"
        )
        self._made = list(made)
        names = sorted(found)
        self.components: Object = {name: json_schema.finished(name, found[name]) for name in names}
        [error], inner = msgspec.json.schema_components(
            [ErrorBody], ref_template=_REFERENCE + "{name}"
        )
        self.components |= {
            **inner,
            "Error": {"type": "object", "required": ["error"], "properties": {"error": error}},
            "AnthropicError": {
                "type": "object",
                "required": ["type", "error"],
                "properties": {
                    "type": {"const": "error"},
                    "error": {
                        "type": "object",
                        "required": ["type", "message"],
                        "properties": {"type": _TEXT, "message": _TEXT},
                    },
                },
            },
        }

    def of(self, kind: Any) -> Object:
        """Return the schema of a type: that of any object if it has parts without one."""
        if kind not in self._kinds:
            return {"type": "object", "description": inspect.getdoc(kind) or ""}
        return dict(self._made[self._kinds.index(kind)])


def _describable(kind: Any) -> bool:
    """Return whether a type has a schema: not where events of all types are one of its parts."""
    try:
        msgspec.json.schema_components([kind], schema_hook=json_schema.anything)
    except TypeError:
        return False
    return True


def _returned(annotation: Any) -> Any:
    """Return the type that a handler's answer has as JSON; None if it is not JSON."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        found = [_returned(each) for each in typing.get_args(annotation)]
        return next((each for each in found if each is not None), None)
    if typing.get_origin(annotation) is Response:
        return _returned(typing.get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    inside = (*typing.get_args(annotation), typing.get_origin(annotation))
    return annotation if dict in inside or list in inside else None


def _operation(each: Operation, schemas: _Schemas) -> Object:
    entry, endpoint = each.entry, each.endpoint
    first, _, rest = each.summary.partition("\n\n")
    refused = "AnthropicError" if endpoint and endpoint.dialect == "anthropic" else "Error"
    told: Object = {
        "operationId": _identifier(each),
        "tags": [_tag(each.path)],
        "summary": " ".join(first.split()),
        "description": " ".join(rest.split()),
        "parameters": [*_parameters(each)],
        "responses": {
            str(each.status): _success(each, schemas),
            "default": {"$ref": f"#/components/responses/{refused}"},
        },
    }
    body = _body(each, schemas)
    if body is not None:
        told["requestBody"] = {"required": True, "content": body}
    if not told["description"]:
        del told["description"]
    return told if told["summary"] or not entry.says else {**told, "summary": entry.says}


def _identifier(each: Operation) -> str:
    words = re.findall(r"\w+", each.path)
    return "_".join([each.method.lower(), *words])


def _tag(path: str) -> str:
    if path.startswith("/admin/"):
        return "Administration"
    return "Models" if path in ENDPOINTS or path.startswith("/v1/") else "State"


def _parameters(each: Operation) -> Iterable[Object]:
    entry = each.entry
    for name in _IN_PATH.findall(each.path):
        example = entry.values.get(name, name)
        yield {"name": name, "in": "path", "required": True, "schema": _TEXT, "example": example}
    for name in dict.fromkeys((*each.query, *entry.query)):
        yield {
            "name": name,
            "in": "query",
            "description": entry.query.get(name, ""),
            "schema": _TEXT,
        }
    for name, text in entry.fields.items():
        yield _header(name, text, _TEXT)
    names = ["RequestId"]
    if each.endpoint is not None:
        names += ["RequestTimeout", "IdempotencyKey"]
        names += ["Resumable"] if each.endpoint.streams else []
    elif each.path.startswith("/admin/") and each.method != "GET":
        names.append("IdempotencyKey")
    for name in names:
        yield {"$ref": f"#/components/parameters/{name}"}


def _body(each: Operation, schemas: _Schemas) -> Object | None:
    """Return the body of a request by its media type; None if it has none."""
    entry, endpoint = each.entry, each.endpoint
    if entry.form:
        fields = dict.fromkeys(entry.example or (), _TEXT)
        schema: Object = {
            "type": "object",
            "required": ["file", *fields],
            "properties": {"file": {"type": "string", "format": "binary"}, **fields},
        }
        return {"multipart/form-data": {"schema": schema}}
    if endpoint is not None:
        schema = _input(endpoint)
    elif entry.body is not None:
        schema = schemas.of(entry.body)
        if entry.beside:
            own = schemas.components[schema["$ref"].removeprefix(_REFERENCE)]
            properties = {**own["properties"], **dict.fromkeys(entry.beside, _TEXT)}
            schema = {**own, "properties": properties}
    else:
        return None
    told: Object = {"schema": schema}
    return {_JSON: {**told, "example": entry.example} if entry.example is not None else told}


def _input(endpoint: Endpoint) -> Object:
    inputs = {name: _INPUTS.get(name, {}) for name in endpoint.inputs}
    properties = {"model": _TEXT, **inputs}
    if endpoint.streams:
        properties["stream"] = {"type": "boolean"}
    schema: Object = {"type": "object", "required": ["model"], "properties": properties}
    if len(inputs) > 1:
        return {**schema, "anyOf": [{"required": [name]} for name in inputs]}
    return {**schema, "required": ["model", *inputs]}


def _success(each: Operation, schemas: _Schemas) -> Object:
    if each.endpoint is not None:
        content: Object = {_JSON: {"schema": {}}}
        if each.endpoint.streams:
            content["text/event-stream"] = {"schema": _TEXT}
        return {"description": "What the engine answers.", "content": content}
    kind = _returned(each.returns)
    if kind is None:
        return {"description": "The content itself."}
    return _answer("As described.", schemas.of(kind))


def _answer(text: str, schema: Object) -> Object:
    return {"description": text, "content": {_JSON: {"schema": schema}}}
