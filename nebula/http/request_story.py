"""The way of one request through the cluster, from the messages that NATS still has of it."""

from collections.abc import Sequence

from msgspec import Struct

from nebula.events import envelope
from nebula.events.state import State
from nebula.history.request import RequestStory
from nebula.openai.responses import PREFIX
from nebula.store.connection import Connection
from nebula.store.inference_log import StoredMessage
from nebula.store.request_log import called, look_up


class KeptRequest(Struct, frozen=True):
    """A request of which messages are kept. `principal`: of its caller, as `key:ci`."""

    story: RequestStory
    principal: str


async def of_request(connection: Connection, request: str, state: State) -> KeptRequest | None:
    """Return the way of a request, by Nebula's id or its caller's: of several the newest.

    A response in the background is asked for by a new request after each that failed. Raise
    Unavailable.
    """
    messages = await look_up(connection, request)
    response = any(each.headers.get(envelope.PATH) == "/v1/responses" for each in messages)
    ids = []
    if response or not messages:
        ids = await called(connection, PREFIX + request if response else request)
    if not ids:
        return _kept(request, messages, state) if messages else None
    newest, *others = ids
    return _kept(newest, await look_up(connection, newest), state, others)


def _kept(
    request: str, messages: Sequence[StoredMessage], state: State, others: Sequence[str] = ()
) -> KeptRequest:
    users = (each.headers.get(envelope.USER, "") for each in messages)
    principal = next((user.partition("/")[0] for user in users if user), "")
    return KeptRequest(RequestStory.of(request, messages, state, others), principal)
