"""What a run writes down about itself: one line an event for people, one for programs, tables and curves.

    train.log         text
    history.jsonl     every event as it was reported
    history.csv       one row an evaluation
    curves.png        loss, rate and scores over the steps
    tensorboard/      the same for TensorBoard

A run that goes on from a checkpoint drops the lines of steps it takes again, except in train.log, which tells all.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from rayseg.training.curves import draw_curves
from rayseg.training.tensorboard import ScalarWriter

log = logging.getLogger(__name__)
Event = dict[str, Any]
LOG, HISTORY, TABLE, CURVES, BOARD = "train.log", "history.jsonl", "history.csv", "curves.png", "tensorboard"
_PLACE = ("event", "epoch", "step", "progress", "seconds")


def read_history(folder: Path) -> list[Event]:
    """The events a run wrote down, in whole lines; a kill may have cut the last."""
    path, events = folder / HISTORY, []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


class Journal:
    """Receives the events of a run."""

    def __init__(self, folder: Path, *, after_step: int = 0) -> None:
        """`after_step`: what an earlier process of the run wrote about later steps is taken back."""
        self._folder = folder
        told = read_history(folder)
        self._events = [event for event in told if event.get("step", 0) <= after_step] if after_step else []
        if len(self._events) != len(told):
            _replace(folder / HISTORY, "".join(json.dumps(event) + "\n" for event in self._events))
        self._board = ScalarWriter(folder / BOARD, purge_from=after_step + 1 if after_step else None)

    def __call__(self, event: Event) -> None:
        """Write one event down."""
        line = describe(event)
        log.info("%s", line)
        stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {line}\n")
        with (self._folder / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        self._events.append(event)
        kind = event["event"]
        if kind == "step":
            terms = {f"train/{name}": value for name, value in _values(event).items()}
            self._board.add(event["step"], terms)
        if kind == "evaluated":
            self._board.add(event["step"], {f"evaluate/{name}": value for name, value in _values(event).items()})
            self._write_table()
        if kind in ("saved", "finished"):
            draw_curves(self._events, self._folder / CURVES)

    def _write_table(self) -> None:
        rows = [{k: v for k, v in event.items() if k != "event"} for event in self._events if event["event"] == "evaluated"]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        _replace(self._folder / TABLE, text.getvalue())


def describe(event: Event) -> str:
    """One line of text."""
    kind = event["event"]
    place = f"epoch {event['epoch']} step {event['step']}"
    if kind == "step":
        place += f" ({event['progress']:.1%}, {event['seconds']:.0f} s)"
    rest = {name: value for name, value in event.items() if name not in _PLACE}
    return " ".join([place, kind, *(f"{name}={_short(value)}" for name, value in rest.items())])


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, dict | list) else str(value)


def _values(event: Event) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in event.items()
        if name not in _PLACE and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
