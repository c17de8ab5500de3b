"""The sections of PaddleX's module files as values: Global, CheckDataset, Train, Evaluate, Export, Predict.

Fields carry PaddleX's names; those it does not know are marked "ours". None where a default depends on the network:
models/defaults.py fills it in. How sections come from a file is train.py's, what PaddleX has and we do not honour is
paddlex_yaml.py's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rayseg.config.checks import above, at_least, no_none_in_words, one_of, within
from rayseg.errors import ConfigError

MODES = ("check_dataset", "train", "tune", "evaluate", "export", "predict")
SOURCES = ("LabelMe", "VOC")
AMP = ("OFF", "O1", "O2")
OPTIMIZERS = ("momentum", "adamw")
SCHEDULES = ("constant", "step", "cosine", "poly")
SCRATCH = "scratch"


@dataclass(frozen=True)
class GlobalSettings:
    """Which network, which data, where to."""

    model: str
    """Name in the zoo."""
    mode: str = "check_dataset"
    """What `rayseg run` does: check_dataset, train, tune, evaluate, export or predict."""
    dataset_dir: str | None = None
    """Folder or URL of a data set in PaddleX's layout."""
    image_dir: str | None = None
    """Ours. Where the annotations' file names start; None: where PaddleX has them."""
    train_annotations: str | None = None
    """Ours. Another file than PaddleX's, below dataset_dir; None: annotations/instance_train.json, or train.txt."""
    val_annotations: str | None = None
    """Ours. The same for the validation part."""
    device: str = "auto"
    """auto, cpu, gpu, or gpu:0,1: as many workers as ids, unless Cluster.num_workers says otherwise."""
    output: str = "output"
    """Folder below which everything is written."""

    def __post_init__(self) -> None:
        no_none_in_words("Global", self)
        one_of("Global.mode", self.mode, MODES)
        if not self.output:
            raise ConfigError("Global.output is empty; name a folder")
        if "://" in self.output:
            raise ConfigError(
                f"Global.output {self.output!r}: expected a folder; checkpoints may go to a URL by Cluster.storage_path"
            )
        if bool(self.train_annotations) != bool(self.val_annotations):
            raise ConfigError("Global.train_annotations and Global.val_annotations come as a pair; give both or none")
        self.device_ids()

    def device_ids(self) -> tuple[int, ...]:
        """The GPUs named; empty for auto, cpu and gpu.

        Raises:
            ConfigError: any other word, or an id that is there twice.
        """
        if self.device in ("auto", "cpu", "gpu"):
            return ()
        found = re.fullmatch(r"gpu:(\d+(?:,\d+)*)", self.device)
        ids = tuple(int(i) for i in found[1].split(",")) if found else ()
        if not ids or len(set(ids)) != len(ids):
            raise ConfigError(f"Global.device {self.device!r}: expected auto, cpu, gpu, or ids such as gpu:0,1, each once")
        return ids


@dataclass(frozen=True)
class ConvertSettings:
    """Annotations of another form into the one that is trained on."""

    enable: bool = False
    src_dataset_type: str | None = None
    """LabelMe or VOC."""

    def __post_init__(self) -> None:
        if self.src_dataset_type is not None:
            one_of("CheckDataset.convert.src_dataset_type", self.src_dataset_type, SOURCES)
        if self.enable and self.src_dataset_type is None:
            raise ConfigError("CheckDataset.convert.enable needs src_dataset_type: LabelMe or VOC")


@dataclass(frozen=True)
class SplitSettings:
    """Training and validation parts drawn anew."""

    enable: bool = False
    train_percent: float | None = None
    val_percent: float | None = None

    def __post_init__(self) -> None:
        both = (self.train_percent, self.val_percent)
        if self.enable and None in both:
            raise ConfigError("CheckDataset.split.enable needs train_percent and val_percent, such as 80 and 20")
        for name, value in zip(("train_percent", "val_percent"), both, strict=True):
            above(f"CheckDataset.split.{name}", value, 0)
        if self.train_percent is not None and self.val_percent is not None and self.train_percent + self.val_percent != 100:
            raise ConfigError(
                f"CheckDataset.split: train_percent {self.train_percent:g} and val_percent {self.val_percent:g} must sum to 100"
            )


@dataclass(frozen=True)
class CheckDatasetSettings:
    """How a data set is converted, split and checked, in this order."""

    convert: ConvertSettings = field(default_factory=ConvertSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    seed: int = 0
    """Ours. Of the split."""
    num_drawn: int = 10
    """Ours. Images of each part that are drawn with their annotations."""
    paddlex_counts: bool = False
    """Ours. True: train_samples of an instance data set counts annotations, as PaddleX's does; False: images."""

    def __post_init__(self) -> None:
        at_least("CheckDataset.seed", self.seed, 0)
        at_least("CheckDataset.num_drawn", self.num_drawn, 0)


@dataclass(frozen=True)
class TrainSettings:
    """A training run. What is None comes from the network's recipe, but where said otherwise."""

    num_classes: int | None = None
    """None: as the data say. Without background for instance models; all classes for semantic ones."""
    epochs_iters: int | None = None
    """Epochs of an instance model, iterations of a semantic one."""
    batch_size: int | None = None
    """Images of one worker's step."""
    learning_rate: float | None = None
    """At its peak."""
    pretrain_weight_path: str | None = None
    """File, URL, name in the zoo, or `scratch` for fresh weights."""
    warmup_steps: int | None = None
    """Optimizer steps; 0 is none; None: the share of the run that it is in the recipe."""
    resume_path: str | None = None
    """Checkpoint folder, or the .pdparams in it, to go on from; None: what was stopped in Global.output goes on."""
    log_interval: int = 10
    """Optimizer steps between two lines of the log."""
    eval_interval: int | None = None
    """Between two evaluations, each with a checkpoint: epochs (instance) or iterations (semantic)."""
    amp: str = "OFF"
    """OFF, O1 or O2: how much is computed in half precision."""
    seed: int = 0
    """Ours, as all that follow. Of weights, order and augmentation."""
    scale_rate: bool = True
    """The rate used is learning_rate x (images of a step over all workers) / (the recipe's batch size)."""
    optimizer: str | None = None
    """momentum or adamw."""
    weight_decay: float | None = None
    schedule: str | None = None
    """constant, step, cosine or poly, over the whole run however long."""
    clip: float | None = None
    """Largest norm of the gradients; 0 does not clip."""
    ema: bool | None = None
    """The running average of the weights is what is evaluated and kept."""
    ema_decay: float | None = None
    accumulate_steps: int = 1
    """Batches whose gradients make one optimizer step."""
    sync_bn: bool = True
    """Batch norm over the images of all workers."""
    freeze: tuple[str, ...] = ()
    """Parameters whose name begins with one of these do not train, such as backbone."""
    train_size: tuple[int, int] | None = None
    """[height, width] an image is cut or stretched to; for Mask R-CNN and SOLOv2 [short side, longest side]."""
    augment: bool = True
    """False: nothing at random."""
    workers: int = 2
    """Processes or tasks that prepare images for one worker; 0: the worker itself."""
    keep_checkpoints: int = 3
    """The newest so many stay, besides the best."""

    def __post_init__(self) -> None:
        no_none_in_words("Train", self)
        for name in ("num_classes", "epochs_iters", "batch_size", "log_interval", "eval_interval"):
            at_least(f"Train.{name}", getattr(self, name), 1)
        for name in ("accumulate_steps", "keep_checkpoints"):
            at_least(f"Train.{name}", getattr(self, name), 1)
        for name in ("warmup_steps", "seed", "workers", "weight_decay", "clip"):
            at_least(f"Train.{name}", getattr(self, name), 0)
        above("Train.learning_rate", self.learning_rate, 0)
        one_of("Train.amp", self.amp, AMP, hint=" (in YAML a bare OFF is `false`, which is understood, too)")
        if self.optimizer is not None:
            one_of("Train.optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule is not None:
            one_of("Train.schedule", self.schedule, SCHEDULES)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"Train.ema_decay must lie between 0 and 1, got {self.ema_decay}")
        if self.train_size is not None and min(self.train_size) < 32:
            raise ConfigError(f"Train.train_size must be at least [32, 32], got {list(self.train_size)}")
        if "" in self.freeze:
            raise ConfigError("Train.freeze holds an empty name, which would freeze every parameter; name parts of the network")


@dataclass(frozen=True)
class EvaluateSettings:
    """Scoring weights on the validation part."""

    weight_path: str | None = None
    """.pdparams; None: the best that training left below Global.output."""
    log_interval: int = 10
    """Batches between two lines of the log."""
    batch_size: int = 1
    """Ours."""
    max_detections: int = 100
    """Ours. Objects of one image that count for AP; more suit crowded images, and are no longer COCO's number."""

    def __post_init__(self) -> None:
        no_none_in_words("Evaluate", self)
        for name in ("log_interval", "batch_size", "max_detections"):
            at_least(f"Evaluate.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class ExportSettings:
    """Writing an inference model directory."""

    weight_path: str | None = None
    """As Evaluate.weight_path."""
    input_size: tuple[int, int] | None = None
    """Ours; PaddleX's input_shape [n, 3, h, w] gives it as well. Fixes (height, width) of a semantic model's input."""
    save_dir: str | None = None
    """Ours. None: inference/ below Global.output."""
    flavour: str = "lean"
    """Ours. lean, which is faster and takes any batch, paddlex with the inputs and outputs of PaddleX's own, or probabilities
    of all classes, of semantic models, which tiles of a scene are blended by."""
    draw_threshold: float = 0.5
    """Ours. Written down as the score an object must exceed."""
    overwrite: bool = False
    """Ours. Replace a directory that is there."""

    def __post_init__(self) -> None:
        no_none_in_words("Export", self)
        one_of("Export.flavour", self.flavour, ("lean", "paddlex", "probabilities"))
        within("Export.draw_threshold", self.draw_threshold, 0, 1)
        if self.input_size is not None and min(self.input_size) < 1:
            raise ConfigError(f"Export.input_size must be [height, width] in pixels, got {list(self.input_size)}")


@dataclass(frozen=True)
class PredictSettings:
    """`mode: predict`: a job of `rayseg segment` with the results below Global.output."""

    batch_size: int = 1
    model_dir: str | None = None
    """Inference model directory; None: the best that training exported below Global.output."""
    input: str | None = None
    """File, folder, 'glob', manifest or URL."""
    threshold: float | None = None
    """Smallest score of an object; None: the model's own."""

    def __post_init__(self) -> None:
        no_none_in_words("Predict", self)
        at_least("Predict.batch_size", self.batch_size, 1)
        within("Predict.threshold", self.threshold, 0, 1)
