"""What a wave comes to: every request accounted for, every text compared, as a table."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .asking import Outcome
from .waves import Done, Killed

Texts = dict[int, tuple[str, str]]
"""The undisturbed answers by the numbers of their requests: text and finish reason."""

_CAUSE = 3.0  # seconds within which a connection breaks with the gateway that was killed
_ID = re.compile(r"[0-9a-f]{32}")
_ATTEMPT = re.compile(r"request ([0-9a-f]+): attempt (\d+)")

HEADS = (
    "what was done",
    "requests",
    "completed",
    "of those undisturbed",
    "continued by Nebula",
    "resumed by the client",
    "failed",
    "lost with its gateway",
    "unaccounted",
    "same text",
    "duplicates",
    "missing",
    "different",
    "longest pause in a stream, s",
)


class Account(NamedTuple):
    """The figures of a wave, in the order of the table's columns, and the reasons with counts."""

    name: str
    figures: list[int]
    pause: float
    reasons: Counter[str]
    differing: list[Outcome]

    @property
    def accounted(self) -> bool:
        """Whether everything is accounted for."""
        return not self.figures[HEADS.index("unaccounted") - 1]

    @property
    def good(self) -> bool:
        """Whether every text is as it would have been, too."""
        return self.accounted and not self.differing


def texts(done: Done) -> Texts:
    """Take the answers of an undisturbed wave."""
    return {
        outcome.asked.number: (outcome.text, outcome.finish)
        for outcome in done.outcomes
        if outcome.state == "completed"
    }


def attempts(logs: Sequence[str]) -> dict[str, int]:
    """Read in the gateways' logs which requests were sent once more, by their ids."""
    last: dict[str, int] = {}
    for log in logs:
        for identity, attempt in _ATTEMPT.findall(log):
            last[identity] = max(int(attempt), last.get(identity, 0))
    return last


def account(
    done: Done, undisturbed: Texts, again: dict[str, int], *, words: bool = True
) -> Account:
    """Count what became of a wave's requests. `words`: no text has a word twice."""
    reasons: Counter[str] = Counter()
    states: Counter[str] = Counter()
    same: Counter[str] = Counter()
    differing = []
    pauses = [0.0]
    for outcome in done.outcomes:
        state = _state(done, outcome, again)
        states[state] += 1
        kind = f"{outcome.asked.how}, {'stream' if outcome.asked.stream else 'whole'}"
        if outcome.state == "completed":
            found = _compare(outcome, undisturbed.get(outcome.asked.number), words)
            same[found] += 1
            if found != "same":
                differing.append(outcome)
            if state != "undisturbed":
                pauses.append(outcome.pause)
        else:
            reasons[f"{state} ({kind}): {_ID.sub('...', outcome.reason)}"] += 1
        if _gaps(outcome):
            reasons[f"event ids with gaps or repetitions ({kind}), {state}"] += 1
        for gateway, at in outcome.broken:
            if not _died(done, gateway, at):
                reasons[f"connection broken though its gateway lived ({kind}), {state}"] += 1
    whole = sum(states[name] for name in ("undisturbed", "continued", "resumed"))
    figures = [len(done.outcomes), whole, states["undisturbed"], states["continued"]]
    figures += [states["resumed"], states["failed"], states["lost"], states["unaccounted"]]
    figures += [same[name] for name in ("same", "duplicates", "missing", "different")]
    return Account(done.wave.name, figures, max(pauses), reasons, differing)


def _state(done: Done, outcome: Outcome, again: dict[str, int]) -> str:
    if any(not _died(done, *hung) for hung in outcome.hung):
        return "unaccounted"  # it hung at a gateway that could have answered
    if outcome.state == "completed":
        if outcome.resumed:
            return "resumed"
        return "continued" if any(name in again for name in outcome.ids) else "undisturbed"
    if outcome.state == "lost" and not any(
        _died(done, *gone) for gone in (*outcome.broken, *outcome.hung)
    ):
        return "unaccounted"
    return outcome.state


def _died(done: Done, gateway: int, at: float) -> bool:
    """Whether a gateway was dead, cut off or stopped at that time, or a moment before."""
    return any(
        gateway in killed.gateways and killed.at <= at < killed.until + done.wave.silence + _CAUSE
        for killed in done.killed
    )


def _gaps(outcome: Outcome) -> bool:
    """Whether the ids of a stream's events are not 1, 2, 3, ..., as its client has them."""
    return outcome.numbers != list(range(1, len(outcome.numbers) + 1))


def _compare(outcome: Outcome, undisturbed: tuple[str, str] | None, words: bool) -> str:
    if undisturbed is None:
        return "different"
    text, finish = undisturbed
    if outcome.text == text and outcome.finish == finish:
        return "same"
    if not words:
        return "different"
    had, wanted = Counter(outcome.text.split()), Counter(text.split())
    if wanted - had and not had - wanted:
        return "missing"
    return "duplicates" if had - wanted and not (had.keys() - wanted.keys()) else "different"


def total(accounts: Sequence[Account]) -> Account:
    """Add waves up."""
    reasons: Counter[str] = Counter()
    for item in accounts:
        reasons += item.reasons
    figures = [sum(column) for column in zip(*(item.figures for item in accounts), strict=True)]
    differing = [outcome for item in accounts for outcome in item.differing]
    return Account("in all", figures, max(item.pause for item in accounts), reasons, differing)


def table(accounts: Sequence[Account]) -> str:
    """Write the table."""
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    for item in accounts:
        lines.append(_line([item.name, *map(str, item.figures), f"{item.pause:.1f}"]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def told(item: Account) -> str:
    """Write why requests of a wave did not complete."""
    return "\n".join(f"- {count} x {reason}" for reason, count in item.reasons.most_common())


def kills(done: Done) -> str:
    """Write what was done when, and under how many requests."""
    began = min(outcome.began for outcome in done.outcomes)
    seconds = [outcome.ended - outcome.began for outcome in done.outcomes]
    parts = [
        f"{one.what} at {one.at - began:.1f} s{_lasted(one)} under {one.running}"
        for one in done.killed
    ]
    took = (
        f"a request took {statistics.median(seconds):.1f} s in median, {max(seconds):.1f} at most"
    )
    return f"{done.wave.name}: {', '.join(parts) or 'nothing done'}; {took}"


def _lasted(one: Killed) -> str:
    return f" for {one.until - one.at:.0f} s" if one.until - one.at > 1 else ""


def raw(done: Done, item: Account) -> dict[str, object]:
    """Return everything that is known of a wave, for JSON."""
    began = min(outcome.began for outcome in done.outcomes)
    return {
        "wave": done.wave._asdict(),
        "figures": dict(zip(HEADS[1:], [*item.figures, item.pause], strict=True)),
        "reasons": dict(item.reasons),
        "killed": [
            one._asdict() | {"at": one.at - began, "gateways": sorted(one.gateways)}
            for one in done.killed
        ],
        "appends": [append._asdict() for append in done.appends],
        "requests": [_raw(outcome, began) for outcome in done.outcomes],
    }


def _raw(outcome: Outcome, began: float) -> dict[str, object]:
    return {
        "number": outcome.asked.number,
        "ids": outcome.ids,
        "stream": outcome.asked.stream,
        "how": outcome.asked.how,
        "gateway": outcome.asked.gateway,
        "state": outcome.state,
        "reason": outcome.reason,
        "resumed": outcome.resumed,
        "events": outcome.progress,
        "began": outcome.began - began,
        "ended": outcome.ended - began,
        "pause": outcome.pause,
    }
