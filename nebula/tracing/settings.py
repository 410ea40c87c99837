"""Where traces go, and of which requests. Pure."""

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

PATH = "/v1/traces"
PROTOCOL = "http/protobuf"

_OWN_URL = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_BASE_URL = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class TraceSettings(Struct, frozen=True):
    """What a process needs to make traces.

    `endpoint`: URL of a collector of OTLP/HTTP. `ratio`: the part of the traces begun here that is
    recorded; None leaves that to OpenTelemetry's own variables. `prompts`: what clients and models
    say is recorded too.
    """

    endpoint: str
    ratio: float | None = None
    prompts: bool = False


def endpoint_of(url: str) -> str:
    """Return the address for traces of a collector. Raise ValueError for what is none."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is not the URL of a collector, such as http://localhost:4318")
    path = parts.path if parts.path.strip("/") else PATH
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def found(variables: Mapping[str, str]) -> str:
    """Return the endpoint that OpenTelemetry's own variables name; "" for none.

    Raise ValueError if they name what is none, or another protocol.
    """
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    if variables.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return ""
    own, base = variables.get(_OWN_URL, ""), variables.get(_BASE_URL, "")
    if not own and not base:
        return ""
    for name in _PROTOCOLS:
        told = variables.get(name, "")
        if told:
            if told != PROTOCOL:
                raise ValueError(f"{name} is {told!r}: traces are sent as {PROTOCOL} only")
            break
    if own:
        return endpoint_of(own)
    return endpoint_of(base.rstrip("/") + PATH)
