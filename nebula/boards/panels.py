"""What a board is made of, and the JSON that Grafana reads of it.

A panel's description says what its reader can do. Its queries are in PromQL with Grafana's own
`$__rate_interval` and the variables of its board.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA = 39
WIDTH = 24

Kind = Literal["timeseries", "stat", "table", "bargauge", "heatmap"]


@dataclass(frozen=True)
class Query:
    """An expression, and what its series are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel. `red`: from which value on it is red. `stacked`: the series add up."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    red: float | None = None
    stacked: bool = False
    most: float | None = None

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return it as Grafana has it."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(at, query) for at, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
            **self._transformations(),
        }

    def _target(self, at: int, query: Query) -> dict[str, Any]:
        at_once = self.kind in ("stat", "table", "bargauge")
        return {
            "refId": chr(ord("A") + at),
            "datasource": DATASOURCE,
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            "instant": at_once,
            "range": not at_once,
            "format": {"table": "table", "heatmap": "heatmap"}.get(self.kind, "time_series"),
        }

    def _defaults(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if self.red is not None:
            steps.append({"color": "red", "value": self.red})
        found: dict[str, Any] = {
            "unit": self.unit,
            "min": 0,
            "noValue": "0" if self.kind == "stat" else "none",
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "palette-classic" if self.red is None else "thresholds"},
        }
        if self.most is not None:
            found["max"] = self.most
        if self.kind == "timeseries":
            found["color"] = {"mode": "palette-classic"}
            found["custom"] = {
                "fillOpacity": 30 if self.stacked else 5,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none"},
                "thresholdsStyle": {"mode": "off" if self.red is None else "line"},
            }
        return found

    def _options(self) -> dict[str, Any]:
        last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        match self.kind:
            case "timeseries":
                return {
                    "legend": {"displayMode": "list", "placement": "bottom"},
                    "tooltip": {"mode": "multi", "sort": "desc"},
                }
            case "stat":
                return {"reduceOptions": last, "colorMode": "value", "graphMode": "none"}
            case "bargauge":
                return {"reduceOptions": last, "orientation": "horizontal"}
            case "heatmap":
                return {"calculate": False, "yAxis": {"unit": self.unit}}
            case "table":
                return {"showHeader": True}

    def _transformations(self) -> dict[str, Any]:
        """Return how the queries of a table become its columns."""
        if self.kind != "table":
            return {}
        names = {
            f"Value #{chr(ord('A') + at)}": each.legend for at, each in enumerate(self.queries)
        }
        if len(self.queries) == 1:
            names["Value"] = self.queries[0].legend
        return {
            "transformations": [
                {"id": "merge", "options": {}},
                {
                    "id": "organize",
                    "options": {"excludeByName": {"Time": True}, "renameByName": names},
                },
            ]
        }


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """What a reader chooses: a label's values, as a metric has them."""

    name: str
    metric: str
    label: str = ""

    def json(self) -> dict[str, Any]:
        """Return it as Grafana has it."""
        query = f"label_values({self.metric}, {self.label or self.name})"
        return {
            "name": self.name,
            "label": self.name,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": "variable"},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


@dataclass(frozen=True)
class Board:
    """A board. `marks`: annotations, what happened when."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    marks: tuple[Query, ...] = field(default=())

    @property
    def uid(self) -> str:
        """Return its id in Grafana, which is in its address."""
        return f"nebula-{self.name}"

    def json(self) -> dict[str, Any]:
        """Return it as Grafana has it."""
        source = {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 0}
        return {
            "uid": self.uid,
            "title": f"Nebula: {self.title}",
            "description": self.description,
            "tags": ["nebula"],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "Nebula",
                    "tags": ["nebula"],
                    "asDropdown": False,
                    "keepTime": True,
                    "includeVars": True,
                }
            ],
            "templating": {"list": [source, *(each.json() for each in self.variables)]},
            "annotations": {"list": [self._mark(each) for each in self.marks]},
            "panels": list(self._placed()),
        }

    def _mark(self, query: Query) -> dict[str, Any]:
        return {
            "name": query.legend,
            "datasource": DATASOURCE,
            "enable": True,
            "iconColor": "blue",
            "expr": query.expression,
            "titleFormat": query.legend,
            "textFormat": "{{type}}",
            "step": "60s",
        }

    def _placed(self) -> Iterator[dict[str, Any]]:
        """Yield rows and panels from left to right, and from top to bottom."""
        number = y = 0
        for row in self.rows:
            number += 1
            yield {
                "id": number,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
            y += 1
            x = height = 0
            for panel in row.panels:
                if x + panel.width > WIDTH:
                    x, y, height = 0, y + height, 0
                number += 1
                yield panel.json(number, x, y)
                x += panel.width
                height = max(height, panel.height)
            y += height


def alarm(
    title: str, description: str, expression: str, unit: str = "short", red: float = 1
) -> Panel:
    """Return one number that is red from some value on."""
    return Panel(title, description, (Query(expression),), unit, "stat", 4, 4, red)
