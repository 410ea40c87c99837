"""The Litestar application: its handlers and their dependencies."""

from functools import cache, partial
from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.types import ASGIApp

from nebula.actors.gateway.actor import Gateway
from nebula.http import (
    admin,
    exceptions,
    history,
    keys,
    limit_routes,
    openai,
    paths,
    resuming,
    root_path,
    usage,
)
from nebula.http.authentication import (
    Authentication,
    check_scope,
    key_ring,
    needing,
    open_to_all,
)
from nebula.http.batches import routes as batches
from nebula.http.cors import Cors
from nebula.http.document import routes as describing
from nebula.http.document.making import document
from nebula.http.files import routes as files
from nebula.http.guard import Guard
from nebula.http.inference import InferenceRoutes, Limits
from nebula.http.origins import Doors
from nebula.http.responses import conversations
from nebula.http.responses import routes as responses
from nebula.http.scanning import Scans
from nebula.http.semantics import Semantics
from nebula.http.server.stopping import Stopping
from nebula.http.sign_in import browser
from nebula.http.sign_in import routes as sign_in_routes
from nebula.http.sign_in.provider import Provider
from nebula.http.starting import check_started
from nebula.store.batch_queue import BatchQueue
from nebula.store.files import Files
from nebula.store.responses import ResponseStore


def create_app(
    gateway: Gateway,
    limits: Limits,
    doors: Doors | None = None,
    stopping: Stopping | None = None,
    store: ResponseStore | None = None,
    sign_in: Provider | None = None,
) -> ASGIApp:
    """Build the app around a gateway actor, which the caller runs.

    `doors`: the hosts and origins that it answers [those of this machine]. `stopping`: refuses
    requests at the end [none]. `store`: of responses and conversations [one of default size].
    `sign_in`: where people sign in [nowhere].
    Raise NotARoot.
    """
    kept = store or ResponseStore(gateway.connection, gateway.log.replicas)
    scans = Scans()
    doors = doors or Doors()
    root = doors.root
    respond_to_path = partial(paths.respond_to_path, root)
    stored = Files(gateway.connection, gateway.log.replicas)
    queue = BatchQueue(gateway.connection, gateway.log.replicas)
    litestar = Litestar(
        route_handlers=[
            *open_to_all(
                openai.health,
                openai.ready,
                describing.show_version,
                describing.show_document,
                describing.show_page,
                sign_in_routes.show_settings,
                browser.begin,
                browser.call_back,
                sign_in_routes.take_token,
                sign_in_routes.log_out,
            ),
            *needing(
                "infer",
                openai.list_models,
                openai.show_model,
                resuming.show_stream,
                files.create_file,
                files.list_files,
                files.show_file,
                files.show_content,
                files.remove_file,
                batches.create_batch,
                batches.list_batches,
                batches.show_batch,
                batches.cancel_batch,
                responses.show_response,
                responses.cancel_response,
                responses.delete_response,
                responses.list_input_items,
                conversations.create_conversation,
                conversations.show_conversation,
                conversations.update_conversation,
                conversations.delete_conversation,
                conversations.create_items,
                conversations.list_items,
                conversations.show_item,
                conversations.delete_item,
            ),
            *needing(
                "view",
                admin.list_models,
                admin.show_model,
                admin.list_aliases,
                admin.show_alias,
                admin.list_replicas,
                admin.list_nodes,
                admin.show_rebalance,
                history.show_state,
                history.list_events,
                usage.show_completions,
                usage.show_embeddings,
            ),
            *needing(
                "operate",
                admin.load,
                admin.scale,
                admin.unload,
                admin.load_adapter,
                admin.unload_adapter,
                admin.put_alias,
                admin.put_unnamed_alias,
                admin.remove_alias,
                admin.drain,
                admin.undrain,
                admin.remove_node,
                admin.do_rebalance,
                admin.pin,
                admin.remove_weights,
            ),
            *needing(
                "admin",
                keys.list_keys,
                keys.show_key,
                keys.issue_key,
                keys.change_key,
                keys.rotate_key,
                keys.revoke_key,
                limit_routes.list_limits,
                limit_routes.put_limits,
            ),
        ],
        guards=[check_scope],
        dependencies={
            "gateway": Provide(lambda: gateway, sync_to_thread=False),
            "scans": Provide(lambda: scans, sync_to_thread=False),
            "responses_kept": Provide(lambda: kept, sync_to_thread=False),
            "limits": Provide(lambda: limits, sync_to_thread=False),
            "description": Provide(lambda: description, sync_to_thread=False),
            "root": Provide(lambda: root, sync_to_thread=False),
            "files": Provide(lambda: stored, sync_to_thread=False),
            "queue": Provide(lambda: queue, sync_to_thread=False),
            "sign_in": Provide(lambda: sign_in, sync_to_thread=False),
        },
        before_request=check_started(gateway),
        exception_handlers={
            NotFoundException: respond_to_path,
            MethodNotAllowedException: respond_to_path,
            Exception: exceptions.respond,
        },
        openapi_config=None,
        logging_config=None,
    )

    @cache
    def description() -> dict[str, Any]:
        return document(litestar, root, describing.version())

    root_path.check(root, paths.served_by(litestar))
    inference = InferenceRoutes(Semantics(litestar), gateway, limits, kept, root)
    app = stopping.around(inference) if stopping else inference
    known = Authentication(app, gateway, key_ring(gateway, doors), doors)
    guard = Guard(known, doors)
    return Cors(guard, doors) if doors.origins else guard
