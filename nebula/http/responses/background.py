"""Makes the responses that no client waits for: one worker in each gateway, beside its HTTP server.

Any gateway may take any of them. What an engine says is stored as it comes; where engine, gateway
or NATS dies meanwhile, the response runs again, here or elsewhere, and goes on where it was.
"""

import asyncio
import contextlib
import logging
import uuid
from contextlib import aclosing

from nats.aio.msg import Msg

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.allowance import Reservation, settle
from nebula.actors.gateway.budget import Hold
from nebula.actors.gateway.delivery import (
    NOT_RECORDED,
    new_id,
)
from nebula.actors.gateway.not_served import NotServed
from nebula.events import subjects
from nebula.events.endpoints import ENDPOINTS
from nebula.events.inference import Request
from nebula.events.reading import last_token
from nebula.events.state import NameBinding
from nebula.events.stored_responses import Asked, Deleted, Ended, read
from nebula.http import outline, quotas
from nebula.http.cache_salt import salt_of
from nebula.http.errors import ApiError
from nebula.http.inference import Limits
from nebula.http.principals import KeyRing
from nebula.http.responses.attempt import Attempt, Overtaken, StoredEnd
from nebula.http.responses.background_answer import AGAIN, Answer, EngineFailed, Later, wait
from nebula.http.responses.turns import keep_turn
from nebula.http.routed import prefix_of, route_of
from nebula.openai.stored_response import StoredResponse, fold
from nebula.store import responses as stream
from nebula.store import work_queue
from nebula.store.connection import Unavailable
from nebula.store.responses import ResponseStore, TooLarge

log = logging.getLogger(__name__)

AT_A_TIME = 64
"""Number of responses that one gateway makes at a time."""

ENGINES = 3
"""Number of engines that may fail one response before it is given up."""

_ENDPOINT = ENDPOINTS["/v1/responses"]


class BackgroundWork:
    """The worker of one gateway."""

    def __init__(
        self, gateway: Gateway, store: ResponseStore, limits: Limits, keys: KeyRing
    ) -> None:
        self._keys = keys
        self._gateway = gateway
        self._store = store
        self._limits = limits
        self._running: dict[str, tuple[Msg, asyncio.Task[None]]] = {}
        self._room = asyncio.Event()
        self._room.set()

    async def run(self) -> None:
        """Take responses and make them, until cancelled; then those under way are given back."""
        signs = asyncio.create_task(self._signs(), name="signs of life of responses")
        try:
            await work_queue.take_again(self._take, "responses")
        finally:
            signs.cancel()
            tasks = [task for _, task in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, signs, return_exceptions=True)

    async def _take(self) -> None:
        """Take responses until the stream is lost. Raise Unavailable."""
        gateway = self._gateway
        if not gateway.able:
            raise Unavailable("the gateway is not ready")
        await self._store.open()
        over = await gateway.connection.client.listen(subjects.OVER, self._on_over)
        try:
            works = work_queue.works(
                gateway.connection,
                stream.STREAM,
                subjects.BACKGROUND,
                stream.QUEUE,
                self._free,
            )
            async with aclosing(works):
                async for message in works:
                    self._begin(message)
        finally:
            with contextlib.suppress(Exception):
                await over.unsubscribe()

    async def _free(self) -> int:
        await self._room.wait()
        return AT_A_TIME - len(self._running)

    def _begin(self, message: Msg) -> None:
        identity = last_token(message.subject.encode())
        if identity in self._running:
            return  # this gateway has it still, and was too busy to say so
        task = asyncio.create_task(self._respond(message), name=f"make {identity}")
        self._running[identity] = (message, task)
        task.add_done_callback(lambda _: self._forget(identity))
        if len(self._running) >= AT_A_TIME:
            self._room.clear()

    def _forget(self, identity: str) -> None:
        self._running.pop(identity, None)
        self._room.set()

    def _on_over(self, subject: bytes, _: bytes, __: bytes) -> None:
        """Leave a response that was cancelled or deleted."""
        running = self._running.get(last_token(subject))
        if running is not None:
            running[1].cancel()

    async def _signs(self) -> None:
        """Send signs of life for the responses that are being made."""
        while True:
            await asyncio.sleep(work_queue.SIGN)
            for identity, (message, task) in tuple(self._running.items()):
                await work_queue.going_on(message)
                with contextlib.suppress(Unavailable):
                    last, _ = await self._store.last(identity)
                    if isinstance(last, Ended | Deleted):
                        task.cancel()  # the message that says so was missed

    async def _respond(self, message: Msg) -> None:
        asked = read(message.data)
        if not isinstance(asked, Asked):
            await work_queue.done(message)
            return
        try:
            await self._make(asked, first=message.metadata.num_delivered == 1)
            await work_queue.done(message)
        except asyncio.CancelledError:
            await work_queue.later(message)  # the next worker finds out whether it is over
            raise
        except Overtaken:
            log.info("response %s is made elsewhere", asked.head.id)
        except Later as error:
            await work_queue.later(message, float(error.args[0]))
        except Unavailable as error:
            log.warning("response %s is left: %s", asked.head.id, error)
            await work_queue.later(message, AGAIN)
        except Exception:
            log.exception("response %s is left", asked.head.id)
            await work_queue.later(message, AGAIN)

    async def _make(self, asked: Asked, *, first: bool) -> None:
        """Make a response, or what is missing of it. Raise Later, Overtaken, Unavailable.

        `first`: no worker has tried before. Only then the request has the response's id: actors
        remember for a while which requests were cancelled.
        """
        identity = asked.head.id
        entries, last = await self._store.entries(identity)
        found = fold([asked, *entries])
        if found is None:
            return
        if found.ended is None:
            attempt = Attempt(self._store, found, last, f"{self._gateway.id} {uuid.uuid4().hex}")
            try:
                await self._try(asked, attempt, first=first)
            except ApiError as error:
                await attempt.fail(error)
            except EngineFailed as error:
                await self._broke(attempt, found, str(error))
            except TooLarge as error:
                text = f"the response is larger than {error} bytes, the most that can be stored"
                await attempt.fail(ApiError(500, text, kind="server_error", code="too_large"))
            except StoredEnd:
                pass
            entries, _ = await self._store.entries(identity)
            found = fold([asked, *entries])
        if found is not None and found.ended is not None:
            try:
                await keep_turn(self._store, found.ended)
            except TooLarge as error:
                log.warning("response %s does not fit its conversation: %s", identity, error)

    async def _broke(self, attempt: Attempt, found: StoredResponse, why: str) -> None:
        """Note that an engine failed; give the response up after several. Raise Later."""
        log.warning("response %s: %s", found.head.id, why)
        if len(found.broke) + 1 < ENGINES:
            await attempt.broke(why)
            raise Later(0)
        text = f"{ENGINES} engines have failed before it was complete: {why}"
        if any(event["type"].endswith(".delta") for event in attempt.run.events):
            text += "; what has been given of it so far stays, and is not the whole"
        await attempt.fail(ApiError(500, text, kind="server_error", code="engines_failed"))

    async def _try(self, asked: Asked, attempt: Attempt, *, first: bool) -> None:
        """Have an engine make a response. Raise ApiError for what will not change, Later."""
        gateway = self._gateway
        hold = Hold(gateway.bodies)
        if not hold.grow(len(bytes(asked.body))):
            raise Later(AGAIN)
        try:
            request, binding = self._request(asked, first)
            reserved: Reservation = []
            try:
                gateway.admit()
                principal = self._keys.of_owner(asked.head.owner)
                reserved += await quotas.reserved_later(gateway, principal, _ENDPOINT, request)
                idle = self._limits.patience.idle
                delivery = gateway.ask(request, binding, idle=idle, usage=NOT_RECORDED)
            except NotServed as error:
                settle(reserved, None)
                raise wait(asked, str(error), error.retry_after) from error
            delivery.reserved = reserved
            try:
                await Answer(asked, delivery, attempt).run()
            finally:
                gateway.leave(delivery)
            # What breaks off is made again: a response is used once, when it is whole.
            record = gateway.usage.record(delivery.flight.answer, asked.head.id)
            if record is not None and not record.cut:
                gateway.usage.add(record, alone=True)
        finally:
            hold.release()

    def _request(self, asked: Asked, first: bool) -> tuple[Request, NameBinding]:
        """Return the request to an engine. Raise ApiError, Later."""
        gateway = self._gateway
        body = bytes(asked.body)
        outlined = outline.read(_ENDPOINT, body)
        identity = new_id()
        if not gateway.able:
            raise Later(AGAIN)
        principal = self._keys.of_owner(asked.head.owner)
        salt = salt_of(principal.tenant) if principal.tenant else ""  # the body has it
        user = outlined.user or identity
        route = route_of(gateway, _ENDPOINT, outlined.model, user, may_use=principal.may_use)
        binding = route.binding
        if route.name != outlined.model:
            body = outline.renamed(body, route.name)
        request = Request(
            asked.head.id.removeprefix("resp_") if first else identity,
            gateway.id,
            binding.model,
            _ENDPOINT.path,
            body,
            adapter=binding.adapter,
            user=asked.user,
            priority=asked.priority,
            patience=self._limits.patience.load,
            timeout=asked.timeout,
            prefix=prefix_of(binding, outlined.prompt, salt),
            query=asked.query,
            caller_ids=tuple(dict.fromkeys((*asked.caller_ids, asked.head.id))),
            fields=asked.fields,
        )
        return request, binding
