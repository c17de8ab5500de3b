"""What a family of programs is: what goes in, what comes out, and the two functions that make results of it.

A family is one file in this folder with one `Family` for each flavour; the table of all is in __init__.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rayseg.errors import BackendError, ModelError
from rayseg.predict.prepare import Prepared
from rayseg.predict.program import FLOAT, Program, Tensor
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Result

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """One kind of program."""

    name: str
    task: Literal["instance", "semantic"]
    flavour: Literal["paddlex", "lean", "probabilities"]
    outputs: tuple[tuple[str, str, int], ...]
    """(name, kind, rank) of each, in order. The name is for people: programs do not keep it."""
    inputs: frozenset[str] | None
    """Names it must take; None for any one name."""
    image_input: str | None
    """Which of them is the image; None for the only one."""
    any_batch: bool
    """Images of a batch do not influence each other."""
    split: Callable[[ModelSpec, Sequence[np.ndarray], Sequence[Prepared], float], list[Arrays]]
    """Outputs of a batch -> what is kept of each image, small and owned. The number is the score objects must exceed;
    runs where the network runs. Raises BackendError for outputs that make no sense."""
    finish: Callable[[ModelSpec, Raw, float], Result]
    """What was kept -> result, for a threshold; runs anywhere."""
    arch: str | None = None
    """What PaddleX's inference.yml calls it; None for semantic models, which have no such key."""

    def check_outputs(self, program: Program, path: Path) -> None:
        """Raise ModelError unless inputs and outputs are this family's."""
        found = [(tensor.kind, len(tensor.shape)) for tensor in program.outputs]
        if found != [(kind, rank) for _, kind, rank in self.outputs]:
            wanted = ", ".join(f"{name} ({kind}, {rank}-d)" for name, kind, rank in self.outputs)
            raise ModelError(
                f"{path}: gives {_say(program.outputs)}; a {self.flavour} {self.name} program gives {wanted}. "
                f"{self._hint(program)}"
            )
        fits = len(program.inputs) == 1 if self.inputs is None else set(program.inputs) == self.inputs
        if not fits:
            raise ModelError(
                f"{path}: takes {', '.join(program.inputs)}; expected {', '.join(sorted(self.inputs or {'one image'}))}"
            )

    def _hint(self, program: Program) -> str:
        if self.task == "instance" and len(program.outputs) == 2:
            return "This looks like an object detector, which has no masks."
        if self.task == "semantic" and program.outputs and program.outputs[0].kind == FLOAT:
            return "Export it with `--output_op argmax`."
        return "Program and yml probably belong to different models."


def rows_of_images(
    spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float
) -> Iterator[tuple[int, slice, np.ndarray]]:
    """How the rows of all images fall to each: for programs whose first outputs are `bbox` and `bbox_num`.

    Yields:
        Index of the image, its rows, and which of those to keep: the score exceeds `min_score`, the class is real.

    Raises:
        BackendError: counts that do not fit, or values that are not finite.
    """
    check_finite(spec, outputs)
    bbox, bbox_num = outputs[0].reshape(-1, 6), outputs[1].reshape(-1)
    if len(bbox_num) != len(batch) or bbox_num.min() < 0 or bbox_num.sum() != len(bbox):
        raise BackendError(f"{spec.name} gave {len(bbox)} boxes counted as {bbox_num.tolist()} for {len(batch)} images")
    start = 0
    for index, count in enumerate(bbox_num.tolist()):
        rows = slice(start, start + count)
        yield index, rows, np.flatnonzero((bbox[rows, 1] > min_score) & (bbox[rows, 0] > -1))
        start += count


def in_network(bbox: np.ndarray, batch: Sequence[Prepared]) -> np.ndarray:
    """Rows of `bbox`, float32 (m, 6), with edges in pixels of the network's input in place of those of the image.

    Args:
        batch: one image, as programs of PaddleX's form are given.
    """
    (image,) = batch
    height, width = image.scale_factor
    return bbox.reshape(-1, 6) * np.asarray([1, 1, width, height, width, height], dtype=np.float32)


def check_finite(spec: ModelSpec, outputs: Sequence[np.ndarray]) -> None:
    """Raise BackendError when a number is none."""
    for output in outputs:
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise BackendError(f"{spec.name} gave values that are not finite numbers; the weights or the engine are broken")


def one_after_the_other(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The values of float32 arrays of any shapes in one row; each is copied once, even when it is a part of a larger one."""
    ends = np.cumsum([0, *(part.size for part in parts)]).tolist()
    out = np.empty(ends[-1], dtype=np.float32)
    for part, start, stop in zip(parts, ends[:-1], ends[1:], strict=True):
        out[start:stop].reshape(part.shape)[...] = part
    return out


def _say(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{t.kind} {list(t.shape)}" for t in tensors) or "nothing"
