"""Which model answers a request for a name, by a path; else the error that says what exists."""

from collections.abc import Callable

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.names import Route, resolve
from nebula.actors.router.prefixes import BOUNDS, digests
from nebula.events.endpoints import Endpoint, able, served, serves
from nebula.events.state import NameBinding, State
from nebula.http.errors import ApiError, unavailable
from nebula.http.names import no_model
from nebula.http.principals import Principal

_REMEMBERED = 1024
"""Routes that are remembered at most."""


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


class Routes:
    """The routes of requests, remembered for as long as nothing changes in the cluster.

    `root`: as in `route_of`.
    """

    def __init__(self, gateway: Gateway, root: str = "") -> None:
        self._gateway = gateway
        self._root = root
        self._state: State | None = None
        self._known: dict[tuple[str, str, int], tuple[Principal, Route]] = {}

    def of(self, endpoint: Endpoint, name: str, key: str, principal: Principal) -> Route:
        """Return what answers requests of a caller for a name. Raise ApiError as `route_of`."""
        state = self._gateway.projection.state
        if state is not self._state or len(self._known) >= _REMEMBERED:
            self._state = state
            self._known.clear()
        place = name, endpoint.path, id(principal)
        known = self._known.get(place)
        if known is not None and known[0] is principal:
            return known[1]
        route = route_of(self._gateway, endpoint, name, key, self._root, principal.may_use)
        if not (state.names[name].alias or route.model.spec.fallback):  # else it varies
            self._known[place] = principal, route
        return route


def prefix_of(binding: NameBinding, prompt: bytes, salt: str) -> tuple[str, ...]:
    """Return digests of a prompt's beginnings; each adapter and salt has its own cache."""
    if len(prompt) < BOUNDS[0]:
        return ()
    apart = f"{salt}\n{binding.adapter}" if salt else binding.adapter
    return digests(prompt, apart.encode())
