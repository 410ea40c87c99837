"""Makes text from elsewhere safe to show: without control sequences for a terminal. Pure.

Text of engines, events, names and servers may contain escape sequences, which move a cursor, set a
title or fill a clipboard, and marks that reverse the order of letters. ECMA-48 defines the
sequences; Unicode's UAX 9 and UTR 36 explain why the marks are removed.
"""

import re

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC …
    r"|\x1b[ -/]*[0-~]?"  # all others
)
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff]"
)
_SPACE = re.compile(r"\s+")


def plain(text: str) -> str:
    """Return a text without escape sequences and control characters; line ends and tabs stay."""
    if not _CONTROL.search(text):
        return text
    text = text.replace("\r\n", "\n")
    text = _SEQUENCE.sub("", text).replace("\r", "\n")
    return _CONTROL.sub("", text)


def one_line(text: str, most: int) -> str:
    """Return a text as one line of at most `most` characters, for a cell of a table."""
    line = _SPACE.sub(" ", plain(text)).strip() if not text.isprintable() else text
    return line if len(line) <= most else f"{line[: most - 1]}…"


def without_long_words(text: str, most: int) -> str:
    """Return a text with the length of each word in its place that has more than `most` characters.

    To look for secrets in a word may take time in proportion to the square of its length.
    """
    return re.sub(rf"\S{{{most + 1},}}", lambda word: f"({len(word[0])} characters)", text)
