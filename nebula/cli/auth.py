"""`nebula auth`: the credentials with which processes connect to NATS."""

import json
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace
from nats.errors import Error as NatsError

from nebula.cli.options import Whole, nats_option
from nebula.cli.process import fail, run
from nebula.events.subjects import ID_FORM, is_token
from nebula.schema.parties import ROLES, RoleName
from nebula.schema.roles import OWN, Role, rights
from nebula.store import credentials
from nebula.store.authority import Authority, NoAuthority
from nebula.store.connection import Connection, Unavailable
from nebula.store.credentials import Context, write
from nebula.store.reaching import BadFile, shown
from nebula.store.users import Rights

_UPDATE = "$SYS.REQ.CLAIMS.UPDATE"
"""The subject on which NATS servers take an account's new token."""

_PATIENCE = 5.0

keys_option = click.option(
    "--keys",
    envvar="NEBULA_AUTH_FOLDER",
    default=Path("nebula-auth"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with the cluster's keys: keep it safe. [env: NEBULA_AUTH_FOLDER]",
)


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


@auth.command()
@keys_option
@click.option("--name", default="nebula", show_default=True, help="Name of the cluster.")
@click.option(
    "--keep", is_flag=True, help="If there are keys, keep them: write the servers' file alone anew."
)
def init(keys: Path, name: str, keep: bool) -> None:
    """Make the keys of a cluster on NATS servers of its own.

    The servers need the file that is printed; `nebula auth node` and so on make users.
    """
    authority = _authority(keys)
    try:
        if keep and authority.exists:
            authority.publish()
        else:
            authority.create(name)
    except (NoAuthority, OSError) as error:
        fail(str(error))
    click.echo(f"include this in the configuration of each NATS server: {authority.servers}")


@auth.command()
@click.argument("name")
@click.option("--older", is_flag=True, help="All but the newest: a process that has it goes on.")
@keys_option
@nats_option
def revoke(name: str, keys: Path, nats: str, *, older: bool) -> None:
    """Refuse the credentials of user NAME from now on, and end its connections."""
    authority = _authority(keys)
    try:
        number = authority.revoke_older(name) if older else authority.revoke(name)
    except (NoAuthority, OSError) as error:
        fail(str(error))
    run(_push(authority, nats))
    if older:
        click.echo(f"{name} needs its newest credentials: {number} revoked")
        return
    click.echo(f"{name} is let in no more: {number} revoked; {authority.servers} says so too")


@auth.command()
@keys_option
@nats_option
def push(keys: Path, nats: str) -> None:
    """Tell the NATS servers of roles and revocations as they are now."""
    authority = _authority(keys)
    try:
        authority.publish()
    except (NoAuthority, OSError) as error:
        fail(str(error))
    run(_push(authority, nats))
    click.echo("the NATS servers know the roles and revocations")


async def _push(authority: Authority, nats: str) -> None:
    """Send the account's token to the servers; end the command if they do not take it."""
    context = authority.folder / "users" / "system.json"
    try:
        way = credentials.way(nats, "operator")
        url = shown(",".join(way.servers))
        creds = authority.system_creds.name
        write(context, Context(url=url, creds=creds, ca=way.ca, cert=way.cert, key=way.key))
    except (OSError, BadFile) as error:
        fail(f"{nats}: {error}")
    connection = Connection(f"file:{context}", "nebula auth")
    try:
        await connection.open(patience=_PATIENCE)
        token = authority.account().encode()
        answer = await connection.client.request(_UPDATE, token, timeout=_PATIENCE)
        told: Any = json.loads(answer.data)
    except (Unavailable, NatsError, TimeoutError, ValueError) as error:
        fail(
            f"the NATS servers do not know it yet: {error or 'no answer'}. `nebula auth push` "
            f"tells them again; so does a start with {authority.servers}"
        )
    finally:
        await connection.close()
    if told.get("error"):
        fail(f"the NATS servers do not take it: {told['error'].get('description', told['error'])}")


@auth.command()
@click.argument("name")
@keys_option
@nats_option
def engines(name: str, keys: Path, nats: str) -> None:
    """Make a key with which node NAME signs credentials for its engines.

    Each of its engines gets a token for its own replica. The variable that is printed is for the
    node; move both files, the context and the .nk beside it, to where it runs.
    """
    if not is_token(name):
        fail(f"{name!r} is not a valid name: use {ID_FORM}", 2)
    authority = _authority(keys)
    try:
        context = authority.add_signer(name, credentials.bare(nats))
    except (NoAuthority, OSError, BadFile) as error:
        fail(str(error))
    click.echo(f"NEBULA_ENGINE_NATS_URL=file:{context.absolute()}")
    click.echo("NATS servers that run already learn of it by `nebula auth push`", err=True)


def _adding(role: RoleName) -> click.Command:
    """Return the command that makes users of a role."""
    of_node = role == "node"

    @click.command(role, help=_words(role))
    @click.argument("name", required=of_node, default=None if of_node else role)
    @keys_option
    @click.option(
        "--days", default=0, type=Whole(0), help="Days after which they expire; 0: never."
    )
    @nats_option
    def add(name: str, keys: Path, days: int, nats: str, **own: str | None) -> None:
        if not is_token(name):
            fail(f"{name!r} is not a valid name: use {ID_FORM}", 2)
        names = {each: name if of_node else own.get(each) or "*" for each in OWN.get(role, ())}
        for each in names.values():
            if each != "*" and not is_token(each):
                fail(f"{each!r} is not a valid id: use {ID_FORM}", 2)
        inbox = Role(role, names).inbox.replace("*", "any")
        try:
            context = replace(credentials.bare(nats), inbox_prefix=inbox)
            made = _authority(keys).add(role, name, names, context, days)
        except (NoAuthority, OSError, BadFile) as error:
            fail(str(error))
        click.echo(f"NEBULA_NATS_URL=file:{made.context.absolute()}")

    if role == "engine":
        for each in OWN[role]:
            text = f"Only for this {each} [any]."
            add = click.option(f"--{each}", default=None, help=text)(add)
    return add


def _words(role: RoleName) -> str:
    whose = "node NAME" if role == "node" else f"role {role}"
    return (
        f"Make credentials for {whose}, and print the variable that names them.\n\n"
        "Move both files, the context and the .creds beside it, to where they are used. "
        "`--nats file:CONTEXT` takes the servers and the files for TLS from a context."
    )


def _authority(folder: Path) -> Authority:
    templates: dict[str, Rights] = {
        name: rights(Role(name, {each: f"{{{{tag({each})}}}}" for each in OWN.get(name, ())}))
        for name in ROLES
    }
    return Authority(folder.absolute(), templates)


for _name in ROLES:
    auth.add_command(_adding(_name))
