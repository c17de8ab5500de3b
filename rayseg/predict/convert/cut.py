"""Cut a program that does not convert as a whole into parts that do, and parts that stay with Paddle.

The R-CNN family is why: its proposals are chosen by operators no other engine has, between convolutions that other engines run
several times faster. Nothing is run here; converting the parts is converted.py's, running them pieces.py's.

How the cut is found. Stages alternate: even ones convert, odd ones stay. Each operator goes to the earliest stage its inputs
allow; a convolution or matrix product only to an even one, what is in DOES_NOT_CONVERT or has a block of its own (`if`,
`while`) only to an odd one. What then lies in an even stage and only serves later ones moves down to them: decoding boxes and
ranking scores stay in the engine whose numbers we want. Each stage becomes a part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayseg.errors import ModelError
from rayseg.predict.convert.graph import (
    Graph,
    Operator,
    data_operator,
    fetch_operator,
    kind,
    main_block,
    parameter_name,
    with_main_block,
)
from rayseg.predict.params_file import record_spans

DOES_NOT_CONVERT = frozenset(
    {"generate_proposals", "distribute_fpn_proposals", "collect_fpn_proposals", "multiclass_nms3", "matrix_nms", "while", "if"}
)
"""Of these paddle2onnx 2.1 has no form, or one for a single image only (NMS)."""
HEAVY = frozenset(
    {"conv2d", "depthwise_conv2d", "conv2d_transpose", "depthwise_conv2d_transpose", "deformable_conv", "matmul", "bmm", "addmm"}
)
"""Where the time of a network goes: what makes a crossing to another engine worth its copies."""
FOLLOWERS = frozenset({"add", "batch_norm", "relu", "relu6", "gelu", "silu", "swish", "hardswish", "leaky_relu", "shape64"})
"""They stay with what they follow: engines fuse them into it, and a shape is less to hand over than its tensor."""
PROGRAM_FILE, PARAMS_FILE = "inference.json", "inference.pdiparams"


@dataclass(frozen=True)
class Part:
    """A part of a program, itself a program."""

    converts: bool
    """It holds nothing known not to, and something worth converting."""
    document: dict[str, Any]
    """As `inference.json` has it."""
    inputs: tuple[str, ...]
    """Names of what it takes: inputs of the whole program, or outputs of earlier parts."""
    outputs: tuple[str, ...]
    """Names of what it gives, in its order."""
    parameters: tuple[str, ...]
    """Names of those it holds, in the order of an `inference.pdiparams`."""


@dataclass(frozen=True)
class Cut:
    """A program in parts."""

    parts: tuple[Part, ...]
    """In the order in which they run."""
    outputs: tuple[str, ...]
    """Names of the program's outputs, in its order; each is given by a part, or is an input."""


def cut(document: dict[str, Any]) -> Cut:
    """Cut a program.

    Args:
        document: a parsed `inference.json`; it is not changed.

    Returns:
        Parts that compute what the whole computes: one where nothing stands in the way of converting it all, or where
        nothing is worth converting.

    Raises:
        ModelError: it is no program, or has a form that cannot be cut.
    """
    graph = Graph(document)
    stages = _earliest_stages(graph)
    _move_down(graph, stages)
    _close_up(graph, stages)
    crossing = _crossing(graph, stages)
    parts = tuple(_part(document, graph, stages, stage, crossing) for stage in sorted(set(stages.values())))
    return Cut(parts, tuple(graph.name(value) for value in graph.results))


def parameter_names(document: dict[str, Any]) -> tuple[str, ...]:
    """Names of a program's parameters in the order of its `inference.pdiparams`, which is that of their bytes."""
    return tuple(sorted(parameter_name(operator) for operator in main_block(document) if operator["#"] == "p"))


def write_parts(program_file: Path, params_file: Path, parts: tuple[Part, ...], folder: Path) -> tuple[Path, ...]:
    """Write each part as a folder with its program and, where it has parameters, a file of them.

    Args:
        program_file: the whole program the parts were cut from.
        params_file: all its parameters.
        folder: takes the folders `0`, `1`, ...; made where it is missing.

    Returns:
        The folders.

    Raises:
        ModelError: the parameters are not those of the program.
    """
    names, spans = parameter_names(json.loads(program_file.read_bytes())), record_spans(params_file)
    if len(names) != len(spans):
        raise ModelError(f"{params_file}: holds {len(spans)} tensors, the program wants {len(names)}")
    where = dict(zip(names, spans, strict=True))
    folders = tuple(folder / str(number) for number in range(len(parts)))
    for part, own in zip(parts, folders, strict=True):
        own.mkdir(parents=True, exist_ok=True)
        (own / PROGRAM_FILE).write_text(json.dumps(part.document), encoding="utf-8")
        if part.parameters:
            _copy_spans(params_file, [where[name] for name in part.parameters], own / PARAMS_FILE)
    return folders


def _earliest_stages(graph: Graph) -> dict[int, int]:
    """Operator -> stage, as early as what it needs allows.

    An array of tensors is changed by those that use it, a `while` above all, so they keep their order.
    """
    stages: dict[int, int] = {}
    touched: dict[int, int] = {}
    whole = not any(map(_must_stay, graph.operators))
    for i, operator in enumerate(graph.operators):
        if graph.repeated[i] or kind(operator) in ("data", "feed", "fetch"):
            continue
        shared = [value for value in graph.needs[i] if not graph.crosses(value)]
        before = [*(stages[j] for j in graph.makers(i) if j in stages), *(touched.get(value, 0) for value in shared)]
        stage = max(before, default=0)
        forbidden = _must_stay(operator) if stage % 2 == 0 else kind(operator) in HEAVY
        stages[i] = stage + (forbidden and not whole)
        touched |= dict.fromkeys(shared, stages[i])
    return stages


def _move_down(graph: Graph, stages: dict[int, int]) -> None:
    """Move what only later stages use out of the stages that convert, to the first of its users."""
    attached = _attached(graph, stages)
    users: dict[int, list[int]] = {value: [] for value in graph.maker}

    def bound(value: int) -> bool:
        """Who reads a list of tensors goes with who made it: alone it can only go before that one does. Arrays change."""
        return not graph.crosses(value) and (not graph.is_list(value) or bool(users[value]) or graph.maker[value] in attached)

    for i in reversed(list(stages)):
        later = [stages[j] for value in graph.makes(i) for j in users[value]]
        given = set(graph.results) & set(graph.makes(i))
        if stages[i] % 2 == 0 and i not in attached and later and not given and not any(map(bound, graph.needs[i])):
            stages[i] = min(later)
        for value in graph.needs[i]:
            users[value].append(i)


def _attached(graph: Graph, stages: dict[int, int]) -> set[int]:
    """Heavy operators, and the followers that come straight after one or after each other."""
    attached: set[int] = set()
    for i, stage in stages.items():
        what = kind(graph.operators[i])
        after = any(j in attached and stages[j] == stage for j in graph.makers(i))
        if what in HEAVY or (what in FOLLOWERS and after):
            attached.add(i)
    return attached


def _close_up(graph: Graph, stages: dict[int, int]) -> None:
    """Join an even stage without anything heavy to the one after it, which stays."""
    worth = {stage for i, stage in stages.items() if kind(graph.operators[i]) in HEAVY}
    if any(map(_must_stay, graph.operators)):
        stages.update({i: stage + 1 for i, stage in stages.items() if stage % 2 == 0 and stage not in worth})


def _crossing(graph: Graph, stages: dict[int, int]) -> set[int]:
    """Values that leave the part they are made in."""
    out = set()
    for i, stage in stages.items():
        for value in graph.needs[i]:
            if stages.get(graph.maker[value], stage) != stage:
                if not graph.crosses(value):
                    raise ModelError(f"operator {i}, {kind(graph.operators[i])}, takes what is no single tensor across a cut")
                out.add(value)
    for value in graph.results:
        if graph.repeated[graph.maker[value]]:
            raise ModelError(f"output {graph.name(value)} of the program is a constant, a parameter or a list; it cannot be cut")
    return out | set(graph.results)


def _part(document: dict[str, Any], graph: Graph, stages: dict[int, int], stage: int, crossing: set[int]) -> Part:
    own = [i for i in stages if stages[i] == stage]
    repeated = sorted(set().union(*(graph.repeats(i) for i in own)))
    made = [value for i in own for value in graph.makes(i)]
    taken = [value for value in dict.fromkeys(value for i in own for value in graph.needs[i]) if value not in set(made)]
    given = [value for value in made if value in crossing]
    parameters = [graph.operators[i] for i in repeated if graph.operators[i]["#"] == "p"]
    unused = max(graph.maker) + 1
    operators = [
        *parameters,
        *(data_operator(graph.name(value), value, graph.types[value]) for value in taken),
        *(graph.operators[i] for i in sorted([*own, *repeated]) if graph.operators[i]["#"] != "p"),
        *(fetch_operator(n, value, unused + n, graph.types[value]) for n, value in enumerate(given)),
    ]
    return Part(
        converts=stage % 2 == 0,
        document=with_main_block(document, operators),
        inputs=tuple(map(graph.name, taken)),
        outputs=tuple(map(graph.name, given)),
        parameters=tuple(sorted(map(parameter_name, parameters))),
    )


def _must_stay(operator: Operator) -> bool:
    return kind(operator) in DOES_NOT_CONVERT or bool(operator.get("regions"))


def _copy_spans(source: Path, spans: list[tuple[int, int]], target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        for start, stop in spans:
            read.seek(start)
            write.write(read.read(stop - start))
