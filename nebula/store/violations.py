"""What NATS refuses a user that its process can't do without, and what to do about it. Pure.

nats-py gives a server's errors in lower case.
"""

import re

_VIOLATION = re.compile(
    r'permissions violation for (?P<what>publish|subscription) to "(?P<subject>[^"]+)"'
)
_NEEDED = {
    "publish": re.compile(
        r"nebula\.events\.|\$js\.api\.(?:stream\.info|consumer\.create)\.nebula_events(?:\.|$)"
    ),
    "subscription": re.compile(r"nebula\.inference\.|nebula\.logs\.|nebula\.status\.node\.|_inbox"),
}
"""The log, requests and their answers, what nodes tell of themselves, and its own inbox."""

_ACTION = {"publish": "publish on", "subscription": "subscribe to"}
_NAMED = ("node",)
"""Roles whose users have the name of what they are for."""


def is_violation(words: str) -> bool:
    """Return whether an error of a server says that a user may not do something."""
    return "permissions violation" in words


def prevents(words: str, role: str, credentials: str) -> str:
    """Return why a process of a `role` can't work after an error of a server; "" if it can.

    `credentials`: where they are from.
    """
    found = _VIOLATION.search(words)
    if found is None or not _NEEDED[found["what"]].match(found["subject"]):
        return ""
    named = role in _NAMED
    command = f"nebula auth {role} NAME" if named else f"nebula auth {role}"
    whose = f", one file for each {role}," if named else ","
    return (
        f"NATS does not let it {_ACTION[found['what']]} {found['subject']}, which the role {role} "
        f"needs: `{command}` makes credentials of that role{whose} in place of those in "
        f"{credentials}; after an upgrade `nebula auth push` tells the NATS servers what each "
        "role may do now"
    )
