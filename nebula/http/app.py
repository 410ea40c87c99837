"""The Litestar application: which handlers there are, and what they are given."""

from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp

from nebula.actors.gateway.actor import Gateway
from nebula.http import admin, errors, history, openai, resuming
from nebula.http.inference import InferenceRoutes, Limits


def create_app(gateway: Gateway, limits: Limits) -> ASGIApp:
    """Build the app around a gateway actor; whoever calls this runs the actor."""
    litestar = Litestar(
        route_handlers=[
            openai.list_models,
            openai.show_model,
            openai.health,
            openai.ready,
            resuming.show_stream,
            admin.load,
            admin.list_models,
            admin.show_model,
            admin.scale,
            admin.unload,
            admin.load_adapter,
            admin.unload_adapter,
            admin.list_aliases,
            admin.show_alias,
            admin.put_alias,
            admin.put_unnamed_alias,
            admin.remove_alias,
            admin.list_replicas,
            admin.list_nodes,
            admin.drain,
            admin.undrain,
            admin.show_rebalance,
            admin.do_rebalance,
            admin.pin,
            admin.remove_weights,
            history.show_state,
            history.list_events,
        ],
        dependencies={
            "gateway": Provide(lambda: gateway, sync_to_thread=False),
            "limits": Provide(lambda: limits, sync_to_thread=False),
        },
        exception_handlers={Exception: errors.respond},
        openapi_config=None,
        logging_config=None,
    )
    return InferenceRoutes(litestar, gateway, limits)
