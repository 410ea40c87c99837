"""The prefix under which a proxy shows a gateway: `--root-path`, as uvicorn and FastAPI call it.

A proxy may take the prefix from the paths that it passes on, or leave it. Both are understood,
because no path of the gateway itself begins with the prefix. Pure.
"""

import re
from collections.abc import Iterable

_FORM = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class NotARoot(ValueError):
    """A text can't be the prefix of a gateway's paths; the text says why."""


def plain(text: str) -> str:
    """Return a prefix without a slash at its end; "" for none. Raise NotARoot."""
    root = text.removesuffix("/")
    if not _FORM.fullmatch(root) or {".", ".."}.intersection(root.split("/")):
        raise NotARoot(f"{text!r} is not a path such as /llm or /tools/nebula")
    return root


def check(root: str, served: Iterable[str]) -> None:
    """Raise NotARoot if a path of the gateway's own has the first segment of a prefix."""
    first = root.split("/")[1:2]
    if first and any(path.split("/")[1:2] == first for path in served):
        raise NotARoot(
            f"{root!r}: the gateway has paths of its own below /{first[0]}, so it could not tell "
            "whether a proxy has removed the prefix from a path. Choose another prefix"
        )


def without(root: str, raw_path: bytes) -> bytes:
    """Return a path without the prefix, if it has it."""
    prefix = root.encode()
    if not root or not raw_path.startswith(prefix):
        return raw_path
    rest = raw_path[len(prefix) :]
    return rest if rest.startswith(b"/") else raw_path if rest else b"/"
