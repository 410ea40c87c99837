"""The work on one batch: check its input, queue its lines, count results, write its files.

Every step can be repeated, by this gateway or by another one.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from nebula.actors.actor import cancel
from nebula.actors.projection import Projection
from nebula.events import subjects
from nebula.events.batch import Batch
from nebula.events.batch_facts import (
    BatchCancelled,
    BatchFinished,
    BatchProgressed,
    BatchStarted,
    Problem,
)
from nebula.events.vocabulary import BatchEvent
from nebula.openai.batch_lines import InputCheck, LineCutter, TooLong, unanswered
from nebula.store.batch_queue import BatchQueue, LineResult, Outcome, QueuedLine
from nebula.store.connection import Unavailable
from nebula.store.files import FileFacts, Files, Upload
from nebula.store.log import Conflict, Guard, TooLarge

ROLL_UP = 5.0
"""Seconds between two events about a batch's progress, at least."""

QUIET = 10.0
"""Seconds without a result after which it is looked whether the missing lines are still queued."""

OUTPUT = "batch_output"
"""The purpose of files with results."""

_SOON = 0.02
"""Seconds until it is looked again whether all lines have left their queue."""

_AT_ONCE = 64
"""Messages that are written or read side by side."""


class Over(Exception):
    """There is nothing more to do for a batch, or another gateway keeps it."""


class BatchRun:
    """One run of this work, until the batch is over."""

    def __init__(self, projection: Projection, files: Files, queue: BatchQueue, batch: str) -> None:
        self._projection = projection
        self._files = files
        self._queue = queue
        self._id = batch
        self._done: dict[int, Outcome] = {}
        self._known = asyncio.Event()
        self._news = asyncio.Event()
        self._rolled_up = self._looked = asyncio.get_running_loop().time()

    @property
    def _batch(self) -> Batch:
        """The batch as it is now. Raise Over."""
        batch = self._projection.state.batches.get(self._id)
        if batch is None or batch.over:
            raise Over
        return batch

    async def run(self) -> None:
        """Do what is left to do. Raise Unavailable, Over."""
        await self._queue.open()
        check = await self._checked()
        if check.problems:
            await self._append(BatchFinished("failed", problems=tuple(check.problems)))
            await self._queue.clear(self._id)
            return
        if not self._batch.started_ns and self._batch.phase != "cancelling":
            await self._append(BatchStarted(len(check.ids)))
        following = asyncio.create_task(self._follow(), name=f"results of {self._id}")
        try:
            await self._first(self._known.wait(), following)
            if not await self._ends(check):
                await self._enqueue(check)
            while not await self._ends(check):
                await self._roll_up()
                await self._queue_again(check)
                self._news.clear()
                await self._first(self._pause(), following)
            if len(self._done) < len(check.ids):
                await self._give_up(check)
                while len(self._done) < len(check.ids):
                    self._news.clear()
                    await self._first(self._pause(), following)
        finally:
            await cancel([following])
        await self._finish(check)

    async def _first(
        self, step: Coroutine[Any, Any, object], following: asyncio.Task[None]
    ) -> None:
        """Await a step, unless the results can't be followed any more: raise Unavailable then."""
        awaited = asyncio.create_task(step)
        try:
            await asyncio.wait((awaited, following), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            await cancel([awaited])

    async def _pause(self) -> None:
        """Wait for a result or for another second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._news.wait()

    async def _follow(self) -> None:
        async with aclosing(self._queue.outcomes(self._id)) as outcomes:
            async for found in outcomes:
                if found is None:
                    self._known.set()
                else:
                    self._done.setdefault(*found)
                    self._news.set()

    async def _ends(self, check: InputCheck) -> bool:
        batch = self._batch
        expired = time.time_ns() >= batch.expires_ns
        return len(self._done) >= len(check.ids) or batch.ending or expired

    async def _checked(self) -> InputCheck:
        """Return the check of the input. Raise Unavailable."""
        request = self._batch.request
        check = InputCheck(request.endpoint)
        file = await self._files.find(request.input)
        if file is None:
            said = f"the input file {request.input} does not exist any more"
            check.problems.append(Problem("input_file_not_found", said, None, "input_file_id"))
            return check
        cutter = LineCutter()
        try:
            async with aclosing(self._files.content(file)) as content:
                async for seq, chunk in content:
                    for line in cutter.feed(seq, chunk):
                        check.take(line)
                    if check.enough:
                        break
                else:
                    for line in cutter.end():
                        check.take(line)
        except TooLong as error:
            check.too_long(int(error.args[0]))
        check.finish()
        return check

    async def _enqueue(self, check: InputCheck) -> None:
        after = self._projection.state.seq

        async def put(number: int) -> None:
            place = check.places[number]
            line = QueuedLine(check.ids[number], place.chunk, place.offset, place.length, after)
            await self._queue.put_line(self._id, number, line)

        missing = [number for number in check.ids if number not in self._done]
        async for part in self._parts(missing):
            await asyncio.gather(*(put(number) for number in part))

    async def _queue_again(self, check: InputCheck) -> None:
        """Queue the missing lines again if none is queued: their stream was emptied or deleted."""
        now = asyncio.get_running_loop().time()
        if self._news.is_set():
            self._looked = now
        if now - self._looked < QUIET:
            return
        self._looked = now
        if not await self._queue.waits(self._id):
            await self._queue.open()
            await self._enqueue(check)

    async def _parts(self, numbers: list[int]) -> AsyncIterator[list[int]]:
        """Yield the numbers part by part, until the batch ends. Raise Over."""
        for at in range(0, len(numbers), _AT_ONCE):
            if self._batch.ending:
                return
            yield numbers[at : at + _AT_ONCE]

    async def _give_up(self, check: InputCheck) -> None:
        """Let every line have a result that has none: it was cancelled, or its time is over."""
        cancelled = self._batch.ending
        code = "batch_cancelled" if cancelled else "batch_expired"
        why = (
            "the batch was cancelled"
            if cancelled
            else "the completion window was over before this request was answered"
        )
        await self._queue.drop_lines(self._id)

        async def put(number: int) -> None:
            text = unanswered(self._id, number, check.ids[number], code, why)
            await self._queue.put_result(self._id, number, LineResult("none", text))

        missing = [number for number in check.ids if number not in self._done]
        for at in range(0, len(missing), _AT_ONCE):
            await asyncio.gather(*(put(number) for number in missing[at : at + _AT_ONCE]))

    async def _roll_up(self) -> None:
        batch = self._batch
        completed, failed = self._counts()
        if (completed, failed) == (batch.completed, batch.failed):
            return
        now = asyncio.get_running_loop().time()
        if now - self._rolled_up >= ROLL_UP:
            self._rolled_up = now
            await self._append(BatchProgressed(completed, failed))

    def _counts(self) -> tuple[int, int]:
        found = list(self._done.values())
        return found.count("completed"), found.count("failed")

    async def _finish(self, check: InputCheck) -> None:
        """Write the files, tell the log, and remove what is not needed any more."""
        good, bad = self._ids()
        output, errors = await self._write(check, good, bad)
        await self._settled()
        completed, failed = self._counts()
        given_up = "none" in self._done.values()
        if self._batch.ending:
            await self._append(BatchCancelled(completed, failed, output, errors))
        else:
            outcome = BatchFinished(
                "expired" if given_up else "completed", completed, failed, output, errors
            )
            await self._append(outcome)
        await self._queue.clear(self._id)

    async def _settled(self) -> None:
        """Wait until what each result has used is recorded: then its line leaves the queue.

        Another gateway does that for one that has died.
        """
        pause = _SOON
        while not self._batch.ending and await self._queue.waits(self._id):
            await asyncio.sleep(pause)
            pause = min(1.0, 2 * pause)

    def _ids(self) -> tuple[str, str]:
        """Return the ids of the output and of the errors: the same whichever gateway writes."""
        made = (f"{self._id}/{each}".encode() for each in ("output", "errors"))
        first, second = (hashlib.blake2b(each, digest_size=16).hexdigest() for each in made)
        return f"file-{first}", f"file-{second}"

    async def _write(self, check: InputCheck, good: str, bad: str) -> tuple[str, str]:
        """Write output and errors in order of lines; return their ids, "" for one without lines."""
        limit = 2**62
        output = await self._files.upload(good, limit=limit)
        errors = await self._files.upload(bad, limit=limit)
        try:
            numbers = sorted(check.ids)
            for at in range(0, len(numbers), _AT_ONCE):
                part = numbers[at : at + _AT_ONCE]
                results = await asyncio.gather(
                    *(self._queue.result(self._id, number) for number in part)
                )
                for result in results:
                    if result is None:
                        raise Unavailable(f"a result of batch {self._id} is gone")
                    into = output if result.outcome == "completed" else errors
                    await self._copy(result, into)
            return (
                await self._finished(output, "output"),
                await self._finished(errors, "errors"),
            )
        except BaseException:
            await output.abandon()
            await errors.abandon()
            raise

    async def _copy(self, result: LineResult, into: Upload) -> None:
        if not result.file:
            await into.write(result.text)
            return
        file = await self._files.find(result.file)
        if file is None:
            raise Unavailable(f"a result of batch {self._id} is gone")
        async with aclosing(self._files.content(file)) as content:
            async for _, chunk in content:
                await into.write(chunk)

    async def _finished(self, upload: Upload, what: str) -> str:
        if not upload.size:
            return ""
        request, now = self._batch.request, int(time.time())
        facts = FileFacts(
            owner=request.owner,
            filename=f"{self._id}_{what}.jsonl",
            purpose=OUTPUT,
            created=now,
            expires=now + request.keep,
        )
        return (await upload.finish(facts)).id

    async def _append(self, event: BatchEvent) -> None:
        """Append an event unless the batch has ended. Raise Over, Unavailable."""
        projection = self._projection
        while True:
            state = projection.state
            _ = self._batch
            guard = Guard(subjects.BATCH_EVENTS, state.batches_seq)
            try:
                seq = await projection.log.append(self._id, event, guard=guard)
            except Conflict:
                await projection.reached(state.seq + 1, timeout=10)
                continue
            except TooLarge as error:
                raise Unavailable(str(error)) from error
            await projection.reached(seq, timeout=10)
            return
