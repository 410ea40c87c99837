"""What is right about an answer to bad input, and the count of all answers."""

from collections import Counter
from typing import Any

import msgspec

from nebula.http.dialects import dialect_for


class Verdicts:
    """Counts answers by status, and keeps what was wrong with any."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.faults: dict[str, str] = {}

    def take(
        self,
        kind: str,
        asked: str,
        status: int,
        body: bytes,
        *,
        anthropic: bool = False,
        refused: bool = False,
    ) -> None:
        """Judge an answer. `asked`: the request, in words; `refused`: only a 4xx is right."""
        self.tried[kind] += 1
        self.statuses[status] += 1
        if status >= 500 or status < 200:
            self.fault(asked, f"{status} {body[:300]!r}")
        elif status < 400 and refused:
            self.fault(asked, f"it was answered with {status}")
        elif status >= 400 and not well_formed(body, anthropic=anthropic):
            self.fault(asked, f"{status} in another form: {body[:300]!r}")

    def fault(self, asked: str, what: str) -> None:
        """Note a fault: the first of each kind of request."""
        self.faults.setdefault(asked, what)


def speaks_anthropic(path: str) -> bool:
    """Return whether the clients of a path expect Anthropic's errors."""
    return dialect_for(path, ()) == "anthropic"


def well_formed(body: bytes, *, anthropic: bool) -> bool:
    """Return whether an error is in the form that its client reads."""
    if not body:
        return True  # of HEAD
    try:
        told: Any = msgspec.json.decode(body)
        message = told["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return False
    said = isinstance(message, str) and bool(message)
    return said and (told.get("type") == "error") == anthropic
