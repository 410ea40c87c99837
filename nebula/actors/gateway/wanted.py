"""What an engine has of a gateway's requests, held against what the gateway has of them. Pure."""

from collections.abc import Mapping

from nebula.actors.gateway.exchange import Exchange
from nebula.events.inference import ALL_ATTEMPTS, StillWanted


def compare(
    asking: StillWanted, exchanges: Mapping[str, Exchange], now: float
) -> tuple[dict[str, int], list[Exchange]]:
    """Return what nobody waits for, as `Unwanted` has it, and what the engine has said more of.

    It takes note of what the engine still has, at `now` (s of a monotonic clock).
    """
    unwanted: dict[str, int] = {}
    behind: list[Exchange] = []
    for identity, under_way in asking.requests.items():
        exchange = exchanges.get(identity)
        if exchange is None:
            unwanted[identity] = ALL_ATTEMPTS
        elif under_way.attempt < exchange.answer.attempt:
            unwanted[identity] = exchange.answer.attempt
        elif exchange.answer.replica in ("", asking.replica):
            exchange.asked_at = now
            if under_way.chunks > exchange.answer.pieces:
                behind.append(exchange)
    return unwanted, behind
