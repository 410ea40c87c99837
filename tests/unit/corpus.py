"""The recorded logs of `tests/corpus`, read from their files."""

from __future__ import annotations

from pathlib import Path

from nebula.events.record import Record
from nebula.store.archive import Reader

FOLDER = Path(__file__).parents[1] / "corpus"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def records(name: str) -> list[Record]:
    """Return the records of one recorded log."""
    with (FOLDER / f"{name}.jsonl").open("rb") as file:
        return list(Reader(file, name).records())
