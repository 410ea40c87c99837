"""The form of a measurement: what is measured, with which figures, and how it came out."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .ways import Serving, Task


class Figure(NamedTuple):
    """One of a work's figures, and its unit as it stands in the table.

    `compared`: each way's is divided by that of others of the same round.
    """

    name: str
    unit: str
    compared: bool = False


class Measured(NamedTuple):
    """One measurement: its figures by name, failed requests, and CPU seconds by role.

    `requests` and `tokens` are those of the good answers, which the CPU time is shared among; an
    embedding has no tokens. `counts`: what perf has counted, by role and event.
    """

    figures: dict[str, float]
    failed: int
    requests: int
    tokens: int
    cpu: dict[str, float]
    counts: Mapping[str, Mapping[str, int]] = {}


class Work(NamedTuple):
    """One kind of work over so many connections, and how it is measured for so many seconds.

    `engine`: how the engine behaves, in words. `task`: the engine that it needs.
    """

    name: str
    title: str
    engine: str
    task: Task
    connections: int
    figures: tuple[Figure, ...]
    measure: Callable[[Serving, float, Path], Measured]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which that part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
