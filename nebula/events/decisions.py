"""The events by which a router records what it decided. Pure.

Each follows from the folded state, except those in `Observed` of `vocabulary`: these rest on
what a router has seen beside the log, and their `reason` records what that was.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from nebula.events.values import Assignment, Count, Replicas

Reason: TypeAlias = Annotated[
    str, Meta(description="Why the router decided so, in words, with the figures it rests on.")
]


class ModelAssigned(Struct, frozen=True, gc=False):
    """The placement plan: every replica of the model, replacing the previous plan."""

    version: Annotated[
        Count, Meta(description="Version of this plan: one higher than the previous plan's.")
    ]
    replicas: Annotated[
        tuple[Assignment, ...], Meta(description="The place of every replica of the model.")
    ]


class ModelUnschedulable(Struct, frozen=True, gc=False):
    """Some replicas of the model fit nowhere. They are placed as soon as there is room."""

    reason: Annotated[
        str, Meta(description="What the replicas need, and why no device can offer it, in words.")
    ]
    missing: Annotated[int, Meta(description="Number of replicas that fit nowhere.")] = 1


class ModelUnloaded(Struct, frozen=True, gc=False):
    """The last engine of an unloaded model has ended; its name is free again."""


class ModelScaled(Struct, frozen=True, gc=False):
    """The model's load calls for another number of replicas."""

    replicas: Annotated[Replicas, Meta(description="Number of replicas from now on.")]
    reason: Reason = ""


class ModelSlept(Struct, frozen=True, gc=False):
    """The model's engines are to end; the next request for the model starts them again."""

    reason: Reason = ""


class ModelWoken(Struct, frozen=True, gc=False):
    """A sleeping model was requested: its engines are to start again."""

    reason: Reason = ""


class ModelRolledBack(Struct, frozen=True, gc=False):
    """A changed model did not get ready: its last description that did is in force again."""

    reason: Reason = ""


class NodeSuspected(Struct, frozen=True, gc=False):
    """A router has not heard from a node for long, and asks every reader of the log about it."""

    reason: Reason = ""


class NodeLost(Struct, frozen=True, gc=False):
    """A node has been silent for too long: its replicas are placed elsewhere.

    Its engines may still be running, which cannot be known from outside. When the node is back, it
    ends them and registers again.
    """

    reason: Reason = ""


class EventRejected(Struct, frozen=True, gc=False):
    """An event was not acted upon. Its sequence in the log is the id in this event's subject."""

    subject: Annotated[str, Meta(description="Subject of the rejected event.")]
    reason: Annotated[str, Meta(description="Why the event was rejected, in words.")]


class NodeRisk(Struct, frozen=True, gc=False):
    """A node whose loss would leave replicas without a place."""

    node: Annotated[str, Meta(description="Name of the node.")]
    models: Annotated[
        tuple[str, ...],
        Meta(description="Ids of the models that would lack replicas; the first ones by name."),
    ] = ()
    missing: Annotated[Count, Meta(description="Replicas that would have no place.")] = 0
    memory: Annotated[Count, Meta(description="Bytes of devices that they need together.")] = 0


class ResilienceChanged(Struct, frozen=True, gc=False):
    """Other nodes than before could not be lost without leaving replicas without a place."""

    nodes: Annotated[
        tuple[NodeRisk, ...],
        Meta(description="These nodes, those that need most memory first; at most 50."),
    ] = ()
    count: Annotated[Count, Meta(description="Number of these nodes, of all that run.")] = 0
    models: Annotated[
        Count, Meta(description="Number of models that the loss of some node would leave short.")
    ] = 0
    reason: Reason = ""


class ClusterVersionRaised(Struct, frozen=True, gc=False):
    """All routers and nodes know the next cluster version: events that need it count from now on.

    A Nebula that does not know the version stops, since it would read the log differently from the
    others.
    """

    version: Annotated[Count, Meta(description="The cluster version from now on.")]
    reason: Reason = ""
