"""The metrics of engines as they tell them, with where each is from."""

from collections.abc import Iterable

from nebula.events.state import Replica
from nebula.metrics.exposition import exposition
from nebula.metrics.merging import Merged
from nebula.metrics.metric import ENGINES, ActorKind
from nebula.metrics.sheet import Sheet

LARGEST = 64 * 1024 * 1024
"""Bytes of a scrape's text, at most."""


def of_engines(teller: ActorKind, texts: Iterable[tuple[Replica, str | None]]) -> bytes:
    """Return the texts of ready replicas together; None for one that has told none in time."""
    sheet, merged = Sheet(teller, {}, ENGINES), Merged(LARGEST)
    for replica, text in texts:
        labels = {"node": replica.node, "replica": replica.id, "model": replica.model}
        there = text is not None and merged.add(text, labels, _is_foreign)
        sheet.add("nebula_engine_up", int(there), *labels.values())
    return exposition(sheet.families()).body + merged.text().encode()


def _is_foreign(name: str) -> bool:
    """Return whether a family is an engine's own: none may pass for Nebula's."""
    return not name.startswith("nebula_")
