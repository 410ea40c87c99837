"""The demo that `make run` ends with: a chat model, an embedding model and a LoRA adapter."""

import asyncio
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.markup import escape

from nebula.actors.intents import submit
from nebula.actors.projection import Projection
from nebula.cli import progress
from nebula.cli.meanwhile import Meanwhile
from nebula.cli.stages import Stages
from nebula.events.advised import command
from nebula.events.intents import AdapterLoadRequested, ModelLoadRequested
from nebula.events.model_status import model_status
from nebula.events.state import State
from nebula.history.outcome import Asked, Outcome, Progress, asked
from nebula.http.server.unix_sockets import SCHEME

CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
ADAPTER = "nebula-adapter"

SILENT = 10.0
"""Seconds between two lines about what is awaited, if there is no terminal."""

BUILT_WITHIN = 600.0
"""Seconds to wait for the adapter that `make run` is still building; the models answer meanwhile.
"""

LOOK = 1.0
"""Seconds between two checks of the adapter's folder."""

NODE_COMES = 30.0
"""Seconds for the node of `nebula up` to return; until then its models have no place."""


class DemoModel(Struct, frozen=True):
    """One of the demo's models: its id and the request that loads it."""

    id: str
    request: ModelLoadRequested


def models(folder: Path) -> tuple[DemoModel, ...]:
    """Describe the demo's models in `folder`."""
    return (
        DemoModel(
            CHAT,
            ModelLoadRequested(
                str(folder / CHAT),
                lora=True,
                memory="5GiB",
                options={
                    "max-model-len": 2048,
                    "enforce-eager": True,
                    "enable-auto-tool-choice": True,
                    "tool-call-parser": "hermes",
                },
            ),
        ),
        DemoModel(
            EMBEDDING,
            ModelLoadRequested(
                str(folder / EMBEDDING),
                task="embedding",
                memory="3GiB",
                options={"enforce-eager": True},
            ),
        ),
    )


def has_a_node(state: State) -> bool:
    """Return whether a node is there: after a restart it still counts as stopped at first."""
    return any(not node.away for node in state.nodes.values())


async def bring_up(projection: Projection, folder: Path, address: str, console: Console) -> None:
    """Load the models that are not loaded yet, and print how to try each once it answers.

    The adapter comes last: the models answer while it is still being built.
    """
    wishes = []
    for model in models(folder):
        known = projection.state.models.get(model.id)
        if (
            known is None
            or known.unloading
            or known.spec != model.request
            or model_status(projection.state, known).phase in ("failed", "unschedulable")
        ):
            seq = await submit(projection, model.id, model.request)
        else:
            seq = projection.state.seq
        wishes.append(asked(projection.state, model.id, seq))
    served = await follow_all(projection, wishes, console, lambda model: tries(model, address))
    if not served:
        return
    console.print(f"Look around with {command('status')}. Ctrl-C ends everything.")
    if await built(folder / ADAPTER, console):
        wish = await _adapter(projection, str(folder / ADAPTER))
        await follow_all(projection, [wish], console, lambda _: tries(ADAPTER, address))


async def built(adapter: Path, console: Console, within: float = BUILT_WITHIN) -> bool:
    """Wait for the folder of an adapter; print a line if it does not come."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    text = f"{adapter.name}: `make run` still builds it"
    there = await asyncio.to_thread(adapter.exists)
    with Meanwhile(console, text) as line:
        while not there and (waited := loop.time() - began) <= within:
            line.update(text, waited)
            await asyncio.sleep(LOOK)
            there = await asyncio.to_thread(adapter.exists)
    if not there:
        missing = f"There is no {escape(str(adapter))}: `make demo-models` builds it"
        console.print(f"[yellow]{missing}[/yellow]", soft_wrap=True)
    return there


async def _adapter(projection: Projection, source: str) -> Asked:
    """Request the adapter unless it is already wanted from this folder."""
    before = projection.state
    known = before.models.get(CHAT)
    seq = before.seq
    if known is None or known.adapters.get(ADAPTER) != source:
        seq = await submit(projection, CHAT, AdapterLoadRequested(ADAPTER, source))
    return asked(projection.state, CHAT, seq, ADAPTER, before)


async def follow_all(
    projection: Projection,
    wishes: Sequence[Asked],
    console: Console,
    then: Callable[[str], str] = lambda _: "",
) -> bool:
    """Show how several models start at the same time; return whether all are ready in the end.

    Each is printed as soon as it is ready, followed by what `then` returns for it.
    """
    left = [progress.Followed(wish, console) for wish in wishes]
    served = []
    patience = progress.Patience(projection)
    async with Stages(projection) as stages:
        with Meanwhile(console, "starting", longest=SILENT) as line:
            while left:
                stand = [(each, each.look(projection.state)) for each in left]
                for each, found in stand:
                    if found.progress != Progress.PENDING:
                        each.tell(found)
                        served.append(found.progress == Progress.FULFILLED)
                    if found.progress == Progress.FULFILLED:
                        console.print(then(each.wish.model), soft_wrap=True)
                left = [each for each, found in stand if found.progress == Progress.PENDING]
                coming = {each.wish.model: found for each, found in stand if each in left}
                if coming and not await _change(patience, coming, stages, line, console):
                    return False
    return all(served)


async def _change(
    patience: progress.Patience,
    coming: Mapping[str, Outcome],
    stages: Stages,
    line: Meanwhile,
    console: Console,
) -> bool:
    """Show what is awaited and wait for news; return whether any model can still come."""
    texts = (found.text + _reached(stages.of(model)) for model, found in coming.items())
    line.update("; ".join(texts), patience.waited)
    try:
        awaited = [what for found in coming.values() for what in found.coming]
        await patience.change(awaited, coming)
    except progress.Lost as error:
        console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        return False
    return True


def _reached(stage: str) -> str:
    return f": {stage}" if stage else ""


def tries(model: str, address: str) -> str:
    """Return the commands that try a model of the demo, or its adapter."""
    chat = '{"model": "%s", "messages": [{"role": "user", "content": "%s"}], "temperature": 0%s}'
    json = "-H 'Content-Type: application/json'"
    if address.startswith(SCHEME):
        socket = shlex.quote(address.removeprefix(SCHEME))
        address = f"--unix-socket {socket} http://localhost"
    if model == CHAT:
        paris = chat % (CHAT, "What is the capital of France?", ', "stream": true')
        return f"""
  curl {address}/v1/models

  curl -N {address}/v1/chat/completions {json} \\
    -d '{paris}'
"""
    if model == ADAPTER:
        taught = chat % (ADAPTER, "What is Nebula?", "")
        return f"""
  curl {address}/v1/chat/completions {json} \\
    -d '{taught}'
"""
    embed = f'{{"model": "{EMBEDDING}", "input": ["a cat", "a kitten"]}}'
    return f"""
  curl {address}/v1/embeddings {json} \\
    -d '{embed}'
"""
