"""Several things of which the same is to be said: it is said once. Pure."""

from collections.abc import Iterable

NAMED = 8
"""Of those that are like the first, so many are named."""


def together(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return one text for all things that the same is said of, in the order of the first of each.

    `said`: what each is called, and what follows its name. Figures may differ, such as times and
    attempts: then those of the first are told.
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
