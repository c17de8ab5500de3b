"""PP-YOLOE_seg: equal to the reference numbers, right at any size, trainable, and exportable in both flavours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.blocks.rep_vgg import RepVgg, deployed_copy
from rayseg.models.instance.ppyoloe_seg import (
    Nms,
    PPYOLOESeg,
    build_ppyoloe_seg,
    build_ppyoloe_seg_s,
)

NAME = "PP-YOLOE_seg-S"
SIDE = 96
# The module that comes with the reference numbers leaves files to the garbage collector.
reads_reference = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def filled(reference) -> PPYOLOESeg:
    """The S model with the weights of the reference numbers."""
    model = build_ppyoloe_seg_s(80, truncate_size=True)
    reference.Oracle(NAME).fill_layer(model)
    return model


def tiny(num_classes: int = 3, *, lively: bool = True, score_threshold: float = 0.005, **options) -> PPYOLOESeg:
    """A small model; lively ones find many objects in noise."""
    paddle.seed(0)
    model = build_ppyoloe_seg(
        num_classes,
        width_mult=0.125,
        depth_mult=0.33,
        input_size=SIDE,
        nms=Nms(score_threshold=score_threshold),
        **options,
    )
    random = np.random.RandomState(0)
    if lively:
        for layer in model.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._mean.set_value(random.normal(0, 0.05, layer._mean.shape).astype("float32"))
                layer._variance.set_value(random.uniform(0.5, 1.5, layer._variance.shape).astype("float32"))
            if isinstance(layer, RepVgg) and layer.use_alpha:
                layer.alpha.set_value(random.uniform(0.5, 1.5, [1]).astype("float32"))
        for layer in [*model.yolo_head.pred_cls, *model.yolo_head.pred_reg, *model.yolo_head.pred_ins]:
            layer.weight.set_value(random.normal(0, 0.05, layer.weight.shape).astype("float32"))
    model.eval()
    return model


def noise(images: int) -> np.ndarray:
    return np.random.RandomState(7).uniform(size=(images, 3, SIDE, SIDE)).astype("float32")


def one_image(image: np.ndarray, *, original_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    scale = [SIDE / original_hw[0], SIDE / original_hw[1]]
    return {
        "image": image[:1],
        "im_shape": np.array([[SIDE, SIDE]], "float32"),
        "scale_factor": np.array([scale], "float32"),
    }


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(value) for name, value in arrays.items()}


def rectangles(boxes: list[list[tuple[int, int, int, int]]], *, objects: int, side: int = SIDE) -> dict[str, paddle.Tensor]:
    """Targets of rectangular objects of class 0, padded to `objects`."""
    images = len(boxes)
    gt = {
        "gt_bbox": np.zeros((images, objects, 4), "float32"),
        "gt_class": np.zeros((images, objects, 1), "int64"),
        "pad_gt_mask": np.zeros((images, objects, 1), "float32"),
        "gt_segm": np.zeros((images, objects, side, side), "uint8"),
    }
    for i, found in enumerate(boxes):
        for j, (x0, y0, x1, y1) in enumerate(found):
            gt["gt_bbox"][i, j] = x0, y0, x1, y1
            gt["pad_gt_mask"][i, j] = 1
            gt["gt_segm"][i, j, y0:y1, x0:x1] = 1
    return tensors(gt)


# ---- the reference numbers


def test_names_order_and_shapes_are_those_of_published_weights(shared_dir):
    wanted = json.loads((shared_dir / "zoo" / "keys" / f"{NAME}.json").read_text())["keys"]
    found = [[k, list(v.shape), str(v.dtype).removeprefix("paddle.")] for k, v in build_ppyoloe_seg_s().state_dict().items()]
    assert found == wanted


@pytest.mark.slow
@reads_reference
def test_every_layer_and_output_equals_the_reference(reference, filled):
    oracle = reference.Oracle(NAME)
    oracle.fill_layer(filled)
    filled.eval()
    trace = oracle.tracer(filled)
    with paddle.no_grad():
        found = filled(oracle.inputs_as_tensors())
    assert trace.report(tol=1e-4)
    assert {row[0] for row in trace.rows} == set(trace.want)
    assert found["mask"].shape == [300, 480, 599]
    assert oracle.check("out/bbox", found["bbox"], rtol=1e-4, atol=3e-3)
    assert oracle.check("out/bbox_num", found["bbox_num"], rtol=0, atol=0)
    assert np.abs(found["mask"].numpy().sum((1, 2)) - oracle.z["out/mask_pixel_sums"]).max() <= 2
    bits = np.unpackbits(oracle.z["out/mask_bits_first8"])
    assert (found["mask"].numpy()[:8].ravel() != bits).sum() <= 8


@pytest.mark.slow
@reads_reference
@pytest.mark.parametrize("case", ["hw640", "hw320_note_hardcoded_640"])
def test_losses_and_gradients_equal_the_reference(reference, shared_dir, filled, case):
    from pycocotools import mask as coco

    stored = np.load(shared_dir / "zoo" / "loss" / f"{NAME}.npz")
    wanted = json.loads((shared_dir / "zoo" / "loss" / f"{NAME}.json").read_text())["losses"][case]
    side = int(case[2:5])
    reference.Oracle(NAME).fill_layer(filled)
    filled.train()
    filled.clear_gradients()
    images = [reference.normalize(reference.image(side, side, int(seed)), "unit") for seed in stored["in/seeds"]]
    targets = rectangles([[], []], objects=3, side=side)
    targets = {name: value.numpy() for name, value in targets.items()}
    for i in range(2):
        for j in range(len(stored[f"gt/boxes{i}"])):
            polygon = regular_polygon(stored[f"gt/poly{i}_{j}"] / 640) * side
            polygon = np.round(polygon, 2)
            targets["gt_bbox"][i, j] = *polygon.min(0), *polygon.max(0)
            targets["gt_class"][i, j] = stored[f"gt/class{i}"][j]
            targets["pad_gt_mask"][i, j] = 1
            rle = coco.frPyObjects([polygon.ravel().tolist()], side, side)
            targets["gt_segm"][i, j] = coco.decode(coco.merge(rle))

    # The reference divides boxes by 640 whatever the input: the frame repeats that for the input of 320.
    terms = filled.loss(
        {"image": paddle.to_tensor(np.concatenate(images))}, tensors(targets), box_frame=Size(height=640, width=640)
    )
    terms["loss"].backward()

    assert {name: float(terms[name]) for name in wanted} == pytest.approx(wanted, rel=1e-4)
    parameters = dict(filled.named_parameters())
    names = json.loads(str(stored[f"grad/{case}/names"]))
    found = np.array([np.linalg.norm(parameters[n].grad.numpy().astype("float64")) for n in names])
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(stored[f"grad/{case}/l2"]), rel=1e-4)
    norms = stored[f"grad/{case}/l2"]
    error = np.abs(found - norms) / np.maximum(norms, 1e-9)
    # Five scalars (`alpha`) sum large terms that cancel; a relative input change of 1e-6 moves gradients up to 2e-2.
    scalar = np.array([n.endswith("alpha") for n in names])
    assert error[~scalar].max() < 1e-4
    assert error[scalar].max() < 2e-3
    assert np.median(error) < 1e-5


def regular_polygon(rounded: np.ndarray) -> np.ndarray:
    """The exact corners (n, 2) behind stored ones: cos and sin around a centre; all parameters have two decimals."""
    x, y = rounded[::2], rounded[1::2]
    turn = 2 * np.pi * np.arange(len(x)) / len(x)
    wave_x, wave_y = (2 / len(x) * (v * np.exp(-1j * turn)).sum() for v in (x, y))
    angle = np.round(np.angle(wave_x), 2) + turn
    centre, radius = np.round([x.mean(), y.mean()], 2), np.round([abs(wave_x), abs(wave_y)], 2)
    return np.stack([centre[0] + radius[0] * np.cos(angle), centre[1] + radius[1] * np.sin(angle)], axis=1)


# ---- inference


def test_an_image_has_the_same_objects_alone_and_in_a_batch():
    model, images = tiny(), noise(3)
    rows, count, coefficients, prototypes = (t.numpy() for t in model.forward_lean(paddle.to_tensor(images)))
    assert count.dtype == np.int32 and count.sum() == len(rows) == len(coefficients) and (count > 0).all()
    start = 0
    for i in range(3):
        alone = [t.numpy() for t in model.forward_lean(paddle.to_tensor(images[i : i + 1]))]
        part = slice(start, start + count[i])
        start += count[i]
        assert alone[1] == count[i]
        np.testing.assert_allclose(rows[part], alone[0], atol=1e-3)
        np.testing.assert_allclose(coefficients[part], alone[2], atol=1e-5)
        np.testing.assert_allclose(prototypes[i : i + 1], alone[3], atol=1e-5)


@pytest.mark.parametrize("original_hw", [(SIDE, SIDE), (50, 131), (600, 48)])
def test_both_flavours_say_the_same(original_hw):
    model, images = tiny(), noise(1)
    full = model(tensors(one_image(images, original_hw=original_hw)))
    rows, count, coefficients, prototypes = (t.numpy() for t in model.forward_lean(paddle.to_tensor(images)))
    assert full["mask"].shape == [len(rows), *original_hw]
    assert full["bbox_num"].tolist() == count.tolist()
    scale = np.array([original_hw[1], original_hw[0]] * 2) / SIDE
    np.testing.assert_allclose(full["bbox"].numpy(), np.hstack([rows[:, :2], rows[:, 2:] * scale]), rtol=1e-4, atol=1e-4)
    if original_hw == (SIDE, SIDE):
        probability = 1 / (1 + np.exp(-np.tensordot(coefficients, prototypes[0], 1)))
        small = paddle.to_tensor(probability[None])
        up = nn.functional.interpolate(small, size=[SIDE, SIDE], mode="bilinear").numpy()[0]
        column, row = np.arange(SIDE), np.arange(SIDE)[:, None]
        for k, (x0, y0, x1, y1) in enumerate(rows[:, 2:]):
            inside = (column >= x0) & (column < x1) & (row >= y0) & (row < y1)
            assert (full["mask"].numpy()[k] != ((up[k] > 0.5) & inside)).sum() <= 2


def test_sizes_are_rounded_unless_the_reference_is_asked_for():
    original_hw = (70, 91)
    inputs = one_image(noise(1), original_hw=original_hw)
    back = inputs["im_shape"][0] / inputs["scale_factor"][0]
    assert 90.9 < back[1] < 91, "the example needs a width that float32 division misses from below"
    assert tiny()(tensors(inputs))["mask"].shape[1:] == [70, 91]
    assert tiny(truncate_size=True)(tensors(inputs))["mask"].shape[1:] == [70, 90]


def test_nothing_found_is_one_empty_row_in_full_and_none_in_lean():
    model, images = tiny(score_threshold=0.9999), noise(2)
    full = model(tensors(one_image(images, original_hw=(30, 40))))
    assert full["bbox"].shape == [1, 6] and full["mask"].shape == [1, 30, 40] and full["bbox_num"].tolist() == [1]
    assert float(full["bbox"].abs().sum()) == float(full["mask"].sum()) == 0
    rows, count, coefficients, prototypes = model.forward_lean(paddle.to_tensor(images))
    assert rows.shape == [0, 6] and coefficients.shape == [0, 32] and count.tolist() == [0, 0]
    assert prototypes.shape == [2, 32, SIDE // 4, SIDE // 4]


def test_full_masks_of_a_batch_are_refused():
    inputs = {"image": noise(2), "im_shape": np.ones((2, 2), "float32"), "scale_factor": np.ones((2, 2), "float32")}
    with pytest.raises(ModelError, match=r"one image at a time, got a batch of 2.*forward_lean"):
        tiny()(tensors(inputs))


def test_a_size_that_is_no_multiple_of_32_is_refused():
    with pytest.raises(ModelError, match="multiple of 32, got 500"):
        build_ppyoloe_seg(1, width_mult=0.25, depth_mult=0.33, input_size=500)
    with pytest.raises(ModelError, match="num_classes=0"):
        build_ppyoloe_seg(0, width_mult=0.25, depth_mult=0.33)


def test_the_demo_size_fits_in_ten_megabytes():
    model = build_ppyoloe_seg(1, width_mult=0.25, depth_mult=0.33, input_size=320)
    assert sum(value.size for value in model.state_dict().values()) * 4 <= 10_000_000


# ---- deployment and export


def test_a_deployed_copy_predicts_the_same_and_leaves_the_model_alone():
    model, image = tiny(), paddle.to_tensor(noise(1))
    names = list(model.state_dict())
    fused = deployed_copy(model)
    assert list(model.state_dict()) == names
    assert len(fused.state_dict()) < len(names)
    for found, wanted in zip(fused.predictions(image), model.predictions(image), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_both_exported_flavours_run_and_equal_the_model(tmp_path):
    model, images = tiny(), noise(3)
    lean = exported(model.lean_program(), tmp_path / "lean")
    for batch in (3, 1):
        found = lean({"image": images[:batch]})
        wanted = model.forward_lean(paddle.to_tensor(images[:batch]))
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == b.numpy().dtype
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-3)

    full = exported(model.paddlex_program(), tmp_path / "full")
    for original_hw in ((60, 77), (200, 40)):
        inputs = one_image(images, original_hw=original_hw)
        wanted = model(tensors(inputs))
        boxes, count, masks = full(inputs)
        np.testing.assert_allclose(boxes, wanted["bbox"].numpy(), rtol=1e-4, atol=1e-3)
        assert count.tolist() == wanted["bbox_num"].tolist() and count.dtype == np.int32
        assert masks.shape[1:] == original_hw and masks.dtype == np.float32
        assert (masks != wanted["mask"].numpy()).mean() < 1e-5
    assert model.state_dict().keys() == tiny().state_dict().keys()


def test_exported_programs_survive_an_image_without_objects(tmp_path):
    model, images = tiny(score_threshold=0.9999), noise(2)
    rows, count, coefficients, _ = exported(model.lean_program(), tmp_path / "lean")({"image": images})
    assert rows.shape == (0, 6) and coefficients.shape == (0, 32) and count.tolist() == [0, 0]
    full = exported(model.paddlex_program(), tmp_path / "full")
    boxes, count, masks = full(one_image(images, original_hw=(30, 40)))
    assert boxes.tolist() == [[0] * 6] and count.tolist() == [1] and masks.shape == (1, 30, 40) and masks.sum() == 0


def exported(program: tuple[nn.Layer, list[object]], prefix: Path):
    """Export, load with Paddle Inference, and return a function from named arrays to the list of outputs."""
    from paddle import inference

    layer, spec = program
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(prefix))
    config = inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_gpu()
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


# ---- training


@pytest.mark.parametrize("epoch", [0, 1], ids=["atss", "task aligned"])
@pytest.mark.parametrize("objects", [0, 2], ids=["no padding", "padding only"])
def test_a_batch_without_objects_has_a_finite_loss_and_a_gradient_everywhere(epoch, objects):
    model = tiny(lively=False, atss_epochs=1)
    model.train()
    model.set_epoch(epoch)
    terms = model.loss({"image": paddle.to_tensor(noise(2))}, rectangles([[], []], objects=objects))
    terms["loss"].backward()
    assert all(np.isfinite(float(value)) for value in terms.values())
    assert float(terms["loss"]) == float(terms["loss_cls"]) > 0
    without = [n for n, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    assert without == []
    assert all(np.isfinite(p.grad.numpy()).all() for p in model.parameters() if not p.stop_gradient)


@pytest.mark.parametrize("epoch", [0, 1], ids=["atss", "task aligned"])
def test_padding_and_mask_layout_do_not_change_the_loss(epoch):
    boxes = [[(8, 8, 56, 60), (40, 30, 90, 90)], [(20, 20, 70, 64)]]
    results = []
    for objects, quarter, kind in ((2, False, "uint8"), (5, False, "bool"), (2, True, "float32")):
        model = tiny(atss_epochs=1)
        model.set_epoch(epoch)
        targets = rectangles(boxes, objects=objects)
        if quarter:
            targets["gt_segm"] = targets["gt_segm"][:, :, ::4, ::4]
        targets["gt_segm"] = targets["gt_segm"].astype(kind)
        terms = model.loss({"image": paddle.to_tensor(noise(2))}, targets)
        results.append({name: float(value) for name, value in terms.items()})
    assert results[0]["loss_mask"] > 0 and results[0]["loss_iou"] > 0
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)


def test_the_mask_loss_uses_the_true_input_size():
    model, boxes = tiny(), [[(8, 8, 56, 60)]]
    images = paddle.to_tensor(noise(1))
    right = model.loss({"image": images}, rectangles(boxes, objects=1))
    stated = model.loss({"image": images}, rectangles(boxes, objects=1), box_frame=Size(height=SIDE, width=SIDE))
    wrong = model.loss({"image": images}, rectangles(boxes, objects=1), box_frame=Size(height=640, width=640))
    assert float(right["loss_mask"]) == float(stated["loss_mask"]) != float(wrong["loss_mask"])


def test_hundreds_of_objects_are_assigned():
    side, step = SIDE, 12
    boxes = [(x, y, x + 11, y + 11) for y in range(0, side, step) for x in range(0, side, step)] * 4
    model = tiny()
    terms = model.loss({"image": paddle.to_tensor(noise(1))}, rectangles([boxes], objects=len(boxes)))
    assert len(boxes) == 256 and all(np.isfinite(float(value)) for value in terms.values())


def test_training_learns_one_rectangle():
    model = tiny(num_classes=1, lively=False, score_threshold=0.05, atss_epochs=1)
    images = noise(2) * 0.2
    boxes = [[(16, 24, 64, 72)], [(40, 8, 88, 48)]]
    for image, [(x0, y0, x1, y1)] in zip(images, boxes, strict=True):
        image[:, y0:y1, x0:x1] += 0.7
    targets = rectangles(boxes, objects=1)
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters())
    model.train()
    losses = []
    for step in range(60):
        model.set_epoch(step // 20)
        terms = model.loss({"image": paddle.to_tensor(images)}, targets)
        terms["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(terms["loss"]))
    assert losses[-1] < losses[5] / 2
    model.eval()
    for i, [box] in enumerate(boxes):
        found = model(tensors(one_image(images[i : i + 1], original_hw=(SIDE, SIDE))))
        mask = found["mask"].numpy()[int(found["bbox"][:, 1].argmax())] > 0
        truth = np.zeros((SIDE, SIDE), bool)
        truth[box[1] : box[3], box[0] : box[2]] = True
        assert (mask & truth).sum() / (mask | truth).sum() > 0.5
