"""`nebula auth`: the credentials with which processes connect to NATS."""

import click

from nebula.cli.options import nats_option
from nebula.cli.process import fail
from nebula.store import credentials
from nebula.store.reaching import shown


@click.group()
def auth() -> None:
    """Manage the credentials for NATS."""


@auth.command()
@nats_option
def rotate(nats: str) -> None:
    """Change the passwords of all users of the NATS server of `nebula up`.

    Everything that is connected connects again with the new one.
    """
    port = credentials.local_port(nats)
    server = credentials.running(port, "operator") if port else None
    if server is None:
        fail(f"`nebula up` of this user runs no NATS server on this machine at {shown(nats)}")
    try:
        roles = credentials.rotate(server)
    except OSError as error:
        fail(f"can't change the credentials in {server.folder}: {error.strerror or error}")
    click.echo(f"new passwords for {', '.join(roles)}")
