"""What an exported program says about itself: inputs, outputs, number of classes. Nothing is run, no weight is loaded.

`inference.json` (Paddle's PIR) is read as JSON; the older `inference.pdmodel` needs Paddle, which is imported only
then. What the facts mean for a model directory is decided in model_dir.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayseg.errors import ModelError

FLOAT, INTEGER, OTHER = "float", "integer", "other"
_PIR_KINDS = {
    **dict.fromkeys(("f16", "bf16", "f32", "f64"), FLOAT),
    **dict.fromkeys(("i8", "ui8", "i16", "i32", "i64"), INTEGER),
}


@dataclass(frozen=True)
class Tensor:
    """Type and shape of an input or output; -1 is a size known only when run."""

    kind: str
    """FLOAT, INTEGER or OTHER."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Facts about an exported program."""

    inputs: dict[str, Tensor]
    outputs: tuple[Tensor, ...]
    num_classes: int | None
    """Classes the last selection (NMS or argmax) chooses from; None where there is none."""
    num_parameters: int | None
    """Tensors expected in the .pdiparams; None where the format does not say."""


def read_program(path: Path) -> Program:
    """Facts about an `inference.json` or `inference.pdmodel`.

    Raises:
        ModelError: the file is not a whole program.
    """
    return _read_pir(path) if path.suffix == ".json" else _read_legacy(path)


def _read_pir(path: Path) -> Program:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: is not valid JSON ({error}); it was probably cut short, copy the directory again") from error
    try:
        if document["base_code"]["magic"] != "pir":
            raise ModelError(f"{path}: is JSON, but not a Paddle program")
        return _summarise(list(_operators(document["program"])))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{path}: is JSON, but not a Paddle program we can read ({error!r})") from error


def _summarise(operators: list[dict[str, Any]]) -> Program:
    types: dict[int, Tensor] = {}
    for operator in operators:
        results = operator["O"]
        for result in results if isinstance(results, list) else [results]:
            types[result["%"]] = _pir_tensor(result["TT"])
    inputs, outputs, classes = {}, {}, None
    for operator in operators:
        kind = operator["#"].partition(".")[2]
        if kind in ("data", "feed"):
            inputs[_attribute(operator, "name")] = types[operator["O"][0]["%"]]
        elif kind == "fetch":
            outputs[_attribute(operator, "col")] = types[operator["I"][0]["%"]]
        elif kind == "multiclass_nms3":
            classes = _known_dim(types[operator["I"][1]["%"]], least_rank=2)
        elif kind == "argmax" and classes is None:
            classes = _known_dim(types[operator["I"][0]["%"]])
    parameters = sum(operator["#"] == "p" for operator in operators)
    return Program(inputs, tuple(outputs[i] for i in sorted(outputs)), classes, parameters)


def _operators(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for region in node.get("regions", ()):
        for block in region["blocks"]:
            for operator in block["ops"]:
                yield operator
                yield from _operators(operator)


def _pir_tensor(described: dict[str, Any]) -> Tensor:
    if not described["#"].endswith("t_dtensor"):
        return Tensor(OTHER, ())
    data = described["D"]
    return Tensor(_PIR_KINDS.get(data[0]["#"].rpartition("t_")[2], OTHER), tuple(data[1]))


def _attribute(operator: dict[str, Any], name: str) -> Any:
    return next(a["AT"]["D"] for a in operator["A"] if a["N"] == name)


def _known_dim(tensor: Tensor, *, least_rank: int = 3) -> int | None:
    """Length of the axis of classes: (N, C, ...), and for the scores of R-CNN (rows, C)."""
    return tensor.shape[1] if len(tensor.shape) >= least_rank and tensor.shape[1] > 0 else None


def _read_legacy(path: Path) -> Program:
    from paddle.base import core  # the only reader of this format; half a second and more, so not for everyone

    try:
        program = core.ProgramDesc(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: is not a whole Paddle program; it was probably cut short, copy the directory again") from error
    block = program.block(0)  # points into `program`, which must stay alive
    inputs, outputs, classes = {}, [], None
    for operator in (block.op(i) for i in range(block.op_size())):
        if operator.type() == "feed":
            (name,) = operator.output("Out")
            inputs[name] = _legacy_tensor(block, name)
        elif operator.type() == "fetch":
            outputs.append(_legacy_tensor(block, operator.input("X")[0]))
        elif operator.type() == "multiclass_nms3":
            classes = _known_dim(_legacy_tensor(block, operator.input("Scores")[0]), least_rank=2)
        elif operator.type() == "arg_max" and classes is None:
            classes = _known_dim(_legacy_tensor(block, operator.input("X")[0]))
    return Program(inputs, tuple(outputs), classes, None)


def _legacy_tensor(block: Any, name: str) -> Tensor:
    variable = block.find_var(name.encode())
    dtype = str(variable.dtype()).rpartition(".")[2].lower()
    kind = FLOAT if "float" in dtype else INTEGER if "int" in dtype else OTHER
    return Tensor(kind, tuple(variable.shape()))
