"""`nebula why`: the chain of events behind a model, a replica, an event or a request, in words."""

from collections.abc import Callable
from pathlib import Path

import click
from msgspec.structs import replace

from nebula.cli.explain_key import why_key
from nebula.cli.explain_others import of_actor, of_batch, of_node
from nebula.cli.log_source import (
    LivePast,
    Past,
    log_option,
    moment,
    opened,
    reader_time,
    state_at,
    story_until,
)
from nebula.cli.options import Numbered, Whole, json_option, nats_option
from nebula.cli.process import fail, run
from nebula.cli.story_output import tell, tell_request
from nebula.events.advised import command
from nebula.events.record import Record
from nebula.events.state import State
from nebula.events.validation import known_names
from nebula.history import long_lines
from nebula.history.event_filter import model_of
from nebula.history.explanation import Causes, Chronicle, without_gaps
from nebula.history.moments import Moment
from nebula.history.story import awaited, last_asked, last_start, with_silence
from nebula.history.subject import (
    Subject,
    Verdict,
    belongs,
    later,
    log_trouble,
    named_by,
    replica_status,
    resolve_subject,
    verdict,
)
from nebula.http.request_story import of_request
from nebula.http.silence import silent
from nebula.http.told_lines import told_lines
from nebula.store.reach import trouble

all_option = click.option(
    "--all", "whole", is_flag=True, help="From the beginning, not only since it was last requested."
)
at_option = click.option(
    "--at", default=None, metavar="SEQ|TIME", help="The answer at that moment instead of now."
)


class _Why(click.Group):
    """A group that takes an unknown subcommand as a name, so that `nebula why chat` works."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a kind, or else that of a model."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["seq" if args[0].isdecimal() else "model", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Why)
def why() -> None:
    """Explain how something came to be: what was requested, decided and done, and why.

    A name alone means a model, an alias, an adapter, a replica, a node, a batch, a router, a
    gateway or a request; a number alone means an event.
    """


why.add_command(why_key)


@why.command("model")
@click.argument("model")
@all_option
@at_option
@log_option
@nats_option
@json_option
def why_model(
    model: str, whole: bool, at: str | None, file: Path | None, nats: str, as_json: bool
) -> None:
    """Why MODEL is in its present state, and what to do about it.

    MODEL is an id or a name. The name of an alias or an adapter leads to the models behind it.
    """
    run(_model(nats, file, model, whole, at, as_json))


@why.command("replica")
@click.argument("replica")
@all_option
@at_option
@log_option
@nats_option
@json_option
def why_replica(
    replica: str, whole: bool, at: str | None, file: Path | None, nats: str, as_json: bool
) -> None:
    """Why REPLICA is where it is, and what happened to it there."""
    run(_replica(nats, file, replica, whole, at, as_json))


@why.command("node")
@click.argument("node")
@all_option
@at_option
@log_option
@nats_option
@json_option
def why_node(
    node: str, whole: bool, at: str | None, file: Path | None, nats: str, as_json: bool
) -> None:
    """How NODE stands, what it runs, and what happened to it since it last started."""
    run(_node(nats, file, node, whole, at, as_json))


@why.command("batch")
@click.argument("batch")
@at_option
@log_option
@nats_option
@json_option
def why_batch(batch: str, at: str | None, file: Path | None, nats: str, as_json: bool) -> None:
    """How BATCH stands, and what happened to it."""
    run(_batch(nats, file, batch, at, as_json))


@why.command("seq", cls=Numbered)
@click.argument("seq", type=Whole(1))
@log_option
@nats_option
@json_option
def why_seq(seq: int, file: Path | None, nats: str, as_json: bool) -> None:
    """What led to the event SEQ, and what it led to."""
    run(_seq(nats, file, seq, as_json))


@why.command("request")
@click.argument("request")
@nats_option
@json_option
def why_request(request: str, nats: str, as_json: bool) -> None:
    """The way of REQUEST, while its records are kept.

    REQUEST is an answer's x-request-id: Nebula's own id, or its caller's.
    """
    run(_request(nats, request, as_json))


async def _causes(
    past: Past, last: int, belongs: Callable[[Record], bool]
) -> tuple[Causes, list[Record]]:
    """Read a log up to `last`, and return what caused what and the records of a story."""
    causes, found = Causes(), []
    async for record in story_until(past, last):
        causes.take(record)
        if belongs(record):
            found.append(record)
    return causes, found


async def _chronicle(past: Past, seqs: set[int]) -> Chronicle:
    chronicle = Chronicle(lambda record, *_: record.seq in seqs)
    async for record in story_until(past, max(seqs)):
        chronicle.take(record)
    return chronicle


async def _model(
    nats: str, file: Path | None, reference: str, whole: bool, at: str | None, as_json: bool
) -> None:
    then = moment(at)
    async with opened(nats, file) as past:
        state = await state_at(past, then)
        subject = resolve_subject(state, reference)
        if subject is None and reference in state.replicas:
            await _tell_replica(past, state, reference, whole, as_json, then)
            return
        if subject is None and reference not in state.nodes:
            subject = await _once(past, state.seq, reference)
        if subject is None:
            await _tell_other(past, state, reference, whole, as_json, then)
            return
        causes, found = await _causes(
            past, state.seq, lambda record: belongs(subject, record, state)
        )
        begin = 0 if whole else last_asked(state, found)
        about = {record.seq for record in found if record.seq >= begin}
        if subject.kind == "model":
            about = without_gaps(causes, found, begin)
        chronicle = await _chronicle(past, about)
        earlier = sum(record.seq not in about for record in found)
        told = verdict(state, subject, reader_time(past, then))
        if then is None:
            told = await _with_trouble(past, await _with_silence(past, state, subject, told))
            told = await _with_line(past, state, subject, told)
        tell(chronicle, told, earlier, as_json)


async def _tell_other(
    past: Past, state: State, reference: str, whole: bool, as_json: bool, then: Moment | None
) -> None:
    """Explain what is not a model: a node, a batch, an actor, a replica that is gone, a request."""
    now = reader_time(past, then)
    found = await of_node(past, state, reference, whole, now)
    found = found or await of_batch(past, state, reference)
    found = found or await of_actor(past, state, reference, whole)
    if found is not None:
        tell(*found, as_json)
        return
    if model_of(reference, state) and await _met(past, state.seq, reference):
        await _tell_replica(past, state, reference, whole, as_json, then)
        return
    key = reference.removeprefix("key/")
    if key in state.keys:
        way = command("events", f"key/{key}")
        fail(f"{key!r} is an API key: {way} shows what was done to it")
    if isinstance(past, LivePast) and then is None:
        kept = await of_request(past.log.connection, reference, state)
        if kept is not None:
            tell_request(kept.story, as_json)
            return
    there = ", ".join(sorted({*state.models, *known_names(state), *state.nodes})) or "none"
    fail(f"nothing in {past.name} is called {reference!r}; there are: {there}")


async def _met(past: Past, last: int, replica: str) -> bool:
    """Return whether a log has events of a replica."""
    async for record in story_until(past, last):
        if record.aggregate == "replica" and record.id == replica:
            return True
    return False


async def _with_trouble(past: Past, told: Verdict) -> Verdict:
    """Add to a verdict what the log can't contain: that it takes no events now."""
    if not isinstance(past, LivePast):
        return told
    refused, warning = await trouble(past.log.connection)
    text = log_trouble(refused, warning)
    return replace(told, behind=(*told.behind, text)) if text else told


async def _with_silence(past: Past, state: State, subject: Subject, told: Verdict) -> Verdict:
    """Return advice that replaces "wait" if the actor that would have to act is silent."""
    waits = awaited(state, subject)
    if not isinstance(past, LivePast) or not waits:
        return told
    return with_silence(told, await silent(past.log.connection, waits))


async def _with_line(past: Past, state: State, subject: Subject, told: Verdict) -> Verdict:
    """Add to a verdict that requests wait too long, which the log can't contain either."""
    if not isinstance(past, LivePast):
        return told
    return long_lines.of_subject(state, subject, told, await told_lines(past.log.connection))


async def _once(past: Past, last: int, reference: str) -> Subject | None:
    """Return the removed model or alias that last had this name."""
    found = None
    async for record in story_until(past, last):
        for name, subject in named_by(record):
            if name == reference:
                found = later(found, subject)
    return found


async def _replica(
    nats: str, file: Path | None, identity: str, whole: bool, at: str | None, as_json: bool
) -> None:
    then = moment(at)
    async with opened(nats, file) as past:
        state = await state_at(past, then)
        await _tell_replica(past, state, identity, whole, as_json, then)


async def _node(
    nats: str, file: Path | None, node: str, whole: bool, at: str | None, as_json: bool
) -> None:
    then = moment(at)
    async with opened(nats, file) as past:
        state = await state_at(past, then)
        found = await of_node(past, state, node, whole, reader_time(past, then))
        if found is None:
            there = ", ".join(sorted(state.nodes)) or "none"
            fail(f"no event of {past.name} is about a node {node!r}; there are: {there}")
        tell(*found, as_json)


async def _batch(nats: str, file: Path | None, batch: str, at: str | None, as_json: bool) -> None:
    async with opened(nats, file) as past:
        state = await state_at(past, moment(at))
        found = await of_batch(past, state, batch)
        if found is None:
            there = ", ".join(sorted(state.batches)) or "none"
            fail(f"no event of {past.name} is about a batch {batch!r}; there are: {there}")
        tell(*found, as_json)


async def _tell_replica(
    past: Past, state: State, identity: str, whole: bool, as_json: bool, then: Moment | None
) -> None:
    causes, found = await _causes(
        past,
        state.seq,
        lambda record: record.aggregate == "replica" and record.id == identity,
    )
    known = state.replicas.get(identity)
    if known is None and not found:
        there = ", ".join(sorted(state.replicas)) or "none"
        fail(f"no event of {past.name} is about a replica {identity!r}; there are: {there}")
    model = model_of(identity, state)
    plans = await _plans(past, state.seq, model, identity)
    about = {record.seq for record in found} | set(plans)
    newest = max((record.seq for record in found), default=plans[-1] if plans else 0)
    begin = 0 if whole or not plans else last_start(newest, plans)
    told = causes.chain(seq for seq in about if seq >= begin)
    chronicle = await _chronicle(past, told)
    headline, now = f"{identity} no longer exists", reader_time(past, then)
    if known is not None:
        headline = replica_status(state, known, now)
    subject = Subject("model", model)
    stands = Verdict(headline, verdict(state, subject, now).todo)
    if known is not None and then is None:
        stands = await _with_silence(past, state, subject, stands)
        stands = await _with_trouble(past, stands)
    tell(chronicle, stands, len(about - told), as_json)


async def _plans(past: Past, last: int, model: str, replica: str) -> list[int]:
    """Find the plans that changed a replica: that brought it, moved it, or let it go."""
    seqs = []
    before: object = None

    def planned(state: State) -> object:
        known = state.models.get(model)
        places = known.assignments if known is not None else ()
        return next((each for each in places if each.replica == replica), None)

    chronicle = Chronicle(lambda *_: False)
    async for record in story_until(past, last):
        chronicle.take(record)
        if record.aggregate == "model" and record.id == model:
            now = planned(chronicle.state)
            if now != before:
                seqs.append(record.seq)
            before = now
    return seqs


async def _seq(nats: str, file: Path | None, seq: int, as_json: bool) -> None:
    async with opened(nats, file) as past:
        state = await state_at(past, None)
        causes, found = await _causes(past, state.seq, lambda record: record.seq == seq)
        if not found:
            fail(f"there is no sequence {seq}: {past.name} ends with {state.seq}")
        chronicle = await _chronicle(past, causes.chain([seq]) | causes.effects(seq))
        headline = f"event {seq}: {found[0].subject}"
        tell(chronicle, Verdict(headline), 0, as_json, mark=seq)


async def _request(nats: str, request: str, as_json: bool) -> None:
    async with opened(nats, None) as past:
        assert isinstance(past, LivePast)
        state = await state_at(past, None)
        kept = await of_request(past.log.connection, request, state)
        if kept is None:
            fail(
                f"no record of request {request!r}: they are kept for some minutes, in memory; "
                "the id is in the answer's x-request-id header. A request that its gateway "
                "refused has none"
            )
        tell_request(kept.story, as_json)
