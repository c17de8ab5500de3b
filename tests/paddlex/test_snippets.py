"""What PaddleX's documentation shows for both tasks, run as it stands but for the import, the files and the device."""

from __future__ import annotations

import functools
import json
import shlex

import cv2
import numpy as np
import pytest

import rayseg
from rayseg.cli import DONE, INCOMPLETE, REFUSED, main
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from tests.conftest import ROOT
from tests.paddlex.conftest import save

IMAGE = "general_instance_segmentation_004.png"
MAP = "makassaridn-road_demo.png"

INSTANCE_MODULE = """
from rayseg import create_model
model = create_model(model_name="Mask-RT-DETR-L")
output = model.predict(input="general_instance_segmentation_004.png", batch_size=1)
for res in output:
    res.print()
    res.save_to_img("./output/")
    res.save_to_json("./output/res.json")
"""
SEMANTIC_MODULE = """
from rayseg import create_model
model = create_model(model_name="PP-LiteSeg-T")
output = model.predict("makassaridn-road_demo.png", batch_size=1)
for res in output:
    res.print()
    res.save_to_img(save_path="./output/")
    res.save_to_json(save_path="./output/res.json")
"""
INSTANCE_PIPELINE = """
from rayseg import create_pipeline
pipeline = create_pipeline(pipeline="instance_segmentation")
output = pipeline.predict(input="general_instance_segmentation_004.png", threshold=0.5)
for res in output:
    res.print()
    res.save_to_img(save_path="./output/")
    res.save_to_json(save_path="./output/")
"""
SEMANTIC_PIPELINE = """
from rayseg import create_pipeline
pipeline = create_pipeline(pipeline="semantic_segmentation")
output = pipeline.predict(input="makassaridn-road_demo.png", target_size=-1)
for res in output:
    res.print()
    res.save_to_img(save_path="./output/")
    res.save_to_json(save_path="./output/")
"""


@pytest.fixture
def files(cached, pictures):
    """The two example images, in the working folder."""
    save(cached / IMAGE, pictures[0])
    save(cached / MAP, pictures[2])
    return cached


@pytest.fixture(scope="module")
def expected(cache):
    """(name of a model, RGB image, threshold) -> what the predictor finds, without any of the layer under test."""
    loaded = functools.cache(lambda name: Predictor(load_model_dir(cache / "official_models" / name)))
    return lambda name, image_rgb, threshold=None: loaded(name).predict([image_rgb], threshold)[0]


def test_the_instance_module_example_gives_what_the_predictor_finds(files, expected, pictures, capsys):
    names: dict = {}
    exec(INSTANCE_MODULE, names)
    printed = eval(capsys.readouterr().out)["res"]
    wanted = expected("Mask-RT-DETR-S", pictures[0])
    assert len(wanted) > 5 and printed["masks"] == "..."
    assert (printed["input_path"], printed["page_index"]) == (IMAGE, None)
    assert [box["cls_id"] for box in printed["boxes"]] == wanted.class_ids.tolist()
    assert [box["score"] for box in printed["boxes"]] == wanted.scores.tolist()
    assert [box["coordinate"] for box in printed["boxes"]] == wanted.boxes_xyxy.tolist()
    assert [box["label"] for box in printed["boxes"]] == [names["model"].labels[c] for c in wanted.class_ids]
    saved = json.loads((files / "output/res.json").read_text())
    assert saved["boxes"] == printed["boxes"]
    assert [mask["counts"].encode() for mask in saved["masks"]] == [mask.counts for mask in wanted.masks]
    assert cv2.imread(str(files / "output/general_instance_segmentation_004_res.png")).shape[:2] == wanted.size.hw


def test_the_semantic_module_example_gives_what_the_predictor_finds(files, expected, pictures, capsys):
    names: dict = {}
    exec(SEMANTIC_MODULE, names)
    assert eval(capsys.readouterr().out) == {"res": {"input_path": MAP, "page_index": None, "pred": "..."}}
    pred = names["res"]["pred"]
    wanted = expected("PP-LiteSeg-T", pictures[2]).labels
    assert pred.dtype == np.int32 and pred.shape == (1, *wanted.shape) and len(np.unique(wanted)) > 1
    np.testing.assert_array_equal(pred[0], wanted)
    assert (files / "output/res.json").is_file() and (files / "output/makassaridn-road_demo_res.png").is_file()


def test_the_instance_pipeline_example_honours_its_threshold(files, expected, pictures, capsys):
    names: dict = {}
    exec(INSTANCE_PIPELINE, names)
    wanted = expected("Mask-RT-DETR-S", pictures[0], threshold=0.5)
    assert 0 < len(wanted) < len(expected("Mask-RT-DETR-S", pictures[0]))
    assert [box["score"] for box in names["res"]["boxes"]] == wanted.scores.tolist()
    assert sorted(path.name for path in (files / "output").iterdir()) == [
        "general_instance_segmentation_004_res.json",
        "general_instance_segmentation_004_res.png",
    ]


def test_the_semantic_pipeline_example_runs(files, expected, pictures):
    names: dict = {}
    exec(SEMANTIC_PIPELINE, names)
    np.testing.assert_array_equal(names["res"]["pred"][0], expected("PP-LiteSeg-T", pictures[2]).labels)


def test_a_pipeline_file_is_written_changed_and_used(files, capsys):
    assert main(shlex.split("--get_pipeline_config instance_segmentation --save_path ./my_path")) == DONE
    file = files / "my_path/instance_segmentation.yaml"
    assert capsys.readouterr().out.strip() == "my_path/instance_segmentation.yaml" and file.is_file()
    text = file.read_text().replace("Mask-RT-DETR-S", "fake-instance").replace("null", "fake:instance?pattern=colours&size=16x16")
    scores = []
    for threshold in ("0.5", "0.7"):
        file.write_text(text.replace("threshold: 0.5", f"threshold: {threshold}"))
        (res,) = rayseg.create_pipeline(pipeline="./my_path/instance_segmentation.yaml").predict(
            np.uint8([[[0, 9, 1], [0, 200, 1]]])
        )
        scores.append([round(box["score"], 2) for box in res["boxes"]])
    assert scores == [[0.52, 0.89], [0.89]]


def test_a_pipeline_file_that_is_there_is_not_overwritten(files, capsys):
    command = shlex.split("--get_pipeline_config semantic_segmentation --save_path mine.yaml")
    assert main(command) == DONE
    (files / "mine.yaml").write_text("mine")
    assert main(command) == REFUSED
    assert "--force" in capsys.readouterr().err and (files / "mine.yaml").read_text() == "mine"
    assert main([*command, "--force"]) == DONE and (files / "mine.yaml").read_text() != "mine"
    assert main(["--get_pipeline_config=semantic_segmentations"]) == REFUSED
    assert "did you mean 'semantic_segmentation'" in capsys.readouterr().err


@pytest.mark.parametrize("command, flag", [("", "--save_path"), ("predict ", "--save-path")])
def test_the_one_liner_prints_and_saves(files, capsys, command, flag):
    line = f"{command}--pipeline instance_segmentation --input {IMAGE} --threshold 0.5 {flag} ./output --device cpu"
    assert main(shlex.split(line)) == DONE
    printed = eval(capsys.readouterr().out)["res"]
    saved = json.loads((files / "output/general_instance_segmentation_004_res.json").read_text())
    assert saved["boxes"] == printed["boxes"] and min(box["score"] for box in saved["boxes"]) > 0.5


def test_the_one_liner_of_semantic_models_takes_a_target_size(files, capsys):
    line = f"--pipeline semantic_segmentation --target_size -1 --input {MAP} --save_path ./output --device cpu"
    assert main(shlex.split(line)) == DONE
    native = (files / "output/makassaridn-road_demo_res.json").read_text()
    assert main(shlex.split(line.replace("-1", "64,32"))) == DONE
    assert (files / "output/makassaridn-road_demo_res.json").read_text() != native
    assert main(shlex.split(line.replace("--target_size -1", "--threshold 0.5"))) == REFUSED
    assert "has no scores" in capsys.readouterr().err


def test_the_one_liner_skips_bad_files_where_told_to_and_says_so_in_its_exit_status(files, capsys):
    save(files / "in/a.png", np.full((9, 9, 3), 200, np.uint8))
    (files / "in/b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    line = "predict --pipeline instance_segmentation --model_dir fake:instance --input in --save_path out --device cpu"
    assert main(shlex.split(line)) == REFUSED
    said = capsys.readouterr()
    assert "in/a.png" in said.out and "in/b.png" in said.err
    assert main(shlex.split(f"{line} --on_error skip")) == INCOMPLETE
    assert json.loads((files / "out/b_res.json").read_text())["error"].startswith("TruncatedImage: in/b.png")


def test_the_demo_model_counts_nuclei():
    model = rayseg.create_model("PP-YOLOE_seg-nuclei", ROOT / "demo/model", device="cpu")
    paths = sorted((ROOT / "demo/images").glob("*.png"))[:3]
    wanted = model._predictors[0].predict([cv2.imread(str(path))[..., ::-1] for path in paths])
    found = list(model.predict(paths, batch_size=2))
    assert [len(res["boxes"]) for res in found] == [len(one) for one in wanted]
    assert all(res["boxes"][0]["label"] == "nucleus" for res in found)
    for res, one in zip(found, wanted, strict=True):
        assert res.found.masks == one.masks


@pytest.mark.slow
def test_a_network_of_the_zoo_is_exported_and_found_by_its_name(cached, monkeypatch):
    from rayseg.models.zoo import build_model
    from rayseg.predict.export import export_model

    monkeypatch.setenv("RAYSEG_CACHE", str(cached))
    folder = cached / "official_models/PP-LiteSeg-T"
    export_model(build_model("PP-LiteSeg-T"), folder, name="PP-LiteSeg-T", labels=[f"c{i}" for i in range(19)])
    (res,) = rayseg.create_model("PP-LiteSeg-T", device="cpu").predict(np.zeros((70, 90, 3), np.uint8))
    assert res["pred"].shape == (1, 70, 90)
