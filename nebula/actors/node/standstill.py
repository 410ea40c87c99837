"""Decides when an engine counts as stalled, and when its node ends it. Pure.

An engine's own report of its progress counts. If its process lives but its server is silent, that
silence counts. Both are measured in time in which the node itself ran.
"""

from typing import TypeAlias

from msgspec import Struct

from nebula.actors.engine.progress import EngineProgress
from nebula.events.vocabulary import EngineResumed, EngineStalled

LOOK = 2.0
"""Seconds between two looks at an engine."""

LONGEST_STEP = 10.0
"""Longest time between two looks that counts, in seconds; beyond it the node was suspended."""

TOLD = 30.0
"""Seconds without progress after which it is reported; a third of the limit if that is less."""

REST = 120.0
"""Seconds between the report of new progress and the next report of a stall."""


class Ended(Struct, frozen=True):
    """The engine is to be restarted, and why."""

    reason: str


Verdict: TypeAlias = EngineStalled | EngineResumed | Ended | None


class Standstill:
    """The progress of one ready engine, as its node sees it; times are seconds of one clock.

    `limit`: seconds without progress after which an engine is ended; 0 for never.
    """

    def __init__(self, limit: float, now: float, *, told: bool = False) -> None:
        """Begin to watch; `told`: the log has the engine as stalled."""
        self._limit = limit
        self._looked = now
        self._silent = 0.0
        self._heard = 0.0
        self._longest = 0.0
        self._told = told
        self._rests_until = now

    def heard(self, progress: EngineProgress, now: float) -> Verdict:
        """Return the verdict on an engine's own report."""
        self._looked, self._silent, self._heard = now, 0.0, progress.silence
        return self._judge(
            progress.silence, progress.requests, progress.allowance, _words(progress), now
        )

    def missed(self, now: float) -> Verdict:
        """Return the verdict on an engine whose process lives and whose server does not answer."""
        self._silent += min(max(0.0, now - self._looked), LONGEST_STEP)
        self._looked = now
        silence = self._heard + self._silent  # a silent server is not progress
        return self._judge(silence, 0, 0.0, "its server does not answer", now)

    def untold(self, now: float) -> None:
        """Note that an engine's server answers without reporting progress: an older version."""
        self._looked, self._silent, self._heard = now, 0.0, 0.0

    def _judge(
        self, silence: float, requests: int, allowance: float, words: str, now: float
    ) -> Verdict:
        limit = self._limit + allowance if self._limit else 0.0
        if limit and silence >= limit:
            with_ = f" with {requests} request{'s' * (requests != 1)}" if requests else ""
            return Ended(f"it made no progress for {silence:.0f} s{with_}: {words}")
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
        f"a probe of one token was not answered for {progress.probed:.0f} s"
        if progress.probed
        else "it takes no probe"
    )
    return f"no token, no step, {probe}"
