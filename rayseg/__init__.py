"""rayseg: an archive of images in, a table of masks out, exactly once.

The public names are below, each resolved when first used: `import rayseg` loads neither paddle nor ray nor rasterio.
Code inside the package imports from the modules, never from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Public name -> module that has it. Strings, because most are on floors above this file.
PUBLIC = {
    "Box": "rayseg.geometry",
    "Instances": "rayseg.results",
    "Predictor": "rayseg.predict.predictor",
    "RaysegError": "rayseg.errors",
    "Rle": "rayseg.rle",
    "SegmentSettings": "rayseg.config.segment",
    "SemanticMap": "rayseg.results",
    "Size": "rayseg.geometry",
    "Window": "rayseg.geometry",
    "build_model": "rayseg.models.zoo",
    "connected": "rayseg.pipeline.runtime",
    "create_model": "rayseg.paddlex.create",
    "create_pipeline": "rayseg.paddlex.create",
    "load_model_dir": "rayseg.predict.model_dir",
    "load_weights": "rayseg.models.weights",
    "read_results": "rayseg.pipeline.results_of_job",
    "run_job": "rayseg.pipeline.job",
}
_MODULES = ("errors", "rle")

__all__ = ["__version__", *_MODULES, *PUBLIC]  # noqa: PLE0604 - the names are strings; ruff cannot see into PUBLIC


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"rayseg.{name}")
    if name == "__version__":
        return _version()
    if name not in PUBLIC:
        raise AttributeError(f"module 'rayseg' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("rayseg")
    except metadata.PackageNotFoundError:
        return "0+not.installed"  # run from a source folder
