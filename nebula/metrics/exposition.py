"""A scrape's text: in OpenMetrics where the scraper asks for it, else Prometheus's own format."""

from collections.abc import Iterable

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
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families))
    return Exposition(encode(registry), media_type)


def of_actor(sheet: Sheet, accept: str = "") -> Exposition:
    """Return an actor's figures and those of its process."""
    return exposition([*sheet.families(), *sheet.own(process())], accept)
