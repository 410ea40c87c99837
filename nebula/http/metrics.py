"""The paths of metrics, which Prometheus and other scrapers read."""

from typing import Any

from litestar import Request, Response, get
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.http.origins import BadHost, is_loopback, parse_host
from nebula.metrics.exposition import PLAIN


class TargetGroup(Struct, frozen=True):
    """Targets of one kind, in the form of Prometheus's `http_sd_configs`."""

    targets: list[str]
    labels: dict[str, str]


@get("/metrics")
async def show_metrics(request: Request[Any, Any, Any], gateway: Gateway) -> Response[bytes]:
    """Return the metrics of this gateway, of all its workers if it has several."""
    together = gateway.figures.together
    if together is not None:
        found = await together()
    else:
        found = await gateway.figures.scrape(request.headers.get("accept", ""))
    return Response(found.body, headers={"content-type": found.media_type})


@get("/metrics/cluster")
async def show_cluster(gateway: Gateway, node: str = "") -> Response[bytes]:
    """Return the metrics of all routers and nodes, which tell them over NATS."""
    body = await gateway.figures.gathering.cluster(node)
    return Response(body, headers={"content-type": PLAIN})


@get("/metrics/engines")
async def show_engines(gateway: Gateway, node: str = "") -> Response[bytes]:
    """Return the metrics of all engines as they tell them, with node, replica and model."""
    body = await gateway.figures.gathering.engines(node)
    return Response(body, headers={"content-type": PLAIN})


@get("/admin/sd")
async def list_targets(gateway: Gateway) -> list[TargetGroup]:
    """List where metrics can be scraped: the gateways, and routers and nodes that have a port.

    Loopback addresses are listed by gateways on loopback only: to others they lead elsewhere.
    """
    local = _is_listed(gateway.figures.address, loopback=True)
    found = await gateway.figures.gathering.targets()
    return [
        TargetGroup(
            [each.address],
            {"__meta_nebula_actor": each.kind, "__meta_nebula_name": each.name},
        )
        for each in found
        if _is_listed(each.address, loopback=False)
        or (local and _is_listed(each.address, loopback=True))
    ]


def _is_listed(address: str, *, loopback: bool) -> bool:
    """Return whether this is an address on loopback, or else one that is not."""
    try:
        name, port = parse_host(address)
    except BadHost:
        return False
    return bool(port) and is_loopback(name) == loopback
