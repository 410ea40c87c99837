"""OpenAI's list of models, and whether this gateway lives and can serve."""

from litestar import get
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.events.objections import known_names
from nebula.events.state import Alias
from nebula.http.errors import ApiError, unavailable


class ModelCard(Struct, frozen=True):
    """One entry of the list of models, in vLLM's shape; an adapter names its base as `parent`.

    `root`: a model's source; of an alias the name of the target that gets most of its requests.
    """

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
        if named.alias:
            cards += _alias_card(gateway, state.aliases[named.alias])
            continue
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


def _alias_card(gateway: Gateway, alias: Alias) -> list[ModelCard]:
    """Show an alias as whoever gets most of its requests; one that leads nowhere is not shown."""
    state = gateway.projection.state
    for target in sorted(alias.targets, key=lambda each: -each.weight):
        named = state.names.get(target.model)
        model = state.models.get(named.model) if named is not None else None
        if target.weight and model is not None and not model.unloading:
            word = gateway.standing(model).word
            created = model.created // 10**9
            return [ModelCard(alias.name, created, target.model, task=model.task, state=word)]
    return []


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


class Ready(Struct, frozen=True):
    """A gateway that would serve a request for a ready model and take a change now.

    `seq`: the event up to which it knows the cluster; `warnings`: what may end that before long.
    """

    status: str
    seq: int
    warnings: tuple[str, ...] = ()


@get("/ready")
async def ready(gateway: Gateway) -> Ready:
    """Tell whether a request for a ready model would be served, and a change be taken.

    503 where not: the error's message has every reason, with semicolons between them. What does not
    need what is missing is served all the same.
    """
    found = gateway.log_watch.readiness()
    if found.reasons:
        raise unavailable("; ".join(found.reasons))
    return Ready("ready", gateway.projection.state.seq, found.warnings)
