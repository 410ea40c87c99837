"""The form of a measurement: what is measured, with which figures, and how it came out."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .ways import Serving, Task


class Figure(NamedTuple):
    """One of a work's figures, and its unit as it stands in the table."""

    name: str
    unit: str


class Measured(NamedTuple):
    """One measurement: its figures by name, failed requests, and CPU seconds by role.

    `units` is what the figures per request or per token are over.
    """

    figures: dict[str, float]
    failed: int
    units: int
    cpu: dict[str, float]


class Work(NamedTuple):
    """One kind of work, the engine it needs, and how it is measured for so many seconds."""

    name: str
    title: str
    task: Task
    figures: tuple[Figure, ...]
    measure: Callable[[Serving, float, Path], Measured]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which that part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
