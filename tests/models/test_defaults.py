"""What is left open is filled in from the zoo; what is given stays."""

from __future__ import annotations

import logging

import pytest

from rayseg.config.train import Settings
from rayseg.errors import ModelError
from rayseg.models.defaults import STARTS, effective
from rayseg.models.zoo import MODELS

OPEN = {
    *("Train.num_classes", "Train.warmup_steps", "Train.resume_path", "Global.dataset_dir", "Global.image_dir"),
    *("Global.train_annotations", "Global.val_annotations", "Export.input_size", "Predict.input", "Predict.threshold"),
    *("Cluster.num_workers", "Cluster.use_gpu", "Cluster.address", "Cluster.num_cpus", "Cluster.storage_path"),
    "Search.max_concurrent_trials",
}
"""None has a meaning of its own there."""


def of(model, **train) -> Settings:
    """Settings of a model."""
    return Settings.from_mapping({"Global": {"model": model}, "Train": train})


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_left_open_that_a_run_needs(model):
    values = effective(of(model)).to_mapping()
    none = {f"{section}.{key}" for section, keys in values.items() for key, value in keys.items() if value is None}
    assert none == OPEN


@pytest.mark.parametrize("model", MODELS)
def test_filling_in_twice_is_filling_in_once(model):
    once = effective(of(model, seed=3))
    assert effective(once) == once


def test_what_is_given_stays():
    given = {"learning_rate": 3e-5, "batch_size": 1, "clip": 0.0, "ema": False, "eval_interval": 7, "weight_decay": 0.0}
    train = effective(of("Mask-RT-DETR-S", **given)).train
    assert {key: getattr(train, key) for key in given} == given
    assert train.ema_decay == 0.9999 and train.optimizer == "adamw" and train.epochs_iters == 40


def test_each_family_has_a_start():
    assert set(STARTS) == {row.family for row in MODELS.values()}


def test_weights_follow_the_output_folder_and_the_task():
    semantic = effective(of("PP-LiteSeg-T").with_values({"Global.output": "runs/a/"}))
    assert semantic.evaluate.weight_path == semantic.export.weight_path == "runs/a/best_model/model.pdparams"
    assert semantic.predict.model_dir == "runs/a/best_model/inference" and semantic.search.metric == "miou"
    instance = effective(of("SOLOv2"))
    assert instance.evaluate.weight_path == "output/best_model/best_model.pdparams" and instance.search.metric == "ap"


def test_training_starts_from_whole_networks_or_from_backbones_as_in_paddlex():
    started = {model: effective(of(model)).train.pretrain_weight_path for model in MODELS}
    assert started["Mask-RT-DETR-L"].endswith("/Mask-RT-DETR-L_pretrained.pdparams")
    assert started["SegFormer-B0"].endswith("/SegFormer-B0_backbone_imagenet_pretrained.pdparams")
    assert started["MaskFormer_tiny"].endswith("/MaskFormer_tiny_pretrained.pdparams")
    assert started["MaskRCNN-ResNet50-vd-SSLDv2-FPN"].endswith("/ResNet50_vd_ssld_v2_pretrained.pdparams")


def test_an_interval_of_evaluation_fits_the_run():
    assert effective(of("SegFormer-B0", epochs_iters=50)).train.eval_interval == 5
    assert effective(of("SegFormer-B0", epochs_iters=5)).train.eval_interval == 1
    assert effective(of("SOLOv2")).train.eval_interval == 1


@pytest.mark.parametrize(
    "model, rate, warned", [("SegFormer-B0", 0.01, True), ("SegFormer-B0", 6e-4, False), ("Deeplabv3-R50", 0.5, False)]
)
def test_paddlexs_rate_for_adamw_is_warned_about(caplog, model, rate, warned):
    with caplog.at_level(logging.WARNING, "rayseg"):
        effective(of(model, learning_rate=rate))
    assert ("Leave the key out" in caplog.text) == warned


def test_an_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match="Did you mean 'SegFormer-B0'"):
        effective(of("segformer-b0"))
