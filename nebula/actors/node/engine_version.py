"""Finds the version of a node's engine without starting it, since vLLM takes ten seconds.

An engine's package has its version in a file; the engine's own Python knows where that is.
"""

import asyncio
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 2.0
"""Seconds that another Python gets to find the package."""

_VERSION = re.compile(r"""^__version__\s*=\s*(?:version\s*=\s*)?['"]([^'"]{1,100})['"]""", re.M)

_FIND = """
import importlib.util, sys
found = importlib.util.find_spec(sys.argv[1])
print(found.submodule_search_locations[0] if found and found.submodule_search_locations else "")
"""


async def find(command: Sequence[str]) -> str:
    """Return the version of the package that an engine command runs; "" if unknown."""
    package, python = _package(command), _python(command)
    if not package or not python:
        return ""
    if python == sys.executable:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            return ""
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        return read(Path(places[0])) if places else ""
    return read(Path(folder)) if (folder := await _asked(python, package)) else ""


def read(folder: Path) -> str:
    """Return a package's version from its folder: from `_version.py`, else from `__init__.py`."""
    for name in ("_version.py", "__init__.py"):
        try:
            found = _VERSION.search((folder / name).read_text(errors="replace"))
        except OSError:
            continue
        if found is not None:
            return found[1]
    return ""


async def _asked(python: str, package: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *(python, "-c", _FIND, package),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode(errors="replace").strip()


def _package(command: Sequence[str]) -> str:
    """Return the package of `python -m package.module` or of a script of the same name."""
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1].partition(".")[0]
    return Path(command[0]).name if command and not _is_python(command[0]) else ""


def _python(command: Sequence[str]) -> str:
    """Return the Python that runs a command: itself, or the Python in a script's first line."""
    if not command:
        return ""
    if _is_python(command[0]):
        return command[0]
    try:
        with Path(command[0]).open("rb") as script:
            first = script.readline(4096).decode(errors="replace")
    except OSError:
        return ""
    words = first.removeprefix("#!").split()
    return words[0] if first.startswith("#!") and words and _is_python(words[0]) else ""


def _is_python(program: str) -> bool:
    return re.fullmatch(r"python[0-9.]*", Path(program).name) is not None
