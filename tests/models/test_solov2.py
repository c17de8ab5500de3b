"""SOLOv2: equal to the reference numbers, right for any batch, trainable, and exportable in both flavours."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg import rle
from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.metrics.mask_ap import mask_ap
from rayseg.models.instance.solov2 import SOLOv2, build_solov2
from rayseg.models.instance.solov2_head import GRIDS
from rayseg.models.instance.solov2_select import MatrixNms, peaks_of, select
from rayseg.models.instance.solov2_targets import assign_cells, masks_at_quarter
from rayseg.models.weights import load_weights
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.export import export_model
from rayseg.predict.families import solov2 as family
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import Prepared
from rayseg.predict.raw import Raw
from rayseg.results import Instances

NAME = "SOLOv2"
HW = (64, 96)
LABELS = ("round", "square", "long")
# The module that comes with the reference numbers leaves files to the garbage collector.
reads_reference = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def filled(reference) -> SOLOv2:
    """The published model with the weights of the reference numbers, which make 5,700 candidates."""
    model = build_solov2(nms=MatrixNms(candidates=8000))
    reference.Oracle(NAME).fill_layer(model)
    return model


@pytest.fixture(scope="module")
def lively() -> SOLOv2:
    """A narrow network that finds dozens of objects in anything."""
    return narrow()


def narrow(num_classes: int = len(LABELS), *, lively: bool = True, **nms) -> SOLOv2:
    paddle.seed(0)
    model = build_solov2(num_classes, head_channels=32, nms=MatrixNms(**nms))
    if lively:
        random = np.random.RandomState(0)
        for layer, spread in ((model.solov2_head.solo_cate, 0.1), (model.solov2_head.solo_kernel, 0.15)):
            layer.weight.set_value(random.normal(0, spread, layer.weight.shape).astype("float32"))
    model.eval()
    return model


def pictures(images: int, hw: tuple[int, int] = HW) -> np.ndarray:
    """Smooth noise, normalised, channels first."""
    coarse = [np.random.RandomState(i).normal(size=(5, 7, 3)) for i in range(images)]
    return np.stack([2 * cv2.resize(c, hw[::-1]).transpose(2, 0, 1) for c in coarse]).astype("float32")


def inputs_of(picture: np.ndarray, resized: Size, original: Size) -> dict[str, np.ndarray]:
    return {
        "image": picture[None],
        "im_shape": np.asarray([resized.hw], "float32"),
        "scale_factor": np.asarray([[resized.height / original.height, resized.width / original.width]], "float32"),
    }


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(value) for name, value in arrays.items()}


def finished(flavour: str, outputs, original: Size, resized: Size, network: Size) -> Instances:
    spec = replace(fake_spec(labels=LABELS), family="solov2", flavour=flavour)
    kind = family.LEAN if flavour == "lean" else family.PADDLEX
    image = Prepared(np.zeros((1, 1, 3), np.uint8), original, resized, network)
    (arrays,) = kind.split(spec, [np.asarray(o) for o in outputs], [image], 0.0)
    return kind.finish(spec, Raw(arrays, original, resized, network), 0.0)


def targets_of(objects: list[list[tuple[int, np.ndarray]]], hw: tuple[int, int] = HW) -> dict[str, paddle.Tensor]:
    """Targets of one list of (class, mask) an image, padded to the longest."""
    images, most = len(objects), max(map(len, objects))
    gt = {
        "gt_bbox": np.zeros((images, most, 4), "float32"),
        "gt_class": np.zeros((images, most, 1), "int64"),
        "pad_gt_mask": np.zeros((images, most, 1), "float32"),
        "gt_segm": np.zeros((images, most, *hw), "uint8"),
    }
    for i, found in enumerate(objects):
        for j, (class_id, mask) in enumerate(found):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            gt["gt_bbox"][i, j] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            gt["gt_class"][i, j], gt["pad_gt_mask"][i, j], gt["gt_segm"][i, j] = class_id, 1, mask
    return tensors(gt)


def rectangle(x0: int, y0: int, x1: int, y1: int, hw: tuple[int, int] = HW) -> np.ndarray:
    mask = np.zeros(hw, "uint8")
    mask[y0:y1, x0:x1] = 1
    return mask


# ---- the reference numbers


def test_names_order_and_shapes_are_those_of_published_weights(shared_dir):
    stored = json.loads((shared_dir / "zoo" / "keys" / f"{NAME}.json").read_text())
    state = build_solov2().state_dict()
    assert [[k, list(v.shape), str(v.dtype).removeprefix("paddle.")] for k, v in state.items()] == stored["keys"]
    for first, second in stored["shared_tensors"]:
        assert state[first] is state[second]
    not_decayed = {k for k, v in state.items() if getattr(v, "regularizer", None) is not None}
    wanted = {k for k, attrs in stored["param_attrs"].items() if "regularizer" in attrs}
    seconds = {second for first, second in stored["shared_tensors"] if first in wanted}
    assert not_decayed == wanted | seconds


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_file_needs_only_one_of_two_names_of_a_tensor(shared_dir, tmp_path, left_out):
    pairs = json.loads((shared_dir / "zoo" / "keys" / f"{NAME}.json").read_text())["shared_tensors"]
    saved, model = narrow(), narrow(lively=False)
    unwanted = {pair[left_out] for pair in pairs}
    arrays = {name: value.numpy() for name, value in saved.state_dict().items() if name not in unwanted}
    (tmp_path / "half.pdparams").write_bytes(pickle.dumps(arrays))
    load_weights(model, tmp_path / "half.pdparams")
    assert all((value == saved.state_dict()[name]).all() for name, value in model.state_dict().items())


def test_a_copy_has_one_tensor_under_two_names_as_well():
    state = copy.deepcopy(narrow(lively=False)).state_dict()
    assert state["solov2_head.bbox_head.solo_cate.weight"] is state["solov2_head.solo_cate.weight"]
    assert state["mask_head.mask_feat_head.conv_pred.0.conv.weight"] is state["mask_head.conv_pred.conv.weight"]


@pytest.mark.slow
@reads_reference
def test_every_layer_and_output_equals_the_reference(reference, filled):
    oracle = reference.Oracle(NAME)
    oracle.fill_layer(filled)
    filled.eval()
    trace = oracle.tracer(filled)
    logits = []
    hook = filled.solov2_head.register_forward_post_hook(lambda layer, given, out: logits.extend(out[0]))
    with paddle.no_grad():
        found = filled(oracle.inputs_as_tensors())
    hook.remove()
    # The reference picks the peaks inside the head; its activations and resizings are layers.
    errors = {name: error for name, error, _ in trace.rows if not name.startswith("solov2_head#0/0/")}
    assert max(errors.values()) < 1e-4
    assert all("act#" in name or ".upsample" in name for name in trace.want if name not in errors and "#0/0/" not in name)
    for level, x in enumerate(logits):
        peaks = peaks_of(x).reshape([1, GRIDS[level], GRIDS[level], 80])
        assert oracle.check(f"feat/solov2_head#0/0/{level}", peaks, rtol=1e-4, atol=1e-5)
    assert oracle.check("out/cate_label", found["cate_label"], rtol=0, atol=0)
    assert oracle.check("out/cate_score", found["cate_score"], rtol=1e-4, atol=0)
    assert int(found["bbox_num"]) == 100 and found["bbox_num"].shape == []
    masks = found["segm"].numpy()
    assert masks.shape == (100, 251, 328) and masks.dtype == np.uint8
    assert np.abs(masks.sum((1, 2)) - oracle.z["out/segm_pixel_sums"]).max() <= 4
    assert (masks[:8].ravel() != np.unpackbits(oracle.z["out/segm_bits_first8"])).sum() <= 8


def stored_truth(shared_dir: Path) -> tuple[np.lib.npyio.NpzFile, list[list[tuple[int, np.ndarray]]], np.ndarray]:
    stored = np.load(shared_dir / "zoo" / "loss" / f"{NAME}.npz")
    objects = []
    for i in range(2):
        shape = stored[f"gt/mask_shape{i}"]
        masks = np.unpackbits(stored[f"gt/mask_bits{i}"], count=int(np.prod(shape))).reshape(shape)
        objects.append(list(zip(stored[f"gt/class{i}"][:, 0].tolist(), masks, strict=True)))
    boxes = np.zeros((2, 3, 4), "float32")
    for i in range(2):
        boxes[i, : len(objects[i])] = stored[f"gt/boxes{i}"]
    return stored, objects, boxes


def test_targets_equal_the_reference(shared_dir):
    stored, objects, boxes = stored_truth(shared_dir)
    image = Size(*stored["in/hw"].tolist())
    for i, found in enumerate(objects):
        classes, masks = np.asarray([c for c, _ in found]), np.stack([m for _, m in found])
        positives = assign_cells(boxes[i, : len(found)], classes, masks, image=image, grids=GRIDS, num_classes=80)
        small = masks_at_quarter(masks, Size(image.height // 4, image.width // 4))
        labels = np.concatenate([stored[f"tgt/cate_label{level}"][i] for level in range(5)])
        np.testing.assert_array_equal(np.where(positives.labels == 80, 0, positives.labels + 1), labels)
        assert len(np.unique(positives.cells)) == stored["tgt/fg_num"][i]
        start = 0
        for level, side in enumerate(GRIDS):
            here = (positives.cells >= start) & (positives.cells < start + side * side)
            cells, count = positives.cells[here] - start + i * side * side, int(here.sum())
            shape = stored[f"tgt/ins_label{level}_shape"]
            wanted = np.unpackbits(stored[f"tgt/ins_label{level}_bits"], count=int(np.prod(shape))).reshape(shape)[i]
            np.testing.assert_array_equal(cells, stored[f"tgt/grid_order{level}"][i, :count])
            np.testing.assert_array_equal(small[positives.objects[here]], wanted[:count])
            assert not wanted[count:].any(), "what is left was filled up"
            start += side * side


@pytest.mark.slow
@reads_reference
def test_losses_and_gradients_equal_the_reference(reference, shared_dir, filled):
    stored, objects, boxes = stored_truth(shared_dir)
    wanted = json.loads((shared_dir / "zoo" / "loss" / f"{NAME}.json").read_text())["losses"]["loss"]
    hw = tuple(stored["in/hw"].tolist())
    images = [reference.normalize(reference.image(*hw, int(seed)), "imagenet") for seed in stored["in/seeds"]]
    targets = {**targets_of(objects, hw), "gt_bbox": paddle.to_tensor(boxes)}
    reference.Oracle(NAME).fill_layer(filled)
    filled.train()
    filled.clear_gradients()
    terms = filled.loss({"image": paddle.to_tensor(np.concatenate(images))}, targets)
    terms["loss"].backward()

    assert {name: float(value) for name, value in terms.items()} == pytest.approx(wanted, rel=1e-4)
    parameters = dict(filled.named_parameters())
    names = json.loads(str(stored["grad/loss/names"]))
    assert {n for n, p in parameters.items() if p.grad is not None} == set(names)
    found = np.array([np.linalg.norm(parameters[n].grad.numpy().astype("float64")) for n in names])
    # An input that moves by 1e-6 moves single ones by 1.1e-4, the median by 1.2e-6.
    error = np.abs(found - stored["grad/loss/l2"]) / stored["grad/loss/l2"]
    assert error.max() < 1e-3 and np.median(error) < 1e-5


# ---- selection


def slow_select(peaks, kernels, features, smallest, nms: MatrixNms) -> list[tuple[int, float, np.ndarray]]:
    """The objects of one image, one candidate after the other."""
    found = []
    for cell, label in np.argwhere(peaks > nms.score_threshold):
        soft = 1 / (1 + np.exp(-np.tensordot(kernels[cell], features, axes=1)))
        if (soft > 0.5).sum() > smallest[cell]:
            found.append((int(label), float(peaks[cell, label] * soft[soft > 0.5].mean()), soft))
    found = sorted(found, key=lambda row: -row[1])[: nms.before]

    def iou(i: int, j: int) -> float:
        a, b = found[i][2] > 0.5, found[j][2] > 0.5
        return (a & b).sum() / (a | b).sum() if found[i][0] == found[j][0] else 0.0

    lowered = []
    for j, (label, score, soft) in enumerate(found):
        decay = 1.0
        for i in range(j):
            worst = max((iou(k, i) for k in range(i)), default=0.0)
            decay = min(decay, np.exp(-nms.sigma * iou(i, j) ** 2) / np.exp(-nms.sigma * worst**2))
        lowered.append((label, score * decay, soft))
    return sorted([row for row in lowered if row[1] >= nms.final_threshold], key=lambda row: -row[1])[: nms.keep]


@pytest.mark.parametrize("seed", range(6))
def test_selection_equals_the_slow_way_for_every_image_of_a_batch(seed):
    random = np.random.default_rng(seed)
    images, cells, classes = 3, 30, 4
    peaks = random.uniform(size=(images, cells, classes)) ** random.integers(2, 12)
    peaks[1] *= seed % 2  # an image without candidates
    kernels, features = random.normal(size=(images, cells, 5)), random.normal(size=(images, 5, 6, 7))
    kernels[:, ::2] = kernels[:, :1] + 0.2 * random.normal(size=kernels[:, ::2].shape)  # so that many overlap
    smallest = random.integers(0, 25, cells)
    nms = MatrixNms(candidates=cells * classes, before=20, keep=8)
    arrays = [a.astype("float32") for a in (peaks, kernels, features, smallest)]
    found = select(*(paddle.to_tensor(a) for a in arrays), nms)
    count = found.count.numpy()
    assert count.dtype == np.int32 and count.sum() == len(found.scores)
    start = 0
    for i in range(images):
        wanted = slow_select(arrays[0][i], arrays[1][i], arrays[2][i], arrays[3], nms)
        rows = slice(start, start + count[i])
        assert found.classes.numpy()[rows].tolist() == [row[0] for row in wanted]
        np.testing.assert_allclose(found.scores.numpy()[rows], [row[1] for row in wanted], rtol=1e-4)
        for mask, (_, _, soft) in zip(found.masks.numpy()[rows], wanted, strict=True):
            np.testing.assert_allclose(mask, soft, atol=1e-5)
        start += count[i]


def test_a_peak_is_a_cell_that_none_before_it_exceeds():
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 3, 5, 5)).astype("float32")
    found = peaks_of(paddle.to_tensor(logits)).numpy().reshape(2, 5, 5, 3).transpose(0, 3, 1, 2)
    scores = 1 / (1 + np.exp(-logits))
    for y in range(5):
        for x in range(5):
            around = scores[:, :, max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1].max((2, 3))
            wanted = np.where(around == scores[:, :, y, x], scores[:, :, y, x], 0)
            np.testing.assert_allclose(found[:, :, y, x], wanted, rtol=1e-5)


# ---- inference


def test_an_image_has_the_same_objects_alone_and_in_a_batch(lively):
    images = pictures(3)
    rows, count, masks = (t.numpy() for t in lively.forward_lean(paddle.to_tensor(images)))
    assert (count > 5).all() and count.sum() == len(rows) == len(masks) and masks.shape[1:] == (16, 24)
    start = 0
    for i in range(3):
        alone = [t.numpy() for t in lively.forward_lean(paddle.to_tensor(images[i : i + 1]))]
        part = slice(start, start + count[i])
        start += count[i]
        assert alone[1] == count[i]
        np.testing.assert_allclose(rows[part], alone[0], atol=1e-5)
        np.testing.assert_allclose(masks[part], alone[2], atol=1e-5)


@pytest.mark.parametrize(
    ("resized", "original"),
    [(Size(64, 96), Size(64, 96)), (Size(50, 90), Size(131, 236)), (Size(61, 70), Size(20, 23)), (Size(6, 96), Size(13, 200))],
)
def test_both_flavours_find_the_same_objects(lively, resized, original):
    picture, network = pictures(1)[0], Size(*HW)
    with paddle.no_grad():
        full = lively(tensors(inputs_of(picture, resized, original)))
        lean = lively.forward_lean(paddle.to_tensor(picture[None]))
    assert full["segm"].shape[1:] == list(original.hw)
    ours = finished("lean", lean, original, resized, network)
    theirs = finished("paddlex", [full[name] for name in sorted(full)], original, resized, network)
    assert len(ours) == len(theirs) > 5
    np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
    for mine, other in zip(ours.masks, theirs.masks, strict=True):
        assert (rle.decode(mine) != rle.decode(other)).sum() <= 1


def test_the_width_of_masks_follows_the_images_own_factor(lively):
    """A panorama of 100 x 1000: its height is rounded to 6 of 6.4 pixels, and 64 / (6 / 100) would be 1067 columns."""
    resized, original = Size(6, 64), Size(100, 1000)
    found = lively(tensors(inputs_of(pictures(1)[0], resized, original)))
    assert found["segm"].shape[1:] == [100, 1000]


def test_nothing_found_is_a_made_up_object_in_full_and_none_in_lean():
    model = narrow(final_threshold=2.0)
    full = model(tensors(inputs_of(pictures(1)[0], Size(*HW), Size(30, 40))))
    assert {k: (v.shape, str(v.dtype).removeprefix("paddle.")) for k, v in full.items()} == {
        "bbox_num": ([], "int64"),
        "cate_label": ([1], "int64"),
        "cate_score": ([1], "float32"),
        "segm": ([1, 30, 40], "uint8"),
    }
    assert int(full["bbox_num"]) == 1 and float(full["cate_score"].sum()) == float(full["segm"].sum()) == 0
    rows, count, masks = model.forward_lean(paddle.to_tensor(pictures(2)))
    assert rows.shape == [0, 2] and count.tolist() == [0, 0] and masks.shape == [0, 16, 24]


def test_a_fresh_network_finds_nothing():
    rows, _, _ = narrow(lively=False).forward_lean(paddle.to_tensor(pictures(1)))
    assert rows.shape == [0, 2]


def test_more_candidates_than_allowed_lose_the_weakest():
    few, many = narrow(candidates=100, keep=100), narrow(keep=100)
    image = paddle.to_tensor(pictures(1))
    (best, _, _), (rows, _, _) = few.forward_lean(image), many.forward_lean(image)
    assert 0 < len(best) <= 100
    np.testing.assert_allclose(best.numpy()[0], rows.numpy()[0], rtol=1e-5)


def test_full_masks_of_a_batch_are_refused(lively):
    inputs = {"image": pictures(2), "im_shape": np.ones((2, 2), "float32"), "scale_factor": np.ones((2, 2), "float32")}
    with pytest.raises(ModelError, match=r"one image at a time, got a batch of 2.*forward_lean"):
        lively(tensors(inputs))


def test_a_network_without_classes_is_refused():
    with pytest.raises(ModelError, match="num_classes=0"):
        build_solov2(0)


# ---- export


@pytest.fixture(scope="module")
def programs(lively, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("solov2")
    for name, (layer, spec) in {"lean": lively.lean_program(), "full": lively.paddlex_program()}.items():
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(folder / name))
    return folder


def load(prefix: Path, *, onednn: bool):
    """A function from named arrays to the outputs of an exported program in Paddle Inference."""
    from paddle import inference

    config = inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_gpu()
    if onednn:
        config.enable_mkldnn()
        config.delete_pass("onednn_placement_pass")  # with it, a program that resizes cannot run
    else:
        config.disable_mkldnn()
    config.set_cpu_math_library_num_threads(1)
    config.disable_glog_info()
    predictor = inference.create_predictor(config)

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert predictor.get_input_names() == sorted(inputs)
        for name, value in inputs.items():
            predictor.get_input_handle(name).copy_from_cpu(value)
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run


@pytest.mark.parametrize("onednn", [False, True])
def test_exported_programs_take_any_size_and_equal_the_network(lively, programs, onednn):
    lean = load(programs / "lean", onednn=onednn)
    for images in (pictures(3), pictures(1, (96, 32)), np.zeros((2, 3, 32, 32), "float32")):
        wanted = [t.numpy() for t in lively.forward_lean(paddle.to_tensor(images))]
        found = lean({"image": images})
        assert [(a.dtype, a.shape) for a in found] == [(b.dtype, b.shape) for b in wanted]
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)

    full = load(programs / "full", onednn=onednn)
    for resized, original in ((Size(64, 96), Size(30, 45)), (Size(50, 64), Size(120, 155))):
        inputs = inputs_of(pictures(1)[0], resized, original)
        wanted = lively(tensors(inputs))
        found = full(inputs)
        for name, array in zip(sorted(wanted), found, strict=True):
            assert (array.dtype, array.shape) == (wanted[name].numpy().dtype, tuple(wanted[name].shape)), name
        assert found[0] == wanted["bbox_num"].numpy() and found[1].tolist() == wanted["cate_label"].tolist()
        np.testing.assert_allclose(found[2], wanted["cate_score"].numpy(), atol=1e-4)
        assert (found[3] != wanted["segm"].numpy()).mean() < 1e-3


def test_exported_programs_survive_an_image_without_objects(tmp_path):
    model = narrow(final_threshold=2.0)
    for name, (layer, spec) in {"lean": model.lean_program(), "full": model.paddlex_program()}.items():
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(tmp_path / name))
    rows, count, masks = load(tmp_path / "lean", onednn=False)({"image": pictures(2)})
    assert (rows.shape, count.tolist(), masks.shape) == ((0, 2), [0, 0], (0, 16, 24))
    count, labels, scores, masks = load(tmp_path / "full", onednn=False)(inputs_of(pictures(1)[0], Size(*HW), Size(30, 40)))
    assert (count.tolist(), labels.tolist(), scores.tolist()) == (1, [0], [0])
    assert masks.shape == (1, 30, 40) and not masks.any()


def test_exported_directories_of_both_flavours_say_the_same_of_any_image(tmp_path):
    model = narrow()
    model.preprocess = replace(model.preprocess, resize=Size(64, 96))
    random = np.random.default_rng(5)
    sizes = [(80, 120), (33, 265), (101, 64)]
    images = [cv2.resize(random.integers(0, 256, (7, 7, 3), dtype=np.uint8), hw[::-1]) for hw in sizes]
    found = {}
    for flavour in ("lean", "paddlex"):
        folder = export_model(model, tmp_path / flavour, name="my-solo", labels=LABELS, flavour=flavour)
        spec = load_model_dir(folder)
        assert (spec.family, spec.flavour, spec.any_batch) == ("solov2", flavour, flavour == "lean")
        found[flavour] = Predictor(spec, "paddle", threads=1).predict(images, threshold=0.0)
    for ours, theirs, hw in zip(found["lean"], found["paddlex"], sizes, strict=True):
        assert ours.size.hw == theirs.size.hw == hw and len(ours) == len(theirs) > 3
        np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
        np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        for mine, other in zip(ours.masks, theirs.masks, strict=True):
            assert (rle.decode(mine) != rle.decode(other)).sum() <= 1


# ---- training


def gradients(model: SOLOv2, targets: dict[str, paddle.Tensor], images: int = 2):
    model.train()
    model.clear_gradients()
    terms = model.loss({"image": paddle.to_tensor(pictures(images))}, targets)
    terms["loss"].backward()
    return (
        {name: float(value) for name, value in terms.items()},
        {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None},
    )


CROWD = [
    (k % 3, rectangle(x, y, x + 4, y + 4)) for k, (x, y) in enumerate((x, y) for x in range(0, 92, 5) for y in range(0, 60, 4))
]


@pytest.mark.parametrize(
    "objects",
    [
        [[], []],
        [[(0, rectangle(10, 10, 50, 40))], []],
        [[(2, rectangle(0, 0, 1, 1)), (1, rectangle(95, 63, 96, 64))], [(0, rectangle(7, 9, 8, 10))]],
        [CROWD[:100] * 3, [(1, rectangle(0, 0, 96, 64))]],
    ],
    ids=["nothing", "one empty", "single pixels", "300 objects"],
)
def test_losses_and_gradients_are_finite_and_reach_every_weight_that_learns(objects):
    model = narrow(lively=False)
    terms, found = gradients(model, targets_of(objects))
    assert all(np.isfinite(value) for value in terms.values())
    assert terms["loss"] == pytest.approx(terms["loss_ins"] + terms["loss_cate"])
    assert found.keys() == {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert all(np.isfinite(g).all() for g in found.values())
    assert (terms["loss_ins"] > 0) == any(mask.sum() > 1 for image in objects for _, mask in image)


def test_two_seeded_runs_have_the_same_loss_and_gradients():
    targets = targets_of([[(0, rectangle(10, 10, 50, 40))], [(1, rectangle(3, 20, 60, 60))]])
    (first, once), (second, again) = (gradients(narrow(lively=False), targets) for _ in range(2))
    assert first == second
    assert all((once[name] == again[name]).all() for name in once)


def test_masks_at_a_quarter_of_the_size_give_the_same_loss():
    objects = [[(0, rectangle(8, 12, 52, 40)), (1, rectangle(40, 4, 96, 60))], [(2, rectangle(4, 20, 60, 64))]]
    targets = targets_of(objects)
    quarter = {**targets, "gt_segm": targets["gt_segm"][:, :, ::4, ::4].astype("float32")}
    model = narrow(lively=False)
    whole, _ = gradients(model, targets)
    assert gradients(model, quarter)[0] == pytest.approx(whole, rel=1e-6)
    wrong = {**targets, "gt_segm": targets["gt_segm"][:, :, ::2, ::2]}
    with pytest.raises(ModelError, match=r"gt_segm is \(32, 48\).*\(64, 96\).*\(16, 24\)"):
        gradients(model, wrong)


def test_padding_among_the_targets_changes_nothing():
    objects = [[(0, rectangle(8, 12, 52, 40))], [(1, rectangle(4, 20, 60, 64))]]
    model = narrow(lively=False)
    alone, _ = gradients(model, targets_of(objects))
    padded = {name: paddle.concat([paddle.ones_like(v), v], axis=1) for name, v in targets_of(objects).items()}
    padded["pad_gt_mask"][:, 0] = 0
    assert gradients(model, padded)[0] == alone


def test_an_object_owns_the_cells_around_its_centre_in_the_grids_of_its_size():
    mask = rectangle(0, 0, 64, 64, hw=(128, 128))
    box = np.asarray([[0, 0, 64, 64]], "float32")
    found = assign_cells(box, np.asarray([5]), mask[None], image=Size(128, 128), grids=GRIDS, num_classes=80)
    first, second = 40 * 40, 40 * 40 + 36 * 36
    assert len(found.cells) == len(set(found.cells.tolist())) and (found.cells < second).all()
    assert (found.labels != 80).sum() == len(found.cells) and set(found.labels[found.cells]) == {5}
    # The centre of mass is pixel 31.5: cell 9 of 40, which are 3.2 pixels wide; the middle fifth reaches further.
    assert sorted(found.cells[found.cells < first]) == [y * 40 + x for y in (8, 9, 10) for x in (8, 9, 10)]


@pytest.mark.zoo
@pytest.mark.slow
def test_two_images_can_be_learnt_by_heart():
    """The whole network, but for a head of 32 channels instead of 512, from nothing."""
    hw = (96, 128)
    objects = [
        [(0, rectangle(8, 8, 48, 60, hw)), (1, ellipse(60, 12, 120, 52, hw)), (0, rectangle(28, 64, 92, 92, hw))],
        [(1, ellipse(4, 16, 44, 88, hw)), (0, rectangle(56, 8, 116, 44, hw)), (1, ellipse(64, 52, 124, 88, hw))],
    ]
    random, colours = np.random.RandomState(0), np.asarray([[1.5, -1, 0.5], [-1, 1.2, 1]])
    images = random.normal(0, 0.1, (2, 3, *hw)).astype("float32")
    for image, found in zip(images, objects, strict=True):
        for class_id, mask in found:
            image[:, mask > 0] += (colours[class_id] * random.uniform(0.7, 1.2))[:, None]
    x, targets = paddle.to_tensor(images), targets_of(objects, hw)

    model = narrow(num_classes=2, lively=False)
    settle_frozen_norms(model, x)
    model.train()
    clip = nn.ClipGradByGlobalNorm(10.0)
    learning = [p for p in model.parameters() if not p.stop_gradient]
    optimizer = paddle.optimizer.AdamW(3e-4, parameters=learning, grad_clip=clip)
    losses = []
    for _ in range(50):
        terms = model.loss({"image": x}, targets)
        terms["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(terms["loss"]))
    assert losses[-1] < losses[0] / 5

    model.eval()
    for i, found in enumerate(objects):
        with paddle.no_grad():
            lean = model.forward_lean(x[i : i + 1])
        assert average_precision(finished("lean", lean, Size(*hw), Size(*hw), Size(*hw)), found) > 0.9


def average_precision(found: Instances, objects: list[tuple[int, np.ndarray]]) -> float:
    """Mask AP on one image."""
    truth = {
        "images": [{"id": 0, "height": found.size.height, "width": found.size.width}],
        "categories": [{"id": 0}, {"id": 1}],
        "annotations": [
            {"id": k, "image_id": 0, "category_id": class_id, "segmentation": rle.encode(mask).to_coco()}
            for k, (class_id, mask) in enumerate(objects)
        ],
    }
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.masks, strict=True)
    detections = [
        {"image_id": 0, "category_id": class_id, "score": score, "segmentation": mask.to_coco()} for class_id, score, mask in rows
    ]
    return mask_ap(truth, detections).ap


def ellipse(x0: int, y0: int, x1: int, y1: int, hw: tuple[int, int]) -> np.ndarray:
    ys, xs = np.mgrid[: hw[0], : hw[1]] + 0.5
    across, down = (2 * xs - x0 - x1) / (x1 - x0), (2 * ys - y0 - y1) / (y1 - y0)
    return (across**2 + down**2 < 1).astype("uint8")


def settle_frozen_norms(model: SOLOv2, x: paddle.Tensor) -> None:
    """Give the backbone the statistics that pretrained weights would have brought."""
    norms = [layer for layer in model.backbone.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    for layer in norms:
        layer._use_global_stats, layer._momentum = False, 0.0
    model.backbone.train()
    with paddle.no_grad():
        model.backbone(x)
    for layer in norms:
        layer._use_global_stats = True
