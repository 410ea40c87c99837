"""All routes of a gateway beside the paths that engines answer, by the scope that each needs."""

from nebula.http import (
    admin,
    engine_logs,
    history,
    keys,
    limit_routes,
    metrics,
    openai,
    resuming,
    usage,
)
from nebula.http.authentication import needing, open_to_all
from nebula.http.batches import routes as batches
from nebula.http.document import routes as describing
from nebula.http.files import routes as files
from nebula.http.responses import conversations
from nebula.http.responses import routes as responses
from nebula.http.sign_in import browser
from nebula.http.sign_in import routes as sign_in_routes

HANDLERS = (
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
        metrics.show_metrics,
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
        engine_logs.show_log,
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
)
"""Handlers of Litestar. A handler that stands in no group needs the scope `admin`."""
