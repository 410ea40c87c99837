"""What a cycle uses of its connection."""

from typing import TYPE_CHECKING, Protocol

from litestar.types import ASGIApp

if TYPE_CHECKING:
    from nebula.http.server.cycle import Cycle


class Line(Protocol):
    """The connection's side that a cycle uses."""

    congested: bool
    """Whether the client must read before more is written."""

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""

    def write_now(self, data: bytes) -> None:
        """Send bytes to the client, without waiting for others of this turn of the event loop."""

    def break_off(self, *, evident: bool) -> None:
        """End the connection amid an answer; `evident`: the client sees that it is incomplete."""

    async def writable(self) -> None:
        """Wait until the client has read enough to write more."""

    def wants_body(self) -> None:
        """Resume reading if it was paused."""

    def took(self, size: int) -> None:
        """The application has taken this number of bytes of the body."""

    def run(self, cycle: "Cycle", app: ASGIApp) -> None:
        """Let an application answer a request in a task."""

    def answered(self, cycle: "Cycle") -> None:
        """The answer is complete."""

    @property
    def fields(self) -> bytes:
        """The field lines that every answer has."""
