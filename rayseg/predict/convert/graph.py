"""Paddle's programs (PIR as JSON) as a graph: who makes each value, who uses it. Nothing is run, no weight is read.

Only the main block is a graph here; an operator with blocks of its own (`if`, `while`) is one node that needs all its blocks
need. What is done with the graph is cut.py's; the short facts a model directory is checked by are read in program.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayseg.errors import ModelError

CONSTANTS = frozenset({"full", "full_int_array", "assign_value", "empty"})
"""Operators whose result is a number or a short list in the program itself, where nothing else flows in."""
_DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "bool": "bool",
    "i8": "int8",
    "ui8": "uint8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
}

Operator = dict[str, Any]


class Graph:
    """The main block of a program.

    Attributes:
        operators: in the order in which they run. The positions are what the rest counts by.
        types: value -> its type as the program writes it.
        maker: value -> the operator that makes it.
        uses: for each operator the values it takes.
        repeated: whether an operator costs nothing and may be in several parts: a parameter, a constant, or a list of values
            put together.
        needs: for each operator the values it takes that somebody has to compute or give; behind repeated operators, what
            those need.
        results: the program's outputs, in its order.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.operators = main_block(document)
        self.types: dict[int, dict[str, Any]] = {}
        self.maker: dict[int, int] = {}
        self.uses: list[tuple[int, ...]] = []
        self.repeated: list[bool] = []
        self.needs: list[tuple[int, ...]] = []
        for i, operator in enumerate(self.operators):
            self._add(i, operator)
        fetches = sorted((o for o in self.operators if kind(o) == "fetch"), key=lambda o: int(attribute(o, "col")))
        self.results = tuple(int(o["I"][0]["%"]) for o in fetches)

    def makers(self, i: int) -> Iterator[int]:
        """Operators that compute what an operator needs, inputs of the program included."""
        return (self.maker[value] for value in self.needs[i])

    def makes(self, i: int) -> list[int]:
        """Values an operator makes."""
        return [result["%"] for result in results(self.operators[i])]

    def repeats(self, i: int) -> set[int]:
        """Repeated operators that an operator cannot do without."""
        found: set[int] = set()
        waiting = [i]
        while waiting:
            new = {self.maker[value] for value in self.uses[waiting.pop()]} - found
            new = {maker for maker in new if self.repeated[maker]}
            found |= new
            waiting += new
        return found

    def crosses(self, value: int) -> bool:
        """Whether a program can take and give a value: one tensor of numbers, not a list or an array of them."""
        described = self.types[value]
        return bool(described["#"].endswith("t_dtensor")) and described["D"][0]["#"].rpartition("t_")[2] in _DTYPES

    def is_list(self, value: int) -> bool:
        """Tensors put side by side; nobody changes them, unlike those of an array."""
        return bool(self.types[value]["#"].endswith("t_vec"))

    def name(self, value: int) -> str:
        """An input's own name, else one made of the value's number."""
        maker = self.operators[self.maker[value]]
        return str(attribute(maker, "name")) if kind(maker) in ("data", "feed") else f"v{value}"

    def _add(self, i: int, operator: Operator) -> None:
        uses = tuple(dict.fromkeys(_values_used(operator)))
        unknown = [value for value in uses if value not in self.maker]
        if unknown:
            raise ModelError(f"operator {i}, {kind(operator)}, uses value {unknown[0]}, which nothing before it makes")
        for result in results(operator):
            self.types[result["%"]], self.maker[result["%"]] = result["TT"], i
        needs: dict[int, None] = {}
        for value in uses:
            needs |= dict.fromkeys(self.needs[self.maker[value]]) if self.repeated[self.maker[value]] else {value: None}
        self.uses.append(uses)
        self.needs.append(tuple(needs))
        constant = kind(operator) in CONSTANTS and not needs
        self.repeated.append(constant or kind(operator) in ("p", "combine"))


def main_block(document: dict[str, Any]) -> list[Operator]:
    """The operators of a parsed `inference.json`.

    Raises:
        ModelError: it is something else.
    """
    try:
        operators = document["program"]["regions"][0]["blocks"][0]["ops"]
        if document["base_code"]["magic"] == "pir" and isinstance(operators, list):
            return operators
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(f"not a Paddle program in its JSON form: {error!r} is missing") from error
    raise ModelError("not a Paddle program in its JSON form")


def with_main_block(document: dict[str, Any], operators: list[Operator]) -> dict[str, Any]:
    """The same document around other operators."""
    program = document["program"]
    region = program["regions"][0]
    block = {**region["blocks"][0], "ops": operators}
    return {**document, "program": {**program, "regions": [{**region, "blocks": [block]}]}}


def kind(operator: Operator) -> str:
    """`1.batch_norm_` -> `batch_norm`: an operator in place does the same."""
    return str(operator["#"].rpartition(".")[2].rstrip("_"))


def results(operator: Operator) -> list[dict[str, Any]]:
    """What an operator makes: each with its number and type."""
    made = operator["O"]
    return [result for result in (made if isinstance(made, list) else [made]) if "TT" in result]


def attribute(operator: Operator, name: str) -> Any:
    """The value of an attribute that is there."""
    return next(found["AT"]["D"] for found in operator["A"] if found["N"] == name)


def parameter_name(operator: Operator) -> str:
    """Of a `p`."""
    return str(operator["A"][3])


def data_operator(name: str, value: int, described: dict[str, Any]) -> Operator:
    """An input of a program."""
    dtype, shape = described["D"][0]["#"].rpartition("t_")[2], list(described["D"][1])
    return {
        "#": "1.data",
        "A": [
            _string("name", name),
            {"AT": {"#": "1.a_intarray", "D": shape}, "N": "shape"},
            {"AT": {"#": "1.a_dtype", "D": _DTYPES[dtype]}, "N": "dtype"},
            {"AT": {"#": "1.a_place", "D": [0, 0, ""]}, "N": "place"},
        ],
        "I": [],
        "O": [{"%": value, "TT": described}],
        "OA": [_flag("stop_gradient", False)],
    }


def fetch_operator(column: int, value: int, made: int, described: dict[str, Any]) -> Operator:
    """An output of a program; `made` is a number no value has."""
    return {
        "#": "1.fetch",
        "A": [_string("name", f"fetch_name_{column}"), {"AT": {"#": "0.a_i32", "D": column}, "N": "col"}],
        "I": [{"%": value}],
        "O": [{"%": made, "TT": described}],
        "OA": [_flag("persistable", True), _flag("stop_gradient", False)],
    }


def _string(name: str, value: str) -> dict[str, Any]:
    return {"AT": {"#": "0.a_str", "D": value}, "N": name}


def _flag(name: str, value: bool) -> dict[str, Any]:
    return {"AT": {"#": "0.a_array", "D": [{"#": "0.a_bool", "D": value}]}, "N": name}


def _values_used(operator: Operator) -> Iterator[int]:
    """Values that an operator and the blocks inside it take from outside; 0 stands for none."""
    yield from (value["%"] for value in operator.get("I", ()) if value["%"])
    for region in operator.get("regions", ()):
        for block in region["blocks"]:
            inside = {argument["#"] for argument in block.get("args", ())}
            for inner in block["ops"]:
                yield from (value for value in _values_used(inner) if value not in inside)
                inside |= {result["%"] for result in results(inner)}
