"""Load from wrk, which costs little beside what it measures: requests one after another."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .processes import Failed

_SCRIPT = """\
wrk.method = "POST"
wrk.body = %s
wrk.headers["Content-Type"] = "application/json"
%s
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "microseconds": %%d, "bytes": %%d, "statuses": %%d, '
    .. '"broken": %%d, "timeouts": %%d, "p50": %%d, "p99": %%d, "p999": %%d}\\n', summary.requests,
    summary.duration, summary.bytes, e.status, e.connect + e.read + e.write, e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


class Load(NamedTuple):
    """What came of it: good answers, failed ones, seconds, and bytes with their headers.

    The percentiles are of a whole answer's milliseconds. A connection asks again only once it has
    its answer, so a pause is in them once for each connection.
    """

    good: int
    failed: int
    seconds: float
    bytes: int
    p50: float
    p99: float
    p999: float


def load(
    url: str,
    body: bytes,
    connections: int,
    seconds: float,
    folder: Path,
    headers: Mapping[str, str],
) -> Load:
    """Keep so many connections busy with the same request. Raise Failed."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise Failed("there is no wrk: apt-get install wrk")
    script = folder / "wrk.lua"
    fields = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(_SCRIPT % (f"[==[{body.decode()}]==]", fields))
    line = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    ended = subprocess.run(
        [*line, "-s", str(script), url], capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise Failed(f"wrk: {ended.stderr.strip()[-300:]}")
    told = json.loads(ended.stdout.strip().splitlines()[-1])
    good = told["requests"] - told["statuses"]
    failed = told["statuses"] + told["broken"] + told["timeouts"]
    times = [told[name] / 1000 for name in ("p50", "p99", "p999")]
    return Load(good, failed, told["microseconds"] / 1e6, told["bytes"], *times)
