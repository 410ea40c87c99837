"""OpenAI's API: chat, completions, embeddings and the list of models, for every model at once."""

import uuid
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.types import ASGIApp
from msgspec import Struct

from nebula.actors.gateway import Gateway
from nebula.events import inference
from nebula.events.objections import known_names
from nebula.events.state import Model, Named
from nebula.events.vocabulary import Task
from nebula.http.errors import ApiError, field_at_fault, unavailable
from nebula.http.relay import Patience, Relay

_TASK_OF: dict[str, Task] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "chat",
    "/v1/embeddings": "embedding",
}
_REQUIRED = {
    "/v1/chat/completions": ("messages", list),
    "/v1/completions": ("prompt", (str, list)),
    "/v1/embeddings": ("input", (str, list)),
}


class Limits(Struct, frozen=True):
    """What the gateway takes: a body's bytes, at most what NATS takes; and how long it waits."""

    body: int | None = None
    patience: Patience = Patience()

    def body_for(self, gateway: Gateway) -> int:
        """Give the largest body that can be sent on."""
        room = gateway.connection.max_body - inference.HEADER_ROOM
        return room if self.body is None else min(self.body, room)


class _Envelope(Struct):
    """The fields of a request that concern the gateway; all others are the engine's."""

    model: str
    stream: bool | None = None
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")


_envelopes = msgspec.json.Decoder(_Envelope)


def _read(path: str, body: bytes) -> _Envelope:
    """Read what the gateway needs of a body. Raises ApiError that names the field at fault."""
    try:
        envelope = _envelopes.decode(body)
    except msgspec.ValidationError as error:
        if "missing required field `model`" in str(error):
            raise ApiError(400, "you must name a model", param="model") from error
        raise ApiError(400, f"wrong type: {error}", param=field_at_fault(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from error
    field, _ = _REQUIRED[path]
    raw = bytes(getattr(envelope, field))
    if not raw or raw == b"null":
        raise ApiError(400, f"{field} is required", param=field)
    first = raw.lstrip()[:1]
    if first not in ((b"[",) if field == "messages" else (b"[", b'"')):
        expected = "a list" if field == "messages" else "a string or a list"
        raise ApiError(400, f"wrong type: {field} must be {expected}", param=field)
    return envelope


def _resolve(gateway: Gateway, path: str, name: str) -> tuple[Named, Model]:
    """Find the model behind a name. Raises ApiError: 404 with the names there are, 400, 503."""
    named = gateway.named(name)
    model = gateway.model(named) if named is not None else None
    if named is None or model is None:
        if not gateway.able:
            raise unavailable("NATS can't be reached: which models there are is not known now")
        names = known_names(gateway.projection.state)
        there = ", ".join(repr(known) for known in names[:50]) if names else "none yet"
        raise ApiError(
            404,
            f"The model {name!r} does not exist. There are: {there}",
            param="model",
            code="model_not_found",
        )
    if model.task != _TASK_OF[path]:
        raise ApiError(
            400,
            f"{name!r} is a model for {model.task}; {path} needs one for {_TASK_OF[path]}",
            param="model",
            code="wrong_task",
        )
    return named, model


async def read_body(request: Request[Any, Any, Any], limit: int) -> bytes:
    """Read a body of at most `limit` bytes. Raises ApiError 413."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")


@post(list(_TASK_OF), status_code=200, request_max_body_size=None, name="inference")
async def infer(request: Request[Any, Any, Any], gateway: Gateway, limits: Limits) -> ASGIApp:
    """Answer a chat, completion or embedding request by the model it names."""
    path = request.scope["path"].rstrip("/")
    if not gateway.started:
        raise unavailable("the gateway is starting")
    body = await read_body(request, limits.body_for(gateway))
    envelope = _read(path, body)
    named, model = _resolve(gateway, path, envelope.model)
    if not gateway.connection.connected:
        raise unavailable("NATS can't be reached")
    return Relay(
        gateway,
        inference.Request(uuid.uuid4().hex, gateway.id, model.id, path, body, named.adapter),
        named,
        limits.patience,
    )


class ModelCard(Struct, frozen=True):
    """One entry of the list of models, in vLLM's shape; an adapter names its base as `parent`."""

    id: str
    created: int
    root: str
    parent: str | None = None
    object: str = "model"
    owned_by: str = "nebula"
    task: str = "chat"
    state: str = ""


def _cards(gateway: Gateway) -> list[ModelCard]:
    state = gateway.projection.state
    cards = []
    for name in known_names(state):
        named = state.names[name]
        model = state.models[named.model]
        if model.unloading:
            continue
        word = gateway.standing(model).word
        created = model.created // 10**9
        if named.adapter:
            source = model.adapters[named.adapter]
            cards.append(ModelCard(name, created, source, model.name, task=model.task, state=word))
        else:
            cards.append(ModelCard(name, created, model.spec.source, task=model.task, state=word))
    return cards


@get("/v1/models")
async def list_models(gateway: Gateway) -> dict[str, object]:
    """List every name that a request may use, adapters with their parent."""
    return {"object": "list", "data": _cards(gateway)}


@get("/v1/models/{name:path}")
async def show_model(name: str, gateway: Gateway) -> ModelCard:
    """Show one model or adapter; its name may hold slashes."""
    wanted = name.removeprefix("/")
    for card in _cards(gateway):
        if card.id == wanted:
            return card
    raise ApiError(
        404, f"The model {wanted!r} does not exist", param="model", code="model_not_found"
    )


@get("/health")
async def health() -> dict[str, str]:
    """Say that the process lives."""
    return {"status": "alive"}


@get("/ready")
async def ready(gateway: Gateway) -> dict[str, str | int]:
    """Say whether requests can be served, and up to which event this gateway knows the cluster.

    503 while NATS is gone or the log is being read.
    """
    if not gateway.able:
        raise unavailable("NATS can't be reached" if gateway.started else "the log is being read")
    return {"status": "ready", "seq": gateway.projection.state.seq}
