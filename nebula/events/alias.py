"""One alias in the state of the cluster. Pure."""

from msgspec import Struct

from nebula.events.values import Target


class Alias(Struct, frozen=True, gc=False):
    """A name that stands for other models: its targets, and its mirror."""

    id: str
    name: str
    targets: tuple[Target, ...]
    mirror: str = ""
    changed: int = 0
