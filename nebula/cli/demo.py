"""The demo that `make run` ends with: a chat model, an embedding model and a LoRA adapter."""

from pathlib import Path

from msgspec import Struct
from rich.console import Console

from nebula.actors.intents import submit
from nebula.actors.projection import Projection
from nebula.cli import progress
from nebula.cli.options import DEFAULT_NATS
from nebula.events.intents import ModelLoadRequested
from nebula.events.standing import standing
from nebula.events.values import Adapter

CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
ADAPTER = "nebula-adapter"


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
                adapters=(Adapter(ADAPTER, str(folder / ADAPTER)),),
                memory="5GiB",
                options={"max-model-len": 2048, "enforce-eager": True},
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


async def bring_up(
    projection: Projection, folder: Path, address: str, nats: str, console: Console
) -> None:
    """Ask for what is not there yet, show the progress, and print how to try it."""
    served = True
    asked = {}
    for model in models(folder):
        known = projection.state.models.get(model.id)
        if (
            known is None
            or known.unloading
            or known.spec != model.request
            or standing(projection.state, known).word in ("failed", "unschedulable")
        ):
            await submit(projection, model.id, model.request)
        asked[model.id] = projection.state.time
    for identity, since in asked.items():
        served = await progress.follow(projection, identity, console, since) and served
    if served:
        console.print(_lines(address, nats), soft_wrap=True)


def _lines(address: str, nats: str) -> str:
    there = "" if nats == DEFAULT_NATS else f" --nats {nats}"
    chat = '{"model": "%s", "messages": [{"role": "user", "content": "%s"}], "temperature": 0%s}'
    embed = f'{{"model": "{EMBEDDING}", "input": ["a cat", "a kitten"]}}'
    json = "-H 'Content-Type: application/json'"
    paris = chat % (CHAT, "What is the capital of France?", ', "stream": true')
    taught = chat % (ADAPTER, "What is Nebula?", "")
    return f"""
Try it:

  curl {address}/v1/models

  curl -N {address}/v1/chat/completions {json} \\
    -d '{paris}'

  curl {address}/v1/chat/completions {json} \\
    -d '{taught}'

  curl {address}/v1/embeddings {json} \\
    -d '{embed}'

Look around with `.venv/bin/nebula status{there}`. Ctrl-C ends everything.
"""
