"""What the OpenAPI document tells of each path beyond the code: examples, bodies, queries.

**To add a path:** add an entry under its method and path. Its summary is the docstring of its
handler, or `says` for a path that engines answer; its answer is described by what the handler
returns. A test fails while a path has no entry, and tries each example with a real gateway.
"""

from collections.abc import Mapping

from nebula.events.capture_events import CaptureStarted
from nebula.events.intents import (
    AdapterLoadRequested,
    AliasRequested,
    ModelLoadRequested,
    ModelScaleRequested,
    WeightsPinRequested,
)
from nebula.events.key_events import Rights
from nebula.events.usage_limits import UsageLimits
from nebula.http.batches.routes import BatchCreation
from nebula.http.changes import ChangeRequest
from nebula.http.document import console_entries
from nebula.http.document.entry import Entry
from nebula.http.keys import KeyRotation
from nebula.http.plans import PlanRequest
from nebula.http.replaying import ReplayRequest
from nebula.http.responses.conversations import ConversationCreation, ConversationUpdate, NewItems
from nebula.http.sign_in.routes import TokenPresented

MODELS: Mapping[str, str] = {
    "chat": "chat",
    "embed": "embedding",
    "classes": "classify",
    "ears": "transcription",
}
"""The names of the models of the examples, with the tasks for which they are loaded."""

_HELLO = [{"role": "user", "content": "Hello"}]
_RERANK = {
    "model": "embed",
    "query": "What is a cat?",
    "documents": ["An animal.", "A number."],
}
_SCORE = {"model": "embed", "text_1": "a cat", "text_2": ["a kitten", "a stone"]}
_PAGE = {
    "after": "Id of the object after which the page begins.",
    "limit": "Objects of a page, at most.",
    "order": "`asc` or `desc`, by the time of creation.",
}
_USAGE = {
    "start_time": "Begin, in seconds since 1970; rounded down to a bucket.",
    "end_time": "End; no bucket begins there or later.",
    "bucket_width": "`1h` or `1d`, the default; hours and days are in UTC.",
    "group_by": "`project_id` (the tenant), `user_id`, `api_key_id` or `model`; may be repeated.",
    "limit": "Buckets of a page, at most.",
    "page": "`next_page` of the page before.",
}
_RERANKED = "Order documents by how well they answer a query (Jina's and Cohere's form)."
_SCORED = "Return how well texts match (vLLM's form)."

_ANSWERED_BY_ENGINES = {
    "POST /v1/chat/completions": Entry(
        says="Answer a conversation (OpenAI's form); an event stream with `stream`.",
        example={"model": "chat", "messages": _HELLO, "max_tokens": 20},
    ),
    "POST /v1/chat/completions/batch": Entry(
        says="Answer several conversations at once (vLLM's form).",
        example={"model": "chat", "messages": [_HELLO, _HELLO], "max_tokens": 20},
    ),
    "POST /v1/completions": Entry(
        says="Continue a text (OpenAI's form); an event stream with `stream`.",
        example={"model": "chat", "prompt": "Once upon a time", "max_tokens": 20},
    ),
    "POST /v1/responses": Entry(
        says="Answer an input (OpenAI's responses); an event stream with `stream`.",
        example={"model": "chat", "input": "Hello"},
    ),
    "POST /v1/messages": Entry(
        says="Answer a conversation (Anthropic's form); an event stream with `stream`.",
        example={"model": "chat", "max_tokens": 20, "messages": _HELLO},
    ),
    "POST /v1/messages/count_tokens": Entry(
        says="Count the tokens of a conversation (Anthropic's form).",
        example={"model": "chat", "messages": _HELLO},
    ),
    "POST /generative_scoring": Entry(
        says="Return how likely labels follow each item (vLLM's form).",
        example={
            "model": "chat",
            "query": "Is it good? ",
            "items": ["yes"],
            "label_token_ids": [1],
        },
    ),
    "POST /v1/embeddings": Entry(
        says="Return the vectors of texts (OpenAI's form).",
        example={"model": "embed", "input": ["a cat", "a kitten"]},
    ),
    "POST /v2/embed": Entry(
        says="Return the vectors of texts (Cohere's form).",
        example={"model": "embed", "texts": ["a cat"], "embedding_types": ["float"]},
    ),
    "POST /pooling": Entry(
        says="Return what a pooling model makes of texts (vLLM's form).",
        example={"model": "embed", "input": "a cat"},
    ),
    "POST /classify": Entry(
        says="Return the classes of texts (vLLM's form).",
        example={"model": "classes", "input": ["a cat", "a stone"]},
    ),
    "POST /score": Entry(says=_SCORED, example=_SCORE),
    "POST /v1/score": Entry(says=_SCORED, example=_SCORE),
    "POST /rerank": Entry(says=_RERANKED, example=_RERANK),
    "POST /v1/rerank": Entry(says=_RERANKED, example=_RERANK),
    "POST /v2/rerank": Entry(says=_RERANKED, example=_RERANK),
    "POST /v1/audio/transcriptions": Entry(
        says="Write down what is said in a sound (OpenAI's form).",
        example={"model": "ears"},
        form=True,
    ),
    "POST /v1/audio/translations": Entry(
        says="Write down in English what is said in a sound (OpenAI's form).",
        example={"model": "ears"},
        form=True,
    ),
    "POST /tokenize": Entry(
        says="Return the tokens of a text or a conversation (vLLM's form).",
        example={"model": "chat", "prompt": "Hello"},
    ),
    "POST /detokenize": Entry(
        says="Return the text of tokens (vLLM's form).",
        example={"model": "chat", "tokens": [1, 2]},
    ),
}

_ANTHROPIC = {"anthropic-version": "With any value, the answer has Anthropic's form."}
_MODEL = {"model": "chat"}
_KEY = {"key": "ci"}
_NODE = {"node": "here"}
_RESPONSE = {"response": "resp_0123"}
_CONVERSATION = {"conversation": "conv_0123"}
_ITEM = {**_CONVERSATION, "item": "msg_0123"}

ENTRIES: Mapping[str, Entry] = {
    **_ANSWERED_BY_ENGINES,
    "GET /v1/models": Entry(
        query={
            "limit": "Models of a page, at most (Anthropic's form).",
            "after_id": "Model after which the page begins (Anthropic's form).",
            "before_id": "Model before which the page ends (Anthropic's form).",
        },
        fields=_ANTHROPIC,
    ),
    "GET /v1/models/{name}": Entry(values={"name": "chat"}, fields=_ANTHROPIC),
    "GET /v1/streams/{identity}": Entry(
        values={"identity": "0123456789abcdef"},
        fields={"Last-Event-ID": "The event after which the rest begins; the start if missing."},
    ),
    "POST /v1/conversations": Entry(
        body=ConversationCreation,
        example={"items": _HELLO, "metadata": {"topic": "demo"}},
    ),
    "GET /v1/conversations/{conversation}": Entry(values=_CONVERSATION),
    "POST /v1/conversations/{conversation}": Entry(
        body=ConversationUpdate, example={"metadata": {"topic": "other"}}, values=_CONVERSATION
    ),
    "DELETE /v1/conversations/{conversation}": Entry(values=_CONVERSATION),
    "POST /v1/conversations/{conversation}/items": Entry(
        body=NewItems, example={"items": _HELLO}, values=_CONVERSATION
    ),
    "GET /v1/conversations/{conversation}/items": Entry(values=_CONVERSATION, query=_PAGE),
    "GET /v1/conversations/{conversation}/items/{item}": Entry(values=_ITEM),
    "DELETE /v1/conversations/{conversation}/items/{item}": Entry(values=_ITEM),
    "GET /v1/responses/{response}": Entry(
        values=_RESPONSE,
        query={
            "stream": "Whether to return its events, also those that are still to come.",
            "starting_after": "Number of the event after which the stream begins. A response that "
            "runs is waited for; if it ends without such an event, the answer is an error.",
        },
    ),
    "DELETE /v1/responses/{response}": Entry(values=_RESPONSE),
    "POST /v1/responses/{response}/cancel": Entry(values=_RESPONSE),
    "GET /v1/responses/{response}/input_items": Entry(values=_RESPONSE, query=_PAGE),
    "POST /v1/files": Entry(example={"purpose": "user_data"}, form=True),
    "GET /v1/files": Entry(query={"purpose": "Only files of this purpose.", **_PAGE}),
    "GET /v1/files/{file}": Entry(values={"file": "file-0123"}),
    "GET /v1/files/{file}/content": Entry(values={"file": "file-0123"}),
    "DELETE /v1/files/{file}": Entry(values={"file": "file-0123"}),
    "POST /v1/batches": Entry(
        body=BatchCreation,
        example={
            "input_file_id": "file-0123",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    ),
    "GET /v1/batches": Entry(query={name: _PAGE[name] for name in ("after", "limit")}),
    "GET /v1/batches/{batch}": Entry(values={"batch": "batch_0123"}),
    "POST /v1/batches/{batch}/cancel": Entry(values={"batch": "batch_0123"}),
    "GET /v1/organization/usage/completions": Entry(query=_USAGE),
    "GET /v1/organization/usage/embeddings": Entry(query=_USAGE),
    "GET /health": Entry(),
    "GET /ready": Entry(),
    "GET /version": Entry(),
    "GET /metrics": Entry(fields={"Accept": "OpenMetrics, or Prometheus's text format."}),
    "GET /metrics/cluster": Entry(query={"node": "Only those of this node."}),
    "GET /metrics/engines": Entry(query={"node": "Only engines of this node."}),
    "GET /openapi.json": Entry(),
    "GET /docs": Entry(),
    "GET /login": Entry(query={"next": "Path of the gateway to go to after the sign-in."}),
    "GET /login/callback": Entry(
        query={
            "code": "What the provider gives for an ID token.",
            "state": "What the sign-in began with.",
            "iss": "The provider (RFC 9207).",
            "error": "Why there is no code.",
        }
    ),
    "GET /login/settings": Entry(),
    "POST /login/token": Entry(body=TokenPresented, example={"id_token": "eyJhbGciOi…"}),
    "POST /logout": Entry(),
    "POST /admin/models": Entry(
        body=ModelLoadRequested,
        beside=("id",),
        example={"id": "chat", "source": "Qwen/Qwen3-0.6B", "replicas": 1, "lora": True},
    ),
    "GET /admin/models": Entry(),
    "GET /admin/models/{model}": Entry(values=_MODEL),
    "PATCH /admin/models/{model}": Entry(
        body=ModelScaleRequested, example={"replicas": 2}, values=_MODEL
    ),
    "DELETE /admin/models/{model}": Entry(values=_MODEL),
    "POST /admin/models/{model}/adapters": Entry(
        body=AdapterLoadRequested,
        example={"name": "law", "source": "/adapters/law"},
        values=_MODEL,
    ),
    "DELETE /admin/models/{model}/adapters/{adapter}": Entry(values={**_MODEL, "adapter": "law"}),
    "GET /admin/aliases": Entry(),
    "GET /admin/aliases/{alias}": Entry(values={"alias": "best"}),
    "PUT /admin/aliases": Entry(hidden=True),
    "PUT /admin/aliases/{alias}": Entry(
        body=AliasRequested,
        example={"name": "best", "targets": [{"model": "chat", "weight": 1}]},
        values={"alias": "best"},
    ),
    "DELETE /admin/aliases/{alias}": Entry(values={"alias": "best"}),
    "GET /admin/replicas": Entry(),
    "GET /admin/replicas/{replica}/logs": Entry(
        values={"replica": "chat-0"},
        query={
            "tail": "Number of last lines, 10,000 at most; 100 if missing.",
            "after": "Position after which to begin: `X-Nebula-Log-Position` of an earlier answer.",
            "follow": "Whether to go on as the log grows, if `true`: as text, or as events "
            "(`Accept`).",
        },
        fields={"Last-Event-ID": "Position after which a stream of events goes on."},
    ),
    "GET /admin/nodes": Entry(),
    "POST /admin/nodes/{node}/drain": Entry(values=_NODE),
    "DELETE /admin/nodes/{node}/drain": Entry(values=_NODE),
    "DELETE /admin/nodes/{node}": Entry(values=_NODE),
    "GET /admin/rebalance": Entry(),
    "POST /admin/rebalance": Entry(),
    "PATCH /admin/nodes/{node}/weights": Entry(
        body=WeightsPinRequested,
        example={"source": "Qwen/Qwen3-0.6B", "pinned": True},
        values=_NODE,
    ),
    "DELETE /admin/nodes/{node}/weights/{source}": Entry(
        values={**_NODE, "source": "Qwen/Qwen3-0.6B"}
    ),
    "POST /admin/keys": Entry(
        body=Rights,
        beside=("id",),
        example={"id": "ci", "scopes": ["infer"], "models": ["chat", "org/*"], "tenant": "team-a"},
    ),
    "GET /admin/keys": Entry(),
    "GET /admin/keys/{key}": Entry(values=_KEY),
    "PATCH /admin/keys/{key}": Entry(body=Rights, example={"scopes": ["view"]}, values=_KEY),
    "POST /admin/keys/{key}/rotate": Entry(
        body=KeyRotation, example={"overlap": 3600}, values=_KEY
    ),
    "DELETE /admin/keys/{key}": Entry(values=_KEY),
    "GET /admin/limits": Entry(),
    "PUT /admin/limits/{kind}/{subject}": Entry(
        body=UsageLimits,
        example={"tokens_per_month": 50_000_000, "in_flight": 64},
        values={"kind": "tenant", "subject": "team-a"},
    ),
    "GET /admin/resilience": Entry(
        query={
            "at": "A sequence or a time; now if missing.",
            "node": "Only the loss of this node.",
            "after": "Name of the node after which the page begins.",
        }
    ),
    "GET /admin/demand": Entry(
        query={
            "since": "A time, or how long ago: the first minute; all if missing.",
            "until": "A time, or how long ago: the end; now if missing.",
        }
    ),
    "GET /admin/sd": Entry(),
    "POST /admin/plan": Entry(
        body=PlanRequest,
        example={
            "intents": [{"type": "ModelScaleRequested", "id": "chat", "event": {"replicas": 3}}]
        },
    ),
    "POST /admin/changes": Entry(
        body=ChangeRequest,
        example={
            "intents": [{"type": "ModelScaleRequested", "id": "chat", "event": {"replicas": 1}}],
            "planned": 1,
        },
    ),
    "GET /admin/requests": Entry(
        query={
            "model": "Only requests for this model, by its id or name.",
            "tenant": "Only requests of this tenant's keys.",
            "limit": "Requests at most, the oldest first; 1,000 if missing.",
        },
    ),
    "GET /admin/rehearsal": Entry(),
    "POST /admin/replicas/{replica}/kill": Entry(values={"replica": "chat-0"}),
    "GET /admin/requests/{identity}": Entry(values={"identity": "0123456789abcdef"}),
    "DELETE /admin/requests/{identity}": Entry(values={"identity": "0123456789abcdef"}),
    "GET /admin/captures": Entry(),
    "PUT /admin/captures/{capture}": Entry(
        body=CaptureStarted,
        example={"seconds": 600, "model": "chat", "share": 0.5, "contents": "mask"},
        values={"capture": "slow"},
    ),
    "DELETE /admin/captures/{capture}": Entry(values={"capture": "slow"}),
    "GET /admin/captured": Entry(
        query={
            "capture": "Only what this capture has captured.",
            "limit": "Requests at most, the newest; 1,000 if missing.",
        }
    ),
    "GET /admin/captured/{identity}": Entry(values={"identity": "0123456789abcdef"}),
    "POST /admin/captured/{identity}/replay": Entry(
        body=ReplayRequest, example={"to": "chat"}, values={"identity": "0123456789abcdef"}
    ),
    "GET /admin/state": Entry(query={"at": "A sequence or a time; now if missing."}),
    **console_entries.ENTRIES,
    "GET /admin/events": Entry(
        query={
            "after": "Sequence after which the page begins.",
            "limit": "Events of a page, at most.",
            "aggregate": "Only events of this kind of aggregate, or of `KIND/ID`.",
            "type": "Only events of these types, separated by commas.",
            "node": "Only events of this node.",
            "cause": "Only what this sequence led to.",
            "by": "Only events of this principal, as `key:ci`.",
            "rejected": "Only intents that were rejected, if `true`.",
        },
        fields={"Last-Event-ID": "Sequence after which a stream (`Accept`) begins."},
    ),
}
