"""Composes the message for an engine from what a client asks for: route, limits, header fields."""

from litestar.types import HTTPScope
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.names import Route
from nebula.events.endpoints import Endpoint
from nebula.events.envelope import JSON
from nebula.events.inference import HeaderFields, Request
from nebula.http import outline, own_fields, quotas, request_ids
from nebula.http.cache_salt import salted
from nebula.http.forwarding import forwarded
from nebula.http.outline import Outline
from nebula.http.principals import Principal
from nebula.http.quotas import Quota
from nebula.http.routed import Routes, prefix_of


class Asks(Struct, frozen=True, gc=False):
    """What the fields and the query of a request ask for, apart from its body.

    `kept`: the key under which its answer can be resumed, "" for its own id; None if it can't.
    `coded`: whether a Content-Encoding is named.
    """

    timeout: float | None
    kept: str | None
    content_type: str
    query: str
    forwarded: HeaderFields
    caller_ids: tuple[str, ...]
    coded: bool


def asks_of(scope: HTTPScope) -> Asks:
    """Read the fields of a request. Raise ApiError 400, 431."""
    fields = own_fields.fields(scope)
    return Asks(
        own_fields.time_limit(fields),
        own_fields.kept(fields),
        fields.get(b"content-type", b"").decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        forwarded(fields),
        request_ids.texts(fields),
        b"content-encoding" in fields,
    )


class Composed(Struct, frozen=True, gc=False):
    """A request for an engine. `sent`: its body under the name that the client used.

    `quota`: its limits, None for none; `tokens`: the most tokens that it can take of them.
    `served_by`: the model that answers, if the client used another name; else "".
    """

    request: Request
    route: Route
    sent: bytes
    quota: Quota | None
    tokens: int
    served_by: str


class Composer:
    """Composes the requests of one gateway; `root`: what stands before its paths for clients."""

    def __init__(self, gateway: Gateway, patience: float, root: str = "") -> None:
        """`patience`: seconds that a request may wait in a router."""
        self._gateway = gateway
        self._patience = patience
        self._routes = Routes(gateway, root)

    def compose(
        self,
        endpoint: Endpoint,
        principal: Principal,
        asks: Asks,
        body: bytes,
        asked: Outline,
        identity: str,
        response: str = "",
    ) -> Composed:
        """Return the request for an engine. Raise ApiError.

        `body`: as it came, and `asked`: what was read of it. `identity`: the request's new id.
        `response`: the id of the response that it makes, if it makes one.
        """
        gateway = self._gateway
        kind = asks.content_type if endpoint.form else JSON
        body, asked = quotas.within_reach(principal, endpoint, body, asked)
        body, salt = salted(endpoint, body, principal.tenant, asked.fields.cache_salt)
        who = asked.user or asks.kept or identity
        route = self._routes.of(endpoint, asked.model, who, principal)
        binding, sent, served_by = route.binding, body, ""
        if route.name != asked.model:
            served_by = route.name
            body = outline.renamed(body, served_by, kind)
        priority, tokens = asked.priority, 0
        quota = quotas.quota_of(gateway.projection.state, principal, binding.model)
        if quota is not None:
            if quota.shapes:
                body = (
                    quotas.shaped_form(quota, endpoint, kind, body, asked.lengths)
                    if endpoint.form
                    else quotas.shaped(quota, endpoint, body, asked)
                )
                priority = quota.priority(priority)
            tokens = quotas.tokens_of(gateway, quota, endpoint, binding.model, asked)
        owner = principal.owner
        request = Request(
            identity,
            gateway.id,
            binding.model,
            endpoint.path,
            body,
            adapter=binding.adapter,
            content_type=kind,
            user=f"{owner}/{asked.user}" if asked.user else owner,
            priority=priority,
            patience=self._patience,
            timeout=asks.timeout,
            prefix=prefix_of(binding, asked.prompt, salt),
            query=asks.query,
            fields=asks.forwarded,
            caller_ids=(*asks.caller_ids, response) if response else asks.caller_ids,
            bundled=True,
        )
        return Composed(request, route, sent, quota, tokens, served_by)
