"""Sends the lines of batches as requests: one worker in each gateway, beside its HTTP server.

Any gateway takes any line. A line is done once its result is stored; until then it is taken again
by another gateway when this one dies. Its request takes spare capacity only.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import aclosing

import msgspec
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from nebula.actors.actor import cancel
from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.budget import Hold
from nebula.events import subjects
from nebula.events.batch import Batch
from nebula.events.reading import UNREADABLE, decoded
from nebula.events.usage import UsageRecord
from nebula.http.batches.line_requests import AGAIN, Later, LineRequests
from nebula.openai.batch_lines import answered, body_of, unanswered
from nebula.store import batch_queue, work_queue
from nebula.store.batch_queue import BatchQueue, LineResult, Outcome, QueuedLine
from nebula.store.connection import Unavailable
from nebula.store.files import FileFacts, Files, StoredFile

log = logging.getLogger(__name__)

AT_A_TIME = 64
"""Number of lines that one gateway has under way at a time."""

LONGEST_PAUSE = 30.0

_CHUNKS = 32
"""Parts of inputs that are kept in memory: many short lines are in one part."""

_PARTS_OWNER = "nebula"
"""The owner of files that hold a large result: no client has it."""


class LineWorker:
    """The worker of one gateway."""

    def __init__(
        self, gateway: Gateway, files: Files, queue: BatchQueue, requests: LineRequests
    ) -> None:
        self._gateway = gateway
        self._files = files
        self._queue = queue
        self._requests = requests
        self._running: dict[str, tuple[Msg, asyncio.Task[None]]] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._chunks: OrderedDict[tuple[str, int], tuple[int, bytes]] = OrderedDict()

    async def run(self) -> None:
        """Take lines and send them, until cancelled; then those under way are given back."""
        signs = asyncio.create_task(self._signs(), name="signs of life of lines")
        leaving = asyncio.create_task(self._drop_ended(), name="drop lines of ended batches")
        try:
            await work_queue.take_again(self._take, "lines")
        finally:
            await cancel([signs, leaving, *(task for _, task in self._running.values())])

    async def _take(self) -> None:
        """Take lines until the stream is lost. Raise Unavailable."""
        gateway = self._gateway
        await gateway.projection.until(
            lambda state: any(not batch.over for batch in state.batches.values())
        )
        if not gateway.able:
            raise Unavailable("the gateway is not ready")
        await self._queue.open()
        works = work_queue.works(
            gateway.connection,
            batch_queue.LINES,
            subjects.BATCH_LINES,
            batch_queue.WORKERS,
            self._free,
        )
        async with aclosing(works):
            async for message in works:
                self._begin(message)

    async def _free(self) -> int:
        await self._room.wait()
        return AT_A_TIME - len(self._running)

    def _begin(self, message: Msg) -> None:
        subject = message.subject
        if subject in self._running:
            return  # this gateway has it still, and was too busy to say so
        task = asyncio.create_task(self._work(message), name=f"send {subject}")
        self._running[subject] = (message, task)
        task.add_done_callback(lambda _: self._forget(subject))
        if len(self._running) >= AT_A_TIME:
            self._room.clear()

    def _forget(self, subject: str) -> None:
        self._running.pop(subject, None)
        self._room.set()

    async def _signs(self) -> None:
        """Note from time to time that lines are under way."""
        while True:
            await asyncio.sleep(work_queue.SIGN)
            for message, _ in tuple(self._running.values()):
                await work_queue.going_on(message)

    async def _drop_ended(self) -> None:
        """End the requests of batches that are cancelled or over."""
        projection = self._gateway.projection
        while True:
            await projection.changed()
            for subject, (_, task) in tuple(self._running.items()):
                batch = projection.state.batches.get(subject.split(".")[3])
                if batch is not None and batch.ending:
                    task.cancel()

    async def _work(self, message: Msg) -> None:
        try:
            await self._answer(message)
            await work_queue.done(message)
        except asyncio.CancelledError:
            await work_queue.later(message)  # whichever gateway takes it next looks at its batch
            raise
        except Later as error:
            await work_queue.later(message, _pause(message, float(error.args[0])))
        except Unavailable as error:
            log.debug("%s is left: %s", message.subject, error)
            await work_queue.later(message, AGAIN)
        except Exception:
            log.exception("%s is left", message.subject)
            await work_queue.later(message, LONGEST_PAUSE)

    async def _answer(self, message: Msg) -> None:
        """Store the result of a line, unless it is not wanted. Raise Later, Unavailable."""
        _, _, _, identity, said = message.subject.split(".")
        line = decoded(message.data, QueuedLine)
        if line is None or not said.isdigit():
            return
        projection = self._gateway.projection
        if not await projection.reached(line.after, timeout=5):
            raise Later(AGAIN)
        number = int(said)
        result = await self._queue.result(identity, number)
        if result is None:
            batch = projection.state.batches.get(identity)
            if batch is None or batch.ending or time.time_ns() >= batch.expires_ns:
                return
            await self._store(batch, number, await self._result(batch, number, line))
            result = await self._queue.result(identity, number)  # which may be another gateway's
        record = decoded(result.usage.encode(), UsageRecord) if result is not None else None
        if record is not None:
            await self._gateway.usage.record_now(record)

    async def _store(self, batch: Batch, number: int, result: LineResult) -> None:
        try:
            await self._queue.put_result(batch.id, number, result)
        except MaxPayloadError:
            upload = await self._files.upload()
            await upload.write(result.text)
            now = int(time.time())
            facts = FileFacts(
                owner=_PARTS_OWNER,
                filename=f"{batch.id}_{number}",
                purpose="batch_result",
                created=now,
                expires=now + batch_queue.LONGEST,
            )
            stored = await upload.finish(facts)
            large = LineResult(result.outcome, file=stored.id, usage=result.usage)
            await self._queue.put_result(batch.id, number, large)

    async def _result(self, batch: Batch, number: int, line: QueuedLine) -> LineResult:
        """Return what comes of a line. Raise Later, Unavailable."""
        hold = Hold(self._gateway.bodies)
        if not hold.grow(line.length):
            raise Later(AGAIN)
        try:
            text = await self._text(batch, line)
            if text is None:
                why = "the input file does not exist any more"
                told = unanswered(batch.id, number, line.custom_id, "input_file_not_found", why)
                return LineResult("failed", told)
            try:
                answer = await self._requests.answer(batch, number, body_of(text))
            except UNREADABLE as error:
                told = unanswered(batch.id, number, line.custom_id, "invalid_line", str(error))
                return LineResult("failed", told)
        finally:
            hold.release()
        outcome: Outcome = "completed" if answer.status < 400 else "failed"
        told = answered(
            batch.id, number, line.custom_id, answer.request, answer.status, answer.body
        )
        record = None
        if answer.of_engine is not None:
            recorder = self._gateway.usage
            record = recorder.record(answer.of_engine, f"{batch.id}_{number}", batch.id)
        usage = msgspec.json.encode(record).decode() if record is not None else ""
        return LineResult(outcome, told, usage=usage)

    async def _text(self, batch: Batch, line: QueuedLine) -> bytes | None:
        """Return a line of an input; None if that is gone. Raise Unavailable."""
        file = await self._files.find(batch.request.input)
        if file is None:
            return None
        seq, chunk = await self._chunk(file, line.chunk)
        found = bytearray(chunk[line.offset : line.offset + line.length])
        while len(found) < line.length:
            seq, chunk = await self._chunk(file, seq + 1)
            found += chunk[: line.length - len(found)]
        return bytes(found)

    async def _chunk(self, file: StoredFile, seq: int) -> tuple[int, bytes]:
        key = (file.nuid, seq)
        known = self._chunks.get(key)
        if known is None:
            known = self._chunks[key] = await self._files.chunk(file, seq)
        self._chunks.move_to_end(key)
        while len(self._chunks) > _CHUNKS:
            self._chunks.popitem(last=False)
        return known


def _pause(message: Msg, seconds: float) -> float:
    """Return the seconds until a line is tried again: the more, the more often it was tried."""
    tried = message.metadata.num_delivered or 1
    return min(LONGEST_PAUSE, max(seconds, AGAIN * min(tried, 15) / 3))
