"""Asking an engine for the text of token ids, where what a client has of it is in doubt."""

import logging
from collections.abc import Callable
from typing import TypeAlias

from nebula.actors.gateway.continuing import Detokenize
from nebula.actors.gateway.exchange import Exchange, new_id
from nebula.actors.gateway.failures import NotServed
from nebula.events.inference import Request
from nebula.events.state import Named

log = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[Request, Named], Exchange]


def question(exchange: Exchange, way: Detokenize, seconds: float) -> Request:
    """Return the request for any engine of the model's that may take so long."""
    request = exchange.request
    return Request(
        new_id(),
        request.gateway,
        request.model,
        way.path,
        way.body,
        request.adapter,
        avoid=exchange.answer.replica,
        priority=request.priority,
        timeout=seconds,
    )


async def text_of(ask: Ask, request: Request, named: Named) -> bytes:
    """Return what an engine answers, whether that is the text or why there is none."""
    said = b""
    try:
        asking = ask(request, named)
        piece = await asking.next()
        while not piece.end:
            said += piece.body
            piece = await asking.next()
        said += piece.body
    except NotServed as error:
        log.warning("%s: nobody detokenizes: %s", request.id, error)
    return said
