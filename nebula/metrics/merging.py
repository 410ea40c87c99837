"""Puts texts of several sources together: each family once, each sample with its source. Pure.

The texts come from other programs. Nothing of them is taken that is not a sample, so that one bad
line does not cost a scrape, and no source can speak for another one.
"""

import re
import zlib
from collections.abc import Callable, Mapping

from msgspec import Struct, field

LARGEST = 8 * 1024 * 1024
"""Bytes of one source's text, at most."""

_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*",?)*)\})?'
    r"[ \t]+([0-9eE+.-]+|NaN|[+-]?Inf)(?:[ \t]+-?\d+)?[ \t]*"
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)=("(?:[^"\\]|\\.)*")')
_ABOUT = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)")
_KINDS = ("counter", "gauge", "histogram", "summary", "untyped")
_ENDINGS = ("", "_bucket", "_sum", "_count", "_total", "_created", "_info")


class _Family(Struct):
    help: str = ""
    kind: str = "untyped"
    samples: list[str] = field(default_factory=list)


class Merged:
    """The texts so far. `most`: bytes of all of them together; those beyond are left out."""

    def __init__(self, most: int) -> None:
        self._room = most
        self._families: dict[str, _Family] = {}

    def add(
        self, text: str, labels: Mapping[str, str], takes: Callable[[str], bool] = lambda _: True
    ) -> bool:
        """Add a source's text; return False if there is no room for it.

        `labels`: what its samples get; a label of theirs with that name becomes `exported_NAME`,
        unless it says the same. `takes`: whether a family of this name is taken.
        """
        size = len(text)
        if size > self._room:
            return False
        self._room -= size
        own = {name: _quoted(value) for name, value in labels.items()}
        heads: dict[str, _Family] = {}
        into: dict[str, _Family | None] = {}
        for line in text.split("\n"):
            if line.startswith("#"):
                _read_about(line, heads)
                continue
            sample = _SAMPLE.fullmatch(line)
            if sample is None:
                continue
            name = sample[1]
            if name not in into:
                into[name] = self._family(_family_of(name, heads), heads, takes)
            family = into[name]
            if family is not None:
                family.samples.append(f"{name}{{{_labelled(sample[2] or '', own)}}} {sample[3]}")
        return True

    def _family(
        self, name: str, heads: Mapping[str, _Family], takes: Callable[[str], bool]
    ) -> _Family | None:
        """Return where samples of a family go; None if they are not taken."""
        if not takes(name):
            return None
        head = heads.get(name, _Family())
        family = self._families.setdefault(name, _Family(head.help, head.kind))
        return family if family.kind == head.kind else None

    def text(self) -> str:
        """Return all of it as Prometheus's text."""
        lines = []
        for name, family in self._families.items():
            if family.samples:
                if family.help:
                    lines.append(f"# HELP {name} {family.help}")
                lines.append(f"# TYPE {name} {family.kind}")
                lines += family.samples
        return "\n".join([*lines, ""])


def _family_of(sample: str, heads: Mapping[str, _Family]) -> str:
    """Return the name of a sample's family: one that was told of, or its own."""
    for ending in _ENDINGS:
        name = sample.removesuffix(ending)
        if name in heads and sample == name + ending:
            return name
    return sample


def _read_about(line: str, heads: dict[str, _Family]) -> None:
    about = _ABOUT.fullmatch(line)
    if about is None:
        return
    head = heads.setdefault(about[2], _Family())
    if about[1] == "HELP":
        head.help = about[3]
    elif about[3].strip() in _KINDS:
        head.kind = about[3].strip()


def _labelled(labels: str, own: Mapping[str, str]) -> str:
    """Return a sample's labels with those of its source."""
    if not any(f"{name}=" in labels for name in own):
        rest = [f"{name}={value}" for name, value in own.items()]
        return ",".join([labels.rstrip(","), *rest] if labels else rest)
    found = dict(_LABEL.findall(labels))
    for name, value in own.items():
        if found.get(name, value) != value:
            found[f"exported_{name}"] = found[name]
        found[name] = value
    return ",".join(f"{name}={value}" for name, value in found.items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'"{escaped}"'


def pack(text: bytes) -> bytes:
    """Return a text as it travels."""
    return zlib.compress(text, 1)


def unpack(packed: bytes, most: int = LARGEST) -> str | None:
    """Return a text that has travelled; None if it is not one, or longer than `most` bytes."""
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(packed, most)
        if not unpacking.eof:
            return None
        return text.decode()
    except (zlib.error, UnicodeDecodeError):
        return None
