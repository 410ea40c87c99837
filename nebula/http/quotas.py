"""Holds requests to the limits of their key, its tenant and their model, before any work is done.

A request reserves the most tokens that it can take; `nebula.events.ledger` has the theory. What is
answered beside: https://platform.openai.com/docs/guides/rate-limits and
https://docs.anthropic.com/en/api/rate-limits.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.allowance import Reservation
from nebula.actors.gateway.limiting import Exceeded, Limited
from nebula.actors.gateway.not_served import NotServed
from nebula.events.endpoints import ENDPOINTS, Dialect, Endpoint
from nebula.events.inference import Request
from nebula.events.key import Key
from nebula.events.ledger import BUDGETS, OF_TOKENS, Meter
from nebula.events.state import Model, State
from nebula.events.usage_limits import NO_LIMITS, UsageLimits, limits_of
from nebula.http import answer_lengths, outline, quota_fields
from nebula.http.errors import ApiError, unavailable
from nebula.http.principals import Principal
from nebula.openai import forms
from nebula.store.connection import Unavailable

BYTES_OF_TOKEN = 4
"""Bytes of a prompt's JSON that are taken for a token, until the engine tells how many it has."""

CONTEXT = 8192
"""Tokens of prompt and answer where no engine of the model has told its context length."""

_MOST = 4096
"""Quotas that are remembered."""

_COUNTED = {
    Meter.REQUESTS: "{} requests per minute",
    Meter.TOKENS: "{} tokens per minute",
    Meter.DAY: "{} tokens per day (UTC)",
    Meter.MONTH: "{} tokens per month (UTC)",
    Meter.IN_FLIGHT: "{} requests in flight",
}


class Quota(Struct, frozen=True):
    """All limits that hold for a request.

    `limited`: those that are counted, of `tokens` too or not. `priorities`: the lowest and the
    highest that it may have. `longest`: tokens of its answer. `shapes`: it may change a body.
    """

    limited: tuple[Limited, ...]
    priorities: tuple[tuple[int, int], ...] = ()
    longest: int | None = None
    tokens: bool = False
    shapes: bool = True

    def priority(self, asked: int) -> int:
        """Return the priority that a request has in the end: the nearest that it may have."""
        for lowest, highest in self.priorities:
            asked = min(max(asked, lowest), highest)
        return asked


_KEYLESS = Quota((), ((0, sys.maxsize),))


_fields = msgspec.json.Decoder(dict[str, Raw])


def within_reach(
    principal: Principal, endpoint: Endpoint, body: bytes, asked: outline.Outline
) -> tuple[bytes, outline.Outline]:
    """Return a body and what is read of it, with a priority that the caller may have.

    What comes without a key goes before no other, unless it may operate the cluster.
    """
    if asked.priority >= 0 or principal.key is not None or "operate" in principal.scopes:
        return body, asked
    return shaped(_KEYLESS, endpoint, body, asked), replace(asked, priority=0)


def quota_of(state: State, principal: Principal, model: str) -> Quota | None:
    """Return the limits of a request; None if it has none."""
    key = principal.key
    if not state.limits and (key is None or key.limits is NO_LIMITS):
        return None
    if state.limits is _remembered.limits:
        found = _remembered.quotas.get((id(key), model))
        if found is not None and found[0] is key:
            return found[1]
    return _remembered.renewed(state, key, model)


class _Remembered:
    """The quotas of requests that came, as long as no limits of tenants and models change.

    `quotas`: by the key, which does not change, and the model.
    """

    def __init__(self) -> None:
        self.limits: object = None
        self.quotas: dict[tuple[int, str], tuple[Key | None, Quota | None]] = {}

    def renewed(self, state: State, key: Key | None, model: str) -> Quota | None:
        """Return the quota of a request of a key, or of none, and remember it."""
        if state.limits is not self.limits or len(self.quotas) >= _MOST:
            self.limits = state.limits
            self.quotas.clear()
        own = None
        if key is not None and not key.limits.empty:
            own = ("key", key.id), key.limits
        quota = _quota(own, *_shared(state, "" if key is None else key.tenant, model))
        self.quotas[id(key), model] = key, quota
        return quota


_remembered = _Remembered()


def _shared(
    state: State, tenant: str, model: str
) -> Iterator[tuple[tuple[str, str], UsageLimits] | None]:
    for kind, identity in (("tenant", tenant), ("model", model)):
        found = state.limits.get(limits_of(kind, identity)) if identity else None
        yield None if found is None else ((kind, identity), found)


@lru_cache(maxsize=_MOST)
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
    tokens = any(meter in OF_TOKENS for each in limited for meter in each.limits)
    shapes = longest is not None or bool(priorities)
    return Quota(limited, priorities, longest, tokens, shapes)


@lru_cache(maxsize=_MOST)
def _counted(limits: UsageLimits) -> Mapping[str, int]:
    counted = ((meter, getattr(limits, meter)) for meter in Meter)
    return {meter.value: limit for meter, limit in counted if limit is not None}


def shaped_form(
    quota: Quota, endpoint: Endpoint, content_type: str, body: bytes, said: Mapping[str, str]
) -> bytes:
    """Return a form as the engine may have it: with a length that is allowed.

    `said`: its fields that name a length. Raise ApiError 400 for a longer answer than is allowed.
    """
    if quota.longest is None:
        return body
    lengths = {name: value.encode() for name, value in said.items()}
    name = answer_lengths.missing(endpoint, lengths, quota.longest)
    return forms.with_field(content_type, body, name, str(quota.longest)) if name else body


def shaped(quota: Quota, endpoint: Endpoint, body: bytes, asked: outline.Outline) -> bytes:
    """Return a JSON body as the engine may have it: with a priority and a length that are allowed.

    `asked`: what was read of it. Raise ApiError 400 for a longer answer than is allowed.
    """
    changes: dict[str, bytes] = {}
    allowed = quota.priority(asked.priority)
    if allowed != asked.priority and b'"priority"' in body:
        changes["priority"] = b"%d" % allowed
    if quota.longest is not None and _generates(endpoint):
        lengths = _lengths(endpoint, asked.fields)
        name = answer_lengths.missing(endpoint, lengths, quota.longest)
        if name:
            changes[name] = b"%d" % quota.longest
    if not changes:
        return body
    fields = _fields.decode(body)
    fields.update({name: Raw(value) for name, value in changes.items()})
    return msgspec.json.encode(fields)


def tokens_of(
    gateway: Gateway, quota: Quota, endpoint: Endpoint, model: str, asked: outline.Outline
) -> int:
    """Return the most tokens that a request to a model can use; 0 if they have no limit."""
    if not quota.tokens:
        return 0
    context = context_of(gateway, gateway.projection.state.models[model])
    return most(endpoint, asked, context, quota.longest)


def context_of(gateway: Gateway, model: Model) -> int:
    """Return the tokens that prompt and answer may have together, as far as is known."""
    known = gateway.heartbeats.context_of(model)
    if known is None:
        known = model.context or (model.measured.context if model.measured is not None else 0)
    return known or CONTEXT


def most(
    endpoint: Endpoint, asked: outline.Outline, context: int, allowed: int | None = None
) -> int:
    """Return the most tokens that a request can use.

    `context`: what an engine takes. `allowed`: tokens of an answer at most, if that is limited.
    """
    names = _GENERATING.get(endpoint.path)
    if names is None:
        return context if endpoint.form else _read(asked) if endpoint.computes else 0
    fields, read = asked.fields, _read(asked)
    longest = None
    for name in names:
        raw = getattr(fields, name)
        if raw and (text := bytes(raw)) != b"null":
            length = int(text) if text.isdigit() and len(text) < 10 else context
            if longest is None or length > longest:
                longest = length
    if longest is None:
        longest = answer_lengths.unsaid(endpoint.path, allowed)
        if longest is None:
            longest = context
    if fields.n or fields.best_of:
        choices = _choices(fields)
        longest, context = longest * choices, context * choices
    tokens = read + longest
    return context if tokens > context else tokens


def _read(asked: outline.Outline) -> int:
    """Return the tokens that a prompt has at most, by its length."""
    return (len(asked.prompt) + BYTES_OF_TOKEN - 1) // BYTES_OF_TOKEN


def _choices(fields: outline.Fields) -> int:
    return max(answer_lengths.number(bytes(raw)) or 1 for raw in (fields.n, fields.best_of))


def _generates(endpoint: Endpoint) -> bool:
    return endpoint.computes and "generate" in endpoint.tasks


_GENERATING = {
    path: answer_lengths.LENGTHS.get(path, ())
    for path, endpoint in ENDPOINTS.items()
    if _generates(endpoint) and not endpoint.form
}
"""The fields that name the length of an answer, by each path that generates from JSON."""


def _lengths(endpoint: Endpoint, asked: outline.Fields) -> Mapping[str, bytes]:
    """Return the fields that name the length of an answer, but those that are null."""
    found = {}
    for name in answer_lengths.LENGTHS.get(endpoint.path, ()):
        raw = getattr(asked, name)
        if raw and (text := bytes(raw)) != b"null":
            found[name] = text
    return found


async def reserved(
    gateway: Gateway, quota: Quota, tokens: int, dialect: Dialect = "openai"
) -> Reservation:
    """Reserve what a request needs. Raise ApiError 429 if that exceeds a limit, and 503."""
    if not quota.limited:
        return []
    found = gateway.limiting.reserve(quota.limited, tokens)
    if found is not None:
        return found
    try:
        return await gateway.limiting.obtain(quota.limited, tokens)
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
    asked = outline.read(endpoint, request.body)
    try:
        tokens = tokens_of(gateway, quota, endpoint, request.model, asked)
        return await reserved(gateway, quota, tokens)
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
        more=quota_fields.texts(gateway.limiting, quota.limited, dialect),
    )
