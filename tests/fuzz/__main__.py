"""`python -m tests.fuzz`: fuzz a cluster of its own, and print a report; 1 if a fault was found."""

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.run import Extent, administration, clients, prepare
from tests.integration.cluster import Cluster


def main() -> int:
    """Run it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="of each operation and mode")
    parser.add_argument("--slow", type=int, default=200, help="slow connections of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    extent = Extent(examples=given.examples, slow=given.slow, seed=given.seed)
    faults = 0
    with TemporaryDirectory() as folder:
        for name in ("clients", "administration"):
            cluster = Cluster(Path(folder) / name)
            cluster.folder.mkdir()
            try:
                if name == "clients":
                    cluster.up()
                    asyncio.run(prepare(cluster))
                    outcome = asyncio.run(clients(cluster, extent))
                else:
                    cluster.up("--no-node")
                    asyncio.run(cluster.ready())
                    outcome = asyncio.run(administration(cluster, extent))
            finally:
                cluster.close()
            print(f"\n{name}\n{outcome.report()}", flush=True)
            faults += len(outcome.verdicts.faults) + len(outcome.watch.wrong)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
