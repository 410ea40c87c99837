"""A scrape's text: in OpenMetrics where the scraper asks for it, else Prometheus's own format."""

from collections.abc import Iterable
from math import isfinite, isnan

from msgspec import Struct
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nebula.metrics.sheet import Sheet

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus's own format, which every scraper reads."""

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
    encode, media_type = choose_encoder(accept[:LONGEST_ACCEPT])
    if media_type.startswith(PLAIN):
        return Exposition(plain(families), media_type)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families))
    return Exposition(encode(registry), media_type)


def plain(families: Iterable[Metric]) -> bytes:
    """Return families in Prometheus's text format.

    The library does the same in five times the time, for which an actor's event loop would have to
    share Python with it.
    """
    lines: list[str] = []
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        about = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines += (f"# HELP {name} {about}", f"# TYPE {name} {family.type}")
        for each in family.samples:
            if each.labels:
                labels = ",".join(f'{key}="{_escaped(of)}"' for key, of in each.labels.items())
                lines.append(f"{each.name}{{{labels}}} {_number(each.value)}")
            else:
                lines.append(f"{each.name} {_number(each.value)}")
    return "\n".join([*lines, ""]).encode()


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
