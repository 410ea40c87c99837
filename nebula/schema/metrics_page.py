"""`docs/reference/metrics.md`: every metric, made from the same table. Pure."""

from collections.abc import Iterator

from nebula.metrics.metric import ACTORS, CLUSTER, ENGINES, IDENTITY, OTHER, OWN, Metric
from nebula.metrics.table import TABLE

_HEAD = f"""\
<!-- Made by `make docs` from nebula/metrics: change the code, not this page. -->

# Metrics

Each actor emits its metrics at `{OWN}`, in Prometheus's text format or in OpenMetrics;
[the guide](../how-to/metrics.md) says how to scrape them. A model, an adapter or a tenant is named
by its id; where there are more of them than a bound, the rest together are `{OTHER}`. Beside these
metrics each actor has `process_…` about its process."""

_TITLES = {
    ACTORS: "All actors",
    ("gateway",): "Gateways",
    ("router",): "Routers",
    ("node",): "Nodes",
}

_HANDED_ON = f"""\

## What a gateway hands on

`{CLUSTER}` has the metrics of all routers and nodes, and `{ENGINES}` those of all engines:
`vllm:…` as the engines tell them, with the labels `node`, `replica` and `model`. A label of that
name that an engine uses itself becomes `exported_node` and so on."""

_BUCKETS = """\

## Buckets

The upper bounds of histograms, in seconds. Those of requests are OpenTelemetry's for generative AI.

| metric | buckets |
|---|---|"""


def markdown() -> str:
    """Return the whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for actors, title in _TITLES.items():
        yield f"\n## {title}\n"
        common = IDENTITY[actors[0]] if len(actors) == 1 else ()
        if common:
            yield f"All have the label `{common[0]}`: the {actors[0]}'s name.\n"
        yield from _table(each for each in TABLE if each.actors == actors and each.path == OWN)
    yield _HANDED_ON
    yield ""
    yield from _table(each for each in TABLE if each.path != OWN)
    yield _BUCKETS
    for each in TABLE:
        if each.buckets:
            yield f"| `{each.name}` | {', '.join(f'{bound:g}' for bound in each.buckets)} |"


def _table(metrics: Iterator[Metric]) -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for each in metrics:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        yield f"| `{each.name}` | {each.kind} | {labels} | {each.help} |"
