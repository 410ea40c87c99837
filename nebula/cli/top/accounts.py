"""The windows of `nebula top` on usage, API keys and batches. Pure."""

from collections.abc import Sequence

from msgspec import Struct

from nebula.cli.top.listing import Chosen, Column, Line, Listing, Span, Tone, fit, table
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.events.usage import UsageSum
from nebula.events.usage_limits import limit_texts
from nebula.history import bill, moments
from nebula.http.batches.views import status
from nebula.http.views import key_view

GROUPINGS = (("key", "model"), ("tenant",), ("model",), ("key", "path"), ("user",), ("day",))
"""What usage may be told apart by, in the order in which a key leads through them."""

SPANS = (("a day", 1), ("a week", 7), ("30 days", 30), ("a year", 365))
"""The times before the moment that usage may be of, in words and in days."""

_STATES: dict[str, Tone] = {
    "valid": "good",
    "expired": "warning",
    "revoked": "dim",
    "validating": "working",
    "in_progress": "working",
    "finalizing": "working",
    "cancelling": "working",
    "completed": "good",
    "failed": "bad",
    "cancelled": "dim",
}


class Account(Struct, frozen=True):
    """What was used in the hours from `since` to before `until`, in seconds since 1970.

    `lost`: messages with records that were never summed; `dropped`: records that no gateway could
    store.
    """

    since: int
    until: int
    sums: tuple[UsageSum, ...]
    lost: int = 0
    dropped: int = 0

    def values(self, by: Sequence[str]) -> list[bill.Line]:
        """Return what was used by each, the largest first, or by time."""
        return [*bill.most_first(bill.lines(self.sums, by), by)]

    def of(self, by: Sequence[str], values: Sequence[str]) -> list[UsageSum]:
        """Return the sums of those that have some values in common."""
        return bill.having(self.sums, by, values)


_COUNTS = (
    Column("REQUESTS", 8),
    Column("PROMPT", 10, rank=1),
    Column("CACHED", 10, rank=3),
    Column("ANSWERS", 10, rank=2),
    Column("TOKENS", 11),
)


def usage(account: Account | None, by: Sequence[str], find: str, nothing: str) -> Listing:
    """List what was used, told apart by some groups; `nothing`: what is said before it is known."""
    if account is None:
        return Listing(0, lambda _, __: (), lambda _: None, nothing)
    wanted = find.lower()
    every = account.values(by)
    found = [each for each in every if wanted in " ".join(each.values).lower()]
    columns = (*(Column(group.upper(), 10, share=1) for group in by), *_COUNTS)

    def cells(number: int, _: int) -> tuple[Span, ...]:
        each = found[number]
        counts = (each.requests, each.prompt, each.cached, each.completion, each.total)
        named = (Span(shown(value) or "none") for value in each.values)
        return (*named, *(Span(f"{count:,}") for count in counts))

    rows = table(columns, len(found), cells, lambda _: None, "")
    notes = [*_missing(account, every)]

    def lines(number: int, width: int) -> Sequence[Line]:
        if number == 0:
            return ((Span(fit(_together(account, every), width), "bold"),),)
        if number <= len(found):
            return rows.lines(number - 1, width)
        return ((Span(fit(notes[number - 1 - len(found)], width), "warning"),),)

    def about(number: int) -> Chosen | None:
        inside = 0 < number <= len(found)
        return Chosen("usage", "\n".join(found[number - 1].values)) if inside else None

    return Listing(1 + len(found) + len(notes), lines, about, "", rows.head)


def _together(account: Account, lines: Sequence[bill.Line]) -> str:
    begin = moments.clock(account.since * 10**9)[:16]
    requests = sum(each.requests for each in lines)
    if not requests:
        return f"since {begin}: nothing was used"
    prompt, answers = sum(each.prompt for each in lines), sum(each.completion for each in lines)
    tokens = f"{prompt:,} tokens of prompts, {answers:,} of answers"
    return f"since {begin}: {requests:,} requests, {tokens}"


def _missing(found: Account, lines: Sequence[bill.Line]) -> list[str]:
    estimated = sum(each.estimated for each in lines)
    notes = (
        (estimated, "of the tokens are of streams that were cut: at least so many"),
        (found.lost, "messages with records were lost before they were summed"),
        (found.dropped, "requests are missing: NATS took no records for too long"),
    )
    return [f"{number:,} {words}" for number, words in notes if number]


_KEYS = (
    Column("KEY", 12, share=2),
    Column("STATE", 7),
    Column("SCOPES", 10, share=1),
    Column("TENANT", 10, share=1, rank=2),
    Column("EXPIRES", 20, rank=3),
    Column("MODELS", 10, share=1, rank=4, roomy=90),
    Column("LIMITS", 16, share=3, rank=1),
    Column("BEGINS", 10, rank=5, roomy=120),
)


def keys(state: State, find: str, now: int) -> Listing:
    """List API keys, without their secrets, as they are at a time (ns since the epoch)."""
    wanted = find.lower()
    found = [
        identity
        for identity in sorted(state.keys)
        if wanted
        in f"{identity} {(key := state.keys[identity]).name} {key.prefix} {key.tenant} "
        f"{key.invalid(now) or 'valid'}".lower()
    ]

    def cells(number: int, _: int) -> tuple[Span, ...]:
        each = shown(key_view(state.keys[found[number]], now))
        return (
            Span(each.id),
            Span(each.state, _STATES.get(each.state, "")),
            Span(", ".join(each.scopes)),
            Span(each.tenant),
            Span(each.expires),
            Span(", ".join(each.models)),
            Span(", ".join(limit_texts(each.limits))),
            Span(each.begins, "dim"),
        )

    nothing = f"no key has {find!r} in its id, name, tenant or state" if find else "no keys yet"
    return table(_KEYS, len(found), cells, lambda n: Chosen("key", found[n]), nothing)


_BATCHES = (
    Column("BATCH", 12, share=2),
    Column("STATE", 11),
    Column("DONE", 11),
    Column("FAILED", 6),
    Column("ENDPOINT", 14, share=1, rank=1),
    Column("KEY", 8, share=1, rank=2),
    Column("CREATED", 19, rank=3, roomy=90),
    Column("EXPIRES", 19, rank=4, roomy=110),
)


def batches(state: State, find: str) -> Listing:
    """List the batches of all callers, the newest first."""
    wanted = find.lower()
    found = [
        each
        for each in state.batches.values()
        if wanted in f"{each.id} {each.key} {each.request.endpoint} {status(each)}".lower()
    ]
    found.sort(key=lambda each: (each.created_ns, each.id), reverse=True)

    def cells(number: int, _: int) -> tuple[Span, ...]:
        each = found[number]
        stands = status(each)
        return (
            Span(each.id),
            Span(stands, _STATES.get(stands, "")),
            Span(f"{each.completed}/{each.lines}" if each.lines else ""),
            Span(str(each.failed or ""), "bad" if each.failed else ""),
            Span(shown(each.request.endpoint)),
            Span(each.key),
            Span(moments.clock(each.created_ns)[:19]),
            Span("" if each.over else moments.clock(each.expires_ns)[:19]),
        )

    nothing = f"no batch has {find!r} in its id, key, path or state" if find else "no batches yet"
    return table(_BATCHES, len(found), cells, lambda n: Chosen("batch", found[n].id), nothing)
