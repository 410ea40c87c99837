"""Which version an engine command would start, told by files alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nebula.actors.node import engine_version

pytestmark = pytest.mark.anyio


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must not be imported, and says its version as vLLM does."""
    folder = tmp_path / "wllm"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('this was imported')")
    (folder / "_version.py").write_text("__version__ = version = '0.32.0'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return folder


async def test_it_is_told_without_importing_the_engine(package: Path) -> None:
    assert await engine_version.find((sys.executable, "-m", "wllm.entrypoints.api")) == "0.32.0"


async def test_another_python_and_a_script_of_its_are_asked(package: Path, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.symlink_to(sys.executable)
    assert await engine_version.find((str(python), "-m", "wllm.server")) == "0.32.0"
    script = tmp_path / "bin" / "wllm"
    script.parent.mkdir()
    script.write_text(f"#!{python}\nimport wllm\n")
    assert await engine_version.find((str(script), "serve")) == "0.32.0"


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("docker", "run", "vllm"),
        ("/no/such/python3", "-m", "wllm"),
        (sys.executable, "-m", "no_such_package"),
        (sys.executable, "-m"),
        (sys.executable, "script.py"),
    ],
)
async def test_what_does_not_tell_has_no_version(command: tuple[str, ...]) -> None:
    assert await engine_version.find(command) == ""


def test_a_version_may_stand_in_the_package_itself(package: Path) -> None:
    (package / "_version.py").unlink()
    (package / "__init__.py").write_text('__version__ = "1.2.3"')
    assert engine_version.read(package) == "1.2.3"
