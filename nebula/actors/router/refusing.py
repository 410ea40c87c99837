"""What a router answers in an engine's place to a request that it does not send on. Pure."""

from nebula.events.failures import Failure
from nebula.events.inference import Piece, Request


def refusal(request: Request, status: int, retry_after: int | None) -> Piece:
    """Return the piece with which a router refuses a request."""
    return Piece(
        0,
        status=status,
        content_type="text/plain",
        end=True,
        failure=Failure.REFUSED,
        attempt=request.attempt,
        retry_after=retry_after,
        continues=request.continues,
    )


def overdue(request: Request) -> Piece:
    """Return the piece that tells that a request's own time is over."""
    return Piece(
        0,
        end=True,
        failure=Failure.ENGINE_TIMED_OUT,
        attempt=request.attempt,
        continues=request.continues,
    )
