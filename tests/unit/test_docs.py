"""What pages and docstrings say of the code is so: files, links, dependencies, purity."""

import ast
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
PATH = re.compile(r"`((?:nebula|tests|benchmarks|docs|compose|demo|examples)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = [ROOT / path for path in PATH.findall(text)]
    linked = [page.parent / path for path in LINK.findall(text)]
    assert [str(path) for path in (*named, *linked) if not path.exists()] == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
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
