"""The fastest engine that is right wins; what differs is understood or counts against it; a crash is a row of the table."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from rayseg import rle
from rayseg.config.segment import SegmentSettings
from rayseg.errors import BackendError
from rayseg.geometry import Size
from rayseg.pipeline.engines_here import Chosen, open_chosen
from rayseg.predict.backends.child import in_child
from rayseg.predict.backends.choices import choice_file, remember, remembered, versions
from rayseg.predict.backends.compare import agreement, change
from rayseg.predict.backends.fake import FakeBackend, fake_spec
from rayseg.predict.backends.trial import Choice, try_engines
from rayseg.predict.devices import Device
from rayseg.predict.machine import MachineKind, machine_kind
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.prepare import prepare
from rayseg.results import Instances, SemanticMap

SPEC = fake_spec()
SEMANTIC = fake_spec("semantic", labels=("a", "b", "c", "d"))
SIZE = Size(100, 100)


# ---- engines, opened in processes of their own


class Engine(FakeBackend):
    """A fake that is slow, wrong or dead as its name says."""

    def __init__(self, spec, name):
        super().__init__(spec)
        self.name = name

    def run(self, inputs):
        if self.name == "crashing":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.name == "raising":
            raise RuntimeError("pages of C++\n(Unimplemented) no such operator")
        time.sleep({"sure": 0.05, "slow": 0.06}.get(self.name, 0.0))
        outputs = [np.copy(output) for output in super().run(inputs)]
        if self.name == "blind":
            outputs[0][:, 2:] += 5
        if self.name == "shifted":
            outputs = [np.roll(output, 3, axis=-1) for output in outputs]
        return outputs


def opened(spec, name, *, device, threads, precision, check, least_score):
    assert device == "cpu" and not check
    if name == "missing":
        raise BackendError("backend missing needs a package")
    return Engine(spec, "blind" if precision == "bf16" and name == "quick" else name)


def two(spec, *, device, precision):
    return {"fp32": ("sure", "slow", "quick"), "bf16": ("quick",)}[precision]


def bad(spec, *, device, precision):
    return ("sure", "crashing", "raising", "missing", "blind", "quick")


def shifted(spec, *, device, precision):
    return ("sure", "shifted")


def broken(spec, *, device, precision):
    return ("crashing", "quick")


def sleeping(seconds):
    time.sleep(seconds)


def pictures(spec, n=2):
    images = []
    for i in range(n):
        image = np.zeros((60, 80, 3), np.uint8)
        image[10 + i : 20 + i, 5:25] = (250, 150, 150)
        image[30:45, 40 + i : 70] = (140, 220, 140)
        images.append(prepare(spec, image))
    return images


def tried(spec=SPEC, known=two, images=None, **settings):
    images = pictures(spec) if images is None else images
    return try_engines(spec, images, device="cpu", threads=1, known=known, opener=opened, budget_s=60, **settings)


def by_name(choice):
    return {(row.engine, row.precision): row for row in choice.trials}


def test_an_engine_that_is_right_and_fast_wins():
    choice = tried()
    assert choice.engine == "quick" and choice.images == 2
    assert {row.verdict for row in choice.trials} == {"right"}
    rows = by_name(choice)
    assert rows["quick", "fp32"].compared == 4  # two objects in each of two images
    assert rows["quick", "fp32"].ms_per_image < rows["sure", "fp32"].ms_per_image
    assert Choice.from_json(choice.to_json()) == choice


def test_engines_that_crash_raise_are_missing_or_wrong_are_rows_with_reasons():
    choice = tried(known=bad)
    assert choice.engine == "quick"
    rows = {name: (row.verdict, row.reason) for (name, _), row in by_name(choice).items()}
    assert rows["crashing"] == ("failed", "its process crashed (SIGSEGV)") or "SIGSEGV" in rows["crashing"][1]
    assert rows["raising"] == ("failed", "RuntimeError: (Unimplemented) no such operator")
    assert rows["missing"] == ("failed", "backend missing needs a package")
    assert rows["blind"][0] == "wrong" and "object of class" in rows["blind"][1]


def test_only_named_engines_are_tried():
    assert set(by_name(tried(engines=["slow"]))) == {("sure", "fp32"), ("slow", "fp32")}


def test_nothing_compared_is_no_proof():
    images = [prepare(SPEC, np.zeros((40, 40, 3), np.uint8))]
    choice = tried(images=images, engines=["quick"])
    assert choice.engine == "sure"
    assert by_name(choice)["quick", "fp32"].verdict == "unproved"
    assert "nothing compared is no proof" in by_name(choice)["quick", "fp32"].reason


def test_where_nothing_exceeds_the_threshold_the_best_objects_are_compared():
    choice = tried(replace(SPEC, draw_threshold=1.0), known=bad, engines=["quick", "blind"])
    assert choice.threshold < 1.0 and choice.engine == "quick"
    assert by_name(choice)["quick", "fp32"].compared == 4
    assert by_name(choice)["blind", "fp32"].verdict == "wrong"


def test_label_maps_are_compared_pixel_by_pixel():
    choice = tried(SEMANTIC, known=shifted)
    assert choice.engine == "sure"
    assert "of the pixels have another class" in by_name(choice)["shifted", "fp32"].reason
    assert tried(SEMANTIC, engines=["quick"]).engine == "quick"


def test_little_work_ends_a_trial_after_the_plain_engine():
    choice = tried(images_left=10)
    assert choice.engine is None and "not worth a trial" in choice.reason
    assert len(choice.trials) == 1
    assert choice.ended_early and choice.serves(20) and not choice.serves(10**6) and not choice.serves(None)


def test_fewer_bits_are_measured_and_not_refused():
    choice = tried(precision="bf16")
    row = by_name(choice)["quick", "bf16"]
    assert choice.engine == "quick" and choice.precision == "bf16"
    assert row.verdict == "changed" and row.change.objects == 4 and row.change.mean_iou is not None
    assert by_name(choice)["sure", "bf16"].verdict == "refused"
    assert by_name(choice)["sure", "bf16"].reason == "sure does not compute in bf16 on cpu"


def test_a_plain_engine_that_fails_is_an_error():
    with pytest.raises(BackendError, match=r"the plain engine does not run it on cpu: .*SIGSEGV"):
        tried(known=broken)


def test_a_child_that_hangs_is_stopped():
    with pytest.raises(BackendError, match="took longer than 1 s and was stopped"):
        in_child(sleeping, 60, timeout_s=1)


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        tried(images=[])


# ---- differences that are understood, and those that are not


def objects(*rows):
    """(score, x0, y0, x1, y1[, class]) -> Instances whose masks fill their boxes."""
    boxes = np.asarray([row[1:5] for row in rows], np.float32).reshape(-1, 4)
    masks = []
    for x0, y0, x1, y1 in boxes.astype(int):
        mask = np.zeros(SIZE.hw, bool)
        mask[y0:y1, x0:x1] = True
        masks.append(rle.encode(mask))
    classes = [row[5] if len(row) > 5 else 0 for row in rows]
    return Instances(SIZE, boxes, np.asarray([row[0] for row in rows], np.float32), np.asarray(classes), tuple(masks))


def with_mask(found, i, cut):
    mask = rle.decode(found.masks[i])
    mask[:, cut] = False
    masks = (*found.masks[:i], rle.encode(mask), *found.masks[i + 1 :])
    return replace(found, masks=masks)


A, B, C = (0.9, 10, 10, 30, 30), (0.8, 50, 10, 80, 30), (0.7, 10, 50, 40, 90)
MANY = [(0.95 - 0.01 * i, 4 * i, 60, 4 * i + 4, 70) for i in range(24)]


def unexplained(mine, sure, moved=None, threshold=0.5):
    return agreement([mine], [sure], [sure if moved is None else moved], threshold=threshold).unexplained


def test_equal_results_agree_in_any_order():
    seen = agreement([objects(C, A, B)], [objects(A, B, C)], [objects(A, B, C)], threshold=0.5)
    assert seen.compared == 3 and seen.n_excused == 0 and not seen.unexplained


def test_one_object_that_is_lost_counts_and_is_named():
    (said,) = unexplained(objects(A, C), objects(A, B, C))
    assert said == "image 0: object of class 0, score 0.8000, at 50,10,80,30 is lost"


def test_one_object_that_is_new_counts():
    assert "is new" in unexplained(objects(A, B, C), objects(A, B))[0]


def test_an_object_found_twice_counts():
    assert "is new" in unexplained(objects(A, B, B), objects(A, B))[0]


def test_another_mask_in_the_same_box_counts():
    sure = objects(A, B)
    assert "has another mask" in unexplained(with_mask(sure, 1, slice(60, 80)), sure)[0]


def test_another_class_counts():
    assert len(unexplained(objects(A, (*B, 1)), objects(A, B))) == 2


def test_an_object_at_the_threshold_is_excused_and_one_above_is_not():
    assert not unexplained(objects(A), objects(A, (0.5005, 50, 10, 80, 30)))
    assert unexplained(objects(A), objects(A, (0.5020, 50, 10, 80, 30)))


def test_a_swap_at_the_end_of_a_full_list_is_excused_and_elsewhere_not():
    last = MANY[-1][0]
    end, other_end, middle = (last - 0.0002, 2, 2, 9, 9), (last - 0.0003, 20, 2, 29, 9), (0.9, 20, 2, 29, 9)
    assert not unexplained(objects(*MANY, other_end), objects(*MANY, end))
    assert unexplained(objects(*MANY), objects(*MANY, end))  # one list is shorter, so it was not full
    assert unexplained(objects(*MANY, middle), objects(*MANY, end))
    assert unexplained(objects(*MANY[:5], (0.8, 20, 2, 29, 9)), objects(*MANY[:5], (0.8, 2, 2, 9, 9)))  # too short to be full


def test_what_the_plain_engine_itself_loses_brings_or_changes_is_excused():
    assert not unexplained(objects(A, B), objects(A, B, C), moved=objects(A, B))
    assert not unexplained(objects(A, B, C), objects(A, B), moved=objects(A, B, C))
    sure = objects(A, B)
    other_mask = with_mask(sure, 1, slice(60, 80))
    assert not unexplained(other_mask, sure, moved=with_mask(sure, 1, slice(55, 80)))
    assert unexplained(objects(A, C), objects(A, B, C), moved=objects(A, B))  # C is unsure, B is not


def test_near_equals_that_suppress_each_other_are_excused_now_and_then():
    sure = objects(*MANY, (0.99, 10, 10, 40, 40))
    near = objects(*MANY, (0.9895, 12, 10, 42, 40))
    seen = agreement([near], [sure], [sure], threshold=0.5)
    assert not seen.unexplained and seen.excused["near-equal"] == 1
    assert unexplained(objects(*MANY, (0.985, 12, 10, 42, 40)), sure)  # another score
    assert unexplained(objects(*MANY, (0.9895, 12, 10, 42, 40, 1)), sure)  # another class
    assert unexplained(objects(*MANY, (0.9895, 25, 10, 55, 40)), sure)  # another place


def test_boxes_that_are_all_a_little_off_are_no_near_equals():
    sure = objects(A, B, C)
    off = objects(*((score, x0 + 2, y0, x1 + 2, y1) for score, x0, y0, x1, y1 in (A, B, C)))
    assert "nearly, but not quite" in unexplained(off, sure)[0]


def test_scores_that_are_all_small_must_be_equal_in_proportion():
    small = [(0.02 * score, *box) for score, *box in (A, B, C)]
    other = [(0.98 * small[0][0], *small[0][1:]), *small[1:]]
    assert unexplained(objects(*other), objects(*small), threshold=0.0)


def test_pixels_of_which_the_plain_engine_is_unsure_are_excused():
    sure = np.zeros((100, 100), np.uint8)
    mine, moved = sure.copy(), sure.copy()
    mine[:3, :3] = 1
    assert agreement([SemanticMap(mine)], [SemanticMap(sure)], [SemanticMap(sure)], threshold=0.0).unexplained
    moved[:3, :3] = 2
    assert not agreement([SemanticMap(mine)], [SemanticMap(sure)], [SemanticMap(moved)], threshold=0.0).unexplained


def test_a_change_of_precision_is_said_in_objects_and_masks():
    sure = objects(A, B, C)
    seen = change([objects((0.85, 10, 10, 30, 28), B, (0.6, 80, 80, 95, 95))], [sure])
    assert (seen.objects, seen.lost, seen.new) == (3, 1, 1)
    assert seen.mean_iou == pytest.approx((1 + 0.9) / 2)
    assert seen.said() == "of 3 objects 1 lost, 1 new, masks alike by 0.950 (IoU)"


# ---- real engines


def test_paddles_engines_are_tried_on_a_real_model_and_a_job_opens_the_one_it_chose(model_dirs, pictures):
    spec = load_model_dir(model_dirs["instance", "lean"])
    images = [prepare(spec, picture) for picture in pictures[:2]]
    choice = try_engines(spec, images, device="cpu", threads=1, engines=["paddle-onednn"], threshold=0.3, budget_s=30)
    rows = by_name(choice)
    assert set(rows) == {("paddle", "fp32"), ("paddle-onednn", "fp32")}
    assert rows["paddle", "fp32"].compared > 0 and rows["paddle-onednn", "fp32"].verdict == "right", rows
    settings = SegmentSettings("a", "b", spec.path)
    here, device = machine_kind("cpu").key, Device("cpu")
    for versions_then in (versions(), {"paddlepaddle": "another"}):
        chosen = {here: Chosen("paddle", "fp32", versions_then)}
        assert open_chosen(spec, device, settings, chosen, threads=1).backend_name == "paddle"
    elsewhere = {"another machine": Chosen("paddle", "fp32", {})}
    assert open_chosen(spec, device, settings, elsewhere, threads=1).backend_name == "paddle-onednn"


def test_a_chosen_engine_that_does_not_open_is_replaced_with_a_line_in_the_log(caplog):
    chosen = {machine_kind("cpu").key: Chosen("openvino", "fp32", {})}  # which runs no fake model
    settings = SegmentSettings("a", "b", SPEC.path)
    assert open_chosen(SPEC, Device("cpu"), settings, chosen, threads=1).backend_name == "fake"
    assert "engine openvino was chosen for this machine and does not open" in caplog.text


# ---- remembering


def test_a_choice_is_remembered_by_what_it_depends_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSEG_CACHE", str(tmp_path))
    here, common = machine_kind("cpu"), {"device": "cpu", "precision": "fp32", "threshold": None, "most": 8}
    path = choice_file(SPEC, here, threads=1, **common)
    others = {
        choice_file(SPEC, here, threads=2, **common),
        choice_file(SPEC, MachineKind("another", "0"), threads=1, **common),
        choice_file(SEMANTIC, here, threads=1, **common),
    }
    assert path not in others and len(others) == 3
    assert remembered(path) is None
    choice = Choice("paddle", "fp32", 1, ())
    remember(path, choice)
    assert remembered(path) == choice
    path.write_text("{")
    assert remembered(path) is None


def test_a_cache_that_cannot_be_written_to_costs_a_line_of_the_log(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "choice.json", Choice("paddle", "fp32", 1, ()))
    assert "is not remembered" in caplog.text
