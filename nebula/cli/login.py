"""`nebula login` and `nebula logout`: a person's short-lived API key, by single sign-on."""

from typing import TYPE_CHECKING

import click

from nebula.cli import kept_key
from nebula.cli.process import fail, run
from nebula.http.sign_in.settings import safe_url

if TYPE_CHECKING:  # what asks over HTTP is imported by what runs, not for --help
    from nebula.cli.device_flow import Authorization


def _safe(_: click.Context, __: click.Parameter, url: str) -> str:
    if not safe_url(url):
        raise click.BadParameter(
            f"{url!r} is not an https address (http only on this machine): a key would travel in "
            "clear"
        )
    return url.rstrip("/")


gateway_option = click.option(
    "--gateway",
    envvar="NEBULA_GATEWAY_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    metavar="URL",
    callback=_safe,
    help="The gateway that the key is for. [env: NEBULA_GATEWAY_URL]",
)


@click.command()
@gateway_option
def login(gateway: str) -> None:
    """Sign in at the cluster's provider, and keep a short-lived API key.

    The name of the file with the key is printed; clients send the key in it.
    """
    from nebula.cli.device_flow import NotLoggedIn, logged_in
    from nebula.http.sign_in.fetching import ProviderFailed

    path = kept_key.path_of(gateway)
    try:
        told = run(logged_in(gateway, _tell))
        kept_key.keep(path, str(told["secret"]))
    except (NotLoggedIn, ProviderFailed) as error:
        fail(str(error))
    except OSError as error:
        fail(f"can't write {path}: {error.strerror or error}")
    rights = told["rights"]
    tenant = f" of the tenant {rights['tenant']}" if rights["tenant"] else ""
    scopes = ", ".join(rights["scopes"])
    click.echo(f"signed in as {told['name']}{tenant} until {rights['expires']}: {scopes}", err=True)
    click.echo(str(path))


@click.command()
@gateway_option
def logout(gateway: str) -> None:
    """Revoke the key of `nebula login`, and remove it."""
    from nebula.cli.device_flow import NotLoggedIn, logged_out

    path = kept_key.path_of(gateway)
    try:
        key = kept_key.kept(path)
        if not key:
            fail(f"there is no sign-in at {gateway} to end: {path} is missing")
        run(logged_out(gateway, key))
        path.unlink(missing_ok=True)
    except NotLoggedIn as error:
        fail(f"the key stays valid until it expires: {error}")
    except OSError as error:
        fail(f"can't change {path}: {error.strerror or error}")
    click.echo(f"signed out at {gateway}", err=True)


def _tell(authorization: "Authorization") -> None:
    """Tell a person where to sign in."""
    where = authorization.verification_uri_complete or authorization.verification_uri
    click.echo(f"Open {where} and check the code {authorization.user_code}", err=True)
