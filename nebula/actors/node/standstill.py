"""When a node takes an engine for one that stands still, tells so, and ends it. Pure.

An engine's own word of its progress is believed. One that gives none at all, though its process
lives, is judged by its silence. Both are counted in time in which the node itself ran.
"""

from typing import TypeAlias

from msgspec import Struct

from nebula.actors.engine.progress import EngineProgress
from nebula.events.vocabulary import EngineResumed, EngineStalled

LOOK = 2.0
"""Seconds between two looks at an engine."""

LONGEST_STEP = 10.0
"""Seconds between two looks that count at most; more, and the node itself stood still."""

TOLD = 30.0
"""Seconds without progress after which the log is told; a third of the limit where that is less."""

REST = 120.0
"""Seconds after an engine was told to make progress again until it is told to stand still anew."""


class Ended(Struct, frozen=True):
    """The engine is to be ended and started anew, and why."""

    reason: str


Verdict: TypeAlias = EngineStalled | EngineResumed | Ended | None


class Standstill:
    """What a node knows of one ready engine's progress; times are seconds of one clock.

    `limit`: seconds without progress after which an engine is ended; 0 for never.
    """

    def __init__(self, limit: float, now: float, *, told: bool = False) -> None:
        """Begin to look; `told`: the log has it that the engine stands still."""
        self._limit = limit
        self._looked = now
        self._silent = 0.0
        self._heard = 0.0
        self._longest = 0.0
        self._told = told
        self._rests_until = now

    def heard(self, progress: EngineProgress, now: float) -> Verdict:
        """Judge what an engine tells of itself."""
        self._looked, self._silent, self._heard = now, 0.0, progress.silence
        return self._judge(
            progress.silence, progress.requests, progress.allowance, _words(progress), now
        )

    def missed(self, now: float) -> Verdict:
        """Judge an engine whose process lives and whose server does not answer."""
        self._silent += min(max(0.0, now - self._looked), LONGEST_STEP)
        self._looked = now
        silence = self._heard + self._silent  # that its server is silent too is no progress
        return self._judge(silence, 0, 0.0, "its server does not answer", now)

    def untold(self, now: float) -> None:
        """Take it that an engine's server answers, and knows nothing of progress: an older one."""
        self._looked, self._silent, self._heard = now, 0.0, 0.0

    def _judge(
        self, silence: float, requests: int, allowance: float, words: str, now: float
    ) -> Verdict:
        limit = self._limit + allowance if self._limit else 0.0
        if limit and silence >= limit:
            with_ = f" with {requests} request{'s' * (requests != 1)}" if requests else ""
            return Ended(f"it stood still for {silence:.0f} s{with_}: {words}")
        tell = min(TOLD, self._limit / 3) if self._limit else TOLD
        if self._told:
            self._longest = max(self._longest, silence)
            if silence < tell:
                self._told = False
                self._rests_until = now + REST
                return EngineResumed(round(self._longest, 1))
        elif silence >= tell and now >= self._rests_until:
            self._told, self._longest = True, silence
            ends = round(limit - silence, 1) if limit else None
            return EngineStalled(round(silence, 1), requests, ends, words)
        return None


def _words(progress: EngineProgress) -> str:
    probe = (
        f"a probe of one token has had no answer for {progress.probed:.0f} s"
        if progress.probed
        else "it takes no probe"
    )
    return f"no token, no step, {probe}"
