"""The users of a NATS server, as its configuration file names them. Pure."""

import json
from collections.abc import Iterable, Mapping

from msgspec import Struct

REPLY_WITHIN = "1m"
"""Time for a reply: a node may look for lines in large log files."""

AUTHENTICATE_WITHIN = 10
"""Seconds for a client to tell its user: a busy machine may need more than NATS's two."""


class Rights(Struct, frozen=True):
    """The subjects that a role may use, sorted; all others are refused.

    `inbox`: the prefix of its inboxes, which no other role reads. `replies`: it may reply once to
    each message that it receives with a reply subject.
    """

    inbox: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    replies: bool


def inbox_of(role: str, names: Iterable[str] = ()) -> str:
    """Return the prefix of the inboxes of a role's user with these names of its own."""
    return ".".join((f"_INBOX_{role}", *names))


def authorization(rights: Mapping[str, Rights], passwords: Mapping[str, str]) -> str:
    """Return the part of a server's configuration with a user for each role.

    The users are in the server's first account, in which a log of earlier versions is.
    """
    users = "\n".join(
        f"    {json.dumps(_user(name, of, passwords[name]), ensure_ascii=False)}"
        for name, of in rights.items()
    )
    return f"authorization {{\n  timeout: {AUTHENTICATE_WITHIN}\n  users: [\n{users}\n  ]\n}}\n"


def _user(name: str, of: Rights, password: str) -> dict[str, object]:
    permissions: dict[str, object] = {
        "publish": {"allow": list(of.publish)},
        "subscribe": {"allow": list(of.subscribe)},
    }
    if of.replies:
        permissions["allow_responses"] = {"max": 1, "expires": REPLY_WITHIN}
    return {"user": name, "password": password, "permissions": permissions}
