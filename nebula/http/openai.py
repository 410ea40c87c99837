"""OpenAI's list of models, and the gateway's health and readiness."""

from pathlib import PurePath
from typing import Any

from litestar import Request, get
from msgspec import Struct
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.events.alias import Alias
from nebula.events.model_status import model_status
from nebula.events.showing import shown_text
from nebula.events.sources import is_folder
from nebula.events.state import Model
from nebula.http.anthropic import ModelInfo, model_info, model_page
from nebula.http.dialects import dialect_for
from nebula.http.errors import unavailable
from nebula.http.names import no_model, offered
from nebula.http.principals import Principal, required
from nebula.http.starting import WITHOUT_LOG
from nebula.http.views import ClusterIdentity, cluster_identity


class ModelPermission(Struct, frozen=True, kw_only=True):
    """Permissions of a model: the same for all, for clients that expect them."""

    id: str
    created: int
    object: str = "model_permission"
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class ModelCard(Struct, frozen=True, kw_only=True):
    """One entry of the list of models, in vLLM's shape; an adapter names its base as `parent`.

    `root`: a model's source, without the path of a folder unless the
    caller may see the cluster; of an alias the name of the target that gets most of its requests.
    `max_model_len`: the tokens that prompt and answer may have together; null until it is known.
    `tasks`: what its engines support, by vLLM's names; empty until one has been ready.
    Source: vllm/entrypoints/serve/engine/protocol.py.
    """

    id: str
    created: int
    root: str
    parent: str | None = None
    object: str = "model"
    owned_by: str = "nebula"
    task: str = "chat"
    state: str = ""
    max_model_len: int | None = None
    permission: tuple[ModelPermission, ...] = ()
    tasks: tuple[str, ...] = ()


def _card(
    gateway: Gateway, name: str, root: str, model: Model, parent: str | None = None
) -> ModelCard:
    created = model.created_ns // 10**9
    return ModelCard(
        id=name,
        created=created,
        root=shown_text(root),
        parent=parent,
        task=model.task,
        state=model_status(gateway.projection.state, model).phase,
        max_model_len=gateway.heartbeats.context_of(model),
        permission=(ModelPermission(id=f"modelperm-{name}", created=created),),
        tasks=model.tasks,
    )


def _cards(gateway: Gateway, principal: Principal) -> list[ModelCard]:
    """Return a card for each name that a principal may use."""
    state = gateway.projection.state
    cards = []
    for name in filter(principal.may_use, offered(state)):
        binding = state.names[name]
        if binding.alias:
            cards += _alias_card(gateway, state.aliases[binding.alias])
            continue
        model = state.models[binding.model]
        if model.unloading:
            continue
        if binding.adapter:
            source = {**model.leaving, **model.adapters}[binding.adapter]
            cards.append(_card(gateway, name, source, model, model.name))
        else:
            cards.append(_card(gateway, name, model.spec.source, model))
    return cards if "view" in principal.scopes else list(map(_without_path, cards))


def _without_path(card: ModelCard) -> ModelCard:
    """Return a card for those that may not see the cluster: of a folder its name alone."""
    return replace(card, root=PurePath(card.root).name) if is_folder(card.root) else card


def _alias_card(gateway: Gateway, alias: Alias) -> list[ModelCard]:
    """Return an alias as the model that gets most of its requests; None if it leads nowhere."""
    state = gateway.projection.state
    for target in sorted(alias.targets, key=lambda each: -each.weight):
        binding = state.names.get(target.model)
        model = state.models.get(binding.model) if binding is not None else None
        if target.weight and model is not None and not model.unloading:
            return [_card(gateway, alias.name, target.model, model)]
    return []


def _of_anthropic(request: Request[Any, Any, Any]) -> bool:
    return dialect_for(request.scope["path"], request.scope["headers"]) == "anthropic"


def _info(card: ModelCard) -> ModelInfo:
    return model_info(card.id, card.created, card.max_model_len)


@get("/v1/models")
async def list_models(request: Request[Any, Any, Any], gateway: Gateway) -> dict[str, Any]:
    """List every name that a request may use, adapters with their parent.

    Clients that name a version of Anthropic's API get its form, in pages.
    """
    cards = _cards(gateway, required(request.scope, "infer"))
    if _of_anthropic(request):
        return model_page([_info(card) for card in cards], dict(request.query_params))
    return {"object": "list", "data": cards}


@get("/v1/models/{name:path}")
async def show_model(
    name: str, request: Request[Any, Any, Any], gateway: Gateway
) -> ModelCard | ModelInfo:
    """Show one model or adapter; its name may hold slashes."""
    wanted = name.removeprefix("/")
    principal = required(request.scope, "infer")
    for card in _cards(gateway, principal):
        if card.id == wanted:
            return _info(card) if _of_anthropic(request) else card
    raise no_model(gateway.projection.state, wanted, principal.may_use)


@get("/health", opt=WITHOUT_LOG)
async def health() -> dict[str, str]:
    """Return 200: the process lives."""
    return {"status": "alive"}


class Ready(Struct, frozen=True):
    """A gateway that can serve requests for ready models and take changes now.

    `seq`: the last event that it has folded; `warnings`: what may soon end its readiness.
    `cluster`: the cluster and its version.
    """

    status: str
    seq: int
    cluster: ClusterIdentity
    warnings: tuple[str, ...] = ()


@get("/ready", opt=WITHOUT_LOG)
async def ready(gateway: Gateway) -> Ready:
    """Return whether requests for ready models are served and changes are taken.

    If not, the answer is 503 and its message has all reasons, separated by semicolons. Requests
    that do not need what is missing are served anyway.
    """
    found = gateway.log_watch.readiness()
    if found.reasons:
        raise unavailable("; ".join(found.reasons))
    state = gateway.projection.state
    return Ready("ready", state.seq, cluster_identity(state), found.warnings)
