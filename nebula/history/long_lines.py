"""Which models have requests waiting too long, why, and what would shorten their lines. Pure.

The log does not have the lines: routers tell them in heartbeats.
"""

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from nebula.events.advised import command, why
from nebula.events.heartbeats import QueueLength
from nebula.events.state import Model, State
from nebula.history.attention import URGENCY, Concern, Survey, healthy
from nebula.history.load_command import load_again
from nebula.history.subject import Subject, Verdict

LONG = 3.0
"""Seconds that the first request of a line may wait before it is told."""

_SECOND = 1_000_000_000


def of_subject(
    state: State, subject: Subject | None, told: Verdict, lines: Mapping[str, QueueLength]
) -> Verdict:
    """Return the verdict on a subject, with what there is to say of its line if it is a model."""
    if subject is None or subject.kind != "model" or subject.id not in state.models:
        return told
    return with_line(state, state.models[subject.id], told, lines.get(subject.id))


def with_line(state: State, model: Model, told: Verdict, line: QueueLength | None) -> Verdict:
    """Return the verdict on a model, with what there is to say of its line."""
    if line is None or not _long(state, model, line):
        return told
    text, todo = _words(model, line)
    return replace(told, headline=f"{told.headline}; {text}", todo=f"{told.todo} {todo}".strip())


def concerns(state: State, lines: Mapping[str, QueueLength], now: int) -> Iterator[Concern]:
    """Yield the models whose lines are long, the longest wait first; `now` in ns.

    Models that do not serve as they should are left out: they are concerns themselves.
    """
    for identity, line in sorted(lines.items(), key=lambda each: (-each[1].oldest, each[0])):
        model = state.models.get(identity)
        if model is None or not _long(state, model, line):
            continue
        text, todo = _words(model, line)
        yield Concern(
            "warning",
            "model",
            identity,
            f"{identity} is slow: {text}",
            seq=0,
            since=now - round(line.oldest * _SECOND),
            todo=todo,
            command="" if model.spec.autoscale else _more(model).strip("`"),
            why=why(identity).strip("`"),
        )


def with_lines(found: Survey, state: State, lines: Mapping[str, QueueLength], now: int) -> Survey:
    """Return what needs attention, with the models whose lines are long."""
    slow = list(concerns(state, lines, now))
    listed = sorted((*slow, *found.concerns), key=lambda each: URGENCY[each.severity])
    return replace(found, concerns=listed)


def _long(state: State, model: Model, line: QueueLength) -> bool:
    return bool(line.waiting) and line.oldest >= LONG and healthy(state, model) == "ready"


def _words(model: Model, line: QueueLength) -> tuple[str, str]:
    """Return why requests wait, and what would help."""
    most, replicas = model.spec.max_in_flight, model.wanted
    waits = "1 request waits" if line.waiting == 1 else f"{line.waiting} requests wait"
    takes = "1 request at a time" if most == 1 else f"{most} requests at a time"
    them = f"its {replicas} replicas take {takes} each"
    if replicas == 1:
        them = f"its replica takes {takes}"
    text = f"{waits} in line, the first for {line.oldest:.0f} s, because {them}"
    more = f"let each replica take more at a time ({load_again(model, max_in_flight=2 * most)})"
    if model.spec.autoscale:
        return text, f"Let its load bring more replicas (another `--autoscale`), or {more}."
    return text, f"Add a replica ({_more(model)}), or {more}."


def _more(model: Model) -> str:
    return command("scale", model.id, str(model.wanted + 1))
