"""Settings of training and the rest: what files may say, what they may not, and that nothing is lost on the way."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayseg.config.search import Dimension
from rayseg.config.train import SECTIONS, Settings, load_settings
from rayseg.errors import ConfigError

MODEL = "PP-LiteSeg-T"

PADDLEX_FILE = """
Global:
  model: MaskFormer_tiny
  mode: check_dataset # check_dataset/train/evaluate/export/predict
  dataset_dir: "/paddle/dataset/paddlex/seg/seg_optic_examples"
  device: gpu:0,1,2,3
  output: "output"

CheckDataset:
  convert:
    enable: False
    src_dataset_type: null
  split:
    enable: False
    train_percent: null
    val_percent: null

Train:
  num_classes: 2
  epochs_iters: 500
  batch_size: 2
  learning_rate: 0.01
  pretrain_weight_path: https://host/MaskFormer_tiny_pretrained.pdparams
  warmup_steps: 0
  resume_path: null
  log_interval: 10
  eval_interval: 100
  input_shape: [1, 3, 512, 384]
  amp: OFF
  dy2st: False

Evaluate:
  weight_path: "output/best_model/model.pdparams"
  log_interval: 10

Export:
  weight_path: https://host/MaskFormer_tiny_pretrained.pdparams
  input_shape: [1, 3, 512, 384]

Predict:
  batch_size: 1
  model_dir: "output/best_model/inference"
  input: "https://host/demo.png"
  kernel_option:
    run_mode: paddle
"""


@pytest.fixture
def file(tmp_path):
    """Write a file; returns its path."""

    def write(text):
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def of(**sections) -> Settings:
    """Settings from sections; the model is given."""
    return Settings.from_mapping({**sections, "Global": {"model": MODEL, **sections.get("Global", {})}})


RATES = st.floats(1e-9, 10)
TRAIN = st.fixed_dictionaries(
    {},
    optional={
        "num_classes": st.integers(1, 300),
        "epochs_iters": st.none() | st.integers(1, 10**6),
        "learning_rate": RATES,
        "warmup_steps": st.none() | st.integers(0, 9),
        "amp": st.sampled_from(["OFF", "O1", "O2"]),
        "ema": st.none() | st.booleans(),
        "freeze": st.lists(st.text(min_size=1).filter(lambda t: t.lower() != "none"), max_size=3),
        "train_size": st.none() | st.tuples(st.integers(32, 4000), st.integers(32, 4000)).map(list),
        "pretrain_weight_path": st.none() | st.sampled_from(["OFF", "1e3", "2:30", "x: y", "später.pdparams", "https://h/a?b=c"]),
    },
)
CLUSTER = st.fixed_dictionaries({}, optional={"num_workers": st.none() | st.integers(1, 9) | st.just([1, 4])})
SEARCH = st.fixed_dictionaries(
    {},
    optional={
        "space": st.lists(
            st.dictionaries(
                st.sampled_from(["Train.learning_rate", "Train.weight_decay"]),
                st.lists(RATES, min_size=1) | st.just({"loguniform": [1e-5, 0.1]}) | st.just({"choice": [0.1, 1]}),
                min_size=1,
            ),
            max_size=2,
        )
    },
)


@given(TRAIN, CLUSTER, SEARCH)
def test_what_is_printed_reads_back_as_the_same_settings(tmp_path_factory, train, cluster, search):
    settings = of(Train=train, Cluster=cluster, Search=search)
    path = tmp_path_factory.getbasetemp() / "again.yaml"
    path.write_text(settings.to_yaml(), encoding="utf-8")
    assert load_settings(path) == settings
    assert Settings.from_mapping(settings.to_mapping()) == settings
    assert set(settings.to_mapping()) == set(SECTIONS)


@given(TRAIN)
def test_a_change_changes_that_and_nothing_else(train):
    settings = of(Train=train)
    changed = settings.with_values({"Train.log_interval": 77, "Cluster.num_workers": [2, 3]})
    assert changed.train == dataclasses.replace(settings.train, log_interval=77)
    assert changed.cluster.num_workers == (2, 3)
    assert (changed.general, changed.evaluate, changed.search) == (settings.general, settings.evaluate, settings.search)


def test_a_file_of_paddlex_is_understood(file):
    settings = load_settings(file(PADDLEX_FILE))
    assert settings.general.device_ids() == (0, 1, 2, 3) and settings.worker_range() == (4, 4)
    assert settings.train.amp == "OFF" and settings.train.train_size == (512, 384)
    assert settings.export.input_size == (512, 384)
    assert settings.train.learning_rate == 0.01 and settings.train.ema is None and settings.train.warmup_steps == 0


@pytest.mark.parametrize(
    "override, attribute, value",
    [
        ("Train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("Train.epochs_iters=20", "train.epochs_iters", 20),
        ("Train.learning_rate=1", "train.learning_rate", 1.0),
        ("Train.ema=true", "train.ema", True),
        ("Train.resume_path=null", "train.resume_path", None),
        ("Train.pretrain_weight_path=https://h/x?a=b", "train.pretrain_weight_path", "https://h/x?a=b"),
        ("Train.train_size=[320, 640]", "train.train_size", (320, 640)),
        ("Train.freeze=[backbone, head.a]", "train.freeze", ("backbone", "head.a")),
        ("Train.freeze=[on, off]", None, "freeze"),
        ("Train.amp=OFF", "train.amp", "OFF"),
        ("Train.amp=O1", "train.amp", "O1"),
        ("CheckDataset.split.enable=True", None, "train_percent and val_percent"),
        ("CheckDataset.seed=3", "check_dataset.seed", 3),
        ("Cluster.num_workers=[1, 4]", "cluster.num_workers", (1, 4)),
        ("Global.output=runs/on", "general.output", "runs/on"),
        ("Search.space={Train.seed: [1, 2]}", "search.space", ({"Train.seed": Dimension("grid", (1, 2))},)),
    ],
)
def test_overrides_are_yaml_and_nothing_more(file, override, attribute, value):
    path = file(f"Global: {{model: {MODEL}}}")
    if attribute is None:
        with pytest.raises(ConfigError, match=value):
            load_settings(path, [override])
        return
    found = load_settings(path, [override])
    for name in attribute.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


def test_the_last_override_wins_and_the_file_is_not_needed_to_have_the_section(file):
    path = file(f"Global: {{model: {MODEL}}}\nTrain:\n")
    found = load_settings(path, ["Train.seed=1", "Train.seed=2", "CheckDataset.convert.enable=false"])
    assert found.train.seed == 2


@pytest.mark.parametrize(
    "values, message",
    [
        ({"Train": {"learning_rat": 1}}, "Train: unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ({"Trian": {}}, "unknown section 'Trian'; did you mean 'Train'"),
        ({"Train": [1]}, "Train: expected `key: value` lines"),
        ({"CheckDataset": {"split": {"enabel": True}}}, "CheckDataset: split: unknown setting 'enabel'; did you mean 'enable'"),
        ({"CheckDataset": {"split": 5}}, "CheckDataset: split: expected a mapping, got 5"),
        ({"CheckDataset": {"split": {"train_percent": 80, "val_percent": 30}}}, "80 and val_percent 30 must sum to 100"),
        ({"CheckDataset": {"split": {"train_percent": 0}}}, "train_percent must be above 0, got 0"),
        ({"CheckDataset": {"convert": {"src_dataset_type": "Labelme"}}}, "did you mean 'LabelMe'"),
        ({"CheckDataset": {"convert": {"enable": True}}}, "needs src_dataset_type"),
        ({"Global": {"mode": "trian"}}, "Global.mode 'trian' is unknown; did you mean 'train'"),
        ({"Global": {"mode": "pdparams2safetensors"}}, "Global.mode 'pdparams2safetensors' is unknown"),
        ({"Global": {"device": "npu:0"}}, "Global.device 'npu:0': expected auto, cpu, gpu"),
        ({"Global": {"device": "gpu:1,1"}}, "each once"),
        ({"Global": {"device": "cpu"}, "Cluster": {"use_gpu": True}}, "cpu contradicts Cluster.use_gpu true"),
        ({"Global": {"device": "gpu:0,1"}, "Cluster": {"use_gpu": False}}, "contradicts Cluster.use_gpu false"),
        ({"Global": {"device": "gpu:0,1"}, "Cluster": {"num_workers": 4}}, "names 2 GPUs, but Cluster asks for 4"),
        ({"Global": {"output": ""}}, "Global.output is empty"),
        ({"Global": {"output": "s3://b/o"}}, "Cluster.storage_path"),
        ({"Global": {"val_annotations": "v.json"}}, "come as a pair"),
        ({"Global": {"dataset_dir": "None"}}, "write `null`"),
        ({"Train": {"resume_path": "None"}}, "Train.resume_path is the text 'None'"),
        ({"Train": {"epochs_iters": 1.5}}, "epochs_iters: expected int or null, got 1.5"),
        ({"Train": {"epochs_iters": 0}}, "Train.epochs_iters must be at least 1, got 0"),
        ({"Train": {"learning_rate": 0}}, "Train.learning_rate must be above 0"),
        ({"Train": {"learning_rate": float("nan")}}, "Train.learning_rate must be above 0, got nan"),
        ({"Train": {"learning_rate": float("inf")}}, "got inf"),
        ({"Train": {"learning_rate": "0.01"}}, "learning_rate: expected float or null, got '0.01'"),
        ({"Train": {"seed": True}}, "seed: expected int, got True"),
        ({"Train": {"amp": True}}, "amp: expected str, got True"),
        ({"Train": {"amp": "O3"}}, "Train.amp 'O3' is unknown"),
        ({"Train": {"optimizer": "adam"}}, "did you mean 'adamw'"),
        ({"Train": {"train_size": [512]}}, "expected a list of 2"),
        ({"Train": {"train_size": [512, 8]}}, "at least \\[32, 32\\]"),
        ({"Train": {"train_size": [64, 64], "input_shape": [1, 3, 512, 512]}}, "contradicts train_size \\[64, 64\\]"),
        ({"Train": {"input_shape": [512, 512]}}, "expected \\[images, 3, height, width\\]"),
        ({"Train": {"ema_decay": 1}}, "Train.ema_decay must lie between 0 and 1"),
        ({"Train": {"freeze": [""]}}, "would freeze every parameter"),
        ({"Train": {"workers": -1}}, "Train.workers must be at least 0"),
        ({"Predict": {"threshold": 2}}, "Predict.threshold must lie in \\[0, 1\\]"),
        ({"Export": {"flavour": "fat"}}, "Export.flavour 'fat' is unknown; known are lean, paddlex"),
        ({"Cluster": {"num_workers": 0}}, "Cluster.num_workers 0"),
        ({"Cluster": {"num_workers": [4, 1]}}, "Cluster.num_workers \\[4, 1\\]"),
        ({"Cluster": {"gpus_per_worker": 1.5}}, "above 1 only whole ones"),
        ({"Cluster": {"address": "auto", "num_cpus": 3}}, "has its own"),
    ],
)
def test_what_cannot_be_is_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        of(**values)


@pytest.mark.parametrize(
    "section, key, value, reason",
    [
        ("Train", "dy2st", True, "only exports are static"),
        ("Train", "dist_ips", "10.0.0.1,10.0.0.2", "set Cluster.address"),
        ("Train", "basic_config_path", "x.yml", "no base files"),
        ("Train", "uniform_output_enabled", False, "one layout"),
        ("Train", "dy2st", 0, "only exports are static"),
        ("Evaluate", "basic_config_path", "x.yml", "no base files"),
        ("Export", "basic_config_path", "x.yml", "no base files"),
        ("Global", "export_with_pir", False, "Paddle 3"),
        ("Predict", "kernel_option", {"run_mode": "trt_fp16"}, "rayseg segment --backend"),
        ("Predict", "use_hpip", True, "rayseg segment --backend"),
        ("Predict", "target_size", 512, "model directory's"),
    ],
)
def test_what_paddlex_has_and_we_have_not_is_refused_with_the_reason(section, key, value, reason):
    with pytest.raises(ConfigError, match=f"{section}.{key}: .*{reason}"):
        of(**{section: {key: value}})


def test_without_a_model_or_a_file_there_is_nothing_to_do(file, tmp_path):
    with pytest.raises(ConfigError, match="Global is missing"):
        load_settings(file("Train:\n  seed: 1\n"))
    with pytest.raises(ConfigError, match="missing setting model"):
        load_settings(file("Global:\n  mode: train\n"))
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "override, message",
    [
        ("learning_rate=1", "'learning_rate': expected Section.key"),
        ("Train.=1", "expected Section.key"),
        ("Tran.seed=1", "unknown section 'Tran'; did you mean 'Train'"),
        ("Train.seed.deep=1", "seed: expected int"),
        ("Global.model.deep=1", "model holds 'PP-LiteSeg-T', which has no keys"),
        ("Train.seed", "expected key=value"),
        ("Train.seed=[", "not a YAML scalar"),
        ("Train.seed=2+3", "seed: expected int, got '2\\+3'"),
        ("Train.seed=__import__('os').getpid()", "expected int"),
    ],
)
def test_an_override_that_is_none_is_refused(file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(file(f"Global: {{model: {MODEL}}}"), [override])


@pytest.mark.parametrize(
    "device, cluster, workers",
    [
        ("auto", {}, (1, 1)),
        ("gpu", {}, (1, 1)),
        ("gpu:3", {}, (1, 1)),
        ("gpu:0,2,5", {}, (3, 3)),
        ("gpu:0", {"gpus_per_worker": 0.5}, (2, 2)),
        ("gpu:0,1,2,3", {"num_workers": [1, 4]}, (1, 4)),
        ("cpu", {"num_workers": 3}, (3, 3)),
    ],
)
def test_workers_follow_the_cluster_section_else_the_gpus(device, cluster, workers):
    assert of(Global={"device": device}, Cluster=cluster).worker_range() == workers


def test_ray_is_needed_for_more_than_one_worker_for_restarts_and_on_a_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert of().in_process()
    assert not of(Cluster={"num_workers": 2}).in_process()
    assert not of(Cluster={"num_workers": [1, 2]}).in_process()
    assert not of(Cluster={"max_failures": 1}).in_process()
    assert not of(Cluster={"address": "auto"}).in_process()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not of().in_process()


# ---- search


def test_a_space_is_one_mapping_or_stages():
    one = of(Search={"space": {"Train.learning_rate": [1e-3, 1e-4]}})
    assert one.search.space == ({"Train.learning_rate": Dimension("grid", (1e-3, 1e-4))},)
    two = of(Search={"space": [{"Train.learning_rate": {"choice": [1e-3]}}, {"Train.epochs_iters": {"randint": [5, 9]}}]})
    assert [list(stage) for stage in two.search.space] == [["Train.learning_rate"], ["Train.epochs_iters"]]
    assert yaml.safe_load(two.to_yaml())["Search"]["space"][1] == {"Train.epochs_iters": {"randint": [5, 9]}}


@pytest.mark.parametrize(
    "search, message",
    [
        ({"space": {"Train.learning_rat": [1]}}, "'Train.learning_rat' cannot be searched; .* mean 'Train.learning_rate'"),
        ({"space": {"learning_rate": [1]}}, "any setting of Train, .* did you mean 'Train.learning_rate'"),
        ({"space": {"Global.output": ["a", "b"]}}, "'Global.output' cannot be searched; .* Global.model"),
        ({"space": {"Evaluate.batch_size": [1, 2]}}, "'Evaluate.batch_size' cannot be searched"),
        ({"space": {"Train.resume_path": ["a"]}}, "Train.resume_path cannot be searched: it goes on with one run"),
        ({"space": {"Global.train_annotations": ["a.json"]}}, "come as a pair"),
        ({"space": {"Train.learning_rate": [1e-3, 0]}}, "Train.learning_rate must be above 0, got 0"),
        ({"space": {"Train.epochs_iters": [1, 2.5]}}, "expected int or null, got 2.5"),
        ({"space": {"Train.epochs_iters": {"uniform": [1, 5]}}}, "expected int or null, got 1.0"),
        ({"space": {"Train.epochs_iters": {"randint": [0, 5]}}}, "at least 1, got 0"),
        ({"space": {"Train.learning_rate": {"loguniform": [0, 1]}}}, "both ends must be above 0"),
        ({"space": {"Train.learning_rate": {"uniform": [1, 0.1]}}}, "low < high"),
        ({"space": {"Train.learning_rate": {"uniform": [1]}}}, "low < high"),
        ({"space": {"Train.learning_rate": {"logunifrm": [1, 2]}}}, "did you mean 'loguniform'"),
        ({"space": {"Train.learning_rate": {"grid": [1], "choice": [1]}}}, "expected a list of values, or one of"),
        ({"space": {"Train.learning_rate": 1e-3}}, "expected a list of values"),
        ({"space": {"Train.learning_rate": []}}, "needs values"),
        ({"space": {"Train.learning_rate": {"grid": 1}}}, "grid needs a list"),
        ({"space": "Train.learning_rate"}, "expected `Section.key"),
        ({"space": [{}]}, "stage without settings"),
        ({"searcher": "grid", "space": {"Train.learning_rate": {"choice": [1e-3]}}}, "searcher is grid, but Train.learning_rate"),
        ({"searcher": "optuna", "space": {"Train.learning_rate": [1e-3]}}, "cannot cross grids"),
        ({"searcher": "bayes"}, "Search.searcher 'bayes' is unknown"),
        ({"scheduler": "ahsa"}, "did you mean 'asha'"),
        ({"mode": "maximum"}, "did you mean 'max'"),
        ({"reduction_factor": 1}, "at least 2"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_runs(search, message):
    with pytest.raises(ConfigError, match=message):
        of(Search=search)
