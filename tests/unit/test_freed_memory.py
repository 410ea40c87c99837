"""What a process frees is there for the next message, without new pages from the system."""

from __future__ import annotations

import subprocess
import sys

PAGES = 300_000 // 4096
MESSAGES = 100

SCRIPT = f"""
import resource
from nebula.store import freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def message():
    parts = [b"x" * 100_000 for _ in range(3)]
    return b"".join(parts)

freed_memory.keep()
message()
before = faults()
for _ in range({MESSAGES}):
    message()
print(faults() - before)
"""


def test_large_messages_need_no_new_pages_once_freed_memory_is_kept() -> None:
    line = [sys.executable, "-c", SCRIPT]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert int(told) < MESSAGES * PAGES // 10
