"""The keys of a cluster on NATS servers of its own: its users and roles, in signed tokens.

The folder of an authority has the private keys; NATS servers only need `nats-auth.conf`, and each
process the files of its own user. All are readable by their owner only.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import nkeys
from msgspec import Struct
from msgspec.structs import replace

from nebula.store import claims, private
from nebula.store.credentials import Context, write
from nebula.store.nats_key import Key
from nebula.store.users import Rights

SERVERS = "nats-auth.conf"
"""The file for the configuration of each NATS server."""

SYSTEM = "system"
_USERS = "users"
_REVOKED = "revoked.json"
_SIGNERS = "signers"
_ENGINE = "engine"
_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")
_KINDS = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    SYSTEM: nkeys.PREFIX_BYTE_ACCOUNT,
}


class NoAuthority(Exception):
    """A folder has no keys of an authority, or has them already; the text says which."""


class User(Struct, frozen=True):
    """A user that was made, and the files with its credentials."""

    name: str
    context: Path
    creds: Path


class Authority:
    """The keys of one cluster, in a folder.

    `rights`: for each role what its users may do, with `{{tag(x)}}` where a user's own name stands.
    """

    def __init__(self, folder: Path, rights: Mapping[str, Rights]) -> None:
        self.folder = folder
        self._rights = rights

    @property
    def exists(self) -> bool:
        """Whether the folder has keys."""
        return self._file("operator").exists()

    def create(self, name: str) -> None:
        """Make the keys. Raise NoAuthority if there are some, OSError."""
        if self.exists:
            raise NoAuthority(f"{self.folder} has keys already")
        for kind, prefix in _KINDS.items():
            self._write(self._file(kind), Key.new(prefix).seed + "\n")
        for role in self._rights:
            self._role_key(role)
        self._write(self.folder / "name", name + "\n")
        system = self._key(SYSTEM)
        key = Key.new(nkeys.PREFIX_BYTE_USER)
        said = claims.system_user(key.public, SYSTEM)
        token = claims.token(said, system.public, system.sign, self._now())
        self._write(self.system_creds, claims.credentials(token, key.seed))
        self.publish()

    @property
    def servers(self) -> Path:
        """The file for the configuration of NATS servers."""
        return self.folder / SERVERS

    @property
    def system_creds(self) -> Path:
        """The file with the credentials that tell servers of a changed account."""
        return self.folder / _USERS / f"{SYSTEM}.creds"

    def account(self) -> str:
        """Return the account's token, signed by the operator."""
        return self._signed(self._account(), self._key("operator"))

    def publish(self) -> None:
        """Write the file for NATS servers. Raise NoAuthority, OSError.

        What it says already stays the same to the letter: a server that runs takes no new token
        about its operator.
        """
        operator, system = self._key("operator"), self._key(SYSTEM)
        known = self._published()
        says = claims.operator(operator.public, self._name, system.public)
        tokens = [
            self._signed(each, operator, known)
            for each in (says, claims.account(system.public, "SYS"), self._account())
        ]
        self._write(
            self.servers,
            f"operator: {tokens[0]}\n"
            f"system_account: {system.public}\n"
            'resolver: { type: full, dir: "./jwt", allow_delete: false, interval: "2m" }\n'
            "resolver_preload: {\n"
            f"  {system.public}: {tokens[1]}\n"
            f"  {self._key('account').public}: {tokens[2]}\n"
            "}\n",
        )

    def _account(self) -> dict[str, Any]:
        roles = [(role, self._role_key(role).public, of) for role, of in self._rights.items()]
        for file in sorted((self.folder / _SIGNERS).glob("*.nk")):
            roles.append((_ENGINE, Key(file.read_text().strip()).public, self._rights[_ENGINE]))
        public = self._key("account").public
        return claims.account(public, self._name, roles, self._revoked(), streams=True)

    def _published(self) -> list[str]:
        """Return the tokens in the file for NATS servers."""
        if not self.servers.exists():
            return []
        return _TOKEN.findall(self.servers.read_text("utf-8", "replace"))

    def _signed(self, said: dict[str, Any], issuer: Key, known: Sequence[str] = ()) -> str:
        """Return one of the known tokens, if it says the same, or a new one."""
        same = (each for each in known if claims.says(each, said, issuer.public))
        return next(same, "") or claims.token(said, issuer.public, issuer.sign, self._now())

    def add(
        self, role: str, name: str, tags: Mapping[str, str], context: Context, days: int = 0
    ) -> User:
        """Make a user of a role, and its files. Raise NoAuthority, OSError.

        `tags`: its own names; `context`: the way to the servers, without credentials; `days`: after
        which its token expires, 0: never.
        """
        signer, key = self._role_key(role), Key.new(nkeys.PREFIX_BYTE_USER)
        now = self._now()
        expires = now + days * 86400 if days else 0
        said = claims.user(key.public, name, self._key("account").public, tags, expires)
        token = claims.token(said, signer.public, signer.sign, now)
        known = self.folder / _USERS / f"{name}.keys"
        before = known.read_text().split() if known.exists() else []
        self._write(known, "\n".join([*before, key.public]) + "\n")
        creds, file = known.with_suffix(".creds"), known.with_suffix(".json")
        self._write(creds, claims.credentials(token, key.seed))
        write(file, replace(context, description=f"Nebula: {role} {name}", creds=creds.name))
        return User(name, file, creds)

    def add_signer(self, name: str, context: Context) -> Path:
        """Make a key that signs users for engines; return its context.

        Raise NoAuthority, OSError.
        """
        account = self._key("account").public
        key = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)
        self._write(self.folder / _SIGNERS / f"{name}.nk", key.seed + "\n")
        self.publish()
        file = self.folder / _USERS / f"{name}.engines.json"
        own = file.with_suffix(".nk")
        self._write(own, key.seed + "\n")
        write(
            file,
            replace(
                context,
                description=f"Nebula: engines of {name}",
                inbox_prefix="",
                signing_key=own.name,
                account=account,
            ),
        )
        return file

    def revoke_older(self, name: str) -> int:
        """Refuse the tokens of a user from now on but its newest; return how many.

        Raise NoAuthority, OSError.
        """
        older = self._keys_of(name)[:-1]
        self._refuse(older)
        return len(older)

    def revoke(self, name: str) -> int:
        """Refuse all tokens of a user from now on; return how many. Raise NoAuthority, OSError.

        Those that its key for engines has signed are refused too.
        """
        known = self.folder / _USERS / f"{name}.keys"
        signer = self.folder / _SIGNERS / f"{name}.nk"
        if signer.exists():
            signer.unlink()
            self.publish()
            if not known.exists():
                return 1
        keys = self._keys_of(name)
        self._refuse(keys)
        return len(keys)

    def _keys_of(self, name: str) -> list[str]:
        """Return the public keys of a user, the newest last. Raise NoAuthority, OSError."""
        known = self.folder / _USERS / f"{name}.keys"
        if not known.exists():
            there = ", ".join(sorted(each.stem for each in known.parent.glob("*.keys"))) or "none"
            raise NoAuthority(f"{self.folder} has no user {name!r}; its users: {there}")
        return known.read_text().split()

    def _refuse(self, keys: Sequence[str]) -> None:
        revoked = self._revoked() | dict.fromkeys(keys, self._now())
        self._write(self.folder / _REVOKED, json.dumps(revoked, indent=2) + "\n")
        self.publish()

    @property
    def _name(self) -> str:
        return (self.folder / "name").read_text().strip()

    def _revoked(self) -> dict[str, int]:
        file = self.folder / _REVOKED
        if not file.exists():
            return {}
        return msgspec.json.decode(file.read_bytes(), type=dict[str, int])

    def _role_key(self, role: str) -> Key:
        """Return the key that signs a role's users; a role that is new gets one."""
        file = self.folder / "roles" / f"{role}.nk"
        if not file.exists():
            self._write(file, Key.new(nkeys.PREFIX_BYTE_ACCOUNT).seed + "\n")
        return Key(file.read_text().strip())

    def _key(self, kind: str) -> Key:
        try:
            return Key(self._file(kind).read_text().strip())
        except FileNotFoundError:
            raise NoAuthority(f"{self.folder} has no keys: `nebula auth init` makes them") from None

    def _file(self, kind: str) -> Path:
        return self.folder / f"{kind}.nk"

    def _write(self, file: Path, text: str) -> None:
        private.write(file, text.encode())

    def _now(self) -> int:
        return int(time.time())
