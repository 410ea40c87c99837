"""The tables of what a load request may set, against the options and variables of the real vLLM."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

import pytest

from nebula.actors.node.launch import NO_MEDIA, Site, arguments
from nebula.actors.node.policy import options, variables
from nebula.events.engine_validation import RESERVED_OPTIONS
from nebula.events.memory import MIB
from nebula.events.state import Launch, Replica
from nebula.events.values import Device

_LISTED = """
import json
import vllm.envs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
actions = make_arg_parser(FlexibleArgumentParser())._actions
words = [[w[2:], a.nargs] for a in actions for w in a.option_strings if w.startswith("--")]
print("LISTED", json.dumps([words, sorted(vllm.envs.environment_variables)]))
"""

_FETCHES = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.multimodal.media.connector import MediaConnector
from vllm.utils.argparse_utils import FlexibleArgumentParser
given = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[2:])
connector = MediaConnector(allowed_media_domains=given.allowed_media_domains)
try:
    connector.fetch_image(sys.argv[1])
except Exception as error:
    print("REFUSED", error)
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


def test_an_image_url_is_not_a_way_into_the_nodes_network() -> None:
    site = Site("here", "/nowhere", (), "nats://127.0.0.1:4222", cores=1)
    launch = Launch("org/model", "chat", "chat", lora=False, memory=None, options={}, env={})
    replica = Replica(id="chat-0", model="chat", node="here", devices=(0,), memory=MIB, version=1)
    line = arguments(site, launch, replica, Device(0, "cpu", "", MIB), 8001)
    with socket.create_server(("127.0.0.1", 0)) as asked:
        asked.setblocking(False)
        url = f"http://127.0.0.1:{asked.getsockname()[1]}/latest/meta-data"
        told = subprocess.run(
            [sys.executable, "-c", _FETCHES, url, *line],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        assert f"REFUSED The URL must be from one of the allowed domains: ['{NO_MEDIA}']" in told
        with pytest.raises(BlockingIOError):
            asked.accept()
