"""bench/against_paddlex.py: rates, ratios and differences are what they say; nothing it starts outlives its limit."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest

from rayseg.geometry import Size

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ("against_paddlex", "_agreement", "_measured", "_sides")


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield {name: importlib.import_module(name) for name in NAMES}
        for name in NAMES:
            del sys.modules[name]


def found(bench, *rows, left=0):
    """One image of 10 x 40: objects of class, score and columns, and columns to leave out of each mask."""
    masks = []
    for _, _, x0, x1 in rows:
        mask = np.zeros((10, 40), dtype=bool)
        mask[:, x0 + left : x1] = True
        masks.append(mask)
    table = np.asarray([[c, s, x0, 0, x1, 10] for c, s, x0, x1 in rows], dtype=np.float64).reshape(-1, 6)
    return {"a.png": bench["_agreement"].Found(table, masks)}


def test_the_steady_rate_leaves_start_up_out_and_takes_results_that_come_in_lots_as_they_are(bench):
    steady = bench["_sides"].steady
    assert steady([100 + 0.5 * i for i in range(10)]) == pytest.approx(2)
    assert steady([1000 + 4 * (i // 8) for i in range(24)]) == pytest.approx(2)
    assert steady([5.0, 5.0]) is None and steady([5.0]) is None and steady([]) is None


def test_images_are_different_ones_first_and_then_the_same_again(bench, tmp_path):
    for i, value in enumerate((0, 0, 99)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((4, 4, 3), value, dtype=np.uint8))
    counts = bench["against_paddlex"].photographs([tmp_path], 5, tmp_path / "out")
    assert counts == {"images": 5, "different": 2}
    assert [int(cv2.imread(str(path))[0, 0, 0]) for path in sorted((tmp_path / "out").iterdir())] == [0, 99, 0, 99, 0]
    with pytest.raises(SystemExit, match="--images"):
        bench["against_paddlex"].photographs([tmp_path / "none"], 5, tmp_path / "more")


def test_objects_are_paired_whatever_their_order_and_what_differs_is_counted(bench):
    compare = bench["_agreement"].compare
    one = found(bench, (0, 0.9, 0, 10), (1, 0.8, 20, 30))
    same = compare(one, found(bench, (1, 0.8, 20, 30), (0, 0.9, 0, 10)))
    assert same["differing"] == same["alone"] == same["alone_other"] == same["pixels_differing"] == 0
    assert same["pixels"] == 200 and same["objects"] == same["objects_other"] == 2
    thinner = compare(one, found(bench, (0, 0.9, 0, 10), (1, 0.8, 20, 30), left=1))
    assert thinner["differing"] == 2 and thinner["pixels_differing"] == 20
    other_class = compare(one, found(bench, (0, 0.9, 0, 10), (2, 0.8, 20, 30)))
    assert other_class["alone"] == other_class["alone_other"] == 1
    assert compare(one, found(bench))["alone"] == 2


def test_a_mask_that_paddlex_cut_out_is_put_back_where_its_box_is(bench, tmp_path):
    np.savez(tmp_path / "a.png.npz", rows=np.asarray([[0, 0.9, 19.6, 0, 30.4, 10]]), mask_0=np.ones((10, 10), dtype=bool))
    back = bench["_agreement"].of_paddlex(tmp_path, {"a.png": Size(10, 40)})
    assert bench["_agreement"].compare(back, found(bench, (0, 0.9, 20, 30)))["pixels_differing"] == 0
    assert int(back["a.png"].masks[0].sum()) == 100


def test_label_maps_are_compared_pixel_by_pixel(bench):
    module = bench["_agreement"]
    one, other = np.zeros((5, 8), dtype=int), np.zeros((5, 8), dtype=int)
    other[0, :3] = 7
    pair = [{"a.png": module.Found(np.empty((0, 6)), [], labels)} for labels in (one, other)]
    assert module.compare(*pair)["pixels_differing"] == 3
    assert module.compare(*pair)["pixels"] == 40


def test_a_ratio_is_of_one_round_and_the_middle_of_several_counts(bench):
    runs = {
        "paddlex": [{"whole": 1.0, "steady": 2.0}, {"whole": 2.0, "steady": None}, {"whole": 1.0, "steady": 2.0}],
        "rayseg": [{"whole": 4.0, "steady": 8.0}, {"whole": 4.0, "steady": 8.0}, {"failed": "why"}],
    }
    assert bench["against_paddlex"].ratios(runs)["ratios"] == {"rayseg": {"whole": [3.0, 2.0, 4.0], "steady": [4.0, 4.0, 4.0]}}


def test_a_command_that_fails_says_why_and_one_that_goes_on_is_ended_with_all_its_children(bench):
    run = bench["_measured"].run
    failed = run([sys.executable, "-c", "raise ValueError('of no use')"], limit_s=30, cores=1)
    assert failed.code == 1 and not failed.stopped and failed.why == "ValueError: of no use"
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '100']); print(p.pid, flush=True); p.wait()"
    stopped = run([sys.executable, "-c", code], limit_s=3, cores=1)
    assert stopped.stopped and stopped.seconds < 30 and stopped.peak_mb["largest"] > 0
    pid = int(stopped.said.split()[0])
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} still runs")


def test_settings_that_cannot_be_read_are_refused(bench, capsys):
    parse = bench["against_paddlex"]._parse
    assert parse(["--settings", "paddle/1/1"]).settings == ["paddle/1/1"]
    with pytest.raises(SystemExit):
        parse(["--settings", "paddle"])
    assert "MODE/BATCH/PROCESSES" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["--threshold", "0.5", "--objects", "9"])


STUB = """
import json, pathlib
class Result(dict):
    def save_to_json(self, folder):
        stem = pathlib.Path(self["input_path"]).stem
        pathlib.Path(folder, stem + "_res.json").write_text(json.dumps(TOLD))
class Model:
    def predict(self, paths, batch_size, threshold):
        for path in paths:
            box = {"cls_id": 3, "label": "c", "score": threshold, "coordinate": [1, 2, 5, 4]}
            yield Result(input_path=path, boxes=[box], masks=[[[1, 1, 0, 0], [1, 1, 1, 1]]])
def create_model(name, **told):
    global TOLD
    TOLD = told
    return Model()
"""


@pytest.mark.parametrize("setting, engine", [("default/1/1", {}), ("hpip/4/1", {"use_hpip": True}), ("mkldnn-a_pass/1/2", None)])
def test_paddlex_is_asked_as_the_setting_says_and_each_image_is_saved_once(bench, tmp_path, monkeypatch, setting, engine):
    (tmp_path / "paddlex.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    images, kept = tmp_path / "images", tmp_path / "kept"
    for folder in (images, kept):
        folder.mkdir()
    for name in "abc":
        cv2.imwrite(str(images / f"{name}.png"), np.zeros((10, 40, 3), dtype=np.uint8))
    work = bench["_sides"].Work("m", tmp_path / "m", 0.25, 2, 60.0, "auto", sys.executable)
    monkeypatch.setattr("rayseg.predict.model_dir.load_model_dir", lambda path: SimpleNamespace(name="m"))
    told = tmp_path / "told.json"
    monkeypatch.setattr(bench["_sides"], "_size", lambda out: told.write_text(next(out.iterdir()).read_text()))
    done = bench["_sides"].run_paddlex(work, setting, images, keep=kept)
    assert done.problem is None and len(done.times) == done.objects == 3
    config = {"run_mode": "mkldnn", "cpu_threads": 1, "delete_pass": ["a_pass"]}
    wanted = {"engine": "paddle_static", "engine_config": config} if engine is None else engine
    assert json.loads(told.read_text()) == {"model_dir": str(tmp_path / "m" / "paddlex"), "device": "cpu", **wanted}
    back = bench["_agreement"].of_paddlex(kept, dict.fromkeys(("a.png", "b.png", "c.png"), Size(10, 40)))
    assert sorted(back) == ["a.png", "b.png", "c.png"] and int(back["b.png"].masks[0].sum()) == 6
