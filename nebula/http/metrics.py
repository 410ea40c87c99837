"""The paths of metrics, which Prometheus and other scrapers read."""

from typing import Any

from litestar import Request, Response, get
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.http.origins import is_loopback, parse_host
from nebula.metrics.exposition import PLAIN


class TargetGroup(Struct, frozen=True):
    """Targets of one kind, in the form of Prometheus's `http_sd_configs`."""

    targets: list[str]
    labels: dict[str, str]


@get("/metrics")
async def show_metrics(request: Request[Any, Any, Any], gateway: Gateway) -> Response[bytes]:
    """Return the metrics of this gateway."""
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
    local = _is_local(gateway.figures.address)
    found = await gateway.figures.gathering.targets()
    return [
        TargetGroup(
            [each.address],
            {"__meta_nebula_actor": each.kind, "__meta_nebula_name": each.name},
        )
        for each in found
        if local or not _is_local(each.address)
    ]


def _is_local(address: str) -> bool:
    return bool(address) and is_loopback(parse_host(address)[0])
