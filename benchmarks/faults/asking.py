"""One request as an application makes it: where its connection breaks, it comes back."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from benchmarks.client import Answer, Refused, ask

How = Literal["plain", "resumable", "key"]
"""Sent as it is, with `X-Resumable: true`, or with an `Idempotency-Key`."""

State = Literal["completed", "failed", "lost", "unaccounted"]
"""`lost`: with the gateway it was connected to, and nothing to come back with."""

PAUSE = 0.3  # seconds before an application tries the other gateway
TRIES = 8  # comings back after which it gives up
_WAITING = 1.0  # seconds that an application waits after a 503, as Retry-After says


class Asked(NamedTuple):
    """A request: which prompt, how, and of which gateway (0 or 1)."""

    number: int
    body: bytes
    stream: bool
    how: How
    gateway: int
    key: str


class Outcome:
    """What came of it. Times are those of `time.perf_counter`."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.state: State = "unaccounted"
        self.reason = ""
        self.text = ""
        self.finish = ""
        self.ids: list[str] = []
        self.resumed = 0
        self.numbers: list[int] = []
        self.began = self.ended = 0.0
        self.news = self.pause = 0.0
        self.broken: list[tuple[int, float]] = []
        self.hung: list[tuple[int, float]] = []
        self.progress = 0

    def end(self, state: State, reason: str = "") -> None:
        """It has ended so."""
        self.state, self.reason = state, reason


class Clients:
    """Clients of two gateways. `silence`: seconds without news after which they leave one."""

    def __init__(self, gateways: Sequence[str], path: str, silence: float) -> None:
        self._gateways = gateways
        self._path = path
        self._silence = silence

    async def make(self, outcome: Outcome) -> None:
        """Make a request and come back as often as need be; the outcome tells how it went."""
        outcome.began = time.perf_counter()
        try:
            await self._make(outcome)
        finally:
            outcome.ended = time.perf_counter()

    async def _make(self, outcome: Outcome) -> None:
        asked = outcome.asked
        gateway, again = asked.gateway, False
        for _ in range(TRIES):
            try:
                answer = await self._once(outcome, gateway, again)
            except Refused:
                # Nothing was sent, so the other gateway can be asked just as well.
                gateway = 1 - gateway
                await asyncio.sleep(PAUSE)
                continue
            if answer.whole and again and answer.status == 503:
                outcome.reason = _message(bytes(answer.body))
                gateway = 1 - gateway
                await asyncio.sleep(_WAITING)
                continue
            if answer.whole:
                self._judge(outcome, answer)
                return
            hangs = time.perf_counter() - answer.news >= self._silence
            (outcome.hung if hangs else outcome.broken).append((gateway, time.perf_counter()))
            if asked.stream and answer.status == 200:
                self._read(outcome, answer)
            if not self._can_come_back(outcome):
                what = f"no news for {self._silence:.0f} s" if hangs else "connection lost"
                outcome.end("lost", f"{what} {_moment(answer)}")
                return
            again = True
            outcome.resumed += 1
            gateway = 1 - gateway
            await asyncio.sleep(PAUSE)
        outcome.end(
            "failed", (f"gave up after {TRIES} tries: {outcome.reason or 'there is no listener'}")
        )

    def _can_come_back(self, outcome: Outcome) -> bool:
        how = outcome.asked.how
        return how == "key" or (how == "resumable" and bool(outcome.ids))

    async def _once(self, outcome: Outcome, gateway: int, again: bool) -> Answer:
        asked = outcome.asked
        url = self._gateways[gateway] + self._path
        body: bytes | None = asked.body
        headers: dict[str, str] = {}
        if asked.how == "resumable":
            headers["X-Resumable"] = "true"
        if asked.how == "key":
            headers["Idempotency-Key"] = asked.key
        if again and asked.stream and outcome.ids:
            url, body = f"{self._gateways[gateway]}/v1/streams/{outcome.ids[0]}", None
            headers = {"Last-Event-ID": str(outcome.numbers[-1])} if outcome.numbers else {}
        elif again:
            outcome.text, outcome.numbers = "", []
        before = outcome.progress

        def on_body(answer: Answer) -> None:
            if not answer.events:
                return  # no stream, or an error in its place
            outcome.progress = before + answer.events
            outcome.pause = max(outcome.pause, answer.news - (outcome.news or answer.news))
            outcome.news = answer.news

        answer = await ask(url, body, headers, on_body=on_body, silence=self._silence)
        if answer.id and answer.id not in outcome.ids:
            outcome.ids.append(answer.id)
        return answer

    def _judge(self, outcome: Outcome, answer: Answer) -> None:
        body = bytes(answer.body)
        if answer.status != 200:
            outcome.end("failed", f"{answer.status}: {_message(body)}")
        elif not outcome.asked.stream:
            choice = json.loads(body)["choices"][0]
            outcome.text = choice["message"]["content"]
            outcome.finish = choice["finish_reason"]
            outcome.end("completed")
        else:
            error, done = self._read(outcome, answer)
            if error:
                outcome.end("failed", f"event: {error}")
            elif done:
                outcome.end("completed")
            else:
                outcome.end("unaccounted", "the stream ended without [DONE] and without an error")

    def _read(self, outcome: Outcome, answer: Answer) -> tuple[str, bool]:
        """Read the events of a stream as far as they are whole: (error, whether it was done)."""
        *events, _ = bytes(answer.body).split(b"\n\n")
        error, done = "", False
        for event in events:
            data = b""
            for line in event.split(b"\n"):
                if line.startswith(b"id: "):
                    outcome.numbers.append(int(line[4:]))
                elif line.startswith(b"data: "):
                    data = line[6:]
            if data == b"[DONE]":
                done = True
            elif data:
                told = json.loads(data)
                if "error" in told:
                    error = _message(data)
                    continue
                for choice in told["choices"]:
                    outcome.text += choice["delta"].get("content") or ""
                    outcome.finish = choice["finish_reason"] or outcome.finish
        return error, done


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _moment(answer: Answer) -> str:
    if not answer.status:
        return "before the answer began"
    return "in the middle of it"
