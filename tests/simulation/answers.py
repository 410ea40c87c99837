"""What simulated engines answer: one text, as vLLM writes it, in pieces that take their time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

import msgspec
from msgspec.structs import replace

from nebula.events.inference import Piece, Request, TokenIds
from nebula.openai.chunks import CHAT, COMPLETIONS
from nebula.openai.continuation import DETOKENIZE, with_token_ids
from tests.unit.vllm_stream import Engine

TOKENS = [b"Once", b" upon", b" a", b" ti", b"me \xf0\x9f", b"\x8c", b"\x99", b" there", b" was"]
"""All different, so that one that is missing or comes twice is seen; some end in a character."""

TEXT = b"".join(TOKENS).decode()

_STREAM = "text/event-stream"


def request(identity: str, gateway: str, model: str, adapter: str, *, stream: bool) -> Request:
    """Return what a client asks."""
    if not stream:
        return Request(identity, gateway, model, COMPLETIONS, b"{}", adapter=adapter)
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body = with_token_ids(CHAT, msgspec.json.encode({**asked, "max_tokens": 50})).body
    return Request(identity, gateway, model, CHAT, body, adapter=adapter, tokens=TokenIds.TRACKED)


def answer(request: Request, replica: str, seed: int) -> Iterator[tuple[float, Piece]]:
    """Yield each piece of an answer with the seconds that it takes.

    They are drawn anew for each attempt, so that others may be left out of a scenario.
    """
    rng = Random(f"{seed} {request.id} {request.attempt}")
    pace = 0.02 + rng.random() * rng.choice((0.1, 0.6, 0.6, 3.0))
    for piece in _pieces(request, rng):
        head = piece.chunk == 0
        said = replace(
            piece,
            attempt=request.attempt,
            replica=replica if head else "",
            continues=request.continues if head else "",
        )
        yield 0.05 + rng.random() * pace, said


def _pieces(request: Request, rng: Random) -> list[Piece]:
    if request.path == DETOKENIZE:
        told = Engine(TOKENS).detokenize(request.body)
        return [Piece(0, told, status=200, content_type="application/json", end=True)]
    if request.tokens:
        size = rng.choice((1, 2, 3))
        engine = Engine(TOKENS, created=request.attempt)
        bodies = engine.stream(request.path, request.body, lambda: size)
        kind = _STREAM
    else:
        bodies, kind = [TEXT[:9].encode(), TEXT[9:].encode()], "text/plain"
    pieces = [Piece(number, body) for number, body in enumerate(bodies)]
    pieces[0] = replace(pieces[0], status=200, content_type=kind)
    pieces[-1] = replace(pieces[-1], end=True)
    return pieces


def text(pieces: Iterable[Piece]) -> str:
    """Return what a client has read of an answer, whether it streams or not."""
    pieces = list(pieces)
    body = b"".join(piece.body for piece in pieces if not piece.failure)
    return streamed(body) if pieces and pieces[0].content_type == _STREAM else body.decode()


def streamed(body: bytes) -> str:
    """Return the text of a chat that streams, from all that was sent of it."""
    events = [event.partition(b"data: ")[2] for event in body.split(b"\n\n") if event]
    if events[-1:] == [b"[DONE]"]:
        events.pop()
    choices = [each for event in events for each in msgspec.json.decode(event)["choices"]]
    return "".join(each["delta"].get("content") or "" for each in choices)
