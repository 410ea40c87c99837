"""The command line, which here takes a `--lost-after` that no real cluster should have."""

from nebula.actors.router import loss
from nebula.cli.main import main

if __name__ == "__main__":
    loss.LEAST_LOST_AFTER = 0.0
    main()
