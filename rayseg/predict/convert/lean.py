"""PaddleX's instance programs without the masks of full size that they end with: prototypes and each object's weights instead.

    PaddleX's      bbox, bbox_num, mask (rows, H, W)
    lean           bbox, bbox_num, weights (rows, P) or (1, rows, P), prototypes (1, P, h, w)

Making the masks of all rows at the size of the image takes longer than the network, and gigabytes; `rayseg.predict.finish` makes
them inside their boxes, for the objects that are kept. The families that can do with the four outputs take both (families/). That
nothing is changed by it is not taken on trust: engines that run such a program are compared with the one that runs PaddleX's.
"""

from __future__ import annotations

from typing import Any

from rayseg.errors import ModelError
from rayseg.predict.convert.graph import Graph, fetch_operator, kind, with_main_block
from rayseg.predict.spec import ModelSpec

FAMILIES = frozenset({"ppyoloe_seg", "mask_rtdetr"})
"""Masks of their objects are sums of prototypes."""
_PRODUCTS = frozenset({"matmul", "bmm"})
_LEARNED = frozenset({"conv2d", "depthwise_conv2d"})
_SAME_NUMBERS = frozenset({"flatten", "reshape", "slice", "squeeze", "unsqueeze"})


def ends_with_masks(spec: ModelSpec) -> bool:
    """Whether a model's program may have masks that can be left out."""
    return spec.flavour == "paddlex" and spec.family in FAMILIES


def without_masks(document: dict[str, Any]) -> dict[str, Any] | None:
    """A program of PaddleX's form that ends before its masks.

    Args:
        document: a parsed `inference.json`; it is not changed.

    Returns:
        The document of the lean program, which takes the same file of parameters; None where the masks are not made of
        prototypes in a way we know.
    """
    try:
        graph = Graph(document)
    except ModelError:
        return None  # written in a way we do not read; an engine may
    if len(graph.results) != 3:
        return None
    bbox, count, mask = graph.results
    product = _product(graph, mask)
    if product is None:
        return None
    weights, flat = graph.uses[product]
    prototypes = _before_flattening(graph, flat)
    if prototypes is None:
        return None
    _, many, height, width = _shape(graph, prototypes)
    if _shape(graph, weights)[-1:] != [many] or _shape(graph, flat)[-1:] != [height * width]:
        return None
    given = (bbox, count, weights, prototypes)
    kept = set().union(*(_behind(graph, value) for value in given))
    operators = [operator for i, operator in enumerate(graph.operators) if i in kept or kind(operator) in ("data", "feed")]
    if sum(operator["#"] == "p" for operator in operators) != sum(operator["#"] == "p" for operator in graph.operators):
        return None  # the file of parameters would not be that of the program
    unused = max(graph.maker) + 1
    fetches = [fetch_operator(n, value, unused + n, graph.types[value]) for n, value in enumerate(given)]
    return with_main_block(document, [*operators, *fetches])


def _product(graph: Graph, mask: int) -> int | None:
    """The last product, on the way to the masks, of two things that were learned: weights and prototypes."""

    def learned(value: int) -> bool:
        return any(kind(graph.operators[i]) in _LEARNED for i in _behind(graph, value))

    for i in sorted(_behind(graph, mask), reverse=True):
        operator = graph.operators[i]
        plain = kind(operator) in _PRODUCTS and len(graph.uses[i]) == 2 and not _transposes(operator)
        if plain and all(map(learned, graph.uses[i])):
            return i
    return None


def _before_flattening(graph: Graph, value: int) -> int | None:
    """The (N, P, h, w) that a (P, h * w) was made of."""
    while len(_shape(graph, value)) != 4:
        i = graph.maker[value]
        if kind(graph.operators[i]) not in _SAME_NUMBERS or not graph.uses[i]:
            return None
        value = graph.uses[i][0]
    return value


def _behind(graph: Graph, value: int) -> set[int]:
    """Operators that a value needs."""
    found: set[int] = set()
    waiting = [graph.maker[value]]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += (graph.maker[used] for used in graph.uses[i])
    return found


def _shape(graph: Graph, value: int) -> list[int]:
    """Of a tensor; empty for anything else."""
    described = graph.types[value]
    return list(described["D"][1]) if described["#"].endswith("t_dtensor") else []


def _transposes(operator: dict[str, Any]) -> bool:
    flags = {each["N"]: each["AT"].get("D") for each in operator["A"] if "N" in each}
    return bool(flags.get("transpose_x") or flags.get("transpose_y"))
