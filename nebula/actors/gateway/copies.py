"""Copies of requests whose answers are dropped: for mirrors, and to wake a model that sleeps.

A copy never holds up what it is a copy of: it is sent after it, stands in line behind all others,
and is dropped where there is a line already.
"""

import asyncio
import contextlib

from nats.errors import Error as NatsError

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.delivery import new_id
from nebula.events.inference import Request
from nebula.events.state import NameBinding

NOBODY = "nobody"
"""Stands for the gateway and the user of copies: pieces that go there are heard by no gateway."""

PATIENCE = 1.0
"""Seconds that a copy may wait in a router before it is dropped."""

WAKING = 5.0
"""Seconds that a copy waits which is to wake a model, and in which no other one is sent for it."""

_LAST_OF_ALL = 999_999_999


class Copies:
    """Sends the copies of one gateway's requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._called: dict[str, float] = {}

    def mirror(self, request: Request, named: NameBinding, body: bytes) -> None:
        """Have a request answered to its end by another model, unless that one is busy."""
        if not self._gateway.queue(named.model).waiting:
            self._send(request, named, body, PATIENCE, keep=True)

    def wake(self, request: Request, model: str, body: bytes) -> None:
        """Ask for a model that sleeps, which is what wakes it."""
        now = asyncio.get_running_loop().time()
        if now - self._called.get(model, -WAKING) >= WAKING:
            self._called[model] = now
            self._send(request, NameBinding(model), body, WAKING, keep=False)

    def _send(
        self, request: Request, named: NameBinding, body: bytes, patience: float, *, keep: bool
    ) -> None:
        copy = Request(
            new_id(),
            NOBODY,
            named.model,
            request.path,
            body,
            named.adapter,
            user=NOBODY,
            priority=_LAST_OF_ALL,
            patience=patience,
            timeout=request.timeout,
            keep=keep,
        )
        with contextlib.suppress(NatsError):
            self._gateway.sending.copy(copy)
