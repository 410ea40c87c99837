"""What Nebula relies on inside nats-py and uvicorn, by name: another version may change it unasked.

`pyproject.toml` bounds both from above. It lists what to check before a bound is raised.
"""

from __future__ import annotations

import ast
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser
from packaging.requirements import Requirement
from uvicorn.protocols import utils
from uvicorn.server import ServerState

from nebula.store import client, lasting, wire

PROJECT = Path(__file__).parents[2] / "pyproject.toml"

KEPT = {
    "_auth_configured",
    "_current_server",
    "_error_cb",
    "_flusher_task",
    "_max_payload",
    "_max_pending_size",
    "_pending",
    "_pending_data_size",
    "_ping_interval_task",
    "_pings_outstanding",
    "_ps",
    "_reading_task",
    "_reconnection_task",
    "_resp_map",
    "_resp_sub_prefix",
    "_server_info",
    "_server_pool",
    "_sid",
    "_signature_cb",
    "_status",
    "_transport",
    "_user_jwt_cb",
}
"""What a nats-py client keeps in attributes that Nebula reads or writes."""

DONE = {
    "_attempt_reconnect": ["self"],
    "_close": ["self", "status", "do_cbs"],
    "_connect_command": ["self"],
    "_connect_to_server": ["self", "s"],
    "_flush_pending": ["self", "force_flush"],
    "_parse_server_uri": ["connect_url"],
    "_process_connect_init": ["self"],
    "_process_err": ["self", "err_msg"],
    "_process_headers": ["self", "headers"],
    "_process_msg": ["self", "sid", "subject", "reply", "data", "headers"],
    "_remove_sub": ["self", "sid", "max_msgs"],
    "_select_next_server": ["self"],
}
"""What a nats-py client does in methods that Nebula calls or overrides, and their parameters."""

UVICORN: dict[Any, list[str]] = {
    uvicorn.Server.capture_signals: ["self"],
    uvicorn.Server.handle_exit: ["self", "sig", "frame"],
    uvicorn.Server.startup: ["self", "sockets"],
    uvicorn.Config.load: ["self"],
    utils.get_local_addr: ["transport"],
    utils.get_remote_addr: ["transport"],
}
"""What uvicorn does in methods and functions that Nebula calls or overrides."""


def private(thing: object) -> set[str]:
    """Return the names of the private parts of an object and of its class."""
    names = {*dir(type(thing)), *vars(thing)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def touched(module: ModuleType) -> set[str]:
    """Return the names of all attributes that a module's classes read, write or define."""
    tree = ast.parse(inspect.getsource(module))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return used | {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_every_private_part_of_a_nats_client_that_is_touched_is_listed_here() -> None:
    used = touched(client) | touched(lasting) | touched(wire)
    assert used & private(Client()) == KEPT | DONE.keys()


@pytest.mark.parametrize("method", DONE)
def test_a_private_method_of_nats_py_takes_what_it_is_given(method: str) -> None:
    assert parameters(getattr(Client, method)) == DONE[method]


def test_a_nats_client_makes_its_parser_and_transport_where_they_are_replaced() -> None:
    made = Client()
    assert isinstance(made._ps, Parser)
    assert made._transport is None
    assert made._pings_outstanding == 0


def test_nats_py_s_parser_and_transport_have_the_parts_that_ours_build_on() -> None:
    assert {"nc", "buf"} <= vars(Parser(Client())).keys()
    assert parameters(Parser.reset) == ["self"]
    names = {"_bare_io_reader", "_io_reader", "_bare_io_writer", "_io_writer"}
    assert names == vars(TcpTransport()).keys()  # type: ignore[no-untyped-call]
    assert parameters(TcpTransport.connect) == ["self", "uri", "buffer_size", "connect_timeout"]


@pytest.mark.parametrize("function", UVICORN, ids=lambda each: each.__qualname__)
def test_what_is_called_or_replaced_of_uvicorn_takes_what_it_is_given(function: Any) -> None:
    assert parameters(function) == UVICORN[function]


def test_uvicorn_s_server_keeps_its_connections_where_the_gateway_puts_them() -> None:
    names = {"connections", "tasks", "total_requests", "default_headers"}
    assert names <= vars(ServerState()).keys()
    server = uvicorn.Server(uvicorn.Config("app:app"))
    kept = {"server_state", "should_exit", "force_exit", "started", "config"}
    assert kept <= vars(server).keys()
    assert {"loaded", "app"} <= vars(server.config).keys()


@pytest.mark.parametrize("name", ["nats-py", "uvicorn"])
def test_a_library_whose_private_parts_are_used_has_an_upper_bound(name: str) -> None:
    wanted = map(Requirement, tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    [bound] = [each.specifier for each in wanted if each.name == name]
    assert any(each.operator == "<" for each in bound), bound
    assert bound.contains(version(name))
