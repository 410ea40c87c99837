"""What else clients of known APIs ask for, which Nebula does not offer. Pure.

Some of these paths end like one that is served: without this list their clients would be told that
they meant it.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

_VERSION = re.compile(r"v\d\w*")
_USAGE = re.compile(r"\borganization/usage/(completions|embeddings)$")
"""What is offered of the paths of organizations."""

_GEMINI = re.compile(r":(?:stream)?(?:generate|embed|batchEmbed|count)\w+$", re.IGNORECASE)
_ID = re.compile(r"[\d_-]")
"""What an id has, and no segment of a path that is served."""


class Missing(Struct, frozen=True):
    """A part of another API: what it is called, and what does the same; "" for nothing."""

    name: str
    instead: str = ""


_BATCHES = "POST {root}/v1/batches does it, for requests to /v1/messages too"
_RESPONSES = "POST {root}/v1/responses and {root}/v1/conversations keep a conversation"
_STORED = "POST {root}/v1/responses keeps what it answers"
_SESSION = "the WebSocket {root}/v1/realtime needs none"
_FILES = "POST {root}/v1/files takes a whole file"

_PARTS = {
    "agents": Missing("agents"),
    "assistants": Missing("assistants", _RESPONSES),
    "audio/speech": Missing("speech"),
    "audio/voice_consents": Missing("voices"),
    "audio/voices": Missing("voices"),
    "chat/completions/*": Missing("stored chat completions", _STORED),
    "chatkit": Missing("ChatKit"),
    "compliance": Missing("compliance"),
    "containers": Missing("containers"),
    "content_provenance_checks": Missing("provenance checks"),
    "decisions": Missing("decisions"),
    "deployment_runs": Missing("deployments"),
    "deployments": Missing("deployments"),
    "dreams": Missing("dreams"),
    "environments": Missing("environments"),
    "evals": Missing("evals"),
    "fine_tuning": Missing("fine-tuning"),
    "images": Missing("images"),
    "live": Missing("live sessions"),
    "memory_stores": Missing("memory stores"),
    "messages/batches": Missing("Anthropic's message batches", _BATCHES),
    "moderations": Missing("moderations"),
    "organization": Missing("organizations"),
    "organizations": Missing("organizations"),
    "projects": Missing("projects"),
    "realtime/calls": Missing("realtime calls", _SESSION),
    "realtime/client_secrets": Missing("client secrets of sessions", _SESSION),
    "realtime/sessions": Missing("sessions made before", _SESSION),
    "realtime/transcription_sessions": Missing("sessions made before", _SESSION),
    "realtime/translations": Missing("realtime translations"),
    "safety": Missing("safety cases"),
    "sessions": Missing("agents' sessions"),
    "skills": Missing("skills"),
    "threads": Missing("threads", _RESPONSES),
    "tunnels": Missing("tunnels"),
    "uploads": Missing("uploads in parts", _FILES),
    "user_profiles": Missing("user profiles"),
    "vaults": Missing("vaults"),
    "vector_stores": Missing("vector stores"),
    "videos": Missing("videos"),
    "webhook_endpoints": Missing("webhooks"),
    "webhook_event_types": Missing("webhooks"),
}
"""By the first segments of paths behind the version; `*` is any id.

`tests/unit/test_not_offered.py` holds the list to the paths of OpenAI's and Anthropic's clients.
"""


def not_offered(path: str, root: str = "") -> str:
    """Return what an unknown path asks for, in words, and what does the same; "" if unknown.

    `root`: what stands before paths for clients.
    """
    if _GEMINI.search(path):
        return f"Nebula does not offer Gemini's API: clients of OpenAI's use {root}/v1"
    if _USAGE.search(path):
        return ""
    for beginning in _beginnings(path):
        missing = _PARTS.get(beginning)
        if missing is not None:
            instead = missing.instead.format(root=root)
            return f"Nebula does not offer {missing.name}" + (f": {instead}" if instead else "")
    return ""


def _beginnings(path: str) -> Iterator[str]:
    """Yield the first segments behind the last version of an API, one, two and three."""
    segments = [each for each in path.split("/")[:12] if each]
    first = max((n for n, each in enumerate(segments, 1) if _VERSION.fullmatch(each)), default=0)
    mine = segments[first:]
    for length in (1, 2):
        yield "/".join(mine[:length])
    if len(mine) > 2 and _ID.search(mine[2]):
        yield "/".join((*mine[:2], "*"))
