"""The tables of what a load request may set, against the options and variables of the real vLLM."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from nebula.actors.node.policy import options, variables
from nebula.events.engine_validation import RESERVED_OPTIONS

_LISTED = """
import json
import vllm.envs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
actions = make_arg_parser(FlexibleArgumentParser())._actions
words = [[w[2:], a.nargs] for a in actions for w in a.option_strings if w.startswith("--")]
print("LISTED", json.dumps([words, sorted(vllm.envs.environment_variables)]))
"""

_REACHES_OUT = re.compile(
    r"PATH$|_DIR$|ROOT|FOLDER|MEDIA_CACHE$|HOST|PORT$|_IP$|URL|PLUGIN|INSECURE|KEY|DEV_MODE|RESOLVER"
    r"|CONNECTOR|MODELSCOPE|QUANT_CONFIG$|_SO_|LABELS"
)
_TUNES_ALL_THE_SAME = {"VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"}


@pytest.fixture(scope="module")
def listed() -> tuple[dict[str, object], list[str]]:
    """Return vLLM's options, each with how many values it takes, and its variables."""
    told = subprocess.run(
        [sys.executable, "-c", _LISTED], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    words, names = json.loads(told.partition("LISTED ")[2])
    found = dict(words)
    return {
        name: count
        for name, count in found.items()
        if name != "help" and not (name.startswith("no-") and name[3:] in found)
    }, names


def test_each_option_of_vllm_stands_in_one_table(
    listed: tuple[dict[str, object], list[str]],
) -> None:
    whole = {name for name in options.SOURCES if "." not in name}
    tables = (options.TUNING, frozenset(options.GUARDED), whole, RESERVED_OPTIONS)
    there = {name: sum(name in table for table in tables) for name in listed[0]}
    assert {name: count for name, count in there.items() if count != 1} == {}
    known = frozenset[str]().union(*tables)
    assert known - set(listed[0]) == {"task"}, "vLLM no longer has these"


def test_options_that_take_several_values_are_known(
    listed: tuple[dict[str, object], list[str]],
) -> None:
    several = {name for name, count in listed[0].items() if count in ("+", "*")}
    assert options.LISTS - {"simulate-tasks"} <= several
    assert several - options.LISTS <= RESERVED_OPTIONS | set(options.GUARDED)


def test_no_variable_of_vllm_that_names_a_place_is_allowed(
    listed: tuple[dict[str, object], list[str]],
) -> None:
    allowed = {name for name in listed[1] if name in variables.TUNING}
    assert len(allowed) > 100
    assert {name for name in allowed if _REACHES_OUT.search(name)} <= _TUNES_ALL_THE_SAME
    stale = {name for name in variables.TUNING if name.startswith("VLLM_")} - set(listed[1])
    assert stale == set(), "vLLM no longer has these"
