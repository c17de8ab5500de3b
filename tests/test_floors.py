"""The floors: a file imports from its own floor or below, and each foreign package only where it belongs.

The imports are read from the source, those inside functions and under TYPE_CHECKING too; nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rayseg

ROOT = Path(__file__).resolve().parent.parent

# Longest match wins; names are those of files and folders below rayseg/. `jobs` stands beside it.
FLOORS = {
    "": 0, "errors": 0, "geometry": 0, "results": 0, "rle": 0, "rle_packing": 0, "polygons": 0, "tables": 0,
    "config": 0, "logs": 0,
    "images": 1, "geo": 1, "tiling": 1, "datasets": 1, "metrics": 1, "draw": 1,
    "models": 2,
    "predict": 3, "training": 3, "evaluation": 3, "paddlex": 3,
    "pipeline": 4, "distributed": 4, "tuning": 4,
    "cli": 5, "jobs": 5,
}  # fmt: skip

# Foreign package -> where it may be imported; a number means that floor and all above.
FOREIGN: dict[str, tuple[int | str, ...]] = {
    "numpy": (0,),
    "pyarrow": (0,),
    "yaml": (0,),
    "pycocotools": ("rle", "polygons", "metrics", "datasets"),
    "scipy": ("models",),
    "cv2": (1,),
    "PIL": (1,),
    "rasterio": ("geo",),
    "shapely": ("geo",),
    "pyproj": ("geo",),
    "paddle": ("models", "predict", "training", "evaluation", "paddlex", "distributed"),
    **dict.fromkeys(("onnx", "onnxruntime", "openvino", "paddle2onnx"), ("predict",)),
    "pypdfium2": ("paddlex",),
    "fsspec": (4,),
    "ray": ("pipeline", "distributed", "tuning"),
    "optuna": ("tuning",),
}


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of the package and the jobs below a checkout."""
    out = {}
    for path in sorted([*root.glob("rayseg/**/*.py"), *root.glob("jobs/*.py")]):
        parts = path.relative_to(root).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a file imports; `from a import b` gives a.b where that is a module, else a."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in modules else base


def place(name: str) -> str:
    """`rayseg.models.zoo` -> `models.zoo`, `jobs.segment` -> `jobs.segment`."""
    return name.removeprefix("rayseg").removeprefix(".")


def floor(name: str) -> int | None:
    """Floor of one of our modules; None when FLOORS does not know it."""
    parts = place(name).split(".")
    return FLOORS.get(parts[0])


def allowed(foreign: str, name: str) -> bool:
    """True when one of our modules may import a foreign package."""
    where = FOREIGN.get(foreign, ())
    inside = place(name).split(".")[0]
    return any(inside == w if isinstance(w, str) else (floor(name) or 0) >= w for w in where)


def violations(root: Path) -> list[str]:
    """Every import that goes upwards or brings a foreign package where it does not belong."""
    modules, out = modules_of(root), []
    for name, path in modules.items():
        if floor(name) is None:
            out.append(f"{path.relative_to(root)}: on no floor; add it to FLOORS")
            continue
        for line, target in imports_of(name, path, modules):
            where, top = f"{path.relative_to(root)}:{line}", target.split(".")[0]
            if top in ("rayseg", "jobs"):
                if target == "rayseg" and name != "rayseg.cli":
                    out.append(f"{where}: imports from the package itself; name the module instead")
                elif (floor(target) or 0) > floor(name):
                    out.append(f"{where}: floor {floor(name)} imports {target} of floor {floor(target)}")
            elif top not in sys.stdlib_module_names and not allowed(top, name):
                out.append(f"{where}: {top} may not be imported here")
    return out


def rings(root: Path) -> list[str]:
    """Modules that import each other in a circle; empty when there are none."""
    modules = modules_of(root)
    graph = {name: {t for _, t in imports_of(name, path, modules) if t in modules} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture
def plant(tmp_path):
    """Write files of a small package; returns its root."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / "rayseg" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_every_file_imports_only_what_its_floor_allows():
    assert violations(ROOT) == []


def test_no_module_imports_itself_over_others():
    assert rings(ROOT) == []


def test_all_files_were_read():
    modules = modules_of(ROOT)
    assert {"rayseg", "rayseg.errors", "rayseg.config.load", "rayseg.cli", "jobs.segment"} <= set(modules)
    found = {target for name, path in modules.items() for _, target in imports_of(name, path, modules)}
    assert {"paddle", "ray", "cv2", "rayseg.rle"} <= found


def test_the_lazy_public_names_are_where_the_table_says():
    modules = modules_of(ROOT)
    for name, home in rayseg.PUBLIC.items():
        defined = {getattr(node, "name", None) for node in ast.parse(modules[home].read_text(encoding="utf-8")).body}
        assert name in defined, f"{name} is not defined in {home}"


SMALL = dict.fromkeys(
    (
        "__init__.py",
        "rle.py",
        "tables.py",
        "geometry.py",
        "pipeline/__init__.py",
        "pipeline/job.py",
        "models/zoo.py",
        "cli.py",
    ),
    "",
)


@pytest.mark.parametrize(
    "file, text, message",
    [
        (
            "geometry.py",
            "from rayseg.pipeline import job",
            "geometry.py:1: floor 0 imports rayseg.pipeline.job of floor 4",
        ),
        ("geometry.py", "import rayseg.pipeline.job", "floor 0 imports rayseg.pipeline.job of floor 4"),
        ("geometry.py", "from .pipeline.job import run", "floor 0 imports rayseg.pipeline.job of floor 4"),
        ("geometry.py", "from . import pipeline", "floor 0 imports rayseg.pipeline of floor 4"),
        ("config/load.py", "from ..pipeline.job import run", "floor 0 imports rayseg.pipeline.job of floor 4"),
        ("config/__init__.py", "from ..pipeline import job", "floor 0 imports rayseg.pipeline.job of floor 4"),
        (
            "draw.py",
            "def f():\n    from rayseg.models import zoo",
            "draw.py:2: floor 1 imports rayseg.models.zoo of floor 2",
        ),
        (
            "draw.py",
            "if TYPE_CHECKING:\n    from rayseg.cli import main",
            "draw.py:2: floor 1 imports rayseg.cli of floor 5",
        ),
        ("geometry.py", "def f():\n    import cv2", "geometry.py:2: cv2 may not be imported here"),
        ("draw.py", "import paddle.nn as nn", "draw.py:1: paddle may not be imported here"),
        ("predict/predictor.py", "import ray", "predictor.py:1: ray may not be imported here"),
        ("cli.py", "import ray", "cli.py:1: ray may not be imported here"),
        ("cli.py", "import torch", "cli.py:1: torch may not be imported here"),
        ("draw.py", "from rasterio import open", "draw.py:1: rasterio may not be imported here"),
        ("draw.py", "from rayseg import Predictor", "draw.py:1: imports from the package itself"),
        ("utils.py", "import os", "utils.py: on no floor"),
    ],
)
def test_a_planted_import_is_found(plant, file, text, message):
    found = violations(plant(SMALL | {file: text}))
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize(
    "file, text",
    [
        ("pipeline/job.py", "import ray, os\nfrom rayseg import rle, tables\nfrom rayseg.pipeline.plan import Plan"),
        ("rle.py", "from pycocotools import mask\nimport numpy.typing as npt\nfrom .geometry import Size"),
        ("cli.py", "def main():\n    from rayseg.pipeline.job import run\n    from rayseg import __version__"),
    ],
)
def test_an_import_that_belongs_there_is_let_through(plant, file, text):
    assert violations(plant(SMALL | {file: text})) == []


def test_a_planted_ring_is_found(plant):
    ring = {
        "rle.py": "from rayseg import tables",
        "tables.py": "def f():\n    from rayseg.results import x",
        "results.py": "from . import rle",
    }
    assert set(rings(plant(SMALL | ring))) == {"rayseg.rle", "rayseg.tables", "rayseg.results"}
