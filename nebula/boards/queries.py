"""The shapes of query that boards have in common.

What gateways count is their own, and adds up. What routers, nodes and engines tell may reach
Prometheus through several gateways, and directly too: `once` counts it once.
"""

from collections.abc import Iterable

from nebula.boards.panels import Query

INTERVAL = "$__rate_interval"
ERRORS = 'status=~"5.."'
INPUT = 'type="input"'
LOST = 'state="lost"'


def _by(labels: Iterable[str]) -> str:
    return f"by ({', '.join(labels)}) "


def once(expression: str) -> str:
    """Return what is told, whichever ways it came."""
    return f"max without (instance, job) ({expression})"


def per_second(metric: str, *by: str, where: str = "", told: bool = False) -> str:
    """Return how fast a counter grows; `told`: whether gateways hand it on."""
    rate = f"rate({metric}{_match(where)}[{INTERVAL}])"
    return f"sum {_by(by) if by else ''}({once(rate) if told else rate})"


def sum_of(metric: str, *by: str, where: str = "", told: bool = False) -> str:
    """Return the sum of a gauge."""
    found = metric + _match(where)
    return f"sum {_by(by) if by else ''}({once(found) if told else found})"


def most(metric: str, *by: str, where: str = "") -> str:
    """Return the largest value: of what each actor tells of the whole cluster, the value."""
    return f"max {_by(by) if by else ''}({metric}{_match(where)})"


def quantile(part: float, metric: str, *by: str, where: str = "", told: bool = False) -> str:
    """Return a quantile of a histogram."""
    buckets = per_second(f"{metric}_bucket", *by, "le", where=where, told=told)
    return f"histogram_quantile({part}, {buckets})"


def quantiles(metric: str, *by: str, where: str = "", told: bool = False) -> tuple[Query, ...]:
    """Return the queries for the three quantiles that boards show."""
    name = "".join(f" {{{{{label}}}}}" for label in by)
    return tuple(
        Query(quantile(part, metric, *by, where=where, told=told), f"p{round(100 * part)}{name}")
        for part in (0.5, 0.95, 0.99)
    )


def share(metric: str, of: str, where: str = "") -> str:
    """Return the part of a counter's growth that matches, of all that grows."""
    both = ",".join(each for each in (of, where) if each)
    return f"{per_second(metric, where=both)} / {per_second(metric, where=where)}"


def _match(where: str) -> str:
    return f"{{{where}}}" if where else ""
