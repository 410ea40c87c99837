"""What `nebula top` shows of one API key, one batch, or one line of usage. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from nebula.cli.top.accounts import Account
from nebula.events.advised import command
from nebula.events.showing import shown
from nebula.events.state import State
from nebula.events.usage_limits import UsageLimits, limit_texts, limits_of
from nebula.history import bill, moments
from nebula.history.batch_story import bar as progress
from nebula.history.batch_story import batch_verdict
from nebula.history.key_story import key_verdict
from nebula.http.batches.views import status
from nebula.http.views import key_view

_BAR = 32


def key(
    state: State, identity: str, now: int, used: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    """Yield what an API key may do and what is left of its limits, at a time (ns).

    `used`: what is counted of limits, by where they are: `key.ci`, `tenant.lab`.
    """
    found = state.keys.get(identity)
    if found is None:
        yield f"there is no key {identity!r} at this moment"
        return
    told = shown(key_verdict(found, now))
    yield told.headline
    if told.todo:
        yield told.todo
    view = shown(key_view(found, now))
    yield ""
    yield f"name      {view.name or 'none'}"
    yield f"begins    {view.begins}"
    yield f"scopes    {', '.join(view.scopes)}"
    yield f"models    {', '.join(view.models) or 'none'}"
    yield f"tenant    {view.tenant or 'none'}"
    yield f"issued    {moments.clock(found.issued_ns)}"
    yield f"expires   {view.expires or 'never'}"
    yield f"changed   by event {view.changed}; {command('why', 'key', identity)} tells how"
    yield from _limits(f"key {identity}", found.limits, used.get(limits_of("key", identity)))
    if found.tenant:
        place = limits_of("tenant", found.tenant)
        theirs = state.limits.get(place)
        if theirs is not None:
            yield from _limits(f"tenant {found.tenant}", theirs, used.get(place))


def _limits(of: str, limits: UsageLimits, used: Mapping[str, int] | None) -> Iterator[str]:
    texts = limit_texts(limits, used)
    yield from ("", f"LIMITS OF {of.upper()}" if texts else f"NO LIMITS OF {of.upper()}")
    yield from texts


def batch(state: State, identity: str, now: int | None) -> Iterator[str]:
    """Yield how far a batch is, what is wrong with its input, and its files.

    `now`: the time, if it is the present.
    """
    told = shown(batch_verdict(state, identity))
    yield told.headline
    if told.todo:
        yield told.todo
    found = state.batches.get(identity)
    if found is None:
        return
    request = shown(found.request)
    yield ""
    yield f"state     {status(found)}"
    if found.lines:
        yield f"done      {progress(found.completed + found.failed, found.lines)}"
    yield f"endpoint  {request.endpoint}"
    yield f"key       {found.key or 'none'}"
    yield f"created   {moments.clock(found.created_ns)}"
    if found.finished_ns:
        yield f"finished  {moments.clock(found.finished_ns)}"
    else:
        yield f"expires   {moments.clock(found.expires_ns)}"
    yield f"wakes     {'models that sleep' if request.wake else 'no model: its lines wait'}"
    files = (("input", request.input), ("answers", found.output), ("errors", found.errors))
    yield from (f"{name:<9} {file}" for name, file in files if file)
    yield from (f"metadata  {name}={value}" for name, value in sorted(request.metadata.items()))
    yield f"changed   by event {found.changed}; {command('why', 'batch', identity)} tells how"
    if now is not None and not found.ending:
        yield f"{command('batch', 'cancel', identity)} ends it early"
    if told.behind:
        yield from ("", "WRONG WITH ITS INPUT", *told.behind)


def usage(account: Account, by: Sequence[str], values: Sequence[str]) -> Iterator[str]:
    """Yield what those with some values used, and when."""
    sums = account.of(by, values)
    (whole,) = bill.lines(sums, ()) or (bill.Line(()),)
    named = ", ".join(
        f"{group} {shown(value) or 'none'}" for group, value in zip(by, values, strict=True)
    )
    yield f"{named}: {whole.requests:,} requests, {whole.total:,} tokens"
    yield ""
    yield f"prompts   {whole.prompt:,} tokens, {whole.cached:,} of them from caches"
    yield f"answers   {whole.completion:,} tokens"
    yield from ("", "WHEN")
    times = bill.lines(sums, [bill.time_group(account.since, account.until)])
    most = max((each.total for each in times), default=0)
    for each in times:
        filled = -(-each.total * _BAR // most) if most else 0
        yield f"{each.values[0]}  {'█' * filled:<{_BAR}}  {each.total:,}"
