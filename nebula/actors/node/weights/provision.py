"""What a node does next about files: which to fetch, to measure, and to remove. Pure."""

import re
from collections.abc import Iterable, Mapping, Set
from typing import TypeAlias

from msgspec import Struct

from nebula.events.engine_options import option_name
from nebula.events.state import Held, Launch, Model, Node, Replica, State

_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

_REVISION = re.compile(r"(?!.*\.\.)(?!.*//)[\w.][\w./-]{0,199}", re.ASCII)

_PLAIN_FORMATS = frozenset({"auto", "hf", "safetensors", "fastsafetensors", "mistral", "pt"})
"""Values of vLLM's `load-format` with which it reads plain files of the hub's cache."""

FETCHES = 2
"""Sources that a node fetches side by side: more would only share the same line."""

TURN = 3.0
"""Seconds after which the next node asks the hub too about a model that nobody has measured."""


class Files(Struct, frozen=True):
    """A hub id and one of its revisions (a branch, tag or commit; empty: the hub's default)."""

    source: str
    revision: str = ""


class Fetch(Struct, frozen=True):
    """Bring a source's files here, for these replicas."""

    files: Files


class Abandon(Struct, frozen=True):
    """Break off fetching a source's files: nobody wants them here any more."""

    files: Files


class Measure(Struct, frozen=True):
    """Find out how much memory a model needs. `intent`: the event that asks for it.

    `turn`: seconds to leave others for an answer before the hub is asked.
    """

    model: str
    files: Files
    intent: int
    turn: float = 0.0


class Remove(Struct, frozen=True):
    """Delete a source's files."""

    source: str


Task: TypeAlias = Fetch | Abandon | Remove


class Local(Struct, frozen=True):
    """What only this node process knows: it is not in the log, and comes about again by itself.

    `ready`: files that were found whole here. `busy`: sources whose files are fetched or removed
    right now. `fetching`: the files of those that are fetched. `running`: sources of the engines
    that run. `retry_at`: when a failed source may be tried again, in seconds of the clock of `now`.
    `fetches`: whether it fetches at all, or leaves that to its engines.
    """

    ready: Set[Files] = frozenset()
    busy: Set[str] = frozenset()
    fetching: Set[Files] = frozenset()
    running: Set[str] = frozenset()
    retry_at: Mapping[str, float] = {}
    now: float = 0.0
    fetches: bool = True


def is_hub_id(source: str) -> bool:
    """Say whether a source is written as the hub's `organisation/name`."""
    return _HUB_ID.fullmatch(source) is not None and not source.endswith(".git")


def files_of(launch: Launch) -> Files | None:
    """Give what a node has to fetch before an engine starts so; None: it is the engine's own work.

    A request that tells the engine itself where files come from or go to, or that wants no plain
    files, is left alone.
    """
    options = {option_name(key): value for key, value in launch.options.items()}
    if (
        not is_hub_id(launch.source)
        or "download-dir" in options
        or options.get("load-format", "auto") not in _PLAIN_FORMATS
        or any(key.startswith(("HF_", "TRANSFORMERS_", "VLLM_USE_MODEL")) for key in launch.env)
    ):
        return None
    return _files_at(launch.source, options)


def provide(state: State, node: str, replicas: Iterable[Replica], local: Local) -> tuple[Task, ...]:
    """Give what a node can do now for `replicas`, its own; a lost one leaves everything alone."""
    me = state.nodes.get(node)
    if me is None or me.lost:
        return tuple(Abandon(files) for files in local.fetching)
    held = me.weights
    mine = [replica for replica in replicas if not replica.retired]
    needed = {each.launch.source for each in mine if each.launch is not None} | local.running
    wanted = [files for files in _wanted(mine) if files not in local.ready and local.fetches]
    tasks: list[Task] = [Abandon(files) for files in local.fetching if files not in wanted]
    tasks += [
        Remove(source)
        for source, each in held.items()
        if each.removing and source not in needed and source not in local.busy
    ]
    begun = {task.source for task in tasks if isinstance(task, Remove)} | local.busy
    for files in wanted:
        if len(begun) >= FETCHES:
            break
        if files.source not in begun and local.retry_at.get(files.source, 0.0) <= local.now:
            tasks.append(Fetch(files))
            begun.add(files.source)
    return tuple(tasks)


def unmeasured(state: State, node: str, tried: Mapping[str, int]) -> tuple[Measure, ...]:
    """Give the models that this node should try to measure, once for each time they are asked for.

    Those that name their memory need no measuring. Where others could not tell, this node may.
    """
    me = state.nodes.get(node)
    if me is None or not me.measures:
        return ()
    return tuple(
        Measure(model.id, _source(model), model.intent, _turn(state, me, model))
        for model in state.models.values()
        if not model.unloading
        and model.spec.memory is None
        and tried.get(model.id) != model.intent
        and not told(model)
    )


def told(model: Model) -> bool:
    """Say whether a model's need is known, in figures."""
    known = model.measured
    return known is not None and known.source == model.spec.source and known.weights > 0


def others_may_tell(state: State, node: str, source: str) -> bool:
    """Say whether another node may measure what this one can't: it may have other folders."""
    return (source.startswith("/") or is_hub_id(source)) and any(
        other.measures and not other.lost and other.id != node for other in state.nodes.values()
    )


def waiting(replicas: Iterable[Replica], ready: Set[Files]) -> frozenset[str]:
    """Give the ids of the replicas whose files are not here yet."""
    return frozenset(
        replica.id
        for replica in replicas
        if (files := _files(replica)) is not None and files not in ready
    )


def waiting_for(replicas: Iterable[Replica], source: str) -> tuple[Replica, ...]:
    """Give the replicas that can't start before a source's files are here."""
    return tuple(
        replica
        for replica in replicas
        if not replica.retired
        and not replica.given_up
        and replica.engine is None
        and (files := _files(replica)) is not None
        and files.source == source
    )


def prunable(state: State, node: str) -> tuple[str, ...]:
    """Give the sources on a node that Nebula fetched, that nobody pinned, and that no model needs.

    A model without any replica may come back to this node: its files stay.
    """
    here = {replica.model for replica in state.replicas.values() if replica.node == node}
    needed = {
        source
        for model in state.models.values()
        if model.id in here or not model.replicas
        for source in (model.spec.source, model.launch.source if model.launch else "")
    }
    return tuple(
        source
        for source, held in sorted(_held(state, node).items())
        if held.fetched and not held.pinned and not held.removing and source not in needed
    )


def worth_telling(told: int, told_at: float, done: int, total: int, now: float) -> bool:
    """Say whether a download's progress is worth an event: the log keeps each for ever.

    Every 5 %, but no two within 2 s; a slow one every 30 s.
    """
    since = now - told_at
    return done > told and ((since >= 2 and (done - told) * 20 >= total) or since >= 30)


def _held(state: State, node: str) -> Mapping[str, Held]:
    known = state.nodes.get(node)
    return known.weights if known is not None else {}


def _files(replica: Replica) -> Files | None:
    return files_of(replica.launch) if replica.launch is not None else None


def _wanted(replicas: Iterable[Replica]) -> list[Files]:
    """Give each of the files once that replicas start with, in the replicas' order."""
    found = [
        _files(replica)
        for replica in replicas
        if not replica.given_up
        and (replica.engine is None or replica.engine.version != replica.version)
    ]
    return list(dict.fromkeys(files for files in found if files is not None))


def _source(model: Model) -> Files:
    options = {option_name(key): value for key, value in model.spec.options.items()}
    return _files_at(model.spec.source, options) or Files(model.spec.source)


def _files_at(source: str, options: Mapping[str, object]) -> Files | None:
    """Name a revision of a source; None for one that could lead out of the cache."""
    revision = str(options.get("revision") or "")
    return Files(source, revision) if not revision or _REVISION.fullmatch(revision) else None


def _turn(state: State, me: Node, model: Model) -> float:
    """Who has the files answers at once, and so does the first node; the others give it time."""
    held = me.weights.get(model.spec.source)
    if not is_hub_id(model.spec.source) or (held is not None and held.whole):
        return 0.0
    before = sum(
        other.measures and not other.lost and other.id < me.id for other in state.nodes.values()
    )
    return min(before * TURN, 10 * TURN)
