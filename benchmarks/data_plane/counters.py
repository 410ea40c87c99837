"""What processes did, counted by perf: other work on the machine changes it little or not at all.

Not every machine lets perf count instructions and cycles; context switches it can always count.
"""

import contextlib
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence

from .processes import Failed, family, role

EVENTS = {
    "instructions": "instructions",
    "cycles": "cycles",
    "context-switches": "context switches",
}
"""Events of perf, and their names in the table."""

_PATIENCE = 10.0


@contextlib.contextmanager
def counting(roots: Sequence[int]) -> Iterator[dict[str, dict[str, int]]]:
    """Count what processes and their descendants do within the block, by role and event.

    The counts are there after the block. Raise Failed where there is no perf.
    """
    members: defaultdict[str, list[int]] = defaultdict(list)
    for root in roots:
        for member in family(root):
            members[role(member.cmdline())].append(member.pid)
    counters = {each: _start(pids) for each, pids in members.items()}
    counts: dict[str, dict[str, int]] = {}
    try:
        yield counts
    finally:
        for each, counter in counters.items():
            counter.send_signal(signal.SIGINT)
            _, told = counter.communicate(timeout=_PATIENCE)
            counts[each] = counted(told)


def _start(pids: Sequence[int]) -> subprocess.Popen[str]:
    line = ["perf", "stat", "-x", ",", "-e", ",".join(EVENTS), "-p", ",".join(map(str, pids))]
    try:
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise Failed("there is no perf: apt-get install linux-perf") from error


def counted(text: str) -> dict[str, int]:
    """Return the events that perf could count, of its lines with commas."""
    counts = {}
    for line in text.splitlines():
        value, *fields = line.split(",")
        event = fields[1].partition(":")[0] if len(fields) > 1 else ""
        if event in EVENTS and value.isdigit():
            counts[event] = int(value)
    return counts
