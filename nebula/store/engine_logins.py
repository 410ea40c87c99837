"""Credentials of a node's engines: each engine gets a token for its own replica."""

import time
from pathlib import Path

import nkeys
from msgspec.structs import replace

from nebula.store import claims, credentials, private
from nebula.store.nats_key import Key
from nebula.store.users import inbox_of

_ROLE = "engine"


class NoLogin(Exception):
    """An engine's credentials can't be made; the text says why."""


class EngineLogins:
    """Makes the credentials of engines.

    `url`: the NATS URL that the node has for its engines. If it names a context with a signing key,
    each engine gets a file of its own in `folder`; otherwise all engines get this URL.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder

    def url_of(self, model: str, replica: str) -> str:
        """Return the NATS URL of a replica's engine. Raise NoLogin."""
        if not self._url.startswith("file:"):
            return self._url
        path = credentials.path_of(self._url)
        try:
            signed = self._sign(path, model, replica)
        except OSError as error:
            text = f"{error.filename or self._folder}: {error.strerror}"
            raise NoLogin(f"can't make its credentials for NATS: {text}") from error
        except ValueError as error:
            raise NoLogin(f"can't make its credentials for NATS from {path}: {error}") from error
        return f"file:{signed}" if signed is not None else self._url

    def _sign(self, path: Path, model: str, replica: str) -> Path | None:
        """Write the files of a replica and return its context; None without a signing key."""
        context = credentials.context_at(path)
        if not context.signing_key:
            return None
        signer = Key(Path(credentials.beside(path, context.signing_key)).read_text().strip())
        own = Key.new(nkeys.PREFIX_BYTE_USER)
        names = {"model": model, "replica": replica}
        said = claims.user(own.public, f"{_ROLE} {replica}", context.account, names)
        token = claims.token(said, signer.public, signer.sign, int(time.time()))
        creds = self._folder / f"{replica}.creds"
        private.write(creds, claims.credentials(token, own.seed).encode())
        file = creds.with_suffix(".json")
        credentials.write(
            file,
            replace(
                context,
                description=f"Nebula: {_ROLE} {replica}",
                creds=creds.name,
                ca=credentials.beside(path, context.ca),
                cert=credentials.beside(path, context.cert),
                key=credentials.beside(path, context.key),
                inbox_prefix=inbox_of(_ROLE, names.values()),
                signing_key="",
                account="",
            ),
        )
        return file

    def forget(self, replica: str) -> None:
        """Remove the files of a replica that is gone."""
        for suffix in (".creds", ".json"):
            (self._folder / f"{replica}{suffix}").unlink(missing_ok=True)
