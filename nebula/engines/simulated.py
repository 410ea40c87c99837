"""A replacement of vLLM for rehearsals, benchmarks and fault tests: same flags, paths and answers.

``python -m nebula.engines.simulated --model X --port N`` is started and used like ``python -m
vllm.entrypoints.openai.api_server``, but needs no model and starts at once.

======================================  ==========================================================
flag of its own                         meaning
======================================  ==========================================================
``--simulate-start SECONDS``            how long it takes until it listens
``--simulate-first-token SECONDS``      from a request's turn to its first token, or its embeddings
``--simulate-token SECONDS``            from one token to the next
``--simulate-crowding SECONDS``         how much longer that takes for each request beside it
``--simulate-tokens N``                 tokens of an answer that ``max_tokens`` does not cut (16)
``--simulate-dimensions N``             length of an embedding (384)
``--simulate-tasks TASK ...``           what the model can do, such as ``transcription``
``--simulate-missing-model``            starts although ``--model`` is a folder that is not there
``--simulate-exit-at-start CODE``       fails before it listens, with a traceback and that code
``--simulate-exit-after N``             exits with code 1 when request N+1 begins
``--simulate-orders``                   words of a prompt order faults (``simulated_orders``)
======================================  ==========================================================

Without ``--simulate-tasks`` its tasks follow from ``--runner`` and ``--convert``, as in vLLM. A
classifier has one label, so that it reranks; ``--hf-overrides '{"num_labels": N}'`` gives it more.

An answer repeats the words of its prompt. With ``return_token_ids`` it has token ids that hold
these words, so that any simulated engine can continue it from the ids of the prompt and of the
answer so far (``POST /v1/completions``), as vLLM does.

``GET /simulate`` counts what is running, finished, aborted, and refused as prompts ordered;
``POST /simulate`` takes ``{"exit": CODE}``, ``{"stall": true}``, ``{"first_token": SECONDS}`` and
``{"token": SECONDS}``.
This module is the process: flags, start, signals. ``simulated_app`` is the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import uvicorn

from nebula.engines.simulated_app import SimulatedEngine
from nebula.engines.simulated_core import log
from nebula.engines.simulated_settings import Settings


def parse(arguments: Sequence[str]) -> Settings:
    """The settings that a command line asks for.

    Flags of vLLM that mean nothing here are dropped together with their values. Raise SystemExit(2)
    if a word is not a flag's value, or a value is wrong.
    """
    parser = argparse.ArgumentParser("nebula.engines.simulated", allow_abbrev=False)
    flag = parser.add_argument
    flag("--model", required=True)
    flag("--host", default="0.0.0.0")
    flag("--port", type=int, default=8000)
    flag("--uds")
    flag("--served-model-name", nargs="+", default=())
    flag("--runner", default="auto")
    flag("--convert", default="auto")
    flag("--hf-overrides", type=json.loads, default={})
    flag("--enable-lora", action="store_true")
    flag("--max-lora-rank", type=int, default=16)
    flag("--max-loras", type=int, default=1)
    flag("--max-model-len", type=int, default=32768)
    flag("--max-num-seqs", type=int, default=256)
    flag("--middleware", action="append", default=[])
    flag("--otlp-traces-endpoint")
    for name in ("start", "first-token", "token", "crowding"):
        flag(f"--simulate-{name}", type=float, default=0.0)
    flag("--simulate-tokens", type=int, default=16)
    flag("--simulate-dimensions", type=int, default=384)
    flag("--simulate-tasks", nargs="+", default=())
    flag("--simulate-missing-model", action="store_true")
    flag("--simulate-exit-at-start", type=int)
    flag("--simulate-exit-after", type=int)
    flag("--simulate-orders", action="store_true")
    # vLLM takes --max_num_seqs for --max-num-seqs.
    known, unknown = parser.parse_known_args([_dashed(word) for word in arguments])
    if unknown and not unknown[0].startswith("-"):
        parser.error(f"unrecognized arguments: {unknown[0]}")
    typos = [word for word in unknown if word.startswith("--simulate")]
    if typos:
        parser.error(f"unrecognized arguments: {' '.join(typos)}")
    given = {name.removeprefix("simulate_"): value for name, value in vars(known).items()}
    try:
        return msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        parser.error(str(error))


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


class _Server(uvicorn.Server):
    """A uvicorn that logs when it listens and ends with code 0 on a signal, as vLLM does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            where = f"http://{self.config.host}:{self.config.port}"
            log.info("Listening on %s", f"unix:{self.config.uds}" if self.config.uds else where)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own method raises the signal again once it has shut down.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def _fail(reason: str, code: int) -> NoReturn:
    """Exit as vLLM does when it cannot start: a traceback on stderr that ends in the reason."""
    log.error("Engine core initialization failed.")
    try:
        raise ValueError(reason)
    except ValueError:
        traceback.print_exc()
    raise SystemExit(code)


def main() -> None:
    """Run one simulated engine until a signal or a fault ends it."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(levelname)s %(asctime)s [%(name)s] %(message)s",
        datefmt="%m-%d %H:%M:%S",
    )
    settings = parse(sys.argv[1:])
    if not (
        settings.missing_model
        or not Path(settings.model).is_absolute()
        or Path(settings.model).exists()
    ):
        _fail(f"Invalid repository ID or local directory specified: '{settings.model}'.", 1)
    engine = SimulatedEngine(settings)
    time.sleep(settings.start)
    if settings.exit_at_start is not None:
        _fail("The simulated engine was told to fail at its start.", settings.exit_at_start)
    config = uvicorn.Config(
        engine,
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        lifespan="on",
        ws="websockets-sansio",
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=1,  # a second signal; vLLM aborts running requests
    )
    log.info("Started simulated engine %s", settings.names[0])
    gc.freeze()  # the garbage collector need not check long-lived objects again
    _Server(config).run()  # exits with uvicorn's code 3 if the port is taken or a middleware fails


if __name__ == "__main__":
    main()
