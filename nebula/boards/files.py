"""All boards, and the files that Grafana reads."""

import json

from nebula.boards.fleet import FLEET
from nebula.boards.model import MODELS
from nebula.boards.node import NODES
from nebula.boards.panels import Board
from nebula.boards.tenant import TENANTS

BOARDS: tuple[Board, ...] = (FLEET, MODELS, NODES, TENANTS)


def files() -> dict[str, str]:
    """Return the name of each file, and what is to be in it."""
    return {f"{board.name}.json": json.dumps(board.json(), indent=2) + "\n" for board in BOARDS}
