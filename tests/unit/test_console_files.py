"""The console's files: libraries are unchanged, and what is ours is small and plain."""

import hashlib
import re
from pathlib import Path

import pytest

from nebula.http.console import pages

STATIC = Path(pages.__file__).parent / "static"

PUBLISHED = {
    # npm: preact 11.2.0, dist/preact.mjs and LICENSE
    "preact.mjs": "bdcbd9abdf2c77c5c45326eab42191e949222d479d0d5f69467387a77040cb55",
    "preact.LICENSE": "1fe6958409c8c257a70c587a18b6f7f412b179b456630790d30b2ec9a8e4b7d4",
    # npm: htm 3.1.1, dist/htm.mjs and LICENSE
    "htm.mjs": "ab33dd3f38059b9be4d5f5350128eefb2356639c4e0bbe9d9e8b3ba75847e9e4",
    "htm.LICENSE": "740725f7252e750af735d0028cc534970772f513331e9f68150fede8fb3ce00f",
}
"""SHA-256 of each file, as the package registry has it."""

OURS = sorted(
    path
    for path in STATIC.rglob("*")
    if path.suffix in (".js", ".css") and "vendor" not in path.parts
)


def test_what_was_made_elsewhere_is_as_it_was_published() -> None:
    held = {path.name: path.read_bytes() for path in (STATIC / "vendor").iterdir()}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in held.items()} == (
        PUBLISHED
    )


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_a_file_loads_nothing_from_elsewhere_and_writes_no_html(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?://|innerHTML|insertAdjacent|document\.write|\beval\b", text)
    assert len(text.splitlines()) <= 400


def test_every_file_that_one_imports_is_served() -> None:
    served = pages.files()
    for path in OURS:
        for name in re.findall(r'from "(\./[^"]+|\.\./[^"]+)"', path.read_text()):
            target = (path.parent / name).resolve().relative_to(STATIC)
            assert str(target) in served


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    brighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_ground(scheme: int) -> None:
    """WCAG 2.2, 1.4.3: 4.5:1."""
    colours = {
        name: pair[scheme]
        for name, *pair in re.findall(
            r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", (STATIC / "console.css").read_text()
        )
    }
    grounds = {
        "ink": ("ground", "panel", "calm-ground", "held", "weights", "warn-ground"),
        "soft": ("ground", "panel", "warn-ground"),
        "link": ("ground", "panel", "warn-ground"),
        **{tone: (f"{tone}-ground", "panel") for tone in ("good", "bad", "warn", "busy")},
    }
    for ink, on in grounds.items():
        for ground in on:
            assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
