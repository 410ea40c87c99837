"""What an engine's model can do, told to its node when the engine is ready."""

from typing import Any

from msgspec import Struct

from nebula.actors.engine.exchange import Scope
from nebula.actors.engine.load import read_context

PATH = "/nebula/abilities"
"""Path on an engine's own port that reports what its model can do."""


class Abilities(Struct, frozen=True):
    """Tasks that an engine supports, by vLLM's names, and the tokens that a request may have.

    Both are empty if the engine does not report them.
    """

    tasks: tuple[str, ...] = ()
    max_model_len: int = 0


async def abilities(state: Scope, models: bytes) -> Abilities:
    """Return what an engine's model can do.

    `state`: what the scopes of its app contain. `models`: its list of models. vLLM keeps its client
    of the engine's core, which knows the tasks, as `engine_client` in the application's state
    (vllm/entrypoints/launchers/api_server/app_state.py).
    """
    client = getattr(getattr(state.get("app"), "state", None), "engine_client", None)
    return Abilities(await _tasks(client), read_context(models))


async def _tasks(client: Any) -> tuple[str, ...]:
    try:
        return tuple(sorted(str(task) for task in await client.get_supported_tasks()))
    except Exception:  # another version of vLLM, whose tasks the path's own errors tell
        return ()
