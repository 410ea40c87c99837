"""What needs an operator's attention in a state: each with why, since when, and what mends it.

Pure. `suspects` passes over everything at little cost, so that a caller can spread it over time;
`concerns` works out the words for as many as are shown.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.events.advised import command, commands, why
from nebula.events.model_status import model_status, stands_still
from nebula.events.state import Model, Node, Offer, State
from nebula.history.node_story import node_verdict
from nebula.history.subject import Subject, Verdict, verdict

Severity: TypeAlias = Literal["bad", "warning", "working"]
"""`bad`: something does not serve that should. `warning`: it serves, but not as asked. `working`:
it mends itself."""

URGENCY: dict[Severity, int] = {"bad": 0, "warning": 1, "working": 2}
"""The order in which people are told, the most urgent first."""

MARKS: dict[Severity, str] = {
    "bad": "needs you",
    "warning": "look at it",
    "working": "in progress",
}
"""What people are told of how urgent something is, as the web console words it."""

MOST_ADVISED = 20
"""Concerns for which advice is worked out: it may weigh each node as a place."""

_LOOKS = frozenset({"logs", "events", "weights", "why"})
"""Commands that show something and mend nothing."""

PIECE = 500
"""Models after which `suspects` yields, so that its caller may let other work run."""


class Suspect(Struct, frozen=True):
    """Something that may need attention, before the words for it are worked out.

    `seq`: the event that made it so, as far as the state knows, `time` when it was stored (ns, 0 if
    the state does not know).
    """

    severity: Severity
    kind: Literal["model", "node", "alias", "adapter", "cluster"]
    id: str
    seq: int
    time: int = 0
    phase: str = ""
    adapter: str = ""


class Concern(Struct, frozen=True):
    """One thing that needs attention.

    `text` describes it, `todo` says what to do, `command` is the first command of that ("" if none
    helps) and `why` the command that explains it. `seq`: since which event, `since` the time of
    that event in ns since the epoch (0 if the state does not know it).
    """

    severity: Severity
    kind: str
    id: str
    text: str
    seq: int
    since: int = 0
    todo: str = ""
    command: str = ""
    why: str = ""


class Healthy(Struct, frozen=True):
    """How many models of a piece need no attention, by phase."""

    phases: dict[str, int]


class Survey(Struct, frozen=True):
    """What needs attention, the most urgent first.

    `more`: how many further concerns there are; `phases`: how many models are in each.
    """

    concerns: list[Concern]
    more: int
    phases: dict[str, int]


class Findings:
    """Gathers what `suspects` yields."""

    def __init__(self) -> None:
        self.suspects: list[Suspect] = []
        self.phases: dict[str, int] = {}
        """How many models are in each phase."""

    def add(self, each: Suspect | Healthy) -> None:
        """Add what may need attention, or the count of a piece."""
        if isinstance(each, Healthy):
            for phase, number in each.phases.items():
                self.phases[phase] = self.phases.get(phase, 0) + number
            return
        self.suspects.append(each)
        if each.kind == "model":
            self.phases[each.phase] = self.phases.get(each.phase, 0) + 1


def survey(state: State, most: int, now: int | None = None) -> Survey:
    """Return the `most` urgent concerns of a state; `now` as for `model_status`."""
    findings = Findings()
    for each in suspects(state):
        findings.add(each)
    found = order(findings.suspects)
    listed = list(concerns(state, found[:most], now))
    return Survey(listed, len(found) - len(listed), findings.phases)


def suspects(state: State) -> Iterator[Suspect | Healthy]:
    """Yield what may need attention, and how many models do not, piece by piece."""
    if not state.nodes:
        yield Suspect("bad", "cluster", "nodes", state.seq, state.time)
    for node in state.nodes.values():
        found = _node(state, node)
        if found is not None:
            yield found
    for alias in state.aliases.values():
        if any(target.weight and target.model not in state.names for target in alias.targets):
            yield Suspect("bad", "alias", alias.id, alias.changed)
    counted: dict[str, int] = {}
    for number, model in enumerate(state.models.values(), 1):
        phase = healthy(state, model)
        if phase:
            counted[phase] = counted.get(phase, 0) + 1
        else:
            yield _model(state, model)
        yield from _adapters(state, model)
        if number % PIECE == 0:
            yield Healthy(counted)
            counted = {}
    yield Healthy(counted)


def healthy(state: State, model: Model) -> str:
    """Return the phase of a model that needs no attention; "" if it may need some.

    It costs a fraction of `model_status`.
    """
    if (
        model.unloading
        or model.unschedulable
        or model.rolled_back
        or model.requested_seq > model.planned_seq
    ):
        return ""
    if model.asleep:
        return "asleep"
    if not model.wanted:
        return "idle"
    serving = 0
    for replica in state.replicas_of(model):
        if replica.retired:
            continue
        node = state.nodes.get(replica.node)
        engine = replica.engine
        if not replica.serving or engine is None or engine.stalled or node is None or node.lost:
            return ""
        serving += 1
    return "ready" if serving == model.wanted else ""


def order(found: Iterable[Suspect]) -> list[Suspect]:
    """Return suspects in the order of their urgency, the latest of each kind first."""
    return sorted(found, key=lambda each: (URGENCY[each.severity], -each.seq, each.kind, each.id))


def concerns(state: State, found: Sequence[Suspect], now: int | None = None) -> Iterator[Concern]:
    """Yield the words for suspects of a state; `now` as for `model_status`."""
    for number, each in enumerate(found):
        yield _concern(state, each, now, advise=number < MOST_ADVISED)


def _node(state: State, node: Node) -> Suspect | None:
    held = state.occupancy.get(node.id)
    occupied = bool(held is not None and held.replicas)
    lacks_files = any(each.reason for each in node.weights.values())
    severity: Severity
    if node.lost:
        severity = "bad" if occupied else "warning"
    elif (node.stopped and occupied) or node.suspected or lacks_files:
        severity = "warning"
    elif node.draining and not node.stopped:
        severity = "working"
    else:
        return None
    return Suspect(severity, "node", node.id, node.changed, node.since)


def _model(state: State, model: Model) -> Suspect:
    stands = model_status(state, model)
    replicas = [each for each in state.replicas_of(model) if not each.retired]
    broken = [
        each for each in replicas if each.given_up or each.phase == "failed" or stands_still(each)
    ]
    severity: Severity
    if stands.phase in ("failed", "unschedulable") or (broken and not stands.ready):
        severity = "bad"
    elif model.unschedulable or model.rolled_back or broken:
        severity = "warning"
    else:
        severity = "working"
    latest = max(broken or replicas, key=lambda each: each.changed, default=None)
    if latest is not None and latest.changed >= model.changed:
        return Suspect(severity, "model", model.id, latest.changed, latest.since, stands.phase)
    return Suspect(severity, "model", model.id, model.changed, 0, stands.phase)


def _adapters(state: State, model: Model) -> Iterator[Suspect]:
    for name in model.adapters:
        offer = model.offers.get(name, Offer())
        if offer.kept:
            yield Suspect("warning", "adapter", model.id, offer.tried, adapter=name)
            continue
        for replica in state.replicas_of(model):
            status = replica.adapters.get(name)
            if replica.serving and status is not None and status.reason:
                seq, time = replica.changed, replica.since
                yield Suspect("warning", "adapter", model.id, seq, time, adapter=name)
                break


def _concern(state: State, suspect: Suspect, now: int | None, *, advise: bool) -> Concern:
    identity = suspect.adapter or suspect.id
    explains = {"node": command("why", "node", identity), "cluster": ""}
    explain = explains.get(suspect.kind, why(identity)).strip("`")
    found = _verdict(state, suspect, now) if advise else Verdict(_short(suspect))
    behind = f": {'; '.join(found.behind)}" if suspect.kind == "alias" and found.behind else ""
    mends = next((each for each in commands(found.todo) if each[0] not in _LOOKS), None)
    return Concern(
        suspect.severity,
        suspect.kind,
        identity,
        found.headline + behind,
        suspect.seq,
        suspect.time,
        found.todo,
        command(*mends).strip("`") if mends else "",
        explain,
    )


def _short(suspect: Suspect) -> str:
    if suspect.adapter:
        return f"{suspect.adapter}, an adapter of {suspect.id}, is not as requested"
    return f"{suspect.id} is {suspect.phase or 'not as it should be'}"


def _verdict(state: State, suspect: Suspect, now: int | None) -> Verdict:
    if suspect.kind == "cluster":
        return Verdict(
            "no node is known: no model can be started",
            "Start one on each machine with devices: `nebula node`.",
        )
    if suspect.kind == "node":
        return node_verdict(state, suspect.id, now)
    return verdict(state, Subject(suspect.kind, suspect.id, suspect.adapter), now)
