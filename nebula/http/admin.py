"""The admin API: the same intents that anyone may publish, and the state they led to."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from litestar import Request, delete, get, patch, post, put
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.budget import Hold
from nebula.actors.intents import Refused, submit
from nebula.actors.placement.rebalancing import Rebalancing, rebalance, requests
from nebula.events import subjects
from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    AliasRemoveRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
    WeightsPinRequested,
    WeightsRemoveRequested,
)
from nebula.events.state import Alias, Held, Model, Node, Replica
from nebula.events.vocabulary import Event
from nebula.http.bodies import read_body
from nebula.http.errors import ApiError, field_at_fault, no_json, unavailable
from nebula.http.inference import Limits
from nebula.http.views import ModelView, model_view
from nebula.store.connection import Unavailable
from nebula.store.log import TooLarge
from nebula.store.refusals import NotAppended
from nebula.store.tail import LogReplaced

E = TypeVar("E", bound=Event)
K = TypeVar("K")


RETRY_CHANGES = 10
"""Seconds after which to ask again for a change that the log did not take: room is made by hand."""


class Accepted(Struct, frozen=True):
    """An intent is in the log, at `seq`; what comes of it is seen in the model, or the alias.

    `weights`: how the files lie on the node that are to be kept: pinned before they are there,
    they are kept once they come.
    """

    id: str
    seq: int
    model: ModelView | None = None
    alias: Alias | None = None
    weights: Held | None = None


async def _body(
    request: Request[Any, Any, Any], gateway: Gateway, limits: Limits, kind: type[E], *drop: str
) -> tuple[E, Mapping[str, object]]:
    """Read an intent from a body, with some fields of it that are not the event's."""
    hold = Hold(gateway.bodies)
    headers = dict(request.scope["headers"])
    try:
        raw = await read_body(request.receive, headers, limits.body_for(gateway), hold)
        fields = msgspec.json.decode(raw or b"{}", type=dict[str, object])
        extra = {key: fields.pop(key) for key in drop if key in fields}
        return msgspec.convert(fields, kind), extra
    except msgspec.ValidationError as error:
        raise ApiError(400, str(error), param=field_at_fault(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise no_json(error) from error
    finally:
        hold.release()


async def _submit(
    request: Request[Any, Any, Any], gateway: Gateway, identity: str, event: Event
) -> Accepted:
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    watch = gateway.log_watch
    refused = watch.refuses()
    if refused:
        raise unavailable(f"{refused}; nothing was recorded", RETRY_CHANGES)
    try:
        seq = await submit(
            gateway.projection,
            identity,
            event,
            message_id=request.headers.get("idempotency-key"),
        )
    except Refused as error:
        field = str(error).partition(":")[0]
        param = field if field.isidentifier() else None
        status = 409 if "is already" in str(error) or field == "replaces" else 400
        raise ApiError(status, str(error), param=param, code="refused") from error
    except TooLarge as error:
        raise ApiError(413, str(error), code="too_large") from error
    except NotAppended as error:
        watch.failed(error.reason)
        reason = watch.refuses() or error.reason
        raise unavailable(f"{reason}; {error.outcome}", RETRY_CHANGES) from error
    except (Unavailable, LogReplaced) as error:
        raise unavailable(str(error)) from error
    watch.succeeded()
    state = gateway.projection.state
    model = state.models.get(identity)
    return Accepted(identity, seq, model_view(state, model) if model is not None else None)


def _known(kind: str, of: Mapping[str, K], identity: str) -> K:
    """Find what an id stands for. Raises ApiError."""
    found = of.get(identity)
    if found is None:
        there = ", ".join(sorted(of)) or "none"
        text = f"there is no {kind} with the id {identity!r}; there are: {there}"
        raise ApiError(404, text, param=kind, code=f"{kind}_not_found")
    return found


def _model(gateway: Gateway, identity: str) -> Model:
    return _known("model", gateway.projection.state.models, identity)


def _alias(gateway: Gateway, identity: str) -> Alias:
    return _known("alias", gateway.projection.state.aliases, identity)


def _node(gateway: Gateway, identity: str) -> Node:
    return _known("node", gateway.projection.state.nodes, identity)


def _id(text: object, param: str) -> str:
    if not isinstance(text, str) or not subjects.is_token(text):
        raise ApiError(400, f"{param}: {text!r} is no id: use {subjects.ID_FORM}", param=param)
    return text


@post("/admin/models", status_code=202, request_max_body_size=None)
async def load(request: Request[Any, Any, Any], gateway: Gateway, limits: Limits) -> Accepted:
    """Load a model: the load request as JSON, with an `id` if the name should not make one."""
    event, extra = await _body(request, gateway, limits, ModelLoadRequested, "id")
    identity = extra.get("id") or subjects.default_id(event.source, event.name)
    return await _submit(request, gateway, _id(identity, "id"), event)


def _live(gateway: Gateway, model: Model) -> ModelView:
    """Show a model, and how many requests wait for it in the routers."""
    return replace(model_view(gateway.projection.state, model), queue=gateway.queue(model.id))


@get("/admin/models")
async def list_models(gateway: Gateway) -> list[ModelView]:
    """List all models."""
    models = gateway.projection.state.models
    return [_live(gateway, models[identity]) for identity in sorted(models)]


@get("/admin/models/{model:str}")
async def show_model(model: str, gateway: Gateway) -> ModelView:
    """Show one model, by its id."""
    return _live(gateway, _model(gateway, model))


@patch("/admin/models/{model:str}", status_code=202, request_max_body_size=None)
async def scale(
    model: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Accepted:
    """Give a model another number of replicas."""
    event, _ = await _body(request, gateway, limits, ModelScaleRequested)
    return await _submit(request, gateway, _model(gateway, model).id, event)


@delete("/admin/models/{model:str}", status_code=202)
async def unload(model: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Unload a model."""
    return await _submit(request, gateway, _model(gateway, model).id, ModelUnloadRequested())


@post("/admin/models/{model:str}/adapters", status_code=202, request_max_body_size=None)
async def load_adapter(
    model: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Accepted:
    """Load an adapter onto every replica of a model."""
    event, _ = await _body(request, gateway, limits, AdapterLoadRequested)
    return await _submit(request, gateway, _model(gateway, model).id, event)


@delete("/admin/models/{model:str}/adapters/{adapter:path}", status_code=202)
async def unload_adapter(
    model: str, adapter: str, request: Request[Any, Any, Any], gateway: Gateway
) -> Accepted:
    """Unload an adapter."""
    event = AdapterUnloadRequested(adapter.removeprefix("/"))
    known = _model(gateway, model)
    if event.name not in known.adapters:
        raise ApiError(404, f"model {model!r} has no adapter {event.name!r}", param="adapter")
    return await _submit(request, gateway, known.id, event)


@get("/admin/aliases")
async def list_aliases(gateway: Gateway) -> list[Alias]:
    """List all aliases."""
    aliases = gateway.projection.state.aliases
    return [aliases[identity] for identity in sorted(aliases)]


@get("/admin/aliases/{alias:str}")
async def show_alias(alias: str, gateway: Gateway) -> Alias:
    """Show one alias, by its id."""
    return _alias(gateway, alias)


@put("/admin/aliases/{alias:str}", status_code=202, request_max_body_size=None)
async def put_alias(
    alias: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Accepted:
    """Make a name stand for models, or for others than before."""
    event, _ = await _body(request, gateway, limits, AliasRequested)
    accepted = await _submit(request, gateway, _id(alias, "alias"), event)
    return replace(accepted, model=None, alias=gateway.projection.state.aliases.get(alias))


@put("/admin/aliases")
async def put_unnamed_alias() -> None:
    """Say what is missing, rather than that nothing can be put here."""
    text = "the alias has no name: PUT /admin/aliases/NAME, its id, with its targets as JSON"
    raise ApiError(400, text, param="alias")


@delete("/admin/aliases/{alias:str}", status_code=202)
async def remove_alias(alias: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Take a name away."""
    known = _alias(gateway, alias)
    accepted = await _submit(request, gateway, known.id, AliasRemoveRequested())
    return replace(accepted, model=None)


@get("/admin/replicas")
async def list_replicas(gateway: Gateway) -> list[Replica]:
    """List all replicas with their engines."""
    state = gateway.projection.state
    return [state.replicas[identity] for identity in sorted(state.replicas)]


@get("/admin/nodes")
async def list_nodes(gateway: Gateway) -> list[Node]:
    """List all nodes with their devices."""
    state = gateway.projection.state
    return [state.nodes[identity] for identity in sorted(state.nodes)]


@post("/admin/nodes/{node:str}/drain", status_code=202)
async def drain(node: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Empty a node: nothing new there, and what it has moves elsewhere first."""
    return await _submit(request, gateway, _node(gateway, node).id, NodeDrainRequested())


@delete("/admin/nodes/{node:str}/drain", status_code=202)
async def undrain(node: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Let a node take replicas again."""
    known = _node(gateway, node)
    if not known.draining:
        raise ApiError(404, f"node {node!r} is not draining: there is nothing to undo")
    return await _submit(request, gateway, known.id, NodeUndrainRequested())


@get("/admin/rebalance")
async def show_rebalance(gateway: Gateway) -> Rebalancing:
    """Show which replicas would lie better elsewhere: nothing is done."""
    return rebalance(gateway.projection.state)


@post("/admin/rebalance", status_code=202)
async def do_rebalance(request: Request[Any, Any, Any], gateway: Gateway) -> list[Accepted]:
    """Ask for the moves that would be shown: each replica goes once another serves."""
    moves = rebalance(gateway.projection.state).moves
    return [await _submit(request, gateway, identity, event) for identity, event in requests(moves)]


@patch("/admin/nodes/{node:str}/weights", status_code=202, request_max_body_size=None)
async def pin(
    node: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Accepted:
    """Keep a source's files on a node whatever is pruned, or no longer."""
    event, _ = await _body(request, gateway, limits, WeightsPinRequested)
    accepted = await _submit(request, gateway, _node(gateway, node).id, event)
    there = gateway.projection.state.nodes.get(node)
    held = there.weights.get(event.source) if there is not None else None
    return replace(accepted, model=None, weights=held)


@delete("/admin/nodes/{node:str}/weights/{source:path}", status_code=202)
async def remove_weights(
    node: str, source: str, request: Request[Any, Any, Any], gateway: Gateway
) -> Accepted:
    """Remove a source's files from a node."""
    event = WeightsRemoveRequested(source.removeprefix("/"))
    known = _node(gateway, node)
    if event.source not in known.weights:
        raise ApiError(404, f"node {node!r} has no files of {event.source!r}", param="source")
    return await _submit(request, gateway, known.id, event)
