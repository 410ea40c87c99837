"""`docs/reference/roles.md`: what each role may do on NATS, made from the same tables. Pure."""

from collections.abc import Iterator

from nebula.schema.parties import ROLES, RoleName, channels, parties
from nebula.schema.roles import EXAMPLES, rights
from nebula.schema.stream_rights import RIGHTS

MEANINGS: dict[RoleName, str] = {
    "gateway": "A gateway: requests of clients, batches, stored responses, and all that may be "
    "asked for by HTTP.",
    "router": "A router: decisions, requests to engines, snapshots.",
    "node": "The node `N`: what it and its engines report.",
    "engine": "The engine of replica `R` of model `M`. It uses no stream.",
    "operator": "The command line: intents, logs of engines, what became of a request.",
    "viewer": "Reading only: the log and heartbeats, but neither prompts nor answers.",
    "provision": "`nebula up` itself: creating the log, watching its disk. Importing a log, "
    "making a snapshot by hand.",
    "admin": "Anything: repairs and backups with NATS's own tools.",
}

_LIMITED = tuple(name for name in ROLES if name != "admin")

_HEAD = """\
<!-- Made by `make docs` from nebula/schema: change the code, not this page. -->

# Roles on NATS

Each process that connects to NATS does so in a role, which may use the subjects listed here and no
others. The NATS server of `nebula up` has a user for each role; `*` stands for any name there. A
role has inboxes of its own, in which no other role can read.

## Senders and receivers

| subject | publishes | subscribes |
|---|---|---|"""

_STREAMS = """\

Events are read from their stream, and so is what batches and stored responses keep.

## Uses of streams

`look`: its settings and state. `make`, `change`, `delete`: the stream itself. `purge`: its
messages. `get`: single messages. `follow`: all of it, as it grows. `read`: all of it, part by part.
`take`: messages as work. `put`: the parts of files.

| stream | """


def markdown() -> str:
    """Return the whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for channel in channels():
        who = parties(channel)
        yield f"| `{channel.address}` | {_named(who.publish)} | {_named(who.subscribe)} |"
    yield _STREAMS + " | ".join(_LIMITED) + " |"
    yield "|---" * (len(_LIMITED) + 1) + "|"
    for stream, uses in RIGHTS.items():
        cells = (", ".join(uses.get(role, ())) for role in _LIMITED)
        yield f"| `{stream}` | {' | '.join(cells)} |"
    yield ""
    yield "## Exact permissions"
    for role in ROLES:
        yield from _role(role)


def _role(name: RoleName) -> Iterator[str]:
    of = rights(EXAMPLES[name])
    yield ""
    yield f"### {name}"
    yield ""
    yield MEANINGS[name]
    if of.replies:
        yield "It may also reply once to each message that asks for a reply."
    for title, subjects in (("publishes", of.publish), ("subscribes", of.subscribe)):
        yield ""
        yield f"It {title}:"
        yield ""
        yield "```text"
        yield from subjects
        yield "```"


def _named(roles: tuple[RoleName, ...]) -> str:
    return ", ".join(roles)
