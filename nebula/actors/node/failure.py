"""Why an engine failed, found among its last words. Pure.

vLLM says why in a traceback of the process that failed; those above it fail after it and say only
that. What the texts look like was read off vLLM 0.32.
"""

import re
from collections.abc import Sequence

import msgspec

MOST_WORDS = 16 * 1024
"""Bytes that an engine's last words take in an event, as JSON."""

LONGEST_LINE = 500
"""Characters of a line of them."""

_REASON = re.compile(
    r"(?:^|[\s)])((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt): .+)"
)
_USAGE = re.compile(r"(error: .+)$")
_PREFIX = re.compile(r"^\([A-Za-z_0-9]+ pid=\d+\)\s*(?:ERROR\s+[\d-]+ [\d:]+ \[[^\]]*\]\s*)?")
_WRAPPER = (
    "Engine core initialization failed",
    "EngineCore failed to start",
    "Executor failed",
    "EngineDeadError",
)


def death_reason(code: int | None, adopted: bool, words: str) -> str:
    """Say how a process ended where its own words, or the last of them, do not say it."""
    if adopted:
        return (
            "the process ended (exit code unknown: an earlier node process started it); "
            f"its last words: {words}"
        )
    if code is not None and code < 0:
        return f"killed by signal {-code}; its last words: {words}"
    return words


def last_words(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the last of some lines that an event has room for, long ones cut."""
    kept: list[str] = []
    room = MOST_WORDS
    for line in reversed(lines):
        short = line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"
        room -= len(msgspec.json.encode(short)) + 1
        if room < 0:
            break
        kept.append(short)
    return tuple(reversed(kept))


def failure_reason(lines: Sequence[str]) -> str:
    """Find an engine's own reason among its last words.

    The last exception in the text, unless it only says that another process of the engine failed:
    then the one before it that says why.
    """
    fallback = ""
    plain = [_PREFIX.sub("", line) for line in lines]
    for index in reversed(range(len(plain))):
        match = _REASON.search(plain[index]) or _USAGE.search(plain[index])
        if match is None:
            continue
        reason = match[1]
        if "validation error" in reason and index + 1 < len(plain):
            reason += (
                ": " + plain[index + 1].strip()
            )  # pydantic says what is wrong on the next line
        if not any(text in reason for text in _WRAPPER):
            return reason[:1000]
        fallback = fallback or reason[:1000]
    if fallback:
        return fallback
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:1000] if said else "it said nothing"
