"""Keeps a gateway that other machines reach from being started without any API key."""

import asyncio

from nebula.actors.gateway.actor import Gateway
from nebula.http.origins import Doors, is_loopback
from nebula.http.server.listening import HostPort
from nebula.http.server.unix_sockets import UnixSocket


async def keyless(
    gateway: Gateway, place: HostPort | UnixSocket, doors: Doors, *, sign_in: bool
) -> str:
    """Return why a gateway must end, once it has read the log; never return if it may stay.

    `sign_in`: whether people can sign in, which makes keys.
    """
    await gateway.begun.wait()
    local = isinstance(place, UnixSocket) or is_loopback(place.host)
    if local or sign_in or doors.open_scopes or gateway.projection.state.valid_keys:
        await asyncio.Event().wait()
    return (
        f"--host {place.host if isinstance(place, HostPort) else place} lets other machines in, "
        "and this cluster has no API key yet. Issue one first, with `nebula key issue ID`, while "
        "the cluster runs on this machine alone (without --host); or let everyone in with --open "
        "infer"
    )
