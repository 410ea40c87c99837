"""Keeps the engines' prefix caches of tenants apart, by vLLM's `cache_salt`. Pure.

A prompt whose beginning is cached answers sooner, and `usage` counts its cached tokens. So a client
could find out what another tenant has asked. vLLM mixes the salt into the hashes of its cache: what
has another salt is not shared (https://docs.vllm.ai/en/latest/design/prefix_caching.html).
"""

import hashlib
from functools import lru_cache

import msgspec
from msgspec import Raw

from nebula.events.endpoints import Endpoint

FIELD = "cache_salt"

_REMEMBERED = 1024
"""Salts that are remembered: most requests have that of a tenant."""

_fields = msgspec.json.Decoder(dict[str, Raw])


@lru_cache(maxsize=_REMEMBERED)
def salt_of(tenant: str, given: bytes = b"") -> str:
    """Return the salt of a tenant ("" for none), for the JSON of a salt that a client gives.

    Each pair has a salt of its own, so that no client can give itself the salt of a tenant.
    """
    of = b"%b\n%b" % (tenant.encode(), given)
    return hashlib.blake2b(of, digest_size=16, person=b"nebula-salt").hexdigest()


def salted(endpoint: Endpoint, body: bytes, tenant: str, said: Raw) -> tuple[bytes, str]:
    """Return a JSON body with its tenant's salt, and the salt; "" if it has none.

    `body` is a JSON object, and `said` the JSON of the salt in it, empty if it has none. What
    engines answer without a cache, and forms, stay as they are.
    """
    if not endpoint.computes or endpoint.form:
        return body, ""
    if given := bytes(said):
        fields = _fields.decode(body)
        if given != b"null":
            if not _valid(given):
                return body, ""  # the engine refuses it
            salt = salt_of(tenant, given)
            fields[FIELD] = Raw(msgspec.json.encode(salt))
            return msgspec.json.encode(fields), salt
        del fields[FIELD]
        body = msgspec.json.encode(fields)
    if not tenant:
        return body, ""
    salt = salt_of(tenant)
    return b'{"%b":"%b",%b' % (FIELD.encode(), salt.encode(), body.lstrip()[1:]), salt


def _valid(given: bytes) -> bool:
    return given.startswith(b'"') and given != b'""'
