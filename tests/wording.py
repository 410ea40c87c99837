"""Check the wording of docstrings, comments, texts and pages against the rules in `wording.toml`.

`python -m tests.wording` prints every place that breaks a rule, and what to write there instead;
`python -m tests.wording RULE ...` checks some rules only.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

ROOT = Path(__file__).parents[1]
RULES = Path(__file__).with_suffix(".toml")

Kind: TypeAlias = Literal["docstring", "comment", "text", "page", "name"]
"""Where words stand: `text` is a string of a program, `name` the name of a test, as words."""


class Exempt(Struct, frozen=True, forbid_unknown_fields=True):
    """A place that may break a rule, and why it may."""

    pattern: str
    why: str
    files: str = ""


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """What not to write.

    `pattern`: a regular expression; a space in it stands for any white space. `kinds`: where it
    applies. `instead`: what to write. `exempt`: what is right although the pattern matches: the
    sentence around the match matches one of these, in a file whose path begins with `files`.
    """

    name: str
    pattern: str
    instead: str
    kinds: tuple[Kind, ...] = ("docstring", "comment", "text", "page", "name")
    exempt: tuple[Exempt, ...] = ()


class Skip(Struct, frozen=True, forbid_unknown_fields=True):
    """Files that no rule holds for yet, and why."""

    files: str
    why: str


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `wording.toml`."""

    rule: tuple[Rule, ...]
    skip: tuple[Skip, ...] = ()


class Words(Struct, frozen=True):
    """A run of words in a file, and the line that it begins in."""

    kind: Kind
    line: int
    text: str


class Breach(Struct, frozen=True):
    """A place that breaks a rule."""

    path: str
    line: int
    rule: Rule
    sentence: str

    def __str__(self) -> str:
        """Return the place and the rule as one line of a report."""
        place = f"{self.path}:{self.line}: {self.rule.name}"
        return f"{place}: {self.sentence!r}: write {self.rule.instead}"


def rules() -> Rules:
    """Return the rules of `wording.toml`."""
    return msgspec.convert(tomllib.loads(RULES.read_text()), Rules)


def files() -> list[Path]:
    """Return every Python file and page of the repository that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py", "*.md"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sorted(path for path in paths if path.exists())


def breaches(path: str, source: str, rules: tuple[Rule, ...]) -> Iterator[Breach]:
    """Yield what breaks a rule in one file, given by its path in the repository and its text.

    Strings of tests are not read: they are data, or what Nebula itself must say.
    """
    found = page(source) if path.endswith(".md") else program(source)
    kept = (each for each in found if each.kind != "text" or not path.startswith("tests/"))
    compiled = [(rule, _compiled(rule.pattern)) for rule in rules]
    for words in kept:
        text = re.sub(r"[ \t]*\n[ \t]*", "\n", words.text)
        for rule, pattern in compiled:
            if words.kind not in rule.kinds:
                continue
            for match in pattern.finditer(text):
                sentence = _sentence(text, match)
                if any(
                    path.startswith(each.files) and _compiled(each.pattern).search(sentence)
                    for each in rule.exempt
                ):
                    continue
                line = words.line + text.count("\n", 0, match.start())
                yield Breach(path, line, rule, sentence)


def page(source: str) -> Iterator[Words]:
    """Yield the paragraphs of a page in Markdown, without code and without the targets of links."""
    prose = re.sub(r"^```.*?^```", _blank, source, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]+`", lambda match: "x" * len(match[0]), prose)
    prose = re.sub(r"\]\([^)\n]*\)", "]", prose)
    yield Words("page", 1, prose)


def program(source: str) -> Iterator[Words]:
    """Yield the docstrings, comments, texts and test names of a Python program."""
    docstrings: set[ast.AST] = set()
    skipped: set[ast.AST] = set()
    for node in nodes(ast.parse(source)):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and node not in skipped:
                kind: Kind = "docstring" if node in docstrings else "text"
                yield Words(kind, node.lineno, node.value)
        elif isinstance(node, ast.Expr):  # comes before what is in it
            docstrings.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [
                each.value if isinstance(each, ast.Constant) else "{…}" for each in node.values
            ]
            skipped.update(node.values)
            yield Words("text", node.lineno, "".join(map(str, parts)))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test"
        ):
            yield Words("name", node.lineno, node.name.replace("_", " "))
    if "#" in source:
        yield from _comments(source)


def nodes(tree: ast.AST) -> list[ast.AST]:
    """Return the nodes of a tree, each before those in it, as `ast.walk` in a third of its time.

    Those that say only whether a name is read or written are left out.
    """
    found = [tree]
    for node in found:  # grows
        for value in vars(node).values():
            if isinstance(value, list):
                found += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                found.append(value)
    return found


def _comments(source: str) -> Iterator[Words]:
    text, first, last = "", 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if line == last + 1:
            text += "\n" + token.string.lstrip("# ")
        else:
            if text:
                yield Words("comment", first, text)
            text, first = token.string.lstrip("# "), line
        last = line
    if text:
        yield Words("comment", first, text)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", r"[ \n]"))


def _sentence(text: str, match: re.Match[str]) -> str:
    """Return the sentence that a match stands in, on one line."""
    ends = r"[.;:!?](?=\s)|\n\s*\n|\n\s*[-|#]"
    start = max((each.end() for each in re.finditer(ends, text[: match.start()])), default=0)
    end = re.search(ends, text[match.end() :])
    stop = match.end() + end.end() if end else len(text)
    return " ".join(text[start:stop].split())


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def all_breaches(*names: str) -> list[Breach]:
    """Return every breach of the rules of these names, or of all, outside skipped files."""
    known = rules()
    chosen = tuple(rule for rule in known.rule if not names or rule.name in names)
    skipped = tuple(each.files for each in known.skip)
    paths = [(path.relative_to(ROOT).as_posix(), path) for path in files()]
    return [
        breach
        for name, path in paths
        if not name.startswith(skipped)
        for breach in breaches(name, path.read_text("utf-8"), chosen)
    ]


if __name__ == "__main__":
    found = all_breaches(*sys.argv[1:])
    for breach in found:
        print(breach)
    sys.exit(1 if found else 0)
