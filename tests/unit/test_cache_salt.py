"""The prefix caches of tenants are apart, whatever a client writes into its request."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from nebula.events.endpoints import CHAT, ENDPOINTS, Endpoint
from nebula.http.cache_salt import FIELD, salted
from nebula.http.outline import Fields

NAMES = st.sampled_from(["", "red", "blue"])
SALTS = st.one_of(st.none(), st.just(""), st.text(max_size=8), st.integers())
BODIES = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)


def sent(body: bytes, tenant: str, endpoint: Endpoint = CHAT) -> dict[str, Any]:
    said = msgspec.json.decode(body, type=Fields).cache_salt
    read: dict[str, Any] = json.loads(salted(endpoint, body, tenant, said)[0])
    return read


@given(BODIES, NAMES, st.booleans())
def test_a_tenant_s_requests_have_one_salt_and_are_else_as_they_were(
    fields: dict[str, str], tenant: str, ascii_only: bool
) -> None:
    fields.pop(FIELD, None)
    body = json.dumps({"model": "m", **fields}, ensure_ascii=ascii_only).encode()
    found = sent(b"  " + body, tenant)
    assert found.pop(FIELD, "") == sent(b'{"model":"m"}', tenant).get(FIELD, "")
    assert found == {"model": "m", **fields}


@given(NAMES, NAMES, SALTS, SALTS, st.booleans())
def test_two_tenants_never_share_a_salt(
    one: str, other: str, first: object, second: object, escaped: bool
) -> None:
    field = r"\u0063ache_salt" if escaped else FIELD
    bodies = [b'{"%b":%b,"model":"m"}' % (field.encode(), json.dumps(each).encode())
              for each in (first, second)]  # fmt: skip
    salts = [sent(body, name).get(FIELD) for body, name in zip(bodies, (one, other), strict=True)]
    if one != other and isinstance(salts[0], str) and salts[0]:
        assert salts[0] != salts[1]


@given(NAMES, NAMES)
def test_no_client_can_give_itself_the_salt_of_a_tenant(tenant: str, other: str) -> None:
    mine = sent(b'{"model":"m"}', tenant).get(FIELD, "")
    stolen = json.dumps({"model": "m", FIELD: mine}).encode()
    if mine:
        assert sent(stolen, other)[FIELD] != mine


def test_the_last_of_two_salts_counts() -> None:
    body = b'{"cache_salt":"a","model":"m","cache_salt":"b"}'
    assert sent(body, "red") == sent(b'{"model":"m","cache_salt":"b"}', "red")


@pytest.mark.parametrize("path", ["/tokenize", "/v1/audio/transcriptions"])
def test_what_has_no_cache_stays_as_it_is(path: str) -> None:
    body = b'{"cache_salt":"a","model":"m"}'
    assert salted(ENDPOINTS[path], body, "red", Raw(b'"a"')) == (body, "")
