"""How quick `nebula top` is over a large log: `python -m benchmarks.top [EVENTS]`.

The same simulated log as for `benchmarks.console`, with 1,000 nodes and 10,000 models, is shown in
a terminal of 80x24. Printed are the milliseconds from a key to a terminal that shows what it asked
for (median and worst of some tries), and how many items were made for it.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from textual.pilot import Pilot

from benchmarks.console import write
from nebula.cli.top.app import Top
from nebula.cli.top.shown import HOME
from nebula.cli.top.source import FileSource
from nebula.cli.top.widgets import ItemList
from nebula.http.console.file_log import FileLog

TRIES = 7
STEPS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("home", ("2",), "1"),
    ("models", ("1",), "2"),
    ("nodes", ("1",), "3"),
    ("events", ("1",), "5"),
    ("a page of models further", ("1", "2"), "pagedown"),
    ("the last of the models", ("1", "2"), "end"),
    ("home, one event back", ("1",), "left"),
    ("models, one event back", ("2",), "left"),
    ("nodes, a fiftieth of the log back", ("3",), "left_square_bracket"),
    ("events, a fiftieth of the log back", ("5",), "left_square_bracket"),
)
"""What is measured: its name, the keys before it, and its key."""


async def settled(app: Top, pilot: Pilot[str]) -> None:
    """Wait until the terminal shows the moment on the slider."""
    shown = app.shown

    def there() -> bool:
        return shown.state.seq == shown.line.seq and (
            shown.window != HOME or shown.surveyed is shown.state
        )

    while not there():
        await pilot.pause()
    await pilot.pause()


async def measure(app: Top, pilot: Pilot[str]) -> None:
    """Print the figures of each step."""
    for name, before, key in STEPS:
        took: list[float] = []
        for _ in range(TRIES):
            await pilot.press(*before)
            await settled(app, pilot)
            began = time.perf_counter()
            await pilot.press(key)
            await settled(app, pilot)
            took.append((time.perf_counter() - began) * 1000)
        made = len(app.query_one(ItemList)._made)
        print(f"{name:<36} {statistics.median(took):6.0f} {max(took):6.0f} {made:6}")


async def main() -> None:
    """Write the log, show it, and measure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.jsonl"
        write(path, count)
        began = time.perf_counter()
        log = FileLog(path)
        print(f"{count:,} events, read in {time.perf_counter() - began:.1f} s")
        app = Top(FileSource(log, "fleet"), "fleet")
        print(f"{'':<36} {'median':>6} {'worst':>6} {'made':>6}  (ms, items)")
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await measure(app, pilot)


if __name__ == "__main__":
    asyncio.run(main())
