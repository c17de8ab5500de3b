"""Write the settings file of every network of the zoo:

    python configs/make.py

Values are those of models/defaults.py, words those of the settings classes. Change these, not the files; a test compares.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

from rayseg.config.load import to_yaml
from rayseg.config.sections import ConvertSettings, SplitSettings
from rayseg.config.train import SECTIONS, Settings
from rayseg.models.defaults import effective
from rayseg.models.zoo import MODELS, ZooModel

HERE = Path(__file__).resolve().parent
FOLDERS = {"instance": "instance_segmentation", "semantic": "semantic_segmentation"}
WIDTH = 120
FOLLOWING = ("Evaluate.weight_path", "Export.weight_path", "Export.save_dir", "Predict.model_dir", "Search.metric")
"""Left null in the files, to follow Global.output and the task."""
INSIDE = {"convert": ConvertSettings, "split": SplitSettings}


def main() -> None:
    """Write all files."""
    for row in MODELS.values():
        path = path_of(row)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text_of(row), encoding="utf-8")


def path_of(row: ZooModel) -> Path:
    """Where a network's file is."""
    return HERE / FOLDERS[row.task] / f"{row.name}.yaml"


def text_of(row: ZooModel) -> str:
    """What a network's file says."""
    values = settings_of(row).to_mapping()
    parts = [_header(row)]
    for section, (_, kind) in SECTIONS.items():
        parts += ["", f"{section}:", *_lines(values[section], kind, indent=2)]
    return "\n".join(parts) + "\n"


def settings_of(row: ZooModel) -> Settings:
    """A network's settings with every default in sight."""
    rate = row.recipe.learning_rate
    given: dict[str, Any] = {
        "Global": {"model": row.name},
        "Search": {"space": {"Train.learning_rate": [_short(rate / 3), rate, _short(rate * 3)]}},
    }
    return effective(Settings.from_mapping(given)).with_values(dict.fromkeys(FOLLOWING))


def _header(row: ZooModel) -> str:
    file = f"configs/{FOLDERS[row.task]}/{row.name}.yaml"
    score = f"{row.published.metric} {row.published.value:g} on {row.published.dataset}"
    return f"""\
# {row.name}: {row.task} segmentation, {row.family}; {score}.
#
#   rayseg check-dataset -c {file} -o Global.dataset_dir=DATA
#   rayseg train         -c {file} -o Global.dataset_dir=DATA -o Global.output=OUT
#   rayseg tune          -c {file} -o Global.dataset_dir=DATA -o Global.output=OUT
#
# then evaluate and export in the same way, or as in PaddleX: rayseg run -c FILE -o Global.mode=train ... These are
# all settings, each with its default; -o Section.key=value changes one. Written by configs/make.py: change that, not this."""


def _lines(values: dict[str, Any], kind: type[Any], *, indent: int) -> list[str]:
    out, said = [], _docs(kind)
    for name, value in values.items():
        if name in INSIDE:
            out += [f"{' ' * indent}{name}:", *_lines(value, INSIDE[name], indent=indent + 2)]
        elif name == "space":
            out += _with_comment(f"{' ' * indent}{name}:", said.get(name, ""), indent)
            out += [
                f"{' ' * (indent + 2)}{key}: {to_yaml(values, inline=True)}" for stage in value for key, values in stage.items()
            ]
        else:
            out += _with_comment(f"{' ' * indent}{name}: {to_yaml(value, inline=True)}", said.get(name, ""), indent)
    return out


def _with_comment(line: str, words: str, indent: int) -> list[str]:
    """Behind the line where there is room, else above it."""
    if not words:
        return [line]
    if len(line) + len(words) + 3 <= WIDTH:
        return [f"{line} # {words}"]
    out, row = [], ""
    for word in words.split():
        if len(row) + len(word) + 1 + indent + 2 > WIDTH:
            out.append(row)
            row = ""
        row = f"{row} {word}".strip()
    return [*(f"{' ' * indent}# {text}" for text in [*out, row]), line]


def _docs(kind: type[Any]) -> dict[str, str]:
    """The sentence under each field of a dataclass, without its full stop."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    out = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            words = " ".join(str(below.value.value).split()).rstrip(".")
            out[ast.unparse(field.target)] = words.replace("None:", "null:").replace("False:", "false:").replace("True:", "true:")
    return out


def _short(value: float) -> float:
    return float(f"{value:.1g}")


if __name__ == "__main__":
    main()
