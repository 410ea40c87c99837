"""Reads a node's policy from its file, TOML or JSON, and from flags."""

import tomllib
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nebula.actors.node.policy.rules import ANY_SOURCE, NodePolicy
from nebula.events import memory
from nebula.events.reading import UNREADABLE

LARGEST = 1 << 20
"""Largest policy file, in bytes."""


class BadPolicy(Exception):
    """A policy can't be read; the text says why."""


def read(file: Path) -> NodePolicy:
    """Return the policy in a file. Raise BadPolicy."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise BadPolicy(f"{file} can't be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise BadPolicy(f"{file} is larger than {memory.text(LARGEST)}")
    try:
        if file.suffix == ".json":
            return msgspec.json.decode(content, type=NodePolicy)
        return msgspec.convert(tomllib.loads(content.decode()), NodePolicy)
    except UNREADABLE as error:  # tomllib's are ValueErrors
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise BadPolicy(f"{file} is not a valid policy in {kind}: {error}") from error


def extended(
    policy: NodePolicy, sources: tuple[str, ...], options: tuple[str, ...], env: tuple[str, ...]
) -> NodePolicy:
    """Return a policy that allows more; the first sources replace the default, which is any."""
    known = () if policy.sources == ANY_SOURCE and sources else policy.sources
    return replace(
        policy,
        sources=(*known, *sources),
        options=(*policy.options, *options),
        env=(*policy.env, *env),
    )
