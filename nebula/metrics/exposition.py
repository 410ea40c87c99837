"""A scrape's text: in OpenMetrics where the scraper asks for it, else Prometheus's own format."""

from collections.abc import Iterable
from math import isfinite, isnan

from msgspec import Struct
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from nebula.metrics.sheet import Sheet

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus's own format, which every scraper reads."""

_OPEN_METRICS = "application/openmetrics-text; version=1.0.0;"

LONGEST_ACCEPT = 1000
"""Characters of `Accept` that are read."""


class Exposition(Struct, frozen=True):
    """What a scraper gets."""

    body: bytes
    media_type: str = PLAIN


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def process() -> Iterable[Metric]:
    """Return the figures of this process."""
    return ProcessCollector(registry=None).collect()


def exposition(families: Iterable[Metric], accept: str = "") -> Exposition:
    """Return families as text, in the form that `Accept` asks for."""
    try:
        encode, media_type = choose_encoder(accept[:LONGEST_ACCEPT])
    except (TypeError, ValueError):  # a version that the library can't compare
        encode, media_type = generate_latest, PLAIN
    if media_type.startswith(PLAIN):
        return Exposition(plain(families), media_type)
    if media_type.startswith(_OPEN_METRICS):
        return Exposition(open_metrics(families), media_type)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families))
    return Exposition(encode(registry), media_type)


def plain(families: Iterable[Metric]) -> bytes:
    """Return families in Prometheus's text format.

    The library does the same in several times the time, for which an actor's event loop would have
    to share Python with it.
    """
    lines: list[str] = []
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        about = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines += (f"# HELP {name} {about}", f"# TYPE {name} {family.type}")
        lines += map(_sample, family.samples)
    return "\n".join([*lines, ""]).encode()


def open_metrics(families: Iterable[Metric]) -> bytes:
    """Return families in the format OpenMetrics 1.0, as quickly."""
    lines: list[str] = []
    for family in families:
        about = _escaped(family.documentation)
        lines += (f"# HELP {family.name} {about}", f"# TYPE {family.name} {family.type}")
        lines += map(_sample, family.samples)
    return "\n".join([*lines, "# EOF", ""]).encode()


def _sample(sample: Sample) -> str:
    if not sample.labels:
        return f"{sample.name} {_number(sample.value)}"
    labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
    return f"{sample.name}{{{labels}}} {_number(sample.value)}"


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _number(value: float) -> str:
    if isfinite(value):
        return repr(value)
    return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"


def of_actor(sheet: Sheet, accept: str = "") -> Exposition:
    """Return an actor's figures and those of its process."""
    return exposition([*sheet.families(), *sheet.own(process())], accept)
