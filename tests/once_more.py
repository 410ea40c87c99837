"""Run the tests that failed in a crowded run once more, alone, and name those that now pass.

`python -m tests.once_more [FOLDER]`: pytest keeps their names in this folder [of pyproject.toml].
Several tests share a machine's cores, so one that waits for a process can be too late through no
fault of what it tests. More than LARGEST failures are never the crowd's fault: they stand.
"""

import json
import subprocess
import sys
from pathlib import Path

CACHE = Path(".venv/.pytest")
"""Where pytest keeps its cache (`cache_dir` of pyproject.toml)."""

LARGEST = 3
"""Failed tests that are tried again, at most."""


def main() -> int:
    """Return the exit code of the second try; 1 where there is none."""
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE
    kept = cache / "v" / "cache" / "lastfailed"
    failed = sorted(json.loads(kept.read_text())) if kept.exists() else []
    if not 0 < len(failed) <= LARGEST:
        print(f"{len(failed)} tests failed: too many to try again" if failed else "", end="\n")
        return 1
    code = subprocess.run([sys.executable, "-m", "pytest", *failed], check=False).returncode
    for name in failed if code == 0 else ():
        print(f"FLAKY, passed alone at its second try, to be mended: {name}")
    return code


if __name__ == "__main__":
    sys.exit(main())
