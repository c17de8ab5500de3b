"""Checks that sections of settings share. Each names the setting, its value and what would do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rayseg.config.load import nearest
from rayseg.errors import ConfigError


def one_of(name: str, value: Any, known: Iterable[str], *, hint: str = "") -> None:
    """A word must be one of those known."""
    if value not in tuple(known):
        raise ConfigError(f"{name} {value!r} is unknown{nearest(str(value), known)}{hint}")


def at_least(name: str, value: float | None, least: float) -> None:
    """A number must be finite and not below `least`; None passes."""
    if value is not None and not least <= value < math.inf:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def above(name: str, value: float | None, limit: float) -> None:
    """A number must be finite and above `limit`; None passes."""
    if value is not None and not limit < value < math.inf:
        raise ConfigError(f"{name} must be above {limit}, got {value}")


def within(name: str, value: float | None, low: float, high: float) -> None:
    """A number must lie in [low, high]; None passes."""
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{name} must lie in [{low}, {high}], got {value}")


def no_none_in_words(section: str, values: Any) -> None:
    """`None` is how Python and PaddleX's `-o` say it; in YAML it is a text of four letters, as which it names no file."""
    for name, value in vars(values).items():
        if isinstance(value, str) and value.lower() == "none":
            raise ConfigError(f"{section}.{name} is the text {value!r}; to leave it unset write `null`, or leave the key out")
