"""Clients that connect while the gateway is busy do not wait one turn each."""

import asyncio
import socket

import pytest
import uvloop

from nebula.http.server.listening import TURNS_TAKE, NotAHost, bare, listen, url

CONNECTIONS = 4 * TURNS_TAKE


async def turns() -> int:
    """Return the turns of the event loop that accepting many waiting clients takes."""
    loop = asyncio.get_running_loop()
    sockets = listen("127.0.0.1", 0)
    address = sockets[0].getsockname()
    accepted: list[asyncio.BaseTransport] = []
    turn = 0

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)

    clients = [socket.create_connection(address) for _ in range(CONNECTIONS)]
    servers = [await loop.create_server(Taken, sock=each) for each in sockets]
    while len(accepted) < CONNECTIONS:
        turn += 1
        await asyncio.sleep(0)
    for transport in accepted:
        transport.close()
    for server in servers:
        server.close()
    for client in clients:
        client.close()
    return turn


def test_many_are_taken_in_a_turn() -> None:
    assert uvloop.run(turns()) < CONNECTIONS / 2


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("[::]", "http://127.0.0.1:80"),
    ],
)
def test_urls_can_be_tried(host: str, shown: str) -> None:
    assert url(host, 80) == shown


@pytest.mark.parametrize("host", ["", " ", "[]", "[x]", "a/b", "a b", "ä", "[::1", "u@h"])
def test_what_is_not_a_host_is_refused_without_a_look_at_the_network(host: str) -> None:
    with pytest.raises(NotAHost):
        bare(host)


def test_a_port_of_any_number_is_the_same_for_all_families() -> None:
    sockets = listen("localhost", 0)
    assert len({each.getsockname()[1] for each in sockets}) == 1
    for each in sockets:
        each.close()
