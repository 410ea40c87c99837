"""What pages and docstrings say of the code is so: files, links, dependencies, purity."""

import ast
import functools
import itertools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"))
    if page.name != "CHANGELOG.md"  # it tells of what was, too
)
CODE = ("nebula", "tests", "benchmarks", "examples", "demo")
PATH = re.compile(r"`((?:nebula|tests|benchmarks|docs|compose|demo|examples)/[\w./-]*)`")
NAME = re.compile(r"`((?:\w+\.)*)([A-Z][a-z]\w*|[a-z]+(?:_[a-z]+)+)(?:\([\w, ]*\))?`")
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")

RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))
TITLE = re.compile(r"# (\d+)\. (\S.*)")
REFERENCE = r"\[(\d+)\]\((\d{4})-[\w-]+\.md\)"
STATUS = re.compile(
    r"Status: (?:proposed|accepted|rejected|deprecated"
    rf"|(?:accepted, amended|superseded) by {REFERENCE}(?:(?:, | and ){REFERENCE})*)"
    r" · Date: \d{4}-\d\d-\d\d"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = [ROOT / path for path in PATH.findall(text) if path != "docs/_build"]  # made by make
    linked = [page.parent / path for path in LINK.findall(text)]
    assert [str(path) for path in (*named, *linked) if not path.exists()] == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_decision_record_has_number_title_status_date_and_three_parts(record: Path) -> None:
    first, blank, status, after, *_ = record.read_text().splitlines()
    title = TITLE.fullmatch(first)
    assert title, first
    assert int(title[1]) == int(record.name[:4])
    assert STATUS.fullmatch(status), status
    for shown, file in re.findall(REFERENCE, status):
        assert int(record.name[:4]) < int(shown) == int(file), status
    assert blank == after == ""
    headings = re.findall(r"^#+ .+", record.read_text(), re.MULTILINE)[1:]
    assert headings[:3] == ["## Context", "## Decision", "## Consequences"]
    assert headings[3:] in ([], ["## Options"])
    parts = re.split(r"^## .+$", record.read_text(), flags=re.MULTILINE)
    assert all(part.strip() for part in parts), "a part is empty"


def test_every_decision_record_has_a_number_of_its_own() -> None:
    numbers = [record.name[:4] for record in RECORDS]
    assert sorted(set(numbers)) == numbers


def test_the_table_of_decisions_names_every_record_once_by_its_title() -> None:
    table = (ROOT / "docs" / "explanation" / "decisions.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\(\.\./adr/(.+)\) \|$", table, re.MULTILINE)
    titles = [TITLE.match(record.read_text()) for record in RECORDS]
    wanted = [
        (title[1], title[2], record.name)
        for title, record in zip(titles, RECORDS, strict=True)
        if title
    ]
    assert sorted(rows, key=lambda row: int(row[0])) == wanted


def test_the_glossary_is_sorted_and_explains_each_term_once() -> None:
    glossary = (ROOT / "docs" / "explanation" / "glossary.md").read_text()
    terms = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", glossary, re.MULTILINE)[1:]
    assert len(terms) > 20
    assert terms == sorted(set(terms))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_class_and_function_that_a_page_names_is_in_the_code(page: Path) -> None:
    named = {name for _, name in NAME.findall(page.read_text())}
    assert sorted(named - _words_of_the_code()) == []


@functools.cache
def _words_of_the_code() -> frozenset[str]:
    """Return all identifiers in the package, its tests and its tools."""
    files = [path for folder in CODE for path in ROOT.glob(f"{folder}/**/*.py")]
    return frozenset(word for path in files for word in re.findall(r"\w+", path.read_text()))


def test_every_dependency_has_its_reason() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = (
        *told["project"]["optional-dependencies"].values(),
        *told["dependency-groups"].values(),
    )
    wanted = [*told["project"]["dependencies"], *itertools.chain.from_iterable(groups)]
    wanted += [
        line
        for line in (ROOT / "demo" / "requirements.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    names = [re.split(r"[<>=]", one)[0] for one in wanted]
    assert [name for name in names if f"`{name}`" not in reasons] == []


def test_every_module_that_calls_itself_pure_is_held_to_it_by_import_linter() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (held,) = (each for each in linter["contracts"] if "no I/O" in each["name"])
    for path in sorted(ROOT.glob("nebula/**/*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "Pure" in (ast.get_docstring(ast.parse(path.read_text())) or ""):
            packages = [module.rsplit(".", up)[0] for up in range(module.count(".") + 1)]
            assert set(packages) & set(held["source_modules"]), f"{module} is not held to it"


def test_pre_commit_makes_every_check_that_make_makes() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    checks = re.findall(r"\.venv/bin/(?:python -m )?[\w.-]+(?: format| check)?", recipe)
    assert len(checks) == 6
    assert [check for check in checks if check not in hooks] == []
