"""A list as it is drawn: what it has, and one item at a time, for whatever width there is. Pure.

A list knows how many items there are and makes the lines of one when it is asked, so that only what
is visible is worked out.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct
from rich.cells import cell_len, set_cell_size

from nebula.events.plain_text import plain

Tone: TypeAlias = Literal["", "bad", "warning", "working", "good", "dim", "bold"]
"""What a text means; the terminal has a colour or a weight for it. No meaning is in it alone."""

GAP = 2
"""Columns of the terminal between two cells."""


class Span(NamedTuple):
    """A piece of a line."""

    text: str
    tone: Tone = ""


Line: TypeAlias = tuple[Span, ...]


class Column(Struct, frozen=True):
    """A column of a table, of `least` characters.

    `share`: its part of what is left of the width. `rank`: where there is too little room, the
    columns with the highest rank are left out first; those with 0 stay. `roomy`: the width of the
    whole from which on it is there at all.
    """

    name: str
    least: int
    share: int = 0
    rank: int = 0
    roomy: int = 0


class Chosen(NamedTuple):
    """What an item is about: its kind and its id."""

    kind: str
    id: str


class Listing(Struct, frozen=True):
    """Items of `height` lines each, below a `head`.

    `lines`: makes those of an item for a width. `about`: what an item is about. `nothing`: what is
    shown if there are no items.
    """

    count: int
    lines: Callable[[int, int], Sequence[Line]]
    about: Callable[[int], Chosen | None]
    nothing: str
    head: Callable[[int], Line] = lambda _: ()
    height: int = 1


def fit(text: str, width: int) -> str:
    """Return a text in exactly `width` cells of a terminal; … stands for what was cut."""
    text = " ".join(plain(text).split()) if not text.isprintable() else text
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(set_cell_size(text, max(0, width - 1)).rstrip() + "…", width)


def widths(columns: Sequence[Column], width: int) -> list[int]:
    """Return the width of each column within `width`; 0 for a column that is left out.

    What stays becomes narrower where even that does not fit.
    """
    kept = [number for number, column in enumerate(columns) if width >= column.roomy]

    def needed() -> int:
        return sum(columns[each].least for each in kept) + GAP * (len(kept) - 1)

    while needed() > width and any(columns[each].rank for each in kept):
        kept.remove(max(kept, key=lambda each: (columns[each].rank, each)))
    found = [column.least if number in kept else 0 for number, column in enumerate(columns)]
    left = width - needed()
    shares = sum(columns[each].share for each in kept)
    for each in kept:
        if left > 0 and shares:
            found[each] += left * columns[each].share // shares
    while sum(found) + GAP * (len(kept) - 1) > width and max(found) > 1:
        found[found.index(max(found))] -= 1
    return found


def row(cells: Sequence[Span], found: Sequence[int]) -> Line:
    """Return the line of a table's row, with the widths that `widths` has found."""
    line: list[Span] = []
    for cell, width in zip(cells, found, strict=True):
        if width:
            if line:
                line.append(Span(" " * GAP))
            line.append(Span(fit(cell.text, width), cell.tone))
    return tuple(line)


def table(
    columns: Sequence[Column],
    count: int,
    cells: Callable[[int, int], Sequence[Span]],
    about: Callable[[int], Chosen | None],
    nothing: str,
) -> Listing:
    """Return a list of one line for each item.

    `cells`: makes the cells of an item; its second argument is the width of the column with the
    largest share, for a picture that fills it.
    """
    widest = max(range(len(columns)), key=lambda each: columns[each].share)

    def lines(number: int, width: int) -> Sequence[Line]:
        found = widths(columns, width)
        return (row(cells(number, found[widest]), found),)

    def head(width: int) -> Line:
        return row([Span(column.name, "bold") for column in columns], widths(columns, width))

    return Listing(count, lines, about, nothing, head)
