"""Which failures of an engine's start would come again however often it is tried. Pure.

Only what is certain is here: a start that is given up by mistake serves no request until it is
requested again, while a start that is tried in vain costs some seconds. What depends on the moment,
such as memory that another process holds or a hub that does not answer, is tried again. The texts
were read off vLLM 0.32 and the libraries that it loads models with.
"""

import re

from msgspec import Struct

from nebula.events.sources import is_folder

USAGE = 2
"""The exit code of Python's `argparse` for a command line that it does not accept."""

_FAILS_AGAIN = "; it would fail so again: "
"""What stands between a reason that no further start would change and what to do about it."""


class _Rule(Struct, frozen=True):
    """A reason that an engine gives, and what to do about it.

    `code`: the exit code that it must have ended with. `of_folder`: the same words have another
    cause where the files come from a hub, which may answer the next time.
    """

    words: re.Pattern[str]
    remedy: str
    code: int | None = None
    of_folder: bool = False


_ANEW = "then ask for it again"
_RULES = (
    _Rule(
        re.compile(r"^error: "),
        "load it again without that option, or with another value (`--option`)",
        code=USAGE,
    ),
    _Rule(
        re.compile(r"trust_remote_code|trust-remote-code"),
        "load it again with `--option trust-remote-code=true` if you trust the code in its files "
        "and its node allows it (`nebula node --allow-option trust-remote-code`)",
    ),
    _Rule(
        re.compile(r"does not support LoRA"),
        "load it again without adapters and without `--lora`",
    ),
    _Rule(
        re.compile(r"[Mm]odel architectures? .*not supported|does not recognize this architecture"),
        "load another model, or run a vLLM that knows this one on the node",
    ),
    _Rule(
        re.compile(r"does not support `--runner"),
        "load it again with another `--task`",
    ),
    _Rule(
        re.compile(
            r"Invalid repository ID or local directory|Could not detect config format"
            r"|No supported config format|does not appear to have a file named"
            r"|Unrecognized model in|Should have a `model_type` key"
        ),
        f"put all files of a model into that folder, {_ANEW}",
        of_folder=True,
    ),
    _Rule(
        re.compile(r"SafetensorError|not a valid JSON file|UnpicklingError"),
        f"copy its files into that folder anew, {_ANEW}",
        of_folder=True,
    ),
    _Rule(
        re.compile(r"^ModuleNotFoundError: "),
        f"install it where the node finds vLLM, {_ANEW}",
    ),
    _Rule(
        re.compile(r"validation errors? for \w*(?:Config|Args)\b"),
        "load it again with other options (`--option`)",
    ),
)

_OF_THE_HUB = re.compile(
    r"repositor|hugging ?face|\bhub\b|connect|offline|timed? ?out|resolve|\bSSL\b|\bHTTP", re.I
)
"""Words that show that a hub could not be reached, whatever else a message says."""


def remedy(reason: str, code: int | None, source: str) -> str:
    """Return what to do about a failed start, if another try can't help; else "".

    `reason`: the engine's own last words, if it never answered. `code`: its exit code, None if
    unknown. `source`: the folder or hub id of its model.
    """
    folder = is_folder(source)
    if not folder and _OF_THE_HUB.search(reason):
        return ""
    for rule in _RULES:
        if rule.code is not None and code != rule.code:
            continue
        if rule.words.search(reason) and (folder or not rule.of_folder):
            return rule.remedy
    return ""


def remedy_of_command(error: OSError, program: str) -> str:
    """Return what to do where the engine's `program` itself can't be run; else ""."""
    if not isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
        return ""
    if error.filename != program:
        return ""
    return f"install it, or start the node with another --engine-command, {_ANEW}"


def told(reason: str, way_out: str) -> str:
    """Return a reason with why no further start is tried, and the way out of it."""
    return f"{reason}{_FAILS_AGAIN}{way_out}"


def way_out(reason: str) -> str:
    """Return what a reason that `told` has written says to do; "" for any other."""
    return reason.rpartition(_FAILS_AGAIN)[2] if _FAILS_AGAIN in reason else ""
