"""Copies of requests whose answers are dropped: to mirror requests, and to start idle models.

A copy never delays the request that it was made of: it is sent afterwards, queues behind all other
requests, and is dropped if there is a queue already.
"""

import asyncio
import contextlib

from nats.errors import Error as NatsError

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.delivery import new_id
from nebula.events.inference import Request
from nebula.events.state import NameBinding

NO_GATEWAY = "nobody"
"""The gateway and the user that copies name: no gateway listens for pieces that are sent there."""

QUEUE_TIMEOUT = 1.0
"""Seconds that a copy may wait in a router before it is dropped."""

WAKING = 5.0
"""Seconds that a copy which is to start an idle model waits, and until the next such copy."""

_LAST_OF_ALL = 999_999_999


class Mirror:
    """Sends the copies of one gateway's requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._woken_at: dict[str, float] = {}

    def send(self, request: Request, binding: NameBinding, body: bytes) -> None:
        """Have a request answered to its end by another model, unless that model is busy."""
        if not self._gateway.heartbeats.queue(binding.model).waiting:
            self._send(request, binding, body, QUEUE_TIMEOUT, keep=True)

    def wake(self, request: Request, model: str, body: bytes) -> None:
        """Send a copy to an idle model, which starts it."""
        now = asyncio.get_running_loop().time()
        if now - self._woken_at.get(model, -WAKING) >= WAKING:
            self._woken_at[model] = now
            self._send(request, NameBinding(model), body, WAKING, keep=False)

    def _send(
        self,
        request: Request,
        binding: NameBinding,
        body: bytes,
        queue_timeout: float,
        *,
        keep: bool,
    ) -> None:
        copy = Request(
            new_id(),
            NO_GATEWAY,
            binding.model,
            request.path,
            body,
            adapter=binding.adapter,
            content_type=request.content_type,
            user=NO_GATEWAY,
            priority=_LAST_OF_ALL,
            patience=queue_timeout,
            timeout=request.timeout,
            keep=keep,
        )
        with contextlib.suppress(NatsError):
            self._gateway.sending.copy(copy)
