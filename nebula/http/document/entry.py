"""What is told of one method of a path, beyond what the code says."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct


class Entry(Struct, frozen=True, kw_only=True):
    """What is told of one method of a path.

    `body`: the struct that its body is read as, `beside`: fields beside it. `example`: a body, or
    the fields of a form with a `file`. `values`: for each parameter of the path an example.
    `query`, `fields`: what each parameter of the query and each header field means. `hidden`:
    whether it is left out of the document.
    """

    says: str = ""
    example: Any = None
    body: type[Struct] | None = None
    beside: tuple[str, ...] = ()
    form: bool = False
    values: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    fields: Mapping[str, str] = {}
    hidden: bool = False
