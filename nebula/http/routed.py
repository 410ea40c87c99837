"""Which model answers a request for a name, by a path; else the error that says what exists."""

from collections.abc import Callable

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.names import Route, resolve
from nebula.actors.router.prefixes import BOUNDS, digests
from nebula.events.endpoints import Endpoint, able, served, serves
from nebula.events.state import NameBinding
from nebula.http.errors import ApiError, unavailable
from nebula.http.names import no_model


def route_of(
    gateway: Gateway,
    endpoint: Endpoint,
    name: str,
    key: str,
    root: str = "",
    may_use: Callable[[str], bool] = lambda _: True,
) -> Route:
    """Return what answers requests for a name; `root`: what stands before paths for clients.

    `may_use` returns whether the caller may use a name: for it, no other names exist.

    Raise ApiError: 404 with the known names, 400 for a path that it does not serve, 503 without
    NATS.
    """
    state = gateway.projection.state
    route = resolve(state, name, key) if may_use(name) else None
    if route is None:
        if not gateway.able:
            raise unavailable("NATS can't be reached: the present models are unknown")
        raise no_model(state, name, may_use)
    can = able(route.model.task, route.model.tasks)
    if not serves(endpoint, can):
        paths = ", ".join(f"{root}{path}" for path in served(can))
        text = f"{name!r} does not serve {root}{endpoint.path}: it serves {paths}"
        raise ApiError(400, text, param="model", code="wrong_task")
    return route


def prefix_of(binding: NameBinding, prompt: bytes, salt: str) -> tuple[str, ...]:
    """Return digests of a prompt's beginnings; each adapter and salt has its own cache."""
    if len(prompt) < BOUNDS[0]:
        return ()
    apart = f"{salt}\n{binding.adapter}" if salt else binding.adapter
    return digests(apart.encode() + b"\0" + prompt)
