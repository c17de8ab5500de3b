"""What paddle2onnx's answer needs before it means the program: poolings to a grid put back, as many candidates for
suppression as the program takes, sigmoids that stay right near 0 where values are compared, loops that do not hide outer
values, epsilons checked, outputs in order.

Works on an ONNX model in memory. What had to be reworded before the conversion is rewrite.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.convert.rewrite import Norm, Pooling

_ONNX_NORMS = {
    "batch_norm": "BatchNormalization",
    "layer_norm": "LayerNormalization",
    "group_norm": "InstanceNormalization",
    "instance_norm": "InstanceNormalization",
}
_KEEPS_ORDER = frozenset(
    {"Cast", "Concat", "Flatten", "Identity", "MatMul", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Through these a small value still decides which of several is the largest."""
_FETCHED = re.compile(r"fetch_name_(\d+)$")


def mend(model: Any, poolings: Sequence[Pooling], norms: Sequence[Norm]) -> int:
    """Change an onnx.ModelProto in place.

    Args:
        poolings: what stands in for them is replaced.
        norms: of the program, in order.

    Returns:
        How many epsilons were wrong.

    Raises:
        BackendError: what must be mended cannot be found.
    """
    for pooling in poolings:
        _put_back(model.graph, pooling)
    _limit_candidates(model.graph)
    _spell_out_sigmoids(model.graph)
    _rename_loop_values(model.graph)
    _sort_outputs(model.graph)
    return _set_epsilons(model.graph, norms)


def _put_back(graph: Any, pooling: Pooling) -> None:
    """Averages over a grid of windows, as two matrix products, one for rows and one for columns.

    Window i of k along a side of n is [floor(i * n / k), ceil((i + 1) * n / k)), as in Paddle.
    """
    made = f"p2o.pd_op.pool2d.{pooling.place}.0"
    found = [node for node in graph.node if made in node.output and node.op_type == "GlobalAveragePool"]
    if not found:
        raise BackendError(
            f"the converted program has no global pooling that gives {made}; this paddle2onnx names values otherwise"
        )
    (given,) = found[0].input
    part = _Part(f"rayseg.pool.{pooling.place}")
    shape = part.node("Shape", given)
    rows = _shares(part, shape, axis=2, count=pooling.rows)
    columns = part.node("Transpose", _shares(part, shape, axis=3, count=pooling.columns), perm=[1, 0])
    part.node("MatMul", part.node("MatMul", rows, given), columns, out=made)
    _replace(graph, found[0], part)


def _limit_candidates(graph: Any) -> None:
    """Give NonMaxSuppression the best candidates of each class and no others.

    Paddle's `nms_top_k` says how many boxes of a class are looked at; paddle2onnx says so of those that are left, which keeps
    objects that the program never sees, and looks at all. Scores below the k-th best of their class become -1, which is
    below any threshold.
    """
    for number, node in enumerate([node for node in graph.node if node.op_type == "NonMaxSuppression"]):
        if len(node.input) < 3 or not node.input[2]:
            continue
        scores, most = node.input[1], node.input[2]
        part = _Part(f"rayseg.candidates.{number}")
        there = part.node("Slice", part.node("Shape", scores), *(part.constant(np.asarray([at], np.int64)) for at in (2, 3)))
        k = part.node("Min", part.node("Reshape", most, part.constant(np.asarray([1], np.int64))), there)
        best, _ = part.nodes_of("TopK", scores, k, outputs=2, axis=2, largest=1, sorted=1)
        last = part.node("ReduceMin", best, axes=[2], keepdims=1)
        node.input[1] = part.node("Where", part.node("GreaterOrEqual", scores, last), scores, part.constant(np.float32(-1)))
        at = next(i for i, other in enumerate(graph.node) if other.name == node.name and other.output == node.output)
        for offset, each in enumerate(part.nodes):
            graph.node.insert(at + offset, each)
        graph.initializer.extend(part.constants)


def _spell_out_sigmoids(graph: Any) -> None:
    """Where the largest of sigmoids, or of weighted sums of them, is looked for, write 1 / (1 + exp(-x)).

    ONNX Runtime's own on CPU is off by up to 1e-7 whatever the value, and 0 from -18 on. Where every mask says "not here", all
    classes would then be equal, and the first one would win.
    """
    makers = {name: node for node in graph.node for name in node.output}
    waiting = [node.input[0] for node in graph.node if node.op_type == "ArgMax"] + [value.name for value in graph.output]
    compared: dict[str, Any] = {}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        if node.op_type == "Sigmoid":
            compared[name] = node
        elif node.op_type in _KEEPS_ORDER:
            waiting += node.input
    for number, (name, node) in enumerate(compared.items()):
        part = _Part(f"rayseg.sigmoid.{number}")
        grown = part.node("Exp", part.node("Neg", node.input[0]))
        part.node("Reciprocal", part.node("Add", grown, part.constant(np.float32(1))), out=name)
        _replace(graph, node, part)


def _replace(graph: Any, node: Any, part: _Part) -> None:
    """Put a part where a node was."""
    at = next(i for i, other in enumerate(graph.node) if other.output == node.output)
    del graph.node[at]
    for offset, each in enumerate(part.nodes):
        graph.node.insert(at + offset, each)
    graph.initializer.extend(part.constants)


def _shares(part: _Part, shape: str, *, axis: int, count: int) -> str:
    """float32 (count, n): how much pixel j of a side adds to window i."""
    side = part.node("Gather", shape, part.constant(np.int64(axis)), axis=0)
    index = np.arange(count, dtype=np.int64)[:, None]
    many = part.constant(np.int64(count))
    start = part.node("Div", part.node("Mul", part.constant(index), side), many)
    past = part.node("Mul", part.constant(index + 1), side)
    stop = part.node("Div", part.node("Add", past, part.constant(np.int64(count - 1))), many)
    pixel = part.node("Range", part.constant(np.int64(0)), side, part.constant(np.int64(1)))
    inside = part.node("And", part.node("GreaterOrEqual", pixel, start), part.node("Less", pixel, stop))
    length = part.node("Cast", part.node("Sub", stop, start), to=1)
    return part.node("Div", part.node("Cast", inside, to=1), length)


class _Part:
    """Nodes and constants being written, with names of their own."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._prefix = prefix

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = out or f"{self._prefix}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{self._prefix}.{kind}.{len(self.nodes)}", **attributes))
        return name

    def nodes_of(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """A node with several outputs; their names."""
        from onnx import helper

        names = [f"{self._prefix}.{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"{self._prefix}.{kind}.{len(self.nodes)}", **attributes))
        return names

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"{self._prefix}.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _rename_loop_values(graph: Any) -> None:
    """What a loop hands to its body has the outer value's name, which OpenVINO takes for that one; it gets one of its own."""
    for node in graph.node:
        for attribute in node.attribute:
            if not attribute.HasField("g"):
                continue
            body = attribute.g
            if node.op_type == "Loop":
                names = {value.name: f"{node.name}.{value.name}" for value in body.input}
                for value in [*body.input, *body.output]:
                    value.name = names.get(value.name, value.name)
                _rename_uses(body, names)
            _rename_loop_values(body)


def _rename_uses(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_uses(attribute.g, names)


def _sort_outputs(graph: Any) -> None:
    """Into the program's order, where the names tell it."""
    numbers = [_FETCHED.match(value.name) for value in graph.output]
    if all(numbers):
        ordered = sorted(graph.output, key=lambda value: int(value.name.rpartition("_")[2]))
        copies = [type(value).FromString(value.SerializeToString()) for value in ordered]
        del graph.output[:]
        graph.output.extend(copies)


def _set_epsilons(graph: Any, norms: Sequence[Norm]) -> int:
    from onnx import helper

    wrong = 0
    for kind in set(_ONNX_NORMS.values()):
        wanted = [np.float32(norm.epsilon) for norm in norms if _ONNX_NORMS[norm.kind] == kind]
        nodes = [node for node in graph.node if node.op_type == kind]
        if len(nodes) != len(wanted):
            raise BackendError(f"the program has {len(wanted)} normalisations that become {kind}, the converted one {len(nodes)}")
        for node, epsilon in zip(nodes, wanted, strict=True):
            (found,) = [each for each in node.attribute if each.name == "epsilon"] or [None]
            if found is not None and np.float32(found.f) == epsilon:
                continue
            wrong += 1
            if found is not None:
                node.attribute.remove(found)
            node.attribute.append(helper.make_attribute("epsilon", float(epsilon)))
    return wrong
