"""Checks an ID token, by which a provider vouches for a person that has signed in. Pure.

Signatures are joserfc's, the rules for claims are Authlib's (OpenID Connect Core, 3.1.3.7).
"""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet
from joserfc.jws import extract_compact
from msgspec import Meta, Struct

from nebula.http.sign_in.refusals import NotSignedIn, UnknownKey

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""Algorithms with a public key: only the provider has the other one, which signs."""

LARGEST = 32 * 1024
"""Characters of an ID token, at most."""

LEEWAY = 60
"""Seconds by which clocks may differ."""

FRESH = 600
"""Seconds within which a new ID token is to be handed in."""


class _Claims(Struct, frozen=True):
    """What must be in an ID token, in its form."""

    iss: str
    sub: Annotated[str, Meta(min_length=1, max_length=255)]
    aud: str | list[str]
    exp: int | float
    iat: int | float
    nbf: int | float | None = None
    nonce: str | None = None
    azp: str | None = None


def key_set(found: Any) -> KeySet:
    """Return the keys of a JWKS that can check signatures; others are passed over.

    Raise ValueError if it has none.
    """
    keys = found.get("keys") if isinstance(found, dict) else None
    usable = []
    for each in keys if isinstance(keys, list) else ():
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        if each.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            usable += KeySet.import_key_set({"keys": [each]}).keys
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    if not usable:
        raise ValueError("it has no key that can check a signature")
    return KeySet(usable)


def checked(
    text: str,
    keys: KeySet,
    issuer: str,
    client: str,
    now: int,
    *,
    nonce: str = "",
) -> Mapping[str, Any]:
    """Return the claims of an ID token. Raise NotSignedIn.

    `client`: what it must be made for. `nonce`: what it must repeat; without one it must be new.
    """
    header = _header(text)
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise NotSignedIn(
            f"the ID token is signed with {str(algorithm)[:40]!r}, not with a key pair"
        )
    kid = header.get("kid")
    named = [each for each in keys if each.kid == kid] if kid else list(keys)
    if len(named) != 1:
        raise UnknownKey("the ID token names no key of the provider")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has another name by now
            token = jwt.decode(text, named[0], algorithms=ALGORITHMS)
    except (JoseError, ValueError, TypeError) as error:
        raise NotSignedIn("the ID token is not signed by the provider") from error
    try:
        claims = msgspec.convert(token.claims, _Claims)
    except msgspec.ValidationError as error:
        raise NotSignedIn(f"the ID token is not a valid one: {error}") from error
    _check(token, issuer, client, nonce, now)
    if not nonce and claims.iat < now - FRESH - LEEWAY:
        raise NotSignedIn("the ID token is too old: sign in again")
    return token.claims


def _check(token: jwt.Token, issuer: str, client: str, nonce: str, now: int) -> None:
    rules = {
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "value": client},
    }
    claims = CodeIDToken(
        token.claims, token.header, rules, {"client_id": client, "nonce": nonce or None}
    )
    try:
        claims.validate(now, LEEWAY)
    except JoseError as error:
        wrong = getattr(error, "claim", "") or str(error)
        raise NotSignedIn(f"the ID token is not valid here: {_WRONG.get(wrong, error)}") from error


_WRONG = {
    "iss": "iss: it comes from another provider",
    "aud": "aud: it was made for another client",
    "azp": "azp: it was made for another client",
    "nonce": "nonce: it belongs to another sign-in",
}


def _header(text: str) -> Mapping[str, Any]:
    if len(text) > LARGEST:
        raise NotSignedIn(f"the ID token has more than {LARGEST} characters")
    try:
        return extract_compact(text.encode("ascii")).headers()
    except (JoseError, ValueError, TypeError) as error:
        raise NotSignedIn("the text is not an ID token") from error
