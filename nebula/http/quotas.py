"""Holds requests to the limits of their key, its tenant and their model, before any work is done.

A request reserves the most tokens that it can take; `nebula.events.ledger` has the theory. What is
answered beside: https://platform.openai.com/docs/guides/rate-limits and
https://docs.anthropic.com/en/api/rate-limits.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec
from litestar.types import Message, Send
from msgspec import Raw, Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.allowance import Purse, Reservation
from nebula.actors.gateway.limiting import Exceeded, Limited
from nebula.actors.gateway.not_served import NotServed
from nebula.events.endpoints import COMPLETIONS, Dialect, Endpoint
from nebula.events.inference import Request
from nebula.events.ledger import BUDGETS, OF_TOKENS, Meter
from nebula.events.state import Model, State
from nebula.events.usage_limits import UsageLimits, limits_of
from nebula.http import outline
from nebula.http.errors import ApiError, unavailable
from nebula.http.principals import Principal
from nebula.store.connection import Unavailable

BYTES_OF_TOKEN = 4
"""Bytes of a prompt's JSON that are taken for a token, until the engine tells how many it has."""

CONTEXT = 8192
"""Tokens of prompt and answer where no engine of the model has told its context length."""

SESSION: Mapping[str, int] = {Meter.REQUESTS: 1, Meter.IN_FLIGHT: 1}
"""What a session of /v1/realtime needs, of which no engine tells tokens beforehand."""

_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_UNSAID = 16
"""Tokens of an answer of /v1/completions that names no number, as at OpenAI."""

_COUNTED = {
    Meter.REQUESTS: "{} requests per minute",
    Meter.TOKENS: "{} tokens per minute",
    Meter.DAY: "{} tokens per day (UTC)",
    Meter.MONTH: "{} tokens per month (UTC)",
    Meter.IN_FLIGHT: "{} requests in flight",
}


class Quota(Struct, frozen=True):
    """All limits that hold for a request.

    `limited`: those that are counted. `priorities`: the lowest and the highest that it may have.
    `longest`: tokens of its answer.
    """

    limited: tuple[Limited, ...]
    priorities: tuple[tuple[int, int], ...] = ()
    longest: int | None = None

    def priority(self, asked: int) -> int:
        """Return the priority that a request has in the end: the nearest that it may have."""
        for lowest, highest in self.priorities:
            asked = min(max(asked, lowest), highest)
        return asked


class _Asked(Struct):
    max_tokens: Raw = Raw(b"")
    max_completion_tokens: Raw = Raw(b"")
    max_output_tokens: Raw = Raw(b"")
    n: Raw = Raw(b"")
    best_of: Raw = Raw(b"")


_asked = msgspec.json.Decoder(_Asked)
_fields = msgspec.json.Decoder(dict[str, Raw])


def quota_of(state: State, principal: Principal, model: str) -> Quota | None:
    """Return the limits of a request; None if it has none."""
    key = principal.key
    if key is None and not state.limits:
        return None
    own = None if key is None or key.limits.empty else (("key", key.id), key.limits)
    if own is None and not state.limits:
        return None
    return _quota(own, *_shared(state, key.tenant if key is not None else "", model))


def _shared(
    state: State, tenant: str, model: str
) -> Iterator[tuple[tuple[str, str], UsageLimits] | None]:
    for kind, identity in (("tenant", tenant), ("model", model)):
        found = state.limits.get(limits_of(kind, identity)) if identity else None
        yield None if found is None else ((kind, identity), found)


@lru_cache(maxsize=4096)
def _quota(*each: tuple[tuple[str, str], UsageLimits] | None) -> Quota | None:
    there = [found for found in each if found is not None]
    limited = tuple(
        Limited(subject, counted) for subject, limits in there if (counted := _counted(limits))
    )
    priorities = tuple(limits.priority for _, limits in there if limits.priority is not None)
    longest = min(
        (limits.max_tokens for _, limits in there if limits.max_tokens is not None), default=None
    )
    if not limited and not priorities and longest is None:
        return None
    return Quota(limited, priorities, longest)


@lru_cache(maxsize=4096)
def _counted(limits: UsageLimits) -> Mapping[str, int]:
    counted = ((meter, getattr(limits, meter)) for meter in Meter)
    return {str(meter): limit for meter, limit in counted if limit is not None}


def shaped(quota: Quota, endpoint: Endpoint, body: bytes, priority: int) -> bytes:
    """Return a body as the engine may have it: with a priority and a length that are allowed.

    Raise ApiError 400 for a longer answer than is allowed.
    """
    changes: dict[str, bytes] = {}
    if endpoint.form:
        return body
    allowed = quota.priority(priority)
    if allowed != priority and b'"priority"' in body:
        changes["priority"] = b"%d" % allowed
    if quota.longest is not None and _generates(endpoint):
        asked = _asked.decode(body)
        said = False
        for name in _LENGTHS:
            length = _number(getattr(asked, name))
            if length is not None and length > quota.longest:
                text = f"{name}: an answer may have at most {quota.longest} tokens"
                raise ApiError(400, text, param=name, code="max_tokens_exceeded")
            said = said or length is not None
        if not said:
            name = "max_output_tokens" if endpoint.dialect == "responses" else "max_tokens"
            changes[name] = b"%d" % quota.longest
    if not changes:
        return body
    fields = _fields.decode(body)
    fields.update({name: Raw(value) for name, value in changes.items()})
    return msgspec.json.encode(fields)


def needs_of(endpoint: Endpoint, body: bytes, prompt: bytes, context: int) -> dict[str, int]:
    """Return the most that a request can use, by meter."""
    tokens = _most(endpoint, body, prompt, context)
    return {
        Meter.REQUESTS: 1,
        Meter.TOKENS: tokens,
        Meter.DAY: tokens,
        Meter.MONTH: tokens,
        Meter.IN_FLIGHT: 1,
    }


def context_of(gateway: Gateway, model: Model) -> int:
    """Return the tokens that prompt and answer may have together, as far as is known."""
    measured = model.measured.context if model.measured is not None else 0
    return gateway.context(model) or model.context or measured or CONTEXT


def _most(endpoint: Endpoint, body: bytes, prompt: bytes, context: int) -> int:
    if not endpoint.computes:
        return 0
    if endpoint.form:
        return context
    read = math.ceil(len(prompt) / BYTES_OF_TOKEN)
    if not _generates(endpoint):
        return read
    asked = _asked.decode(body)
    choices = max(1, _number(asked.n) or 1, _number(asked.best_of) or 1)
    lengths = [length for name in _LENGTHS if (length := _number(getattr(asked, name))) is not None]
    if not lengths and endpoint is COMPLETIONS:
        lengths = [_UNSAID]
    if not lengths:
        return context * choices
    return min(read + max(lengths) * choices, context * choices)


def _generates(endpoint: Endpoint) -> bool:
    return endpoint.computes and "generate" in endpoint.tasks


def _number(raw: Raw) -> int | None:
    value = bytes(raw)
    return int(value) if value.isdigit() and len(value) < 16 else None


async def reserved(
    gateway: Gateway, quota: Quota, needs: Mapping[str, int], dialect: Dialect = "openai"
) -> Reservation:
    """Reserve what a request needs. Raise ApiError 429 if that exceeds a limit, and 503."""
    if not quota.limited:
        return []
    found = gateway.limiting.reserve(quota.limited, needs)
    if found is not None:
        return found
    try:
        return await gateway.limiting.obtain(quota.limited, needs)
    except Exceeded as error:
        raise exceeded(gateway, quota, error, dialect) from error
    except Unavailable as error:
        raise unavailable(f"the limits of this request can't be looked up: {error}") from error


async def reserved_later(
    gateway: Gateway, principal: Principal, endpoint: Endpoint, request: Request
) -> Reservation:
    """Reserve what a request needs that no client waits for. Raise NotServed if it has to wait."""
    state = gateway.projection.state
    quota = quota_of(state, principal, request.model)
    if quota is None:
        return []
    prompt = outline.read(endpoint, request.body).prompt
    context = context_of(gateway, state.models[request.model])
    try:
        return await reserved(gateway, quota, needs_of(endpoint, request.body, prompt, context))
    except ApiError as error:
        raise NotServed(str(error), error.retry_after) from error


def exceeded(gateway: Gateway, quota: Quota, error: Exceeded, dialect: Dialect) -> ApiError:
    """Return the error for a request that a limit refuses."""
    (kind, identity), purse = error.subject, error.purse
    limit = _COUNTED[Meter(purse.meter)].format(f"{purse.limit:,}")
    seconds = max(1, math.ceil(error.retry_after))
    asked = ""
    if purse.meter in OF_TOKENS:
        asked = (
            f"; {purse.remaining:,} tokens are left, and this request may take {error.amount:,}: "
            "fewer `max_tokens` need less"
        )
    spent = purse.meter in BUDGETS
    return ApiError(
        429,
        f"the {kind} {identity!r} has reached its limit of {limit}{asked}. "
        f"Try again in {seconds} s",
        kind="insufficient_quota" if spent else "rate_limit_error",
        code="insufficient_quota" if spent else "rate_limit_exceeded",
        retry_after=seconds,
        more=headers(gateway, quota, dialect),
    )


def headers(gateway: Gateway, quota: Quota, dialect: Dialect) -> dict[str, str]:
    """Return the header fields that tell how much is left, of what has the least left."""
    told: dict[str, str] = {}
    purses = [purse for each in quota.limited for purse in gateway.limiting.purses(each)]
    for what, meters in (("requests", {Meter.REQUESTS}), ("tokens", OF_TOKENS)):
        counted = [purse for purse in purses if purse.meter in meters]
        if not counted:
            continue
        least = min(counted, key=_left)
        if dialect == "anthropic":
            name = f"anthropic-ratelimit-{what}-{{}}"
            reset = datetime.fromtimestamp(least.end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        else:
            name = f"x-ratelimit-{{}}-{what}"
            reset = _duration(least.end - gateway.limiting.wall)
        told[name.format("limit")] = str(least.limit)
        told[name.format("remaining")] = str(least.remaining)
        told[name.format("reset")] = reset
    return told


def _left(purse: Purse) -> int:
    return purse.remaining


def _duration(seconds: float) -> str:
    """Return a time as Go writes it, which OpenAI's clients know: `6m0s`."""
    whole = max(0, math.ceil(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class Telling:
    """A `send` that tells in the answer's head how much of its limits a request leaves."""

    def __init__(self, send: Send, gateway: Gateway, quota: Quota, dialect: Dialect) -> None:
        self._send = send
        self._gateway = gateway
        self._quota = quota
        self._dialect = dialect

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            told = headers(self._gateway, self._quota, self._dialect).items()
            fields = [(name.encode(), value.encode()) for name, value in told]
            message = {**message, "headers": [*message["headers"], *fields]}
        await self._send(message)
