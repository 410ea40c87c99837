"""NVIDIA Dynamo's frontend with its own mocker engine, over NATS.

It is other work: the frontend itself makes tokens of the prompt and text of the tokens, and the
mocker's tokens come at its own pace. Dynamo can't be put before an engine with an HTTP address.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from nebula.store import server

from . import competitors
from .processes import await_answer, free_port, running

NAME = competitors.DYNAMO.name
_FASTER = 1000.0  # how much faster than its model of a GPU the mocker is


@contextlib.contextmanager
def running_frontend(
    venvs: Path,
    folder: Path,
    model: Path,
    name: str,
    path: str,
    probe: Mapping[str, object],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Run NATS, a mocker and a frontend; yield its address and their processes. Raise Failed."""
    python = competitors.install(competitors.DYNAMO, venvs) / "bin" / "python"
    nats, port = free_port(), free_port()
    # A frontend takes the tokenizer from a folder whose name is the model's.
    (folder / name).symlink_to(model, target_is_directory=True)
    environ = {
        "NATS_SERVER": f"nats://127.0.0.1:{nats}",
        "DYN_FILE_KV": str(folder / "discovery"),
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_REQUEST_PLANE": "nats",
        "DYN_LOG": "warn",
        "HF_HUB_OFFLINE": "1",
    }
    broker = [server.binary(), "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", str(folder)]
    mocker = [str(python), "-m", "dynamo.mocker", "--model-path", name]
    mocker += ["--speedup-ratio", str(_FASTER), "--max-num-seqs", "512"]
    frontend = [str(python), "-m", "dynamo.frontend", "--http-host", "127.0.0.1"]
    frontend += ["--http-port", str(port), "--router-mode", "round-robin"]
    with contextlib.ExitStack() as everything:
        processes = [
            everything.enter_context(running(line, folder / f"{what}.log", environ))
            for what, line in (("nats", broker), ("mocker", mocker), ("frontend", frontend))
        ]
        url = f"http://127.0.0.1:{port}"
        await_answer(url + path, processes[-1], folder / "frontend.log", body=probe)
        print(f"{NAME} serves", file=sys.stderr, flush=True)
        yield url, tuple(process.pid for process in processes)
