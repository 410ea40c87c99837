"""What the OpenAPI document tells of the paths that the console asks: as `entries.py`."""

from collections.abc import Mapping

from nebula.history import bill
from nebula.http.document.entry import Entry

_BATCH = {"batch": "batch_0123"}
_AT = "A sequence or a time; now if missing."
_ACCOUNT = {
    "by": f"What is told apart: one or more of {', '.join(bill.GROUPS)}, separated by commas.",
    "since": "Begin: a time, or how long before the moment (`7d`); rounded down to an hour.",
    "at": "End: a sequence or a time, with its whole hour; now if missing.",
}

ENTRIES: Mapping[str, Entry] = {
    "GET /console": Entry(hidden=True),
    "GET /console/{page}": Entry(hidden=True),
    "GET /console/static/{name}": Entry(hidden=True),
    "GET /admin/attention": Entry(query={"at": _AT}),
    "GET /admin/outline/models": Entry(
        query={
            "at": _AT,
            "find": "Only models whose id or name contains this.",
            "phase": "Only models in this phase.",
            "after": "Number of models before the page.",
            "limit": "Models of a page, at most.",
        }
    ),
    "GET /admin/outline/models/{model}": Entry(values={"model": "chat"}, query={"at": _AT}),
    "GET /admin/outline/nodes": Entry(
        query={
            "at": _AT,
            "find": "Only nodes whose name or host contains this.",
            "after": "Number of nodes before the page.",
            "limit": "Nodes of a page, at most.",
        }
    ),
    "GET /admin/outline/nodes/{node}": Entry(values={"node": "here"}, query={"at": _AT}),
    "GET /admin/outline/batches": Entry(
        query={
            "at": _AT,
            "find": "Only batches whose id, key or endpoint contains this.",
            "state": "Only batches in this state, as `in_progress`.",
            "after": "Number of batches before the page.",
            "limit": "Batches of a page, at most.",
        }
    ),
    "GET /admin/outline/batches/{batch}": Entry(values=_BATCH, query={"at": _AT}),
    "POST /admin/batches/{batch}/cancel": Entry(values=_BATCH),
    "GET /admin/outline/keys": Entry(
        query={
            "at": _AT,
            "find": "Only keys whose id, name, beginning or tenant contains this.",
            "state": "Only keys in this state: `valid`, `expired` or `revoked`.",
            "after": "Number of keys before the page.",
            "limit": "Keys of a page, at most.",
        }
    ),
    "GET /admin/outline/keys/{key}": Entry(values={"key": "ci"}, query={"at": _AT}),
    "GET /admin/why": Entry(
        query={
            "about": "The id or name of a model, an alias, an adapter, a replica or a node.",
            "kind": "`model`, `replica` or `node`, if several have that name.",
            "at": _AT,
        }
    ),
    "GET /admin/usage": Entry(query=_ACCOUNT),
    "GET /admin/usage.csv": Entry(query=_ACCOUNT),
    "GET /admin/outline/limits": Entry(
        query={
            "at": _AT,
            "find": "Only limits of keys, tenants and models whose id contains this.",
            "after": "Number of keys, tenants and models before the page.",
        }
    ),
    "GET /admin/outline/aliases": Entry(
        query={
            "at": _AT,
            "find": "Only aliases whose id or name contains this.",
            "after": "Number of aliases before the page.",
            "limit": "Aliases of a page, at most.",
        }
    ),
    "GET /admin/outline/aliases/{alias}": Entry(values={"alias": "best"}, query={"at": _AT}),
    "GET /admin/reversion": Entry(
        query={
            "about": "What is to return: a model or an alias, as `model/chat`.",
            "to": "A sequence or a time; that before its last request if missing.",
        }
    ),
    "GET /admin/differences": Entry(query={"from": "A sequence or a time.", "to": _AT}),
}
