"""What `nebula top` shows of one thing: a model, a node, an event, a request. Pure."""

from collections.abc import Iterator

import msgspec

from nebula.cli.top.happenings import stream
from nebula.cli.top.windows import bar
from nebula.events import memory
from nebula.events.adapter_status import adapter_status
from nebula.events.advised import command, why
from nebula.events.record import Record
from nebula.events.requests_in_flight import RequestInFlight
from nebula.events.state import State
from nebula.history import moments, places
from nebula.history.attention import Concern
from nebula.history.node_story import node_verdict
from nebula.history.subject import Subject, verdict
from nebula.http.console import rows
from nebula.http.views import event_view

PLACES = 30
"""Places that are listed for one more replica, at most."""

_BAR = 32


def model(state: State, identity: str, now: int | None) -> Iterator[str]:
    """Yield how a model stands and what to do, its replicas, and the places for one more."""
    found = state.models.get(identity)
    told = verdict(state, Subject("model", identity), now)
    yield told.headline
    if told.todo:
        yield told.todo
    if found is None:
        return
    yield ""
    yield f"source    {found.spec.source}"
    yield f"task      {found.task}"
    yield f"changed   by event {found.changed}; {why(identity)} explains it"
    for alias in rows.shares(state).get(identity, ()):
        yield f"alias     {alias}"
    for name in sorted(found.adapters):
        stands = adapter_status(state, found, name)
        because = f": {stands.reason}" if stands.reason else ""
        yield f"adapter   {name}, on {stands.loaded} of {stands.serving} replicas{because}"
    replicas = list(state.replicas_of(found))
    yield from ("", "REPLICAS" if replicas else "NO REPLICAS")
    for each in replicas:
        devices = ",".join(map(str, each.devices))
        phase = "retired" if each.retired else each.phase
        because = f": {each.reason}" if each.reason and not each.serving else ""
        yield f"{each.id}  {phase}  on {each.node}/{devices}  {memory.text(each.memory)}{because}"
    yield from ("", "PLACES FOR ONE MORE REPLICA")
    candidates = places.places(state, found)
    for place in candidates[:PLACES]:
        taken = place.unfit or ("it fits, with its files" if place.holds else "it fits")
        need, room = memory.text(place.need), memory.text(place.room)
        yield f"{place.name}  needs {need}, has {room}: {taken}"
    if len(candidates) > PLACES:
        yield f"and {len(candidates) - PLACES} more"


def node(state: State, identity: str, now: int | None) -> Iterator[str]:
    """Yield how a node stands and what to do, its devices, and what it runs."""
    found = state.nodes.get(identity)
    if found is None:
        yield f"there is no node {identity!r} at this moment"
        return
    told = node_verdict(state, identity, now)
    yield told.headline
    if told.todo:
        yield told.todo
    shown = rows.node_row(state, found)
    labels = ", ".join(f"{key}={value}" for key, value in sorted(found.labels.items()))
    yield ""
    yield f"host      {shown.host}"
    yield f"labels    {labels or 'none'}"
    yield f"versions  Nebula {shown.nebula_version or '?'}, engine {shown.engine_version or '?'}"
    yield f"since     {moments.clock(shown.since)}, event {shown.seq}"
    yield from (f"fetches   {each}" for each in shown.fetching)
    for device in shown.devices:
        promised = sum(each.memory for each in device.held)
        yield ""
        yield (
            f"{device.kind}{device.index}  {device.name}  "
            f"{memory.text(promised)} of {memory.text(device.usable)} promised"
        )
        yield bar(device, _BAR)
        yield from (
            f"  {each.replica}  {each.phase}  {memory.text(each.memory)}" for each in device.held
        )
    if told.behind:
        yield from ("", *told.behind)


def event(record: Record) -> Iterator[str]:
    """Yield all of an event."""
    yield f"event {record.seq}, {moments.clock(record.time)}"
    view = event_view(record)
    yield view.text
    yield f"{command('why', str(record.seq))} tells what led to it"
    yield ""
    yield from msgspec.json.format(msgspec.json.encode(view), indent=2).decode().splitlines()


def request(found: RequestInFlight, now: float) -> Iterator[str]:
    """Yield all that is known of a request in flight; `now` in seconds since the epoch."""
    at = found.replica or found.router
    yield f"{found.id} is {found.state}{f' at {at}' if at else ''}, {now - found.started:.0f} s old"
    yield f"{command('why', 'request', found.id)} tells more"
    yield f"{command('requests', 'cancel', found.id)} ends it"
    yield ""
    yield f"model     {found.model}"
    yield f"path      {found.path}"
    yield f"gateway   {found.gateway}"
    yield f"attempt   {found.attempt}"
    if found.adapter:
        yield f"adapter   {found.adapter}"
    if found.tenant or found.key:
        yield f"tenant    {found.tenant or 'none'}, key {found.key or 'none'}"
    if found.position:
        yield f"place     {found.position} in the queue"
    if stream(found):
        yield f"answer    {stream(found)}, {found.tokens} tokens so far"


def concern(found: Concern) -> Iterator[str]:
    """Yield all that is said of what needs attention."""
    yield found.text
    if found.todo:
        yield found.todo
    yield ""
    when = f", {moments.clock(found.since)}" if found.since else ""
    yield f"since     event {found.seq}{when}"
    if found.why:
        yield f"why       `{found.why}`"
    if found.command:
        yield f"mend      `{found.command}`"
