"""What changed in the cluster between two moments, in words. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from nebula.events import memory
from nebula.events.alias import Alias
from nebula.events.batch import Batch
from nebula.events.capture import Capture
from nebula.events.evolve_adapter import short
from nebula.events.key import Key
from nebula.events.model_status import model_status
from nebula.events.showing import shown
from nebula.events.state import AdapterStatus, Model, Node, Replica, State
from nebula.events.usage_limits import UsageLimits, limit_texts
from nebula.events.values import SecretReference, Variable
from nebula.history.load_requests import autoscale_text


class Change(Struct, frozen=True, kw_only=True):
    """Something that was added (`+`), removed (`-`) or changed (`~`).

    `field` is empty if all of it was added or removed; `before` and `after` are in words.
    """

    sign: str
    aggregate: str
    id: str
    field: str = ""
    before: str = ""
    after: str = ""


def differences(before: State, after: State) -> list[Change]:
    """Return what differs in `after`: models, replicas, nodes, aliases, batches, keys, limits."""
    return [
        *_compare("model", before.models, after.models, _model(before), _model(after)),
        *_compare("replica", before.replicas, after.replicas, _replica, _replica),
        *_compare("node", before.nodes, after.nodes, _node, _node),
        *_compare("alias", before.aliases, after.aliases, _alias, _alias),
        *_compare("batch", before.batches, after.batches, _batch, _batch),
        *_compare("key", before.keys, after.keys, _key, _key),
        *_compare("limits", before.limits, after.limits, _limits, _limits),
        *_compare("capture", before.captures, after.captures, _captures, _captures),
    ]


def asked_otherwise(identity: str, before: State, after: State) -> list[Change]:
    """Return what differs in the request for one model; nothing if it is not in both."""
    old, new = before.models.get(identity), after.models.get(identity)
    if old is None or new is None:
        return []
    found = _compare("model", {identity: old}, {identity: new}, _model(before), _model(after))
    return [each for each in found if each.field not in _BECOMES]


_BECOMES = ("status", "placement", "unschedulable")
"""Fields of a model that are not part of a request."""


def _compare(
    aggregate: str,
    old: Any,
    new: Any,
    describe_old: Callable[[Any], Mapping[str, str]],
    describe_new: Callable[[Any], Mapping[str, str]],
) -> Iterator[Change]:
    for identity in sorted({*old, *new}):
        if identity not in new:
            gone = shown(old[identity])
            yield Change(
                sign="-", aggregate=aggregate, id=identity, before=_brief(describe_old(gone))
            )
        elif identity not in old:
            come = shown(new[identity])
            yield Change(
                sign="+", aggregate=aggregate, id=identity, after=_brief(describe_new(come))
            )
        else:
            was, now = describe_old(old[identity]), describe_new(new[identity])
            fields = dict.fromkeys((*was, *now))
            changed = [each for each in fields if was.get(each, "") != now.get(each, "")]
            if changed:
                was, now = describe_old(shown(old[identity])), describe_new(shown(new[identity]))
            for field in changed:
                earlier, later = was.get(field, ""), now.get(field, "")
                yield Change(
                    sign="~",
                    aggregate=aggregate,
                    id=identity,
                    field=field,
                    before=earlier or _unset(later),
                    after=later or _unset(earlier),
                )


def _unset(other: str) -> str:
    """Return the word for a field without a value, whose value is `other` on the other side."""
    return "no" if other == "yes" else "nothing"


def _brief(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{field} {value}" for field, value in fields.items() if value)


def _model(state: State) -> Callable[[Model], Mapping[str, str]]:
    def describe(model: Model) -> Mapping[str, str]:
        spec = model.spec
        places = (
            f"{each.replica} on {each.node}/{'+'.join(map(str, each.devices))}"
            for each in model.assignments
        )
        return {
            "status": model_status(state, model).phase,
            "name": model.name,
            "source": spec.source,
            "task": spec.task,
            "replicas": str(spec.replicas),
            "memory": "" if spec.memory is None else str(spec.memory),
            "lora": "yes" if model.lora else "",
            "max in flight": str(spec.max_in_flight),
            "max waiting": str(spec.max_waiting),
            "policy": spec.policy,
            "labels": _pairs(spec.labels),
            "apart": ", ".join(spec.apart),
            "autoscale": "" if spec.autoscale is None else autoscale_text(spec.autoscale),
            "on request": "yes" if spec.on_request else "",
            "idle after": "" if spec.idle_after is None else f"{spec.idle_after:g} s",
            "evictable": "yes" if spec.evictable else "",
            "fallback": ", ".join(spec.fallback),
            "only on": "/".join((spec.node, *map(str, spec.devices))),
            "options": _pairs(spec.options),
            "env": _variables(spec.env),
            "adapters": _pairs(model.adapters),
            "adapters that leave": _pairs(model.leaving),
            "versions": _pairs(
                {key: short(each.digest) for key, each in model.offers.items() if each.served}
            ),
            "placement": ", ".join(places),
            "unschedulable": model.unschedulable,
        }

    return describe


def _replica(replica: Replica) -> Mapping[str, str]:
    engine = replica.engine
    return {
        "node": replica.node,
        "device": "+".join(map(str, replica.devices)),
        "memory": memory.text(replica.memory),
        "plan": str(replica.version),
        "phase": "retired" if replica.retired else replica.phase,
        "pid": "" if engine is None else str(engine.pid),
        "port": "" if engine is None else str(engine.port),
        "attempt": str(replica.attempt or ""),
        "reason": replica.reason,
        "adapters": ", ".join(
            _version(name, status) for name, status in sorted(replica.adapters.items())
        ),
    }


def _version(name: str, status: AdapterStatus) -> str:
    held = " ".join(map(short, status.held))
    there = f"{name} {held}".strip() if status.loaded else name
    return f"{there} refused: {status.reason}" if status.reason else there


def _node(node: Node) -> Mapping[str, str]:
    return {
        "devices": ", ".join(
            f"{each.kind}{each.index} {memory.text(each.memory)}" for each in node.devices
        ),
        "host": node.host,
        "labels": _pairs(node.labels),
        "version": node.nebula_version,
        "weights": ", ".join(sorted(each for each, held in node.weights.items() if held.whole)),
        "draining": "yes" if node.draining else "",
        "lost": "yes" if node.lost else "",
        "stopped": "yes" if node.stopped else "",
    }


def _alias(alias: Alias) -> Mapping[str, str]:
    return {
        "name": alias.name,
        "targets": ", ".join(f"{each.model}={each.weight}" for each in alias.targets),
        "mirror": alias.mirror,
    }


def _batch(batch: Batch) -> Mapping[str, str]:
    return {
        "status": batch.phase,
        "endpoint": batch.request.endpoint,
        "input": batch.request.input,
        "lines": str(batch.lines or ""),
        "completed": str(batch.completed or ""),
        "failed": str(batch.failed or ""),
        "output": batch.output,
        "errors": batch.errors,
    }


def _limits(limits: UsageLimits) -> Mapping[str, str]:
    return {"limits": ", ".join(limit_texts(limits))}


def _key(key: Key) -> Mapping[str, str]:
    return {
        "name": key.name,
        "begins": key.prefix,
        "scopes": ", ".join(key.scopes),
        "models": ", ".join(key.models),
        "tenant": key.tenant,
        "expires": key.expires,
        "revoked": "yes" if key.revoked_ns else "",
        "limits": ", ".join(limit_texts(key.limits)),
    }


def _variables(env: Mapping[str, Variable]) -> str:
    by_name = [
        f"{key} from the secret {each.secret}"
        for key, each in sorted(env.items())
        if isinstance(each, SecretReference)
    ]
    others = {key: each for key, each in env.items() if isinstance(each, str)}
    return ", ".join((*filter(None, (_pairs(others),)), *by_name))


def _pairs(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(pairs.items()))


def _captures(capture: Capture) -> Mapping[str, str]:
    rule = capture.rule
    chosen = {"model": rule.model, "key": rule.key_id, "tenant": rule.tenant}
    return {**chosen, "share": f"{rule.share:g}", "contents": rule.contents}
