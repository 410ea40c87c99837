"""Options of `nebula gateway` and `nebula up` for single sign-on."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from nebula.http.sign_in import grants
from nebula.http.sign_in.grants import Grant
from nebula.http.sign_in.settings import LIFETIME, SCOPES, SignInSettings, safe_url

_PREFIX = "oidc_"


class SignInOptions(Struct, frozen=True, kw_only=True):
    """The options as they were given."""

    issuer: str = ""
    client: str = ""
    secret_file: Path | None = None
    device_client: str = ""
    scopes: str = SCOPES
    groups_claim: str = "groups"
    grant: tuple[str, ...] = ()
    lifetime: float = LIFETIME

    def checked(self) -> "SignInOptions":
        """Return them. Raise UsageError if they don't fit together."""
        if not self.issuer:
            if self.client or self.grant or self.secret_file:
                raise click.UsageError("single sign-on needs --oidc-issuer, the provider's address")
            return self
        if not safe_url(self.issuer):
            raise click.UsageError(
                f"--oidc-issuer {self.issuer!r} is not an https address (http only on this machine)"
            )
        if not self.client:
            raise click.UsageError("--oidc-issuer needs --oidc-client, the id of this client there")
        if not self.grant:
            raise click.UsageError(
                "--oidc-issuer needs --oidc-grant GROUP=SCOPE: without a grant no sign-in succeeds"
            )
        self.grants()
        return self

    def grants(self) -> tuple[Grant, ...]:
        """Return what each group may do. Raise UsageError."""
        try:
            return tuple(grants.parsed(each) for each in self.grant)
        except ValueError as error:
            raise click.UsageError(f"--oidc-grant: {error}") from error

    def settings(self) -> SignInSettings | None:
        """Return the settings, with the secret; None without single sign-on. Raise UsageError."""
        if not self.issuer:
            return None
        secret = ""
        if self.secret_file is not None:
            try:
                secret = self.secret_file.read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise click.UsageError(f"--oidc-secret-file {self.secret_file}: {error}") from error
        return SignInSettings(
            issuer=self.issuer,
            client=self.client,
            secret=secret,
            device_client=self.device_client,
            scopes=self.scopes,
            groups_claim=self.groups_claim,
            grants=self.grants(),
            lifetime=self.lifetime,
        )

    def arguments(self) -> tuple[str, ...]:
        """Return them as arguments of `nebula gateway`."""
        if not self.issuer:
            return ()
        own = {
            "--oidc-issuer": self.issuer,
            "--oidc-client": self.client,
            "--oidc-secret-file": self.secret_file and self.secret_file.absolute(),
            "--oidc-device-client": self.device_client,
            "--oidc-scopes": self.scopes,
            "--oidc-groups-claim": self.groups_claim,
            "--oidc-key-lifetime": self.lifetime,
        }
        words = [word for name, value in own.items() if value for word in (name, str(value))]
        return (*words, *(word for each in self.grant for word in ("--oidc-grant", each)))


_OPTIONS = (
    click.option(
        "--oidc-issuer",
        envvar="NEBULA_OIDC_ISSUER",
        default="",
        metavar="URL",
        help="Provider of OpenID Connect at which people sign in. [env: NEBULA_OIDC_ISSUER]",
    ),
    click.option(
        "--oidc-client",
        envvar="NEBULA_OIDC_CLIENT",
        default="",
        metavar="ID",
        help="Id of this cluster as a client of the provider. [env: NEBULA_OIDC_CLIENT]",
    ),
    click.option(
        "--oidc-secret-file",
        envvar="NEBULA_OIDC_SECRET_FILE",
        default=None,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with the client's secret, if it has one. [env: NEBULA_OIDC_SECRET_FILE]",
    ),
    click.option(
        "--oidc-device-client",
        envvar="NEBULA_OIDC_DEVICE_CLIENT",
        default="",
        metavar="ID",
        help="Id of the public client of `nebula login` [--oidc-client]. "
        "[env: NEBULA_OIDC_DEVICE_CLIENT]",
    ),
    click.option(
        "--oidc-scopes",
        envvar="NEBULA_OIDC_SCOPES",
        default=SCOPES,
        show_default=True,
        help="What is asked of the provider; some need `groups` here. [env: NEBULA_OIDC_SCOPES]",
    ),
    click.option(
        "--oidc-groups-claim",
        envvar="NEBULA_OIDC_GROUPS_CLAIM",
        default="groups",
        show_default=True,
        metavar="NAME",
        help="The claim of an ID token that names a person's groups, such as realm_access.roles. "
        "[env: NEBULA_OIDC_GROUPS_CLAIM]",
    ),
    click.option(
        "--oidc-grant",
        multiple=True,
        envvar="NEBULA_OIDC_GRANT",
        metavar="GROUP=SCOPE[,SCOPE][@TENANT]",
        help="What members of a group may do; * is everyone who signs in. Repeatable. "
        "[env: NEBULA_OIDC_GRANT]",
    ),
    click.option(
        "--oidc-key-lifetime",
        "oidc_lifetime",
        envvar="NEBULA_OIDC_KEY_LIFETIME",
        default=LIFETIME,
        show_default="8 hours",
        type=click.FloatRange(60.0, 7 * 86_400.0),
        help="Seconds until a person has to sign in again. [env: NEBULA_OIDC_KEY_LIFETIME]",
    ),
)


def sign_in_options(wrapped: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as `sign_in`."""

    @wraps(wrapped)
    def gathered(**given: Any) -> None:
        own = [name for name in given if name.startswith(_PREFIX)]
        found = {name.removeprefix(_PREFIX): given.pop(name) for name in own}
        wrapped(**given, sign_in=SignInOptions(**found).checked())

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered
