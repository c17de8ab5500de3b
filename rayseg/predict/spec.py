"""What is known about a model without loading it; model_dir.py reads it from files, backends/fake.py from a string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayseg.geometry import Size
from rayseg.predict.preprocess import Step


@dataclass(frozen=True)
class ModelSpec:
    """A model as the rest of a job sees it; small, and crosses process borders.

    Attributes:
        path: the directory, or a `fake:` string.
        name: as the yml has it.
        family: with the flavour, a key of `rayseg.predict.families.FAMILIES`.
        flavour: "paddlex" programs finish inside, "lean" ones leave masks to finish/, "probabilities" ones give each class's.
        labels: name of each class id; `class_0`, ... where the directory has no names.
        draw_threshold: score an object must exceed, unless the caller has another.
        steps: preprocessing.
        inputs: names the program takes.
        fixed_input: the size its image input has; None when any size will do.
        any_batch: it takes several images at once.
        fingerprint: sha256 over program, parameters and yml.
    """

    path: str
    name: str
    task: Literal["instance", "semantic"]
    family: str
    flavour: Literal["paddlex", "lean", "probabilities"]
    labels: tuple[str, ...]
    draw_threshold: float
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    fixed_input: Size | None
    any_batch: bool
    fingerprint: str

    @property
    def scripted(self) -> bool:
        """It is a `fake:` string: no files, no network."""
        return self.path.startswith("fake:")
