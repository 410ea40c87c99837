"""What the pages name is there: files, links, and a reason for every dependency."""

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
