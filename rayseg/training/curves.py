"""A run's curves as one picture: losses, learning rate and scores over the steps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rayseg.draw import palette

PANEL_W, PANEL_H = 460, 340
MOST_LINES = 8
"""In one panel; more could not be told apart."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 14, 34, 40
_INK, _GRID, _PAPER = (40, 40, 40), (225, 225, 225), (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_NOT_DRAWN = ("event", "epoch", "step", "progress", "seconds", "best")

Line = tuple[list[float], list[float]]


def draw_curves(events: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG with three panels from a run's events; nothing where there is nothing to draw."""
    steps = _lines([event for event in events if event["event"] == "step"])
    rate = {name: line for name, line in steps.items() if name == "rate"}
    losses = {name: line for name, line in steps.items() if name != "rate"}
    scores = _lines([event for event in events if event["event"] == "evaluated"])
    panels = [panel(title, lines) for title, lines in (("loss", losses), ("learning rate", rate), ("scores", scores)) if lines]
    if not panels:
        return
    done, data = cv2.imencode(".png", np.hstack(panels))
    if not done:
        raise OSError(f"{path}: cannot encode the curves")
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data.tobytes())
    os.replace(part, path)


def panel(title: str, lines: Mapping[str, Line]) -> np.ndarray:
    """One diagram, uint8 (PANEL_H, PANEL_W, 3) BGR; lines are (x, y) by name, values that are no numbers left out."""
    canvas = np.full((PANEL_H, PANEL_W, 3), _PAPER, dtype=np.uint8)
    drawn = {name: line for name, line in list(lines.items())[:MOST_LINES] if line[0]}
    x_range = _range([x for xs, _ in drawn.values() for x in xs])
    y_range = _range([y for _, ys in drawn.values() for y in ys])
    _axes(canvas, title, x_range, y_range)
    for index, (name, (xs, ys)) in enumerate(drawn.items()):
        colour = tuple(int(c) for c in palette(len(drawn))[index][::-1])
        points = np.array([_place(x, y, x_range, y_range) for x, y in zip(xs, ys, strict=True)], dtype=np.int32)
        cv2.polylines(canvas, [points], False, colour, 1, cv2.LINE_AA)
        if len(points) < 40:
            for x, y in points.tolist():
                cv2.circle(canvas, (x, y), 2, colour, -1, cv2.LINE_AA)
        at = (PANEL_W - _RIGHT - 130, _TOP + 14 + 15 * index)
        cv2.line(canvas, (at[0] - 18, at[1] - 4), (at[0] - 4, at[1] - 4), colour, 2)
        cv2.putText(canvas, name[:20], at, _FONT, 0.38, _INK, 1, cv2.LINE_AA)
    return canvas


def _lines(events: Sequence[Mapping[str, Any]]) -> dict[str, Line]:
    out: dict[str, Line] = {}
    for event in events:
        for name, value in event.items():
            if name in _NOT_DRAWN or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            xs, ys = out.setdefault(name, ([], []))
            xs.append(float(event["step"]))
            ys.append(float(value))
    return out


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1))


def _place(x: float, y: float, x_range: tuple[float, float], y_range: tuple[float, float]) -> tuple[int, int]:
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = (y - y_range[0]) / (y_range[1] - y_range[0])
    return (
        round(_LEFT + across * (PANEL_W - _LEFT - _RIGHT)),
        round(PANEL_H - _BOTTOM - up * (PANEL_H - _TOP - _BOTTOM)),
    )


def _axes(canvas: np.ndarray, title: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
    cv2.putText(canvas, title, (_LEFT, _TOP - 12), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y_value = y_range[0] + share * (y_range[1] - y_range[0])
        x_value = x_range[0] + share * (x_range[1] - x_range[0])
        left, y = _place(x_range[0], y_value, x_range, y_range)
        x, bottom = _place(x_value, y_range[0], x_range, y_range)
        cv2.line(canvas, (left, y), (PANEL_W - _RIGHT, y), _GRID, 1)
        cv2.putText(canvas, f"{y_value:.4g}", (6, y + 4), _FONT, 0.36, _INK, 1, cv2.LINE_AA)
        cv2.putText(canvas, f"{x_value:.0f}", (x - 14, bottom + 16), _FONT, 0.36, _INK, 1, cv2.LINE_AA)
    cv2.putText(canvas, "step", (PANEL_W // 2, PANEL_H - 8), _FONT, 0.38, _INK, 1, cv2.LINE_AA)
