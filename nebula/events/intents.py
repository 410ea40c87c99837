"""The events that anyone may publish: what people ask for.

They refuse unknown fields, so that a typing error is answered instead of ignored.
"""

from typing import Annotated

from msgspec import Meta, Struct

from nebula.events.values import (
    Adapter,
    Autoscale,
    Count,
    OptionValue,
    Policy,
    PublicName,
    Replicas,
    Seconds,
    Source,
    Target,
    Task,
    Token,
)


class ModelLoadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants this model served as described; a repeated request replaces the last one.

    `source`: a folder on the nodes or a hub id, as vLLM's `--model` takes it.
    `name`: what requests call the model; the aggregate's id when empty.
    `memory`: each replica's share of one device, in bytes or as "6GiB"; a share of the device
    that depends on `task` when absent.
    `lora`: whether engines start with `--enable-lora`; true when there are `adapters`.
    `options`: vLLM's own command-line options without the dashes, `{"max-model-len": 4096}`.
    `env`: environment variables for the engine.
    `max_in_flight`: requests that one replica is given at a time; `max_waiting`: those that may
    wait in each router for their turn, before it refuses more.
    `policy`: how places are chosen among those that fit. `labels`: what a node must carry.
    `apart`: ids of models, its own too, that it shares no node with. `node`, `devices`: the only
    place that it may have; several GPUs of a node for one replica are asked for by vLLM's own
    option `tensor-parallel-size`.
    `autoscale`: let the load say how many `replicas` there are.
    `on_request`: start engines with the first request only. `idle_after`: seconds without a
    request after which they end until the next one. `evictable`: they may be ended, the least
    recently used model's first, to make room for another that is asked for.
    `fallback`: public names of models that answer while this one has no ready replica, in order.
    """

    source: Source
    name: Annotated[str, Meta(max_length=256)] = ""
    task: Task = "chat"
    replicas: Replicas = 1
    adapters: tuple[Adapter, ...] = ()
    lora: bool | None = None
    memory: int | str | None = None
    options: dict[str, OptionValue] = {}
    env: dict[str, str] = {}
    max_in_flight: Annotated[int, Meta(ge=1, le=65_536)] = 256
    max_waiting: Annotated[int, Meta(ge=0, le=65_536)] = 1024
    policy: Policy = "spread"
    labels: dict[str, str] = {}
    apart: tuple[Token, ...] = ()
    node: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,128}\Z")] = ""
    devices: tuple[Count, ...] = ()
    autoscale: Autoscale | None = None
    on_request: bool = False
    idle_after: Seconds | None = None
    evictable: bool = False
    fallback: tuple[PublicName, ...] = ()


class ModelScaleRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants another number of replicas; it is fixed then, whatever the load is."""

    replicas: Replicas


class ModelRebalanceRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants these replicas elsewhere: each goes once another one serves in its place."""

    replicas: Annotated[tuple[Token, ...], Meta(min_length=1, max_length=1024)]


class ModelUnloadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants the model gone, its engines ended and its memory back."""


class AdapterLoadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants an adapter on every replica of a model that was loaded with LoRA."""

    name: PublicName
    source: Source


class AdapterUnloadRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants an adapter off every replica of its model."""

    name: PublicName


class NodeDrainRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants this node empty: no new replicas, and those it has move elsewhere first."""


class NodeUndrainRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants a drained node to take replicas again."""


class WeightsPinRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants a source's files kept on a node whatever is pruned, or no longer so."""

    source: Source
    pinned: bool = True


class WeightsRemoveRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants a source's downloaded files off a node."""

    source: Source


class AliasRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants a name to stand for other models; a repeated request replaces the last one.

    `name`: what requests call it; the aggregate's id when empty. `targets`: who gets the requests,
    by weight. `mirror`: a model that gets a copy of each, whose answers nobody sees.
    `replaces`: the sequence of the event that last changed the alias, 0 where there is none:
    refused where somebody else has changed it since. Absent, the last word counts.
    """

    targets: Annotated[tuple[Target, ...], Meta(min_length=1, max_length=64)]
    name: Annotated[str, Meta(max_length=256)] = ""
    mirror: Annotated[str, Meta(max_length=256)] = ""
    replaces: Count | None = None


class AliasRemoveRequested(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Somebody wants an alias gone."""
