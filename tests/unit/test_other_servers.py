"""The NATS servers that a client knows beside the one it is connected to, and how it gets there."""

from __future__ import annotations

import pytest

from nebula.store.credentials import Way
from nebula.store.lasting import LastingClient


def client(*servers: str) -> LastingClient:
    """Return a client that is connected to the first of these servers."""
    made = LastingClient(lambda: Way(servers), lambda: None)
    made._setup_server_pool(list(servers))
    made._given = servers
    made._current_server = made._server_pool[0]
    return made


def test_a_client_knows_each_other_server_once() -> None:
    known = client("nats://a:4222", "nats://b", "tls://[::1]:4333", "nats://b:4222")
    assert known.others == ("b:4222", "[::1]:4333")
    assert client("nats://a:4222").others == ()


def test_credentials_go_along_also_to_one_that_was_named_without() -> None:
    known = client("nats://u:p@a:4222", "nats://v:q@b:4222", "nats://c:4222")
    assert known.url_of("a:4222") == "nats://u:p@a:4222"
    assert known.url_of("b:4222") == "nats://v:q@b:4222"
    assert known.url_of("c:4222") == "nats://u:p@c:4222"
    assert client("nats://token@a:4222", "tls://[::1]:1").url_of("[::1]:1") == "tls://token@[::1]:1"
    assert client("nats://a:4222").url_of("a:4222") == "nats://a:4222"
    with pytest.raises(LookupError):
        known.url_of("d:4222")


def test_servers_that_were_named_since_are_known() -> None:
    named = ["nats://a:4222"]
    known = LastingClient(lambda: Way(tuple(named)), lambda: None)
    known._setup_server_pool(named)
    known._given = tuple(named)
    known._current_server = known._server_pool[0]
    named.append("nats://b:4222")
    assert known.others == ("b:4222",)
