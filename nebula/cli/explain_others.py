"""`nebula why` for what is not a model: nodes, batches, and what actors wrote.

A name of a router or gateway, as heartbeats and `nebula why request` have it, stands for its kind:
the log names only that.
"""

from collections import deque
from collections.abc import AsyncIterator

from nebula.cli.log_source import Past, story_until
from nebula.events.record import Record
from nebula.events.state import State
from nebula.history.batch_story import batch_verdict
from nebula.history.explanation import Chronicle
from nebula.history.node_story import about_node, node_verdict
from nebula.history.subject import Verdict

SHOWN = 20
"""Last events of an actor that are listed; `--all` lists all of them."""

_KINDS = {"router-": "router", "gw-": "gateway"}
"""How the ids of actors begin that the log does not name."""


async def of_node(
    past: Past, state: State, node: str, whole: bool, now: int | None
) -> tuple[Chronicle, Verdict, int] | None:
    """Return the story of a node since it last registered; None if the log has none of that name.

    The number is that of earlier events, which are left out.
    """
    known = state.nodes.get(node)
    begin = known.registered if known is not None and not whole else 0
    earlier = met = 0

    def wanted(record: Record, before: State, after: State) -> bool:
        nonlocal earlier, met
        about = about_node(record, node, before, after)
        met += about
        earlier += about and record.seq < begin
        return about and record.seq >= begin

    chronicle = Chronicle(wanted)
    async for record in story_until(past, state.seq):
        chronicle.take(record)
    return (chronicle, node_verdict(state, node, now), earlier) if met or known else None


async def of_batch(past: Past, state: State, batch: str) -> tuple[Chronicle, Verdict, int] | None:
    """Return the story of a batch; None if the log has none with that id."""
    chronicle = Chronicle(lambda record, *_: record.aggregate == "batch" and record.id == batch)
    met = False
    async for record in story_until(past, state.seq):
        met |= record.aggregate == "batch" and record.id == batch
        chronicle.take(record)
    return (chronicle, batch_verdict(state, batch), 0) if met else None


async def of_actor(
    past: Past, state: State, name: str, whole: bool
) -> tuple[Chronicle, Verdict, int] | None:
    """Return what an actor has written last; None if none of that name has written anything."""
    writer = next((kind for start, kind in _KINDS.items() if name.startswith(start)), name)
    last: deque[int] = deque(maxlen=None if whole else SHOWN)
    number = 0
    async for record in _written_by(past, state.seq, writer):
        last.append(record.seq)
        number += 1
    if not number and writer not in _KINDS.values():
        return None
    chosen = set(last)
    chronicle = Chronicle(lambda record, *_: record.seq in chosen)
    async for record in story_until(past, max(chosen, default=0)):
        chronicle.take(record)
    events = "1 event" if number == 1 else f"{number or 'no'} events"
    text = f"{name} has written {events} of the log"
    if name != writer:
        text = (
            f"the log does not tell one {writer} from another, such as {name}: together they have "
            f"written {events} of it"
        )
    return chronicle, Verdict(text), number - len(chosen)


async def _written_by(past: Past, last: int, writer: str) -> AsyncIterator[Record]:
    async for record in story_until(past, last):
        if record.actor and writer in (record.actor, record.actor.removeprefix("node ")):
            yield record
