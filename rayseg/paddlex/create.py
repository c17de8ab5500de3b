"""`create_model` and `create_pipeline`: from names, folders and YAML files, as PaddleX takes them, to a loaded model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayseg.errors import ConfigError, ModelError
from rayseg.models.download import CACHE_VARIABLE, cache_dir
from rayseg.models.zoo import find_model
from rayseg.paddlex.engines import choose_engine, refuse_unknown
from rayseg.paddlex.fastest import Fastest
from rayseg.paddlex.model import SegmentationModel, check_settings
from rayseg.paddlex.pipeline_file import read_pipeline
from rayseg.predict.devices import find_devices, open_predictor
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.spec import ModelSpec

_MODEL_ARGUMENTS = (
    *("model_name", "model_dir", "device", "engine", "engine_config", "batch_size", "use_hpip", "threshold", "target_size"),
)
_PIPELINE_ARGUMENTS = ("pipeline", "config", *_MODEL_ARGUMENTS)


def create_model(
    model_name: str | None = None,
    model_dir: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    engine: str | None = None,
    engine_config: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    use_hpip: bool = False,
    threshold: float | None = None,
    target_size: Any = None,
    **unsupported: Any,
) -> SegmentationModel:
    """Load a model.

    Args:
        model_name: as its inference.yml has it; may be left out where `model_dir` is given.
        model_dir: folder with inference.json, inference.pdiparams and inference.yml; PaddleX's own will do. None looks for
            `official_models/<model_name>` in our cache (RAYSEG_CACHE, ~/.cache/rayseg) and in PaddleX's (~/.paddlex).
        device: cpu, gpu, gpu:0, or gpu:0,1 for a predictor on each; also npu:0, xpu:0, mlu:0, dcu:0. None is the first GPU, or
            the CPU where there is none.
        engine: None, "paddle" or "paddle_static" choose Paddle's fastest way that gives the plain one's numbers;
            "paddle-onednn" and "eager" are that one.
        engine_config: `{"run_mode": "paddle"}` for the plain engine, "mkldnn" for oneDNN; `cpu_threads`.
        batch_size: most images given to the network at once.
        use_hpip: the fastest engine of this machine, ONNX Runtime and OpenVINO among them where they are installed, that gives
            the plain engine's results on the first images given to `predict`. Trying takes up to some minutes, once for a model
            and a kind of machine. Without it, the fastest of Paddle's own that agrees with the plain one on a made-up image.
        threshold: score an object must exceed (default: the model directory's); models of objects only.
        target_size: size the network sees (default: the model directory's), see target_size.py; semantic models only.

    Raises:
        ConfigError: an argument is unknown, wrong, or one of PaddleX's that we do not honour; the message says what to do.
        ModelError: there is no such model, its folder cannot be used, or it has another name.
        BackendError: the device is not there, or no engine on it runs the model with right numbers.
    """
    refuse_unknown(unsupported, _MODEL_ARGUMENTS, call="create_model()")
    return _open(
        _read(model_name, model_dir),
        device=device,
        engine=engine,
        engine_config=engine_config,
        use_hpip=use_hpip,
        batch_size=batch_size,
        threshold=threshold,
        target_size=target_size,
    )


def create_pipeline(
    pipeline: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    device: str | None = None,
    engine: str | None = None,
    engine_config: Mapping[str, Any] | None = None,
    use_hpip: bool | None = None,
    model_name: str | None = None,
    model_dir: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    threshold: float | None = None,
    target_size: Any = None,
    **unsupported: Any,
) -> SegmentationModel:
    """Load the model of a pipeline.

    Args:
        pipeline: instance_segmentation or semantic_segmentation, a YAML file, or its content.
        config: the content of a YAML file; `pipeline`, if it is given, is its name.
        others: as for `create_model`; each wins over the YAML, and the YAML over the model directory. A `model_dir` without
            a `model_name` takes the folder's model, whatever the YAML calls it.

    Raises:
        ConfigError, ModelError, BackendError: as `create_model`; also for a key of the YAML that is unknown.
    """
    refuse_unknown(unsupported, _PIPELINE_ARGUMENTS, call="create_pipeline()")
    if config is None and pipeline is None:
        raise ConfigError("which pipeline? give instance_segmentation, semantic_segmentation, a .yaml file or a config")
    if config is not None and pipeline is not None and config.get("pipeline_name") != pipeline:
        raise ConfigError(f"pipeline {pipeline!r} and config of {config.get('pipeline_name')!r} contradict each other")
    read = read_pipeline(config if config is not None else pipeline)  # type: ignore[arg-type]  # one of them is not None
    refuse_unknown({"hpi_config": read.hpi_config}, (), call="the YAML")
    spec = _read(
        model_name or (None if model_dir is not None else read.model_name),
        read.model_dir if model_dir is None and model_name is None else model_dir,
    )
    if f"{spec.task}_segmentation" != read.module_name:
        raise ConfigError(f"pipeline {read.module_name}: {spec.name} is a model of {spec.task}_segmentation; use that")
    return _open(
        spec,
        device=device,
        engine=read.engine if engine is None else engine,
        engine_config={**read.engine_config, **(engine_config or {})},
        use_hpip=read.use_hpip if use_hpip is None else use_hpip,
        batch_size=read.batch_size if batch_size is None else batch_size,
        threshold=read.threshold if threshold is None else threshold,
        target_size=read.target_size if target_size is None else target_size,
    )


def find_model_dir(name: str) -> Path:
    """The inference directory of a published model, where somebody has put it.

    Raises:
        ModelError: the name is unknown, or no folder is there; the message says where one may lie and how to make one.
    """
    paddlex = Path(os.environ.get("PADDLE_PDX_CACHE_HOME") or Path.home() / ".paddlex")
    ours = cache_dir() / "official_models"
    for folder in (ours / name, ours / f"{name}_infer", paddlex / "official_models" / name):
        if folder.is_dir():
            return folder
    find_model(name)
    raise ModelError(
        f"{name}: no inference model directory at {ours / name} ({CACHE_VARIABLE}) or {paddlex / 'official_models' / name}. "
        f"Unpack PaddleX's {name}_infer.tar there; or make one, `rayseg export {name} DIR --labels names.txt` (of the published "
        "weights; --weights FILE for your own), and give DIR as model_dir"
    )


def _read(model_name: str | None, model_dir: str | os.PathLike[str] | None) -> ModelSpec:
    """A model directory by its name, its place, or both."""
    if model_name is None and model_dir is None:
        raise ConfigError("which model? give model_name, model_dir or both")
    spec = load_model_dir(find_model_dir(f"{model_name}") if model_dir is None else os.fspath(model_dir))
    if model_name is not None and spec.name != model_name:
        raise ModelError(f"{spec.path}: is {spec.name!r}, not {model_name!r}; give that name, or the folder of {model_name}")
    return spec


def _open(
    spec: ModelSpec,
    *,
    device: str | None,
    engine: str | None,
    engine_config: Mapping[str, Any] | None,
    use_hpip: bool,
    batch_size: int,
    threshold: float | None,
    target_size: Any,
) -> SegmentationModel:
    """A predictor on each device."""
    chosen = choose_engine(engine, engine_config)
    if not isinstance(use_hpip, bool):
        raise ConfigError(f"use_hpip must be True or False, got {use_hpip!r}")
    if use_hpip and chosen.backend != "auto":
        raise ConfigError(f"use_hpip=True takes the fastest engine, but {chosen.backend} is asked for; leave one of them out")
    check_settings(spec, batch_size=batch_size, threshold=threshold, target_size=target_size)
    devices = find_devices(device)
    fastest, known = None, None
    if use_hpip and not spec.scripted and devices[0].kind in ("cpu", "gpu"):
        fastest = Fastest(spec, devices, threads=chosen.threads, batch_size=batch_size, threshold=threshold)
        known = fastest.known()
    predictors = known or [open_predictor(spec, one, backend=chosen.backend, threads=chosen.threads) for one in devices]
    return SegmentationModel(
        predictors,
        batch_size=batch_size,
        threshold=threshold,
        target_size=target_size,
        fastest=None if known else fastest,
    )
