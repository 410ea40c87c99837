"""Decides which files a node fetches, measures and removes next. Pure."""

import re
from collections.abc import Iterable, Mapping, Set
from typing import TypeAlias

from msgspec import Struct

from nebula.events.engine_options import by_name
from nebula.events.state import CachedSource, Launch, Model, Node, Replica, State
from nebula.events.values import SecretReference, Variable

_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

_REVISION = re.compile(r"(?!.*\.\.)(?!.*//)[\w.][\w./-]{0,199}", re.ASCII)

_TOKEN = "HF_TOKEN"

_PLAIN_FORMATS = frozenset({"auto", "hf", "safetensors", "fastsafetensors", "mistral", "pt"})
"""Values of vLLM's `load-format` that read plain files from the hub's cache."""

TURN = 3.0
"""Seconds after which the next node also asks the hub about a model that is not measured yet."""


class Files(Struct, frozen=True):
    """A hub id and one of its revisions (a branch, tag or commit; empty: the hub's default).

    `secret`: the name of the node's secret that is the hub's token for them; empty: the node's own.
    """

    source: str
    revision: str = ""
    secret: str = ""


class Fetch(Struct, frozen=True):
    """Download a source's files, when its turn has come."""

    files: Files


class Abandon(Struct, frozen=True):
    """Stop fetching a source's files, because they are no longer wanted here."""

    files: Files


class Measure(Struct, frozen=True):
    """Find out how much memory a model needs. `requested_seq`: the event that asks for it.

    `turn`: seconds to wait for an answer of other nodes before asking the hub.
    """

    model: str
    files: Files
    requested_seq: int
    turn: float = 0.0


class Remove(Struct, frozen=True):
    """Delete a source's files."""

    source: str


Task: TypeAlias = Fetch | Abandon | Remove


class Local(Struct, frozen=True):
    """What only this node process knows: it is not in the log, and can be found out again.

    `ready`: files that were found complete here. `busy`: sources whose files are being fetched or
    removed. `fetching`: the files that are being fetched. `running`: sources of the running
    engines. `retry_at`: when a failed source may be tried again, in seconds of the clock of `now`.
    `fetches`: whether the node fetches at all, or leaves that to its engines.
    """

    ready: Set[Files] = frozenset()
    busy: Set[str] = frozenset()
    fetching: Set[Files] = frozenset()
    running: Set[str] = frozenset()
    retry_at: Mapping[str, float] = {}
    now: float = 0.0
    fetches: bool = True


def is_hub_id(source: str) -> bool:
    """Return whether a source is written as the hub's `organisation/name`."""
    return _HUB_ID.fullmatch(source) is not None and not source.endswith(".git")


def files_of(launch: Launch) -> Files | None:
    """Return the files that a node fetches before this engine starts; None: the engine does it.

    A request whose options say where files come from or go to, or that needs other files, is left
    to the engine.
    """
    options = by_name(launch.options)
    if (
        not is_hub_id(launch.source)
        or "download-dir" in options
        or options.get("load-format", "auto") not in _PLAIN_FORMATS
        or any(
            key.startswith(("HF_", "TRANSFORMERS_", "VLLM_USE_MODEL"))
            for key in launch.env
            if not (key == _TOKEN and _secret(launch.env))
        )
    ):
        return None
    return _files_at(launch.source, options, _secret(launch.env))


def provide(state: State, node: str, replicas: Iterable[Replica], local: Local) -> tuple[Task, ...]:
    """Return what a node can do now for its `replicas`; a lost node does nothing."""
    me = state.nodes.get(node)
    if me is None or me.away:
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
        if files.source not in begun and local.retry_at.get(files.source, 0.0) <= local.now:
            tasks.append(Fetch(files))
            begun.add(files.source)
    return tuple(tasks)


def unmeasured(state: State, node: str, tried: Mapping[str, int]) -> tuple[Measure, ...]:
    """Return the models that this node should measure, once for each request.

    A request that names its memory needs no measuring. If other nodes could not measure it, this
    node may.
    """
    me = state.nodes.get(node)
    if me is None or not me.measures:
        return ()
    return tuple(
        Measure(model.id, _source(model), model.requested_seq, _turn(state, me, model))
        for model in state.models.values()
        if not model.unloading
        and model.spec.memory is None
        and tried.get(model.id) != model.requested_seq
        and not told(model)
    )


def told(model: Model) -> bool:
    """Return whether a model's memory need is known."""
    known = model.measured
    return known is not None and known.source == model.spec.source and known.weights > 0


def others_may_tell(state: State, node: str, source: str) -> bool:
    """Return whether another node may be able to measure it, since it may have other folders."""
    return (source.startswith("/") or is_hub_id(source)) and any(
        other.measures and not other.away and other.id != node for other in state.nodes.values()
    )


def waiting(replicas: Iterable[Replica], ready: Set[Files]) -> frozenset[str]:
    """Return the ids of the replicas whose files are not here yet."""
    return frozenset(
        replica.id
        for replica in replicas
        if (files := _files(replica)) is not None and files not in ready
    )


def waiting_for(replicas: Iterable[Replica], source: str) -> tuple[Replica, ...]:
    """Return the replicas that need a source's files to start."""
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
    """Return the sources on a node that Nebula fetched and that are neither pinned nor needed.

    The files of a model without replicas stay, since it may come back to this node.
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
    """Return whether a download's progress is worth an event, since the log keeps each for ever.

    It is every 5 %, at least 2 s apart; for a slow download every 30 s.
    """
    since = now - told_at
    return done > told and ((since >= 2 and (done - told) * 20 >= total) or since >= 30)


def _held(state: State, node: str) -> Mapping[str, CachedSource]:
    known = state.nodes.get(node)
    return known.weights if known is not None else {}


def _files(replica: Replica) -> Files | None:
    return files_of(replica.launch) if replica.launch is not None else None


def _wanted(replicas: Iterable[Replica]) -> list[Files]:
    """Return the files that replicas need to start, each once, in the replicas' order."""
    found = [
        _files(replica)
        for replica in replicas
        if not replica.given_up
        and (replica.engine is None or replica.engine.version != replica.version)
    ]
    return list(dict.fromkeys(files for files in found if files is not None))


def _source(model: Model) -> Files:
    options = by_name(model.spec.options)
    secret = _secret(model.spec.env)
    return _files_at(model.spec.source, options, secret) or Files(model.spec.source, "", secret)


def _files_at(source: str, options: Mapping[str, object], secret: str) -> Files | None:
    """Return the files of a revision; None for a name that could lead out of the cache."""
    revision = str(options.get("revision") or "")
    if revision and not _REVISION.fullmatch(revision):
        return None
    return Files(source, revision, secret)


def _secret(env: Mapping[str, Variable]) -> str:
    """Return the name of the secret that is the hub's token; "" if the request names none."""
    token = env.get(_TOKEN)
    return token.secret if isinstance(token, SecretReference) else ""


def _turn(state: State, me: Node, model: Model) -> float:
    """A node with the files answers at once, and so does the first node; the others wait for it."""
    held = me.weights.get(model.spec.source)
    if not is_hub_id(model.spec.source) or (held is not None and held.whole):
        return 0.0
    before = sum(
        other.measures and not other.away and other.id < me.id for other in state.nodes.values()
    )
    return min(before * TURN, 10 * TURN)
