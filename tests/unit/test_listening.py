"""That those who connect while the gateway is busy need not wait one turn each."""

import asyncio
import socket

import uvloop

from nebula.http.listening import TURNS_TAKE, listen

CONNECTIONS = 4 * TURNS_TAKE


async def turns() -> int:
    """Give the turns of the event loop that it takes to accept many who have connected before."""
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
    for each in [*accepted, *servers, *clients]:
        each.close()
    return turn


def test_many_are_taken_in_a_turn() -> None:
    assert uvloop.run(turns()) < CONNECTIONS / 2
