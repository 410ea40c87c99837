"""The admin API: the same intents that anyone may publish, and the state they led to."""

import time
from functools import partial
from typing import Any, TypeVar

from litestar import Request, delete, get, patch, post, put
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.actors.placement.rebalancing import Rebalancing, rebalance, requests
from nebula.actors.presence import answers
from nebula.actors.removal import occupied, stays
from nebula.events import subjects
from nebula.events.alias import Alias
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
from nebula.events.state import Model, Node, Replica, State
from nebula.events.vocabulary import Event, NodeDeregistered
from nebula.history.load_requests import changed
from nebula.http.errors import ApiError
from nebula.http.inference import Limits
from nebula.http.intents import known, read_intent, submitted, valid_id
from nebula.http.views import Accepted, ModelView, model_view, node_views, replica_views

E = TypeVar("E", bound=Event)
K = TypeVar("K")


def _model(gateway: Gateway, identity: str) -> Model:
    return known("model", gateway.projection.state.models, identity)


def _adapter(gateway: Gateway, model: str, name: str) -> None:
    known = _model(gateway, model)
    if name not in known.adapters and name not in known.leaving:
        raise ApiError(404, f"model {model!r} has no adapter {name!r}", param="adapter")


def _alias(gateway: Gateway, identity: str) -> Alias:
    return known("alias", gateway.projection.state.aliases, identity)


def _node(gateway: Gateway, identity: str) -> Node:
    return known("node", gateway.projection.state.nodes, identity)


@post("/admin/models", status_code=202, request_max_body_size=None)
async def load(request: Request[Any, Any, Any], gateway: Gateway, limits: Limits) -> Accepted:
    """Load a model: the body is the load request as JSON, perhaps with an `id`."""
    event, extra = await read_intent(request, gateway, limits, ModelLoadRequested, "id")
    identity = extra.get("id") or subjects.default_id(event.source, event.name)
    met = gateway.projection.state

    def meets(state: State) -> str:
        nonlocal met
        met = state
        return ""

    accepted = await submitted(request, gateway, valid_id(identity, "id"), event, unless=meets)
    after = gateway.projection.state
    return replace(accepted, changes=changed(met, after, accepted.id))


def _live(gateway: Gateway, model: Model) -> ModelView:
    """Show a model, and how many requests wait for it in the routers."""
    view = model_view(gateway.projection.state, model, time.time_ns())
    return replace(view, queue=gateway.heartbeats.queue(model.id))


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
    """Change a model's number of replicas."""
    event, _ = await read_intent(request, gateway, limits, ModelScaleRequested)
    return await submitted(request, gateway, model, event, there=partial(_model, gateway, model))


@delete("/admin/models/{model:str}", status_code=202)
async def unload(model: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Unload a model."""
    there = partial(_model, gateway, model)
    return await submitted(request, gateway, model, ModelUnloadRequested(), there=there)


@post("/admin/models/{model:str}/adapters", status_code=202, request_max_body_size=None)
async def load_adapter(
    model: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Accepted:
    """Load an adapter onto every replica of a model."""
    event, _ = await read_intent(request, gateway, limits, AdapterLoadRequested)
    return await submitted(request, gateway, model, event, there=partial(_model, gateway, model))


@delete("/admin/models/{model:str}/adapters/{adapter:path}", status_code=202)
async def unload_adapter(
    model: str, adapter: str, request: Request[Any, Any, Any], gateway: Gateway
) -> Accepted:
    """Unload an adapter."""
    event = AdapterUnloadRequested(adapter.removeprefix("/"))
    there = partial(_adapter, gateway, model, event.name)
    return await submitted(request, gateway, model, event, there=there)


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
    """Make a name stand for models, or change the models that it stands for."""
    event, _ = await read_intent(request, gateway, limits, AliasRequested)
    accepted = await submitted(request, gateway, valid_id(alias, "alias"), event)
    return replace(accepted, model=None, alias=gateway.projection.state.aliases.get(alias))


@put("/admin/aliases")
async def put_unnamed_alias(root: str) -> None:
    """Return an error that says what is missing from the path."""
    text = f"the alias has no name: PUT {root}/admin/aliases/NAME, its id, with its targets as JSON"
    raise ApiError(400, text, param="alias")


@delete("/admin/aliases/{alias:str}", status_code=202)
async def remove_alias(alias: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Remove an alias."""
    there = partial(_alias, gateway, alias)
    accepted = await submitted(request, gateway, alias, AliasRemoveRequested(), there=there)
    return replace(accepted, model=None)


@get("/admin/replicas")
async def list_replicas(gateway: Gateway) -> list[Replica]:
    """List all replicas with their engines."""
    return replica_views(gateway.projection.state)


@get("/admin/nodes")
async def list_nodes(gateway: Gateway) -> list[Node]:
    """List all nodes with their devices."""
    return node_views(gateway.projection.state)


@post("/admin/nodes/{node:str}/drain", status_code=202)
async def drain(node: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Empty a node: it gets no new replicas, and its replicas move elsewhere first."""
    there = partial(_node, gateway, node)
    return await submitted(request, gateway, node, NodeDrainRequested(), there=there)


@delete("/admin/nodes/{node:str}/drain", status_code=202)
async def undrain(node: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Let a node take replicas again."""
    there = partial(_draining, gateway, node)
    return await submitted(request, gateway, node, NodeUndrainRequested(), there=there)


def _draining(gateway: Gateway, node: str) -> None:
    if not _node(gateway, node).draining:
        raise ApiError(404, f"node {node!r} is not draining: there is nothing to undo")


@delete("/admin/nodes/{node:str}", status_code=202)
async def remove_node(node: str, request: Request[Any, Any, Any], gateway: Gateway) -> Accepted:
    """Remove a node for good that does not run and has no replicas."""
    there_is = node in gateway.projection.state.nodes
    lives = await answers(gateway.connection, node) if there_is else None
    there, unless = partial(_removable, gateway, node, lives), partial(occupied, node=node)
    accepted = await submitted(
        request, gateway, node, NodeDeregistered(), unless=unless, there=there
    )
    return replace(accepted, model=None)


def _removable(gateway: Gateway, node: str, lives: bool | None) -> None:
    reason = stays(gateway.projection.state, _node(gateway, node).id, lives)
    if reason:
        raise ApiError(409, reason, param="node", code="refused")


@get("/admin/rebalance")
async def show_rebalance(gateway: Gateway) -> Rebalancing:
    """Show which replicas would be better placed elsewhere, without moving them."""
    return rebalance(gateway.projection.state)


@post("/admin/rebalance", status_code=202)
async def do_rebalance(request: Request[Any, Any, Any], gateway: Gateway) -> list[Accepted]:
    """Request the moves that `GET` shows: each replica ends once another one serves."""
    moves = rebalance(gateway.projection.state).moves
    wanted = enumerate(requests(moves))
    return [await submitted(request, gateway, *intent, number) for number, intent in wanted]


@patch("/admin/nodes/{node:str}/weights", status_code=202, request_max_body_size=None)
async def pin(
    node: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Accepted:
    """Protect a source's files on a node from pruning, or end the protection."""
    event, _ = await read_intent(request, gateway, limits, WeightsPinRequested)
    there = partial(_node, gateway, node)
    accepted = await submitted(request, gateway, node, event, there=there)
    known = gateway.projection.state.nodes.get(node)
    held = known.weights.get(event.source) if known is not None else None
    return replace(accepted, model=None, weights=held)


@delete("/admin/nodes/{node:str}/weights/{source:path}", status_code=202)
async def remove_weights(
    node: str, source: str, request: Request[Any, Any, Any], gateway: Gateway
) -> Accepted:
    """Remove a source's files from a node."""
    event = WeightsRemoveRequested(source.removeprefix("/"))
    there = partial(_holding, gateway, node, event.source)
    return await submitted(request, gateway, node, event, there=there)


def _holding(gateway: Gateway, node: str, source: str) -> None:
    if source not in _node(gateway, node).weights:
        raise ApiError(404, f"node {node!r} has no files of {source!r}", param="source")
