"""The tokens of NATS that `nebula auth` signs: what they say, and that only its keys make them."""

from __future__ import annotations

import base64

import nkeys
import pytest

from nebula.store import claims
from nebula.store.nats_key import Key
from nebula.store.users import Rights

RIGHTS = Rights("_INBOX_node", ("nebula.status.node.{{tag(node)}}",), ("_INBOX_node.>",), True)


def test_a_token_holds_its_claims_and_the_signature_of_its_issuer() -> None:
    key = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)
    said = claims.user("UX", "n1", "AX", {"node": "N1"}, expires=2000)
    token = claims.token(said, key.public, key.sign, 1000)
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    assert nkeys.from_seed(bytearray(key.seed.encode())).verify(signed.encode(), raw)
    found = claims.read(token)
    assert found.pop("jti")
    assert found == {
        "sub": "UX",
        "name": "n1",
        "iss": key.public,
        "iat": 1000,
        "exp": 2000,
        "nats": {"type": "user", "version": 2, "issuer_account": "AX", "tags": ["node:N1"]},
    }


def test_an_account_lists_its_roles_and_what_it_has_revoked() -> None:
    said = claims.account("AX", "prod", [("node", "AK", RIGHTS)], {"UX": 5}, streams=True)["nats"]
    [scope] = said["signing_keys"]
    assert (scope["kind"], scope["key"], scope["role"]) == ("user_scope", "AK", "node")
    assert scope["template"]["pub"] == {"allow": ["nebula.status.node.{{tag(node)}}"]}
    assert scope["template"]["resp"]["max"] == 1
    assert said["revocations"] == {"UX": 5}
    assert said["limits"]["disk_storage"] == -1
    assert "disk_storage" not in claims.account("AX", "SYS")["nats"]["limits"]


def test_credentials_are_read_as_they_were_written() -> None:
    text = claims.credentials("a.b.c", "SUAB")
    assert claims.read_credentials(text) == ("a.b.c", "SUAB")
    assert claims.read_credentials(text.replace("\n", "\r\n")) == ("a.b.c", "SUAB")


@pytest.mark.parametrize("text", ["", "a.b.c", "-----BEGIN NATS USER JWT-----\na.b.c"])
def test_a_file_without_both_parts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it has no"):
        claims.read_credentials(text)


@pytest.mark.parametrize("text", ["", "a.b", "a.!.c", "a.WzFd.c"])
def test_text_that_is_not_a_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        claims.read(text)
