"""Finds in the last output of an engine why it failed. Pure.

vLLM gives the reason in a traceback of the process that failed first; its parent processes fail
afterwards and only report that. The forms of the texts are those of vLLM 0.32.
"""

import re
import signal
from collections import deque
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from nebula.events.model_status import FROM_OUTSIDE
from nebula.events.plain_text import plain
from nebula.events.showing import shown_text

MOST_WORDS = 16 * 1024
"""Bytes of an engine's last output in an event, as JSON."""

LONGEST_LINE = 500
"""Characters of a line of it."""

LAST_SECONDS = 30.0
"""Seconds before the end of an engine in which its output may give the reason: older output was
about other things, such as a refused request."""


OUT_OF_MEMORY = "the kernel ended a process of this machine then, because memory had run out"

_REASON = re.compile(
    r"(?:^|[\s)])((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt): .+)"
)
_USAGE = re.compile(r"(error: .+)$")
_PREFIX = re.compile(r"^\([A-Za-z_0-9]+ pid=\d+\)\s*(?:ERROR\s+[\d-]+ [\d:]+ \[[^\]]*\]\s*)?")
_INFORMATION = re.compile(r"[\W\dTZ]*(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING)\b")
"""A line of a log below the level of an error, whatever precedes the level's name."""
_LEVEL = re.compile(r'"level(?:name)?"\s*:\s*"(?:trace|debug|info|warn|warning)"', re.IGNORECASE)
_PASSING = re.compile(r"\d%\||^\S+:\d+: \w*Warning: |^nebula: an engine starts here")
"""A progress bar, a warning of Python, or the mark where an engine's output begins."""
_WRAPPER = (
    "Engine core initialization failed",
    "EngineCore failed to start",
    "Executor failed",
    "EngineDeadError",
)

_REMEDIES = (
    (
        re.compile(r"torchvision|torchaudio|torchcodec"),
        "it was built for another PyTorch than the one here; an engine for text does without: "
        "pip uninstall torchvision torchaudio torchcodec",
    ),
)
"""Remedies for known reasons why engines can't start, by a pattern of the reason."""


class Death(Struct, frozen=True):
    """How an engine's process ended, as its node saw it.

    `code`: its exit code, negative for a signal; None if unknown. `adopted`: an earlier process of
    the node has started it. `killings`: how many processes of this machine the kernel's memory
    killer has ended in its last seconds; None if unknown.
    """

    code: int | None = None
    adopted: bool = False
    killings: int | None = None


class Sight(Struct, frozen=True):
    """What a node saw of an engine at one moment: the size of its output, and `Death.killings`."""

    at: float
    position: int
    killings: int | None


class Recent:
    """What a node saw of an engine's last seconds, so that older output is not taken for the last.

    While it starts, all of its output is recent: it has not had a request yet.
    """

    def __init__(self, first: Sight) -> None:
        self._sights = deque((first,))

    def note(self, sight: Sight) -> None:
        """Note what is seen of a serving engine."""
        self._sights.append(sight)
        while len(self._sights) > 1 and self._sights[1].at <= sight.at - LAST_SECONDS:
            self._sights.popleft()

    def before(self, now: float) -> Sight:
        """Return the last sight before the last seconds; the first sight if there is none."""
        old = [sight for sight in self._sights if sight.at <= now - LAST_SECONDS]
        return old[-1] if old else self._sights[0]


def death_reason(death: Death, words: str) -> str:
    """Return how a process ended, with its own `words` ("" if it gave none)."""
    killed = f"; {OUT_OF_MEMORY}" if death.killings else ""
    if death.adopted:
        how = "its process ended (exit code unknown: it was started before this node process)"
        return how + (f"; its last words: {words}" if words else "") + killed
    code = death.code
    if code is None:
        return words or "it ended without saying why"
    number = -code if code < 0 else code - 128
    if number in FROM_OUTSIDE:
        how = "" if code < 0 else f"exit code {code}: "
        how += f"killed by {_signal(number)}"
        if number != signal.SIGKILL:
            return f"{how}, which neither it nor Nebula sent"
        return how + _killer(death.killings)
    if code < 0:
        own = f"crashed with {_signal(number)}"
        return own + (f"; its last words: {words}" if words else "")
    return (words or f"it ended with exit code {code} without saying why") + killed


def _killer(killings: int | None) -> str:
    if killings is None:
        return ", sent by a person or program, or by the kernel if memory had run out"
    if not killings:
        return ", sent by a person or program: memory had not run out"
    return f": {OUT_OF_MEMORY}"


def _signal(number: int) -> str:
    """Return a signal as people know it: `signal 9 (SIGKILL)`."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def last_words(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the last lines that fit into an event, with long lines shortened."""
    kept: list[str] = []
    room = MOST_WORDS
    for line in reversed(lines):
        line = shown_text(line)
        short = line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"
        room -= len(msgspec.json.encode(short)) + 1
        if room < 0:
            break
        kept.append(short)
    return tuple(reversed(kept))


def failure_reason(lines: Sequence[str]) -> str:
    """Return an engine's own reason from its last output; "" if there is none.

    That is the last exception in the text, unless it only reports that another process of the
    engine failed: then the exception before it. Information and warnings are not reasons.
    """
    fallback = ""
    lines = [shown_text(line) for line in lines]
    bare = [_PREFIX.sub("", plain(line)) for line in lines]
    for index in reversed(range(len(bare))):
        if _no_reason(bare[index]):
            continue
        match = _REASON.search(bare[index]) or _USAGE.search(bare[index])
        if match is None:
            continue
        reason = match[1]
        if "validation error" in reason and index + 1 < len(bare):
            reason += ": " + bare[index + 1].strip()  # pydantic says what is wrong on the next line
        if not any(text in reason for text in _WRAPPER):
            return _with_remedy(reason[:1000])
        fallback = fallback or reason[:1000]
    if fallback:
        return fallback
    said = [line for line in bare if line.strip() and line[0] != " " and not _no_reason(line)]
    return said[-1].strip()[:1000] if said else ""


def _with_remedy(reason: str) -> str:
    """Add the remedy to a reason, if one is known."""
    return next((f"{reason} ({text})" for look, text in _REMEDIES if look.search(reason)), reason)


def _no_reason(line: str) -> bool:
    return bool(_INFORMATION.match(line) or _LEVEL.search(line) or _PASSING.search(line))
