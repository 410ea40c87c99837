"""The `nebula` commands that messages advise, written so that they run as they stand. Pure."""

import re
import shlex

WITHOUT_NATS = frozenset({"up", "schema", "fork", "auth init", "login", "logout", "console"})
"""Commands that ask no cluster which runs already: by one word, or by two in a group."""

_KINDS = ("model", "replica", "node", "seq", "request")
"""Words that `nebula why` takes for a kind of thing, as it takes a number for an event."""

_ADVISED = re.compile(r"""`nebula ((?:'[^']*'|"[^"]*"|[^`'"])+)`""")


def command(*words: str) -> str:
    """Return a command as a message quotes it, each word as a shell needs it.

    `words`: what follows `nebula`. A word in capitals is one that the reader has to replace.
    """
    return f"`nebula {shlex.join(words)}`"


def why(name: str) -> str:
    """Return the command that explains a model, an adapter, an alias or a replica."""
    kind = ("model",) if name.isdecimal() or name in _KINDS else ()
    return command("why", *kind, name)


def asks(*words: str) -> bool:
    """Return whether a command asks a running cluster; `words`: what follows `nebula`."""
    return words[0] not in WITHOUT_NATS and " ".join(words[:2]) not in WITHOUT_NATS


def commands(text: str) -> list[list[str]]:
    """Return the words after `nebula` of each command that a text advises."""
    return [shlex.split(found[1]) for found in _ADVISED.finditer(text)]


def reaching(text: str, nats: str) -> str:
    """Return a text whose commands reach the cluster at `nats`, a URL.

    Commands that name a server or a file themselves are left alone.
    """

    def completed(found: re.Match[str]) -> str:
        words = found[1].split()
        if not asks(*words) or "--nats" in words or "--log" in words:
            return found[0]
        return f"`nebula {found[1]} --nats {shlex.quote(nats)}`"

    return _ADVISED.sub(completed, text)
