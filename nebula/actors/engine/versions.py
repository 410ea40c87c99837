"""The engine's name for one version of an adapter, and how it is hidden from clients. Pure.

vLLM keys its prefix cache by an adapter's name and path (`_gen_lora_extra_hash_keys` in its
v1/core/kv_cache_utils.py) and tells the adapters of a batch apart by name (`LoRARequest.__eq__`
in its lora/request.py). So each version has a name of its own.
"""

from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from nebula.events.envelope import JSON
from nebula.events.reading import UNREADABLE
from nebula.openai import forms

DIGITS = 16
"""Characters of a digest that are part of a name: the engine refuses a duplicate name."""

_fields = msgspec.json.Decoder(dict[str, Raw])


def internal(name: str, digest: str) -> str:
    """Return the engine's name for a version of an adapter: ASCII that JSON does not escape."""
    return f"{quote(name, safe='')}@{digest[:DIGITS]}"


class Version(Struct, frozen=True):
    """A version of an adapter in an engine: its public `name`, the engine's `own`, its digest."""

    name: str
    own: str
    digest: str

    def asks(self, body: bytes, content_type: str = JSON) -> bytes:
        """Return a request's body, JSON or a form, with the engine's own name; any other stays."""
        try:
            if content_type != JSON:
                return forms.renamed(content_type, body, self.own)
            fields = _fields.decode(body)
        except (*UNREADABLE, forms.BadForm):
            return body
        fields["model"] = Raw(b'"%b"' % self.own.encode())
        return msgspec.json.encode(fields)

    def answers(self, body: bytes, status: int) -> bytes:
        """Return a part of an answer with the public name.

        Text of a model can't be mistaken for the field, because JSON escapes its quotation marks.
        The engine's errors name the adapter in words too.
        """
        own, name = self.own.encode(), msgspec.json.encode(self.name)
        if status >= 400:
            return body.replace(own, name[1:-1])
        for field in (b'"model":"%b"', b'"model": "%b"'):
            if (found := field % own) in body:
                return body.replace(found, b'"model":%b' % name)
        return body
