"""The `nebula` commands that messages advise, written so that they run as they stand. Pure."""

import re
import shlex

WITHOUT_NATS = frozenset({"up", "schema", "fork", "auth init", "login", "logout", "console"})
"""Commands that ask no cluster which runs already: by one word, or by two in a group."""

LOOKING_BACK = frozenset(
    {
        *("capacity", "console", "diff", "dump", "events", "export", "log redact", "replay"),
        *("resilience", "state", "top", "why"),
    }
)
"""Commands that take `--log`: by one word, or by two in a group."""

_OF_REQUESTS = frozenset({"why request", "replay request"})
"""Commands of a group in LOOKING_BACK that need what is not in the log."""

_KINDS = ("model", "replica", "node", "seq", "request")
"""Words that `nebula why` takes for a kind of thing, as it takes a number for an event."""

_ADVISED = re.compile(r"""`nebula ((?:'[^']*'|"[^"]*"|[^`'"])+)`""")

_PIECE = re.compile(
    r"""((?:`nebula (?:'[^']*'|"[^"]*"|[^`'"])+`|\([^()]*\)|.)+?)([.;:] |\.?$)""", re.DOTALL
)
"""What is said up to a full stop, a semicolon or a colon that is not within a command."""

_ASIDE = re.compile(
    r""" ?\((?:[^()`]|`(?:'[^']*'|"[^"]*"|[^`'"])+`)*\)"""
    r"""|, `nebula (?:'[^']*'|"[^"]*"|[^`'"])+`(?=,)"""
)
"""What is said in parentheses, or a command between two commas."""


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


def looks_back(*words: str) -> bool:
    """Return whether a command takes `--log`; `words`: what follows `nebula`."""
    both = " ".join(words[:2])
    if both in _OF_REQUESTS or "--follow" in words:
        return False
    return words[0] in LOOKING_BACK or both in LOOKING_BACK


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


def looking_back(text: str, file: str) -> str:
    """Return a text whose commands look at the log in `file`, as its reader has no cluster.

    What asks a cluster for something is left out: with the parentheses or commas in which it is
    said, or else with what is said up to the next full stop, semicolon or colon. So nothing may be
    left.
    """
    if "`nebula " not in text:
        return text

    def completed(found: re.Match[str]) -> str:
        words = found[1].split()
        if "--log" in words or "--help" in words or not looks_back(*words):
            return found[0]
        return f"`nebula {found[1]} --log {shlex.quote(file)}`"

    text = _ASIDE.sub(lambda aside: "" if _needs_a_cluster(aside[0]) else aside[0], text)
    pieces = [(found[1], found[2]) for found in _PIECE.finditer(text)]
    kept = [at for at, (said, _) in enumerate(pieces) if not _needs_a_cluster(said)]
    if not kept or len(kept) == len(pieces):
        text = text if kept else ""
        return _ADVISED.sub(completed, text)
    made = ""
    for at, until in zip(kept, [*kept[1:], len(pieces)], strict=True):
        ends = [end for _, end in pieces[at:until]]
        last = ends[-1] if until == len(pieces) else min(ends, key=lambda end: ".;:".index(end[0]))
        made += pieces[at][0] + last
    made = made[:1].upper() + made[1:] if text[:1] in ("`", text[:1].upper()) else made
    return _ADVISED.sub(completed, made)


def _needs_a_cluster(text: str) -> bool:
    """Return whether a command in a text asks a cluster that runs."""
    return any(
        asks(*words) and not looks_back(*words) and not {"--log", "--nats", "--help"} & {*words}
        for words in commands(text)
    )
