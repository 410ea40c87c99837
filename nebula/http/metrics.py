"""The paths of metrics, which Prometheus and other scrapers read."""

from typing import Any

from litestar import Request, Response, get

from nebula.actors.gateway.actor import Gateway


@get("/metrics")
async def show_metrics(request: Request[Any, Any, Any], gateway: Gateway) -> Response[bytes]:
    """Return the metrics of this gateway."""
    found = await gateway.figures.scrape(request.headers.get("accept", ""))
    return Response(found.body, headers={"content-type": found.media_type})
