"""A program whose suppression (NMS) no longer looks at objects that a job would drop for their scores.

PaddleX's programs keep boxes from a score of 0.01 or 0.05 on, run the mask head for each, and make masks of the image's size of
them; the job's threshold is 0.5 by default. Suppression goes through boxes by falling score, and a box is suppressed, or pushed
out of the best k, by better ones only. So the least score it starts from can be raised to the job's without changing anything
about the objects above it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rayseg.predict.convert.rewrite import kind_of, operators
from rayseg.predict.model_dir import PROGRAM_FILES, model_files
from rayseg.predict.spec import ModelSpec

_SUPPRESSION = "multiclass_nms3"
_THRESHOLD_INPUT = 4
"""Of ONNX's NonMaxSuppression."""


def onnx_program(path: Path, least_score: float) -> Path | bytes:
    """An ONNX file as engines take it: its path, or its bytes with another threshold where it has one that is lower.

    Args:
        least_score: objects must exceed it.
    """
    if least_score <= 0:
        return path
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    if not _raise_in_onnx(model.graph, _just_below(least_score)):
        return path
    found: bytes = model.SerializeToString()
    return found


def drops_early(spec: ModelSpec) -> bool:
    """Whether a model's program suppresses boxes in a way whose least score can be raised."""
    program, _, _ = model_files(Path(spec.path))
    return program.name == PROGRAM_FILES[0] and suppresses(program)


def suppresses(program: Path) -> bool:
    """Whether an `inference.json` suppresses boxes."""
    return _SUPPRESSION.encode() in program.read_bytes()


def raise_in_paddle(document: dict[str, Any], least_score: float) -> int:
    """Change a parsed `inference.json` in place; returns how many thresholds were raised."""
    raised, wanted = 0, _just_below(least_score)
    for operator in operators(document["program"]):
        if kind_of(operator) != _SUPPRESSION:
            continue
        (found,) = [each["AT"] for each in operator["A"] if each["N"] == "score_threshold"]
        if found["D"] < wanted:
            found["D"] = wanted
            raised += 1
    return raised


def _raise_in_onnx(graph: Any, wanted: float) -> int:
    from onnx import numpy_helper

    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and _is_value(node)}
    constants |= {tensor.name: tensor for tensor in graph.initializer}
    raised = 0
    for number, node in enumerate(node for node in graph.node if node.op_type == "NonMaxSuppression"):
        tensor = constants.get(node.input[_THRESHOLD_INPUT]) if len(node.input) > _THRESHOLD_INPUT else None
        if tensor is None:
            continue  # computed by the program
        value = numpy_helper.to_array(tensor)
        if value.size == 1 and value.item() < wanted:
            # one of its own: another operator may use the old one
            name = f"rayseg.least_score.{number}"
            graph.initializer.append(numpy_helper.from_array(np.full(value.shape, wanted, value.dtype), name))
            node.input[_THRESHOLD_INPUT] = name
            raised += 1
    return raised


def _is_value(node: Any) -> bool:
    return len(node.attribute) == 1 and node.attribute[0].name == "value"


def _just_below(score: float) -> float:
    """The next smaller float32: who decides about a score that equals the threshold is the job."""
    return float(np.nextafter(np.float32(score), np.float32(0)))
