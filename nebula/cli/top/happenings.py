"""The windows of `nebula top` on what happens: requests in flight, and events. Pure."""

from collections.abc import Sequence

from nebula.cli.top.listing import Chosen, Column, Listing, Span, table
from nebula.events.record import Record
from nebula.events.requests_in_flight import RequestInFlight
from nebula.history import moments
from nebula.http.views import event_view

_REQUESTS = (
    Column("REQUEST", 12, share=2),
    Column("MODEL", 12, share=2),
    Column("AGE", 6),
    Column("STATE", 8),
    Column("AT", 12, share=1, rank=1),
    Column("TOKENS", 6, rank=2),
    Column("PLACE", 5, rank=3),
    Column("TENANT", 10, share=1, rank=4),
    Column("STREAM", 12, share=1, rank=5),
)


def requests(found: Sequence[RequestInFlight], find: str, now: float, nothing: str) -> Listing:
    """List requests in flight; `now` in seconds since the epoch."""
    wanted = find.lower()
    listed = [
        each for each in found if wanted in f"{each.id} {each.model} {each.tenant} {each.state}"
    ]

    def cells(number: int, _: int) -> tuple[Span, ...]:
        each = listed[number]
        return (
            Span(each.id),
            Span(f"{each.model}/{each.adapter}" if each.adapter else each.model),
            Span(f"{max(0.0, now - each.started):.0f}s"),
            Span(each.state, "good" if each.state == "running" else "working"),
            Span(each.replica or each.router),
            Span(str(each.tokens) if each.stream else ""),
            Span(str(each.position or "")),
            Span(each.tenant),
            Span(stream(each)),
        )

    nothing = f"no request in flight has {find!r} in it" if find and found else nothing
    return table(_REQUESTS, len(listed), cells, lambda n: Chosen("request", listed[n].id), nothing)


def stream(each: RequestInFlight) -> str:
    """Return what is to be known of a request's stream."""
    words = ["stream" if each.stream else ""]
    if each.continued:
        words.append(f"continued {each.continued}x")
    if not each.attached:
        words.append("without a client")
    return ", ".join(filter(None, words))


_EVENTS = (
    Column("SEQ", 6),
    Column("TIME", 8, rank=1),
    Column("ABOUT", 12, share=1),
    Column("WHAT", 16, share=4),
    Column("EVENT", 18, rank=4, roomy=110),
    Column("CAUSE", 8, rank=3),
    Column("BY", 10, share=1, rank=5, roomy=130),
)


def events(found: Sequence[Record], find: str) -> Listing:
    """List events, the newest first."""
    wanted = find.lower()
    listed = [each for each in reversed(found) if _has(each, wanted)]

    def cells(number: int, _: int) -> tuple[Span, ...]:
        each = event_view(listed[number])
        return (
            Span(str(each.seq), "dim"),
            Span(moments.clock(listed[number].time)[11:19]),
            Span(each.id or each.aggregate),
            Span(each.text, "bad" if each.malformed else ""),
            Span(each.type, "dim"),
            Span(f"<- {each.cause}" if each.cause is not None else "", "dim"),
            Span(each.by or each.actor, "dim"),
        )

    nothing = f"none of these events has {find!r} in it" if find else "no events yet"
    return table(
        _EVENTS, len(listed), cells, lambda n: Chosen("event", str(listed[n].seq)), nothing
    )


def _has(record: Record, wanted: str) -> bool:
    if not wanted:
        return True
    view = event_view(record)
    return wanted in f"{view.seq} {view.type} {view.aggregate}/{view.id} {view.text}".lower()
