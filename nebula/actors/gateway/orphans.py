"""Stored answers whose gateway may have died: asks it, and reports the failure in its place."""

import logging

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.answer import Answer
from nebula.events import subjects
from nebula.events.failures import Failure
from nebula.events.inference import ALL_ATTEMPTS, Request, StillWanted, UnderWay, Unwanted
from nebula.events.log_fields import request_fields
from nebula.events.reading import decoded

log = logging.getLogger(__name__)

ORPHANED = 15.0
"""Seconds after which an answer that has not begun, and has no gateway, is lost."""


async def failure_of(
    gateway: Gateway, answer: Answer, owner: str, last_piece_ns: int, quiet: float
) -> Failure | None:
    """Return why no further piece will come; None while one may.

    `owner`: the gateway that sent the request. `last_piece_ns`: when the last piece was stored.
    `quiet`: seconds without a message.
    """
    if await _cared_for(gateway, answer, owner):
        return None
    replica = gateway.projection.state.replicas.get(answer.replica)
    engine = replica.engine if replica is not None else None
    if answer.replica and (engine is None or engine.started > last_piece_ns):
        return Failure.ENGINE_FAILED
    patience = ORPHANED + (answer.request.patience if answer.queued else 0.0)
    return Failure.NOT_TAKEN if not answer.replica and quiet > patience else None


def report(gateway: Gateway, request: Request, owner: str, failure: Failure) -> None:
    """Report in the place of the gateway `owner` that a request has failed.

    After that the request's key can be used again.
    """
    client = gateway.connection.client
    try:
        client.post(subjects.cancel(request.model, request.id), b"", failure.encode())
        client.post(subjects.responses(owner, request.id), b"", failure.encode())
    except NatsError as error:
        about = request_fields(request)
        log.warning("could not say that %s has failed: %r", request.id, error, extra=about)


async def _cared_for(gateway: Gateway, answer: Answer, owner: str) -> bool:
    """Ask the gateway that sent the request whether it still has it."""
    identity = answer.request.id
    asking = StillWanted("", {identity: UnderWay(answer.attempt, 0)})
    try:
        reply = await gateway.connection.client.request(
            subjects.waiting(owner), msgspec.json.encode(asking), timeout=1
        )
    except NoRespondersError:
        return False
    except (NatsError, TimeoutError):
        return True  # it is there and has nothing to object
    told = decoded(reply.data, Unwanted)
    unwanted = told.requests if told is not None else {}
    return unwanted.get(identity, 0) < ALL_ATTEMPTS  # it may be at a later attempt by now
