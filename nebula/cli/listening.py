"""Where a gateway listens, for commands: what is wrong with the place ends the program."""

import socket

from nebula.cli.exits import FATAL, fail
from nebula.http.server.listening import TURNS_TAKE, CantListen, HostPort, NotAHost
from nebula.http.server.unix_sockets import UnixSocket


def listened(place: HostPort | UnixSocket, turns_take: int = TURNS_TAKE) -> list[socket.socket]:
    """Listen at a place; `turns_take` as for `listen`. End the program if that is impossible."""
    try:
        return place.listen(turns_take)
    except NotAHost as error:
        fail(f"--host: {error}", FATAL)
    except CantListen as error:
        fail(str(error.strerror), FATAL)
