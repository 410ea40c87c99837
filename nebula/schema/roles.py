"""What each role may publish and subscribe to, made from the table of channels. Pure.

A subject with parameters becomes one with wildcards; a role that has a name of its own, such as a
node, has that name in place of the wildcard.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from nebula.events.subjects import EVENTS, ID_FORM, is_token
from nebula.events.vocabulary import AGGREGATE_OF
from nebula.schema.channel import Channel
from nebula.schema.parties import ROLES, RoleName, channels, parties
from nebula.schema.stream_rights import ADVISED, ADVISORIES, stream_subjects
from nebula.store.users import Rights, inbox_of

OWN: dict[RoleName, tuple[str, ...]] = {"node": ("node",), "engine": ("model", "replica")}
"""The parameters of subjects that name a user of a role: it may only use its own."""

_PARAMETER = re.compile(r"{(\w+)}")


class Role(Struct, frozen=True):
    """A kind of NATS user. `own`: what its names are, such as its node's; without: any."""

    name: RoleName
    own: dict[str, str] = {}

    @property
    def inbox(self) -> str:
        """The prefix of its inboxes, in which no other role may read."""
        return inbox_of(self.name, self.own.values())


def role(name: RoleName, **own: str) -> Role:
    """Return a role with its own names. Raise ValueError for names that it has not, or not ids."""
    if own and tuple(own) != OWN.get(name, ()):
        raise ValueError(f"a {name} has no names {', '.join(own)}")
    for each in own.values():
        if not is_token(each):
            raise ValueError(f"{each!r} is not a valid id: use {ID_FORM}")
    return Role(name, own)


def rights(of: Role) -> Rights:
    """Return what a role may do."""
    if of.name == "admin":
        return Rights(of.inbox, (">",), (">",), replies=False)
    publish = {*stream_subjects(of.name), *_filled(of, "publish")}
    if of.name == "provision":
        publish.add(EVENTS)
    subscribe = {f"{of.inbox}.>", *_filled(of, "subscribe")}
    if of.name in ADVISED:
        subscribe.add(ADVISORIES)
    replies = any(each.reply and of.name in parties(each).subscribe for each in channels())
    return Rights(of.inbox, tuple(sorted(publish)), tuple(sorted(subscribe)), replies)


def _filled(of: Role, action: str) -> Iterator[str]:
    for channel in channels():
        if of.name in getattr(parties(channel), action):
            yield _subject(channel, channel.address, of)
            if channel.older:
                yield _subject(channel, channel.older, of)


def _subject(channel: Channel, address: str, of: Role) -> str:
    """Return the subject of a channel's address, as a role may use it."""
    names = dict(of.own)
    if AGGREGATE_OF.get(channel.name) == "node" and "node" in names:
        names["id"] = names["node"]
    return _PARAMETER.sub(lambda found: names.get(found[1], "*"), address)


_LEAST_FIRST: tuple[RoleName, ...] = ("viewer", "operator", "provision")
"""The roles of people, those with the fewest rights first."""


def role_to_publish(subject: str) -> RoleName:
    """Return the role with the fewest rights that may publish on a subject, of people's if any."""
    actors = tuple(name for name in ROLES if name not in (*_LEAST_FIRST, "admin"))
    for name in (*_LEAST_FIRST, *actors):
        if any(_covers(each, subject) for each in rights(Role(name)).publish):
            return name
    return "admin"


def _covers(pattern: str, subject: str) -> bool:
    """Return whether a subject is one of those of a pattern with NATS's wildcards."""
    tokens = subject.split(".")
    wanted = pattern.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(tokens) == len(wanted) and all(
        each in ("*", token) for each, token in zip(wanted, tokens, strict=True)
    )


EXAMPLES: dict[RoleName, Role] = {
    **{name: Role(name) for name in ROLES},
    "node": Role("node", {"node": "N"}),
    "engine": Role("engine", {"model": "M", "replica": "R"}),
}
"""Each role as the reference shows it."""
