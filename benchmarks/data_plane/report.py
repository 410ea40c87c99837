"""What was measured, as tables to read and as JSON to reckon with."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from .counters import EVENTS
from .figures import Figure, Measured, Work

T = TypeVar("T")


class Row(NamedTuple):
    """One way's measurements of one work, one for each round; None if a round failed."""

    work: Work
    way: str
    rounds: list[Measured | None]
    reasons: list[str]


def tables(rows: Sequence[Row], references: Sequence[str]) -> str:
    """Write a table of each kind of work, over all numbers of connections and all ways.

    It has medians, and ratios to the references of the same round with their spread.
    """
    parts = []
    for name in dict.fromkeys(row.work.name for row in rows):
        mine = [row for row in rows if row.work.name == name]
        work = mine[0].work
        parts.append(f"### `{name}`: {work.title}\n\nThe engine: {work.engine}.\n\n")
        compared = [figure for figure in work.figures if figure.compared]
        heads = ["connections", "way", *(figure.unit for figure in work.figures)]
        heads += [f"{figure.unit} / {each}" for figure in compared for each in references]
        parts.append(_table([*heads, "failed"], (_cells(row, rows, references) for row in mine)))
    return "".join(parts)


def _cells(row: Row, rows: Sequence[Row], references: Sequence[str]) -> list[str]:
    cells = [str(row.work.connections), row.way]
    for figure in row.work.figures:
        values = [item.figures[figure.name] for item in row.rounds if item is not None]
        cells.append(number(statistics.median(values)) if values else "-")
    for figure in row.work.figures:
        if figure.compared:
            cells += [_ratio(row, _other(rows, row.work, each), figure) for each in references]
    return [*cells, _failed(row)]


def fastest(rows: Sequence[Row], way: str, peers: Sequence[str]) -> str:
    """Write a table of a way beside the peer that is fastest at each work, by its median.

    Peers that bring an engine of their own are not among them.
    """
    lines = []
    for row in rows:
        if row.way != way or row.work.name == "single":
            continue
        others = [(_median(each), each) for each in rows if each.work is row.work]
        best = [(rate, each) for rate, each in others if rate is not None and each.way in peers]
        if not best:
            continue
        peer = max(best, key=lambda item: item[0])[1]
        cells = [row.work.name, str(row.work.connections), peer.way]
        cells += [_ratio(row, peer, figure) for figure in row.work.figures if figure.name == "rate"]
        cells += [_ratio(row, peer, figure) for figure in row.work.figures if figure.name == "cpu"]
        lines.append(cells)
    if not lines:
        return ""
    heads = ["work", "connections", "fastest peer", f"rate, {way} / peer", "CPU, same"]
    return f"### {way} beside the fastest peer\n\n" + _table(heads, lines)


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
    """Write a table of the CPU time that each process of a way took, in median.

    Beside it stands what perf has counted, where it has, with the spread.
    """
    lines = []
    counted = {
        event
        for row in rows
        for item in row.rounds
        if item is not None
        for counts in item.counts.values()
        for event in counts
    }
    events = [event for event in EVENTS if event in counted]
    for row in rows:
        good = [item for item in row.rounds if item is not None]
        roles = sorted({role for item in good for role in item.cpu})
        for role in roles:
            each = [item.cpu.get(role, 0.0) / item.requests * 1e6 for item in good]
            tokens = [item.cpu.get(role, 0.0) / item.tokens * 1e6 for item in good if item.tokens]
            if max(each) < 1:
                continue  # less than a microsecond: it waits
            cells = [row.work.name, str(row.work.connections), row.way, role]
            cells += [number(statistics.median(each)), f"{min(each):.4g} to {max(each):.4g}"]
            cells.append(number(statistics.median(tokens)) if tokens else "")
            lines.append([*cells, *(_count(good, role, event) for event in events)])
    heads = ["work", "connections", "way", "process", "CPU µs/request", "spread", "CPU µs/token"]
    heads += [f"{EVENTS[event]}/request" for event in events]
    return "### CPU time by process\n\n" + _table(heads, lines) if lines else ""


def _count(good: Sequence[Measured], role: str, event: str) -> str:
    counts = [item.counts.get(role, {}).get(event, 0) / item.requests for item in good]
    return f"{number(statistics.median(counts))} ({_spread(counts, '.4g')})"


def reasons(rows: Sequence[Row]) -> str:
    """Write why rounds failed, each reason once."""
    told = {
        f"{row.work.name}, {row.work.connections} connections, {row.way}: {reason}": None
        for row in rows
        for reason in row.reasons
    }
    return "\n".join(f"- {line}" for line in told)


def raw(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return everything that was measured, for JSON."""
    return [
        {
            "work": row.work.name,
            "engine": row.work.engine,
            "connections": row.work.connections,
            "way": row.way,
            "rounds": [item and item._asdict() for item in row.rounds],
            "reasons": row.reasons,
        }
        for row in rows
    ]


def number(value: float) -> str:
    """Write a figure with four digits, or all of them before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows) + "\n"


def _other(rows: Sequence[Row], work: Work, way: str) -> Row | None:
    return next((row for row in rows if row.work is work and row.way == way), None)


def _median(row: Row) -> float | None:
    rates = [item.figures["rate"] for item in row.rounds if item is not None]
    return statistics.median(rates) if rates else None


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
