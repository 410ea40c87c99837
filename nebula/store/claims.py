"""NATS's tokens: what an operator says of an account, and an account of its users. Pure.

The form is that of NATS's JWTs, version 2 (https://docs.nats.io, "JWTs"; ADR-14 and the library
`jwt/v2`). An account lists its roles as scoped signing keys: a user that such a key has signed has
the role's permissions, with `{{tag(x)}}` replaced by the user's tags.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nebula.store.users import Rights

Sign = Callable[[bytes], bytes]

NO_LIMIT = -1
_REPLY_WITHIN = 60 * 10**9
"""Nanoseconds for a reply."""


def token(claims: Mapping[str, Any], issuer: str, sign: Sign, now: int) -> str:
    """Return the signed token of some claims. `issuer`: the public key; `now`: in seconds."""
    body = {**claims, "iat": now, "iss": issuer}
    digest = hashlib.new("sha512_256", _json(body)).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    head = _base64(_json({"typ": "JWT", "alg": "ed25519-nkey"}))
    signed = f"{head}.{_base64(_json(body))}"
    return f"{signed}.{_base64(sign(signed.encode()))}"


def read(text: str) -> dict[str, Any]:
    """Return the claims of a token, without a look at its signature. Raise ValueError."""
    parts = text.split(".")
    if len(parts) != 3:
        raise ValueError("it is not a token of three parts")
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    if not isinstance(claims, dict):
        raise ValueError("its claims are not an object")
    return claims


def says(text: str, said: Mapping[str, Any], issuer: str) -> bool:
    """Return whether a token has these claims and this issuer, whenever it was made."""
    try:
        found = read(text)
    except ValueError:
        return False
    return {**found, "iat": 0, "jti": ""} == {**said, "iss": issuer, "iat": 0, "jti": ""}


def operator(public: str, name: str, system: str) -> dict[str, Any]:
    """Return an operator's claims about itself. `system`: its system account."""
    nats = {"type": "operator", "version": 2, "system_account": system}
    return {"sub": public, "name": name, "nats": nats}


def account(
    public: str,
    name: str,
    roles: Sequence[tuple[str, str, Rights]] = (),
    revoked: Mapping[str, int] | None = None,
    *,
    streams: bool = False,
) -> dict[str, Any]:
    """Return the claims about an account.

    `roles`: for each role its name, the public key that signs its users, and its rights. `revoked`:
    public keys of users, and the times in seconds until which their tokens are refused. `streams`:
    whether it may use JetStream.
    """
    limits: dict[str, Any] = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), NO_LIMIT
    )
    limits["wildcards"] = True
    if streams:
        limits |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), NO_LIMIT)
    nats: dict[str, Any] = {"type": "account", "version": 2, "limits": limits}
    if roles:
        nats["signing_keys"] = [_scope(*each) for each in roles]
    if revoked:
        nats["revocations"] = dict(revoked)
    return {"sub": public, "name": name, "nats": nats}


def _scope(role: str, key: str, rights: Rights) -> dict[str, Any]:
    template: dict[str, Any] = {
        "pub": {"allow": list(rights.publish)},
        "sub": {"allow": list(rights.subscribe)},
        "subs": NO_LIMIT,
        "data": NO_LIMIT,
        "payload": NO_LIMIT,
    }
    if rights.replies:
        template["resp"] = {"max": 1, "ttl": _REPLY_WITHIN}
    return {"kind": "user_scope", "key": key, "role": role, "template": template}


def user(
    public: str, name: str, account: str, tags: Mapping[str, str], expires: int = 0
) -> dict[str, Any]:
    """Return the claims about a user of an account. `expires`: in seconds; 0: never."""
    nats: dict[str, Any] = {"type": "user", "version": 2, "issuer_account": account}
    if tags:
        nats["tags"] = [f"{key}:{value}" for key, value in tags.items()]
    claims = {"sub": public, "name": name, "nats": nats}
    return {**claims, "exp": expires} if expires else claims


def system_user(public: str, name: str) -> dict[str, Any]:
    """Return the claims about a user that the account itself signs, without limits."""
    limits = dict.fromkeys(("subs", "data", "payload"), NO_LIMIT)
    return {"sub": public, "name": name, "nats": {"type": "user", "version": 2, **limits}}


def credentials(token: str, seed: str) -> str:
    """Return the text of a file with a user's token and key, as NATS's clients read it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n"
        "NKEYs are sensitive and should be treated as secrets.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def read_credentials(text: str) -> tuple[str, str]:
    """Return the token and the key in a file of credentials. Raise ValueError."""
    lines = [line.strip() for line in text.splitlines()]
    found = []
    for what in ("NATS USER JWT", "USER NKEY SEED"):
        begin = f"-----BEGIN {what}-----"
        if begin not in lines:
            raise ValueError(f"it has no {what}")
        found.append(next((each for each in lines[lines.index(begin) + 1 :] if each), ""))
    return found[0], found[1]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
