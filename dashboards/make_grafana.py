"""Write dashboards/grafana.json, the Grafana dashboard of rayseg's series, from the table in rayseg/pipeline/metrics.py.

    python dashboards/make_grafana.py

Import the file in Grafana and choose the Prometheus that scrapes Ray's agents. A test makes it again and compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayseg.pipeline.metrics import JOB, SERIES

HERE = Path(__file__).resolve().parent / "grafana.json"
RAY = "ray_"  # what Ray puts before every name
_NAMES = {series.name for series in SERIES}
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True)
class Panel:
    """One graph. `queries` are (PromQL, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    meaning: str


def rate(name: str, by: str = "", *, where: str = "") -> str:
    """Growth a second of a counter, added up over all processes."""
    return f"sum by ({', '.join(filter(None, [JOB, by]))}) (rate({chosen(name, where)}[$__rate_interval]))"


def chosen(name: str, where: str = "") -> str:
    """A series of the jobs chosen at the top of the page.

    Raises:
        KeyError: the table has no such series.
    """
    if name not in _NAMES:
        raise KeyError(f"{name}: rayseg/pipeline/metrics.py has no such series")
    return f'{RAY}{name}{{{JOB}=~"$job"{where and "," + where}}}'


def last(name: str, by: str = "") -> str:
    """A gauge that one process sets."""
    return f"max by ({', '.join(filter(None, [JOB, by]))}) ({chosen(name)})"


_J = "{{" + JOB + "}}"
_BUSY = 'state="busy"'
PANELS = (
    Panel(
        "Images done",
        "percentunit",
        ((f"sum by ({JOB}) ({last('rayseg_images_done', 'status')}) / {last('rayseg_images_planned')}", _J),),
        "Share of the plan that is in the ledger, ok or failed, earlier runs included.",
    ),
    Panel(
        "Images left a stage",
        "ops",
        ((rate("rayseg_images_total", "stage"), f"{_J} {{{{stage}}}}"),),
        "Images a second by stage; all stages run at the pace of the slowest.",
    ),
    Panel(
        "Failed images",
        "ops",
        ((rate("rayseg_images_total", "stage", where='status="failed"'), f"{_J} {{{{stage}}}}"),),
        "Images a second that failed, by stage. The ledger says why.",
    ),
    Panel(
        "Predictors busy",
        "percentunit",
        ((f"{rate('rayseg_predictor_seconds_total', where=_BUSY)} / {rate('rayseg_predictor_seconds_total')}", _J),),
        "Share of their time in which predictors had work. Below 0.9 they wait for reading and decoding.",
    ),
    Panel(
        "Chunks waiting",
        "short",
        ((last("rayseg_chunks_waiting", "stage"), f"{_J} for {{{{stage}}}}"),),
        "Chunks before predict and before encode, or in it. None before predict: decoding is the bottleneck.",
    ),
    Panel(
        "Work by stage",
        "short",
        ((rate("rayseg_stage_seconds_total", "stage"), f"{_J} {{{{stage}}}}"),),
        "Seconds of work a second, that is how many workers each stage keeps busy.",
    ),
    Panel(
        "Objects written",
        "ops",
        ((rate("rayseg_objects_total"), _J),),
        "Objects a second; of semantic models, class regions.",
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    jobs = f"label_values({RAY}rayseg_images_planned, {JOB})"
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "job",
            "label": "Job",
            "type": "query",
            "datasource": source,
            "query": jobs,
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    return {
        "title": "rayseg",
        "uid": "rayseg",
        "tags": ["rayseg", "ray"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(i, panel, source) for i, panel in enumerate(PANELS)],
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _panel(i: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + n), "datasource": source, "expr": query, "legendFormat": legend}
        for n, (query, legend) in enumerate(panel.queries)
    ]
    most = {"max": 1} if panel.unit == "percentunit" else {}
    return {
        "id": i + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": source,
        "gridPos": {"x": i % 2 * _WIDTH, "y": i // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, **most}, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    HERE.write_text(text(), encoding="utf-8")
