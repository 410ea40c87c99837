"""The header fields of a request, and what was read of them for an earlier request. Pure.

The requests of one connection mostly have the same fields, apart from the length of the body. What
they mean is kept beside them, so that it is found out once.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

LENGTH = b"content-length"


class FieldLines(list[tuple[bytes, bytes]]):
    """Header fields in order, as in the scope of ASGI; they do not change.

    `facts`: what was found out from them, by what did so. Requests whose fields and path are the
    same share it, whatever the length of their body. `named`: the fields by name, once asked for.
    """

    __slots__ = ("facts", "named")

    def __init__(
        self, lines: Iterable[tuple[bytes, bytes]], facts: dict[object, Any] | None = None
    ) -> None:
        super().__init__(lines)
        self.facts = {} if facts is None else facts
        self.named: dict[bytes, bytes] | None = None

    def with_length(self, at: int, length: bytes) -> "FieldLines":
        """Return the fields of the same request with a body of another length.

        `at`: the position of the field with the length.
        """
        new = FieldLines(self, self.facts)
        new[at] = (LENGTH, length)
        if self.named is not None:
            new.named = self.named.copy()
            new.named[LENGTH] = length
        return new


def read_once(scope: Any, read: Callable[[Any], T]) -> T:
    """Return what `read` finds out from path and fields of a request of ASGI, or found out before.

    It must not depend on anything else, nor on the length of the body, nor return None. What it
    raises is not kept.
    """
    lines = scope["headers"]
    if type(lines) is not FieldLines:
        return read(scope)
    found: T | None = lines.facts.get(read)
    if found is None:
        found = lines.facts[read] = read(scope)
    return found
