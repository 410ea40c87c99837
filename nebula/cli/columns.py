"""Tables: laid out for people on a terminal, and one line for each row where a program reads.

Without a terminal a row is one line whatever its length, columns are separated by two spaces, and
an empty value is `-`. Only the last column may contain spaces; in others they are written `\\x20`.
"""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table

EMPTY = "-"

WIDEST = 40
"""Characters to which a column is padded without a terminal; what is longer moves the others."""

ROOMY = frozenset({"NAME", "SOURCE", "REASON", "LABELS", "CHANGE"})
"""Columns that are folded where a terminal is narrow; others keep their words whole."""


class Columns(Table):
    """A table with these columns in the common style."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(box=None, header_style="bold", pad_edge=False)
        for name in names:
            roomy = name in ROOMY or name == names[-1]
            self.add_column(name, overflow="fold", no_wrap=not roomy)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it, as lines of words without a terminal."""
        if console.is_terminal:
            yield from super().__rich_console__(console, options)
            return
        for line in _lines(list(self._rows_of(console))):
            yield Segment(f"{line}\n")

    def _rows_of(self, console: Console) -> Iterator[list[str]]:
        yield [_word(str(column.header)) or EMPTY for column in self.columns]
        columns = [[_plain(console, cell) for cell in column.cells] for column in self.columns]
        for row in zip(*columns, strict=True):
            *cells, last = row
            yield [*(_word(cell) or EMPTY for cell in cells), last or EMPTY]


def _plain(console: Console, cell: RenderableType) -> str:
    return " ".join(console.render_str(str(cell)).plain.split())


def _word(text: str) -> str:
    return text.replace(" ", "\\x20")


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [
        max((len(cell) for cell in column if len(cell) <= WIDEST), default=0)
        for column in zip(*rows, strict=True)
    ]
    for row in rows:
        *cells, last = row
        padded = (f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=False))
        yield "".join((*padded, last))
