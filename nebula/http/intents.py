"""How a request to the admin API becomes an event of the log, with its principal."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from litestar import Request

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.budget import Hold
from nebula.actors.intents import Refused, submit
from nebula.events import subjects
from nebula.events.reading import UNREADABLE
from nebula.events.state import State
from nebula.events.vocabulary import Event
from nebula.events.wrong_values import in_words
from nebula.http import own_fields
from nebula.http.bad_json import no_json
from nebula.http.bodies import read_body
from nebula.http.credentials import message_id
from nebula.http.errors import ApiError, field_at_fault, unavailable
from nebula.http.inference import Limits
from nebula.http.principals import principal_of
from nebula.http.views import Accepted, ModelView, model_view
from nebula.store.connection import Unavailable
from nebula.store.log import Reused, TooLarge
from nebula.store.refusals import NotAppended
from nebula.store.tail import LogReplaced

E = TypeVar("E")
K = TypeVar("K")

RETRY_CHANGES = 10
"""Seconds for `Retry-After` if the log took no change: an operator has to make room first."""


async def read_intent(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    limits: Limits,
    kind: type[E],
    *drop: str,
    optional: bool = True,
) -> tuple[E, Mapping[str, object]]:
    """Read an intent from a body, and the fields beside it that are not part of the event.

    `optional`: whether no body stands for an object without fields.
    """
    hold = Hold(gateway.bodies)
    headers = dict(request.scope["headers"])
    raw = b""
    try:
        raw = await read_body(request.receive, headers, limits.body_for(gateway), hold)
        if not (raw or optional):
            raise ApiError(400, "the body is empty: it must be a JSON object")
        fields = msgspec.json.decode(raw or b"{}", type=dict[str, object])
        extra = {key: fields.pop(key) for key in drop if key in fields}
        return msgspec.convert(fields, kind), extra
    except msgspec.ValidationError as error:
        raise ApiError(400, in_words(error), param=field_at_fault(error)) from error
    except UNREADABLE as error:
        raise no_json(raw, error) from error
    finally:
        hold.release()


async def submitted(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    identity: str,
    event: Event,
    number: int = 0,
    unless: Callable[[State], str] = lambda _: "",
    there: Callable[[], object] = lambda: None,
    by: str = "",
) -> Accepted:
    """Append an intent. `number`: its place among the intents of this request.

    `unless` returns a further reason to reject it. `there` raises ApiError if the object of the
    intent does not exist; it is not asked for a repeated request, which may itself have removed it.
    `by`: on whose behalf the gateway itself appends it, whatever the request's principal and its
    `Idempotency-Key`.
    """
    try:
        there()
    except ApiError:
        before = await _before(request, gateway, identity, event)
        if before is None:
            raise
        return before
    with recording(gateway):
        try:
            seq = await submit(
                gateway.projection,
                identity,
                event,
                message_id=None if by else _message_id(request, number),
                unless=unless,
                by=by or principal_of(request.scope).name,
            )
        except Refused as error:
            raise refused_intent(str(error)) from error
        except Reused as error:
            raise _reused(error) from error
    return Accepted(identity, seq, _shown(gateway, identity))


@contextmanager
def recording(gateway: Gateway) -> Iterator[None]:
    """Append to the log within the block. Raise ApiError if the log does not take it."""
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    watch = gateway.log_watch
    refused = watch.refuses()
    if refused:
        raise unavailable(f"{refused}; nothing was recorded", RETRY_CHANGES)
    try:
        yield
    except TooLarge as error:
        raise ApiError(413, str(error), code="too_large") from error
    except NotAppended as error:
        watch.failed(error.reason)
        reason = watch.refuses() or error.reason
        raise unavailable(f"{reason}; {error.outcome}", RETRY_CHANGES) from error
    except (Unavailable, LogReplaced) as error:
        raise unavailable(str(error)) from error
    watch.succeeded()


def refused_intent(reason: str) -> ApiError:
    """Return the error for an intent that is rejected; a reason begins with the field at fault."""
    field = reason.partition(":")[0]
    param = field if field.isidentifier() else None
    status = 409 if "is already" in reason or field == "replaces" else 400
    return ApiError(status, reason, param=param, code="refused")


def _shown(gateway: Gateway, identity: str) -> ModelView | None:
    state = gateway.projection.state
    model = state.models.get(identity)
    return model_view(state, model, time.time_ns()) if model is not None else None


def _reused(error: Reused) -> ApiError:
    text = f"this Idempotency-Key was used for another request: {error}"
    return ApiError(422, text, code="idempotency_key_reused")


async def _before(
    request: Request[Any, Any, Any], gateway: Gateway, identity: str, event: Event
) -> Accepted | None:
    """Return the earlier answer to the same request. Raise ApiError."""
    key = _message_id(request, 0)
    if key is None or not subjects.is_token(identity):
        return None
    try:
        seq = await gateway.projection.log.under(key, identity, event)
    except Reused as error:
        raise _reused(error) from error
    except Unavailable as error:
        raise unavailable(str(error)) from error
    return None if seq is None else Accepted(identity, seq, _shown(gateway, identity))


def _message_id(request: Request[Any, Any, Any], number: int) -> str | None:
    headers = own_fields.fields(request.scope)
    key = own_fields.idempotency_key(headers)
    return message_id(principal_of(request.scope).owner, key, number) if key else None


def known(kind: str, of: Mapping[str, K], identity: str) -> K:
    """Return the object that has this id. Raise ApiError."""
    found = of.get(identity)
    if found is None:
        there = ", ".join(sorted(of)) or "none"
        text = f"there is no {kind} with the id {identity!r}; there are: {there}"
        raise ApiError(404, text, param=kind, code=f"{kind}_not_found")
    return found


def valid_id(text: object, param: str) -> str:
    """Return an id that a request names as `param`. Raise ApiError 400."""
    if not isinstance(text, str) or not subjects.is_token(text):
        raise ApiError(
            400, f"{param}: {text!r} is not a valid id: use {subjects.ID_FORM}", param=param
        )
    return text
