"""What a node's policy allows a load request to use, and why it refuses the rest. Pure.

The owner of a node decides what runs there; a cluster's operators only ask for it. Without a policy
a node allows what tunes an engine, and no more.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from nebula.actors.node.policy import options, variables
from nebula.actors.node.policy.variables import matches, named
from nebula.events.advised import command
from nebula.events.engine_options import option_name
from nebula.events.state import Launch
from nebula.events.values import OptionValue

Names: TypeAlias = tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...]

ANY_SOURCE = ("*", "/")

_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(:[\w.-]{1,64})?", re.ASCII)

_SYSTEM = (
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/boot",
    "/run/secrets",
    "/run/user",
    "/var/log",
    "/var/spool",
)
_SHARED_MEMORY = "/dev/shm"
_CREDENTIALS = named("""
    .ssh .gnupg .aws .azure .gcloud .kube .docker .config .nebula .netrc .password-store .mozilla
    .thunderbird .git
    """)
"""Names of folders with credentials, which are not to be searched for models."""


class NodePolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """What load requests may use on one node; the empty policy is the default.

    `sources`: hub ids as `org/*`, folders by their beginning, URLs as `s3://bucket/*`. `options`
    and `env`: names beyond those that tune. `inherit`: variables that engines get from the node's
    environment beyond those that they need. `media_domains`: hosts from which engines may fetch
    what a request names by URL.
    """

    sources: Names = ANY_SOURCE
    options: Names = ()
    env: Names = ()
    inherit: Names = ()
    media_domains: Names = ()


class Refusal(Struct, frozen=True):
    """Why a node does not run a load request, and what to do about it."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


NOWHERE: Mapping[str, str] = MappingProxyType({})


def refusal(
    policy: NodePolicy, launch: Launch, real: Mapping[str, str] = NOWHERE
) -> Refusal | None:
    """Return why a policy refuses to start an engine; None if it allows it.

    `real`: for sources that are folders of the node, their paths without links.
    """
    return settings_refusal(policy, launch, real) or source_refusal(
        policy, launch.source, real.get(launch.source, "")
    )


def settings_refusal(
    policy: NodePolicy, launch: Launch, real: Mapping[str, str] = NOWHERE
) -> Refusal | None:
    """Return why a policy refuses the options or variables of an engine."""
    for key, value in launch.options.items():
        if value is not None and (found := _bad_option(policy, key, value, real)) is not None:
            return found
    for name in launch.env:
        if variables.is_own(name):
            return _refused(f"the variable {name}", "which is Nebula's own", "load it without")
        if not (name in variables.TUNING or matches(name, policy.env)):
            what = f"the variable {name}"
            why = "which is not known to do no more than tune an engine"
            return _refused(what, why, _way_out("--allow-env", name))
    return None


def source_refusal(policy: NodePolicy, source: str, real: str = "") -> Refusal | None:
    """Return why a policy refuses a source of a model or an adapter; None if it allows it.

    `real`: its path without links, if it is a folder of the node.
    """
    for place in (source, real) if real and real != source else (source,):
        if not _allowed(policy.sources, place):
            leads = f", which leads to {place}" if place != source else ""
            what = f"the source {source}{leads}"
            return _refused(what, _about(place), _elsewhere(place))
    return None


def sources_of(launch: Launch) -> tuple[str, ...]:
    """Return all folders and hub ids that a launch names."""
    named = [
        value
        for key, given in launch.options.items()
        for name, value in _named(key, given)
        if name in options.SOURCES and isinstance(value, str)
    ]
    return (launch.source, *named)


def _bad_option(
    policy: NodePolicy, key: str, value: OptionValue, real: Mapping[str, str]
) -> Refusal | None:
    top = _plain(key.partition(".")[0])
    turned_off = value is False and top in options.GUARDED
    if turned_off or matches(top, policy.options):
        return None
    if isinstance(value, list) and top not in options.LISTS:
        return _refused(
            f"several values for the option {top}", "of which vLLM takes one", "load it with one"
        )
    parts = list(_named(key, value))
    bad = next((name for name, each in parts if not _tunes(policy, name, each, real)), None)
    if bad is None and parts:
        return None
    name = bad or top
    source = next((each for part, each in parts if part == name), None)
    if name in options.SOURCES and isinstance(source, str):
        return source_refusal(policy, source, real.get(source, ""))
    why = options.GUARDED.get(top, options.UNKNOWN)
    return _refused(_shown(name, top, value), why, _way_out("--allow-option", top))


def _shown(name: str, top: str, value: OptionValue) -> str:
    if name == top and name in options.VALUES and isinstance(value, str):
        return f"{name}={value[:60]}"
    return f"the option {name}"


def _named(key: str, value: OptionValue) -> Iterator[tuple[str, object]]:
    """Return an option's own name with its value, or those of its parts."""
    top, dot, below = key.partition(".")
    name = _plain(top)
    if dot:
        yield f"{name}.{below.partition('.')[0].replace('-', '_')}", value
    elif isinstance(value, dict) and name not in options.TUNING:
        for part, each in value.items():
            yield f"{name}.{part.partition('.')[0].replace('-', '_')}", each
    else:
        yield name, value


def _plain(key: str) -> str:
    """Return an option's name, without what turns it off."""
    name = option_name(key)
    return name.removeprefix("no-") if name not in options.TUNING else name


def _tunes(policy: NodePolicy, name: str, value: object, real: Mapping[str, str]) -> bool:
    """Return whether an option, or a part of one, only tunes an engine."""
    if name in options.SOURCES:
        if not isinstance(value, str):
            return value is None
        return source_refusal(policy, value, real.get(value, "")) is None
    values = options.VALUES.get(name, options.PART_VALUES.get(name))
    if values is not None:
        return isinstance(value, str) and value in values
    return (
        name.partition(".")[0] in options.TUNING
        or name in options.PARTS
        or name.startswith(options.SIMULATED)
    )


def _allowed(sources: tuple[str, ...], place: str) -> bool:
    if place.startswith("/"):
        if ".." in PurePosixPath(place).parts:
            return False
        roots = [source for source in sources if source.startswith("/")]
        under = [root for root in roots if _is_under(place, root)]
        return any(root != "/" for root in under) or (bool(under) and not _fenced(place))
    if not _HUB.fullmatch(place) or ".." in place:
        return any("://" in each and matches(place, (each,)) for each in sources)
    return matches(place, [each for each in sources if not each.startswith("/")])


def _is_under(place: str, root: str) -> bool:
    return PurePosixPath(place).is_relative_to(root.rstrip("*") or "/")


def _fenced(place: str) -> bool:
    parts = PurePosixPath(place).parts
    system = any(_is_under(place, folder) for folder in _SYSTEM)
    return bool(_CREDENTIALS.intersection(parts)) or (
        system and not _is_under(place, _SHARED_MEMORY)
    )


def _about(place: str) -> str:
    if place.startswith("/"):
        return "a folder from which it takes no models"
    if not _HUB.fullmatch(place):
        return "neither a hub id nor a folder that it takes models from"
    return "a hub id from which it takes no models"


def _elsewhere(place: str) -> str:
    if ".." in place:
        return "name it without '..'"
    return f"load it from elsewhere, or {_by_owner('--allow-source', place)}"


def _way_out(flag: str, name: str) -> str:
    return f"load it without, or {_by_owner(flag, name)}"


def _by_owner(flag: str, name: str) -> str:
    ways = {
        "--allow-source": command("node", "--allow-source", name),
        "--allow-option": command("node", "--allow-option", name),
        "--allow-env": command("node", "--allow-env", name),
    }
    return f"have the node's owner allow it: {ways[flag]}"


def _refused(what: str, why: str, remedy: str) -> Refusal:
    return Refusal(f"this node's policy does not allow {what}, {why}", remedy)
