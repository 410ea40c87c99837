"""What was measured, as a table to read and as JSON to reckon with."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from .figures import Figure, Measured, Work

T = TypeVar("T")


class Row(NamedTuple):
    """One way's measurements of one work, one for each round; None if a round failed."""

    work: Work
    way: str
    rounds: list[Measured | None]
    reasons: list[str]


def table(rows: Sequence[Row], references: Sequence[str]) -> str:
    """Write medians, and ratios to the references of the same round with their spread."""
    heads = ["what", "way", "median", *(f"/ {name}" for name in references), "failed"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        others = {other.way: other for other in rows if other.work is row.work}
        for figure in row.work.figures:
            values = [item.figures[figure.name] for item in row.rounds if item is not None]
            cells = [f"{row.work.title}: {figure.unit}", row.way]
            cells.append(number(statistics.median(values)) if values else "-")
            cells += [_ratio(row, others.get(name), figure) for name in references]
            lines.append(_line([*cells, _failed(row)]))
    return "\n".join(lines)


def added(rows: Sequence[Row], work: str) -> str:
    """Write what each way adds to the first token, over the engine alone in the same round."""
    mine = [row for row in rows if row.work.name == work]
    direct = next((row for row in mine if row.way == "direct"), None)
    lines = []
    for row in mine:
        if direct is None or row is direct:
            continue
        parts = []
        for name in ("p50", "p99"):
            more = _paired(row, direct, name, lambda a, b: a - b)
            if more:
                parts.append(f"{name} {statistics.median(more):.2f} ms ({_spread(more, '.2f')})")
        if parts:
            lines.append(f"{row.way} adds to the first token: {', '.join(parts)}")
    return "\n".join(lines)


def shares(rows: Sequence[Row]) -> str:
    """Write which process of a way took how much CPU time, in median."""
    lines = []
    for row in rows:
        good = [item for item in row.rounds if item is not None]
        # Where the work goes through more than the engine, and there is a figure to split.
        cpu = next((figure for figure in row.work.figures if figure.name == "cpu"), None)
        roles = sorted({role for item in good for role in item.cpu})
        if cpu is None or len(roles) < 2:
            continue
        parts = []
        for role in roles:
            each = [item.cpu.get(role, 0.0) / item.units * 1000 for item in good]
            parts.append(f"{role} {statistics.median(each):.3f}")
        lines.append(f"{row.work.name}, {row.way}, {cpu.unit}: {', '.join(parts)}")
    return "\n".join(lines)


def reasons(rows: Sequence[Row]) -> str:
    """Write why rounds failed, each reason once."""
    told = {f"{row.work.name}, {row.way}: {reason}": None for row in rows for reason in row.reasons}
    return "\n".join(told)


def raw(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return everything that was measured, for JSON."""
    return [
        {
            "work": row.work.name,
            "way": row.way,
            "rounds": [item and item._asdict() for item in row.rounds],
            "reasons": row.reasons,
        }
        for row in rows
    ]


def number(value: float) -> str:
    """Write a figure with four digits, or all of them before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}"


def _paired(row: Row, other: Row, name: str, combine: Callable[[float, float], T]) -> list[T]:
    """Combine the figures of those rounds that both have."""
    return [
        combine(mine.figures[name], its.figures[name])
        for mine, its in zip(row.rounds, other.rounds, strict=True)
        if mine is not None and its is not None
    ]


def _ratio(row: Row, other: Row | None, figure: Figure) -> str:
    if other is None or other.way == row.way:
        return ""
    pairs = _paired(row, other, figure.name, lambda a, b: (a, b))
    ratios = [mine / its for mine, its in pairs if its]
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.3g} ({_spread(ratios, '.3g')})"


def _failed(row: Row) -> str:
    requests = sum(item.failed for item in row.rounds if item is not None)
    parts = [f"{requests} requests"] if requests else []
    lost = row.rounds.count(None)
    parts += [f"{lost} rounds"] if lost else []
    return ", ".join(parts)
