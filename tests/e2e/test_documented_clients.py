"""The programs of the page about clients, run as they stand there, against the demo."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.demo_cluster import DemoCluster

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "clients.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["openai", "anthropic", "rerank"])
def test_a_program_prints_an_answer(program: str, cluster: DemoCluster) -> None:
    assert "127.0.0.1:8000" in program
    here = program.replace("127.0.0.1:8000", f"127.0.0.1:{cluster.port}")
    done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if "rerank" in program:
        assert done.stdout == "a kitten\n"
