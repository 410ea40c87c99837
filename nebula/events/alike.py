"""Writes one sentence for several things that share it. Pure."""

from collections.abc import Iterable

NAMED = 8
"""Number of such things that are named."""


def together(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return one text for all things that share a sentence, in the order of the first of each.

    `said`: each thing's name, and what follows it. Figures such as times and attempts may differ;
    those of the first are shown.
    """
    kinds: dict[str, tuple[str, list[str]]] = {}
    for name, words in said:
        kind = "".join(each for each in words if not each.isdigit())
        kinds.setdefault(kind, (name + words, []))[1].append(name)
    return [text + _likewise(names[1:]) for text, names in kinds.values()]


def _likewise(names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" (likewise {', '.join(names[:NAMED])}{rest})"
