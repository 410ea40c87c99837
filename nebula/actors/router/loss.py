"""Which nodes a router suspects, vouches for, or declares lost. Pure.

Declaring a node lost does harm, and one router sees only a part of the network. So a node is not
lost because one router hears nothing: the router first asks in the log (`NodeSuspected`), which
every actor reads. The node itself answers there, or any router that hears it does (`NodeHeard`);
`NodeLost` follows only without an answer. It is appended under a guard, so that any event about
nodes in between prevents it.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from nebula.actors.placement.decision import Decision
from nebula.actors.router.hearing import FRESH, Silence
from nebula.events.state import Node, State
from nebula.events.vocabulary import NodeHeard, NodeLost, NodeSuspected

LOST_AFTER = 30.0
"""Seconds of silence after which a node is lost: fifteen of its heartbeats are missing by then."""

LEAST_LOST_AFTER = 20.0
"""Smallest setting, in seconds; less would lose healthy nodes.

A node whose NATS server vanishes notices that after some seconds and needs more to reach another
server; the question in the log takes its time as well.
"""

ASK = 10.0
"""Seconds to answer a suspicion; at most a third of the time after which a node is lost."""

MOST_DOUBLED = 2
"""How often the time for a node that was lost or falsely suspected doubles, at most."""

CALM = 600.0
"""Seconds without loss or suspicion after which the normal time applies again."""

MANY = 3
"""Silent nodes, if they are also more than half of all: the fault may be this router's."""

MOST_NAMED = 5
"""Routers that a reason names, at most."""


class Brake(Struct, frozen=True):
    """How many nodes are silent. If most are, every node gets twice the time."""

    silent: int
    nodes: int

    @property
    def on(self) -> bool:
        """Whether so many are silent that the fault may be this router's."""
        return self.silent >= MANY and 2 * self.silent > self.nodes

    def __str__(self) -> str:
        many = f"{self.silent} of {self.nodes} nodes silent"
        return f"{many}: twice the time for each" if self.on else f"{many}: no brake"


def brake(state: State, seen: Mapping[str, Silence], lost_after: float) -> Brake:
    """Return how many nodes, without lost ones, have been silent for half of `lost_after`."""
    living = [
        silence
        for identity, silence in seen.items()
        if (node := state.nodes.get(identity)) is not None and not node.away
    ]
    return Brake(sum(each.seconds > lost_after / 2 for each in living), len(living))


def patience(node: Node, silence: Silence, lost_after: float, braked: Brake) -> float:
    """Return the seconds of silence after which this node is lost now."""
    doubled = min(node.doubts, MOST_DOUBLED) if silence.calm < CALM else 0
    return lost_after * float(2 ** (doubled + braked.on))


def decide_lost(state: State, seen: Mapping[str, Silence], lost_after: float) -> Iterator[Decision]:
    """Yield the decisions that the silence of nodes calls for.

    `lost_after`: seconds, 0: this router suspects and loses no node, but still vouches for nodes.
    """
    braked = brake(state, seen, lost_after)
    ask = min(ASK, lost_after / 3)
    for identity, silence in sorted(seen.items()):
        node = state.nodes.get(identity)
        if node is None or node.away:
            continue
        if node.suspected and silence.seconds <= FRESH and silence.sign:
            heard = f"heard {silence.seconds:.1f} s ago: {silence.sign}"
            yield Decision(identity, NodeHeard(heard), node.suspected)
            continue
        if not lost_after:
            continue
        most = patience(node, silence, lost_after, braked)
        if not node.suspected:
            if silence.seconds > most - ask:
                reason = (
                    f"not heard from for {silence.seconds:.1f} s: it is lost after {most:g} s, "
                    f"unless it or a router that hears it answers within {ask:g} s; "
                    f"{_figures(node, silence, braked)}"
                )
                yield Decision(identity, NodeSuspected(reason), node.changed)
        elif (
            silence.seconds > most and silence.suspicion == node.suspected and silence.asked >= ask
        ):
            reason = (
                f"not heard from for {silence.seconds:.1f} s, more than {most:g} s; "
                f"asked in the log {silence.asked:.1f} s ago, without an answer; "
                f"{_figures(node, silence, braked)}"
            )
            yield Decision(identity, NodeLost(reason), node.suspected)


def _figures(node: Node, silence: Silence, braked: Brake) -> str:
    """Return the facts beyond the log that a decision rests on."""
    sign = silence.sign or "none since this router listens"
    named = sorted(silence.routers.items())
    told = ", ".join(
        f"{router} (has told nothing)" if seconds is None else f"{router} ({seconds:.1f} s)"
        for router, seconds in named[:MOST_NAMED]
    )
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    parts = [
        f"last sign of life: {sign}",
        f"silent to other routers: {told}{more}" if told else "no other router is heard",
        str(braked),
    ]
    if node.doubts and silence.calm < CALM:
        parts.append(f"lost or suspected in vain {node.doubts} times lately: more patience")
    return "; ".join(parts)
