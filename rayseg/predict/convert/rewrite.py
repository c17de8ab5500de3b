"""Paddle's PIR as JSON, reworded so that paddle2onnx 2.1 reads it right. Works on a copy; what it means is not changed.

    numbers        a double stored in an attribute is read as if it were a float, with whatever lies there: a group norm gets
                   an epsilon of 0, of 0.07 or below 0, a resize aborts. They are stored as floats.
    160.0 / x      becomes full_batch_size_like, which it does not know, where full_like means the same
    pooling to k   of an image of any size is refused. It becomes a global pooling here, which mend.py replaces in the ONNX
                   file by what it means

Paddle itself may refuse the reworded program; it is for the converter only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MISREAD_DOUBLES = {
    "group_norm": ("epsilon",),
    "leaky_relu": ("negative_slope",),
    "pad3d": ("pad_value",),
    "softplus": ("beta", "threshold"),
    **{f"{kind}_interp": ("scale",) for kind in ("linear", "bilinear", "trilinear", "bicubic", "nearest")},
}
"""Operator -> attributes."""


@dataclass(frozen=True)
class Pooling:
    """An average pooling to a fixed grid, of an image of any size.

    Attributes:
        place: of the operator among all pool2d operators of the program, from 0.
        rows, columns: of the grid.
    """

    place: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Norm:
    """An operator that divides by a spread: its name in Paddle, and what it adds first."""

    kind: str
    epsilon: float


def reworded(document: dict[str, Any]) -> tuple[dict[str, Any], tuple[Pooling, ...]]:
    """A program for paddle2onnx, and what mend.py must replace in its answer.

    Args:
        document: of an inference.json; left as it is.
    """
    document = copy.deepcopy(document)
    for operator in operators(document["program"]):
        for attribute in MISREAD_DOUBLES.get(kind_of(operator), ()):
            _to_floats(operator, attribute)
    for region in document["program"]["regions"]:
        for block in region["blocks"]:
            block["ops"] = list(_known_operators(block["ops"], _fresh_ids(document)))
    return document, tuple(_without_free_poolings(document["program"]))


def norms(document: dict[str, Any]) -> tuple[Norm, ...]:
    """Every normalisation of a program, in order."""
    return tuple(
        Norm(kind_of(operator).rstrip("_"), float(attribute(operator, "epsilon")))
        for operator in operators(document["program"])
        if kind_of(operator).rstrip("_") in ("batch_norm", "layer_norm", "group_norm", "instance_norm")
    )


def operators(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All operators below a node, those of inner blocks after the one they belong to."""
    for region in node.get("regions", ()):
        for block in region["blocks"]:
            for operator in block["ops"]:
                yield operator
                yield from operators(operator)


def kind_of(operator: dict[str, Any]) -> str:
    """`pool2d` of `1.pool2d`."""
    return str(operator["#"]).partition(".")[2]


def attribute(operator: dict[str, Any], name: str) -> Any:
    """Value of an attribute; KeyError when there is none."""
    return _described(operator, name)["D"]


def _described(operator: dict[str, Any], name: str) -> dict[str, Any]:
    for each in operator["A"]:
        if each["N"] == name:
            return each["AT"]
    raise KeyError(f"{operator['#']} has no attribute {name}")


def _to_floats(operator: dict[str, Any], name: str) -> None:
    described = _described(operator, name)
    for each in described["D"] if isinstance(described["D"], list) else [described]:
        if each["#"] == "0.a_f64":
            each["#"] = "0.a_f32"


def _fresh_ids(document: dict[str, Any]) -> Iterator[int]:
    """Numbers of values that no operator uses."""
    used = [result["%"] for operator in operators(document["program"]) for result in results(operator)]
    number = max(used, default=0)
    while True:
        number += 1
        yield number


def results(operator: dict[str, Any]) -> list[dict[str, Any]]:
    """What an operator gives; parameters write theirs without a list."""
    found = operator["O"]
    return found if isinstance(found, list) else [found]


def _known_operators(listed: list[dict[str, Any]], fresh: Iterator[int]) -> Iterator[dict[str, Any]]:
    types = {result["%"]: result["TT"] for operator in listed for result in results(operator) if "TT" in result}
    for operator in listed:
        if kind_of(operator) != "full_batch_size_like" or not _keeps_shape(operator, types):
            yield operator
            continue
        value = _constant(next(fresh), attribute(operator, "value"), operator)
        yield value
        kept = [each for each in operator["A"] if each["N"] in ("dtype", "place", "struct_name")]
        yield {**operator, "#": "1.full_like", "A": kept, "I": [operator["I"][0], {"%": value["O"][0]["%"]}]}


def _keeps_shape(operator: dict[str, Any], types: dict[int, Any]) -> bool:
    """Whether the result has the shape of what it is modelled on: equal, with one free side, which is the copied one."""
    given, made = (types[value["%"]]["D"][1] for value in (operator["I"][0], operator["O"][0]))
    same_axis = attribute(operator, "input_dim_idx") == attribute(operator, "output_dim_idx") == 0
    return same_axis and given == made and all(side > 0 for side in given[1:])


def _constant(number: int, value: float, like: dict[str, Any]) -> dict[str, Any]:
    """A `full` of shape [1] and of the type of an operator's result."""
    kind = like["O"][0]["TT"]["D"][0]
    attributes = [
        {"AT": {"#": "1.a_intarray", "D": [1]}, "N": "shape"},
        {"AT": {"#": "0.a_f64", "D": value}, "N": "value"},
        {"AT": _described(like, "dtype"), "N": "dtype"},
        {"AT": {"#": "1.a_place", "D": [1, 0, ""]}, "N": "place"},
    ]
    result = {"%": number, "TT": {"#": "0.t_dtensor", "D": [kind, [1], "NCHW", [], 0]}}
    return {"#": "1.full", "A": attributes, "I": [], "O": [result], "OA": copy.deepcopy(like["OA"])}


def _without_free_poolings(program: dict[str, Any]) -> Iterator[Pooling]:
    """Adaptive average poolings of images of any size are made global; yields those that are not global by meaning."""
    types = {result["%"]: result["TT"] for each in operators(program) for result in results(each) if "TT" in result}
    poolings = [operator for operator in operators(program) if kind_of(operator) == "pool2d"]
    for place, operator in enumerate(poolings):
        given, made = (types[value["%"]]["D"][1] for value in (operator["I"][0], operator["O"][0]))
        free = any(side < 1 for side in given[2:])
        if not (attribute(operator, "adaptive") and attribute(operator, "pooling_type") == "avg" and free):
            continue
        if attribute(operator, "data_format") != "NCHW" or min(made[2:]) < 1:
            continue  # paddle2onnx will say what it thinks of it
        _described(operator, "adaptive")["D"] = False
        _described(operator, "global_pooling")["D"] = True
        if made[2:] != [1, 1]:
            yield Pooling(place, rows=made[2], columns=made[3])
