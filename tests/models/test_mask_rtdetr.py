"""Mask-RT-DETR: equal to the reference numbers, right for any shape and batch, and exportable in both flavours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from rayseg import rle
from rayseg.errors import ModelError
from rayseg.models.backbones.hgnetv2 import HGNetV2, HGNetV2Size
from rayseg.models.instance import mask_rtdetr
from rayseg.models.instance.mask_rtdetr import MaskRTDETR, build_mask_rtdetr, build_mask_rtdetr_s
from rayseg.models.instance.mask_rtdetr_boxes import FAR, boxes_of_masks, first_boxes, inverse_sigmoid
from rayseg.models.instance.mask_rtdetr_decoder import FinalQueries, take_rows
from rayseg.models.instance.mask_rtdetr_encoder import sine_positions
from rayseg.models.instance.mask_rtdetr_finish import best_objects, full_size_masks
from rayseg.predict.export import export_model
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor

NAME = "Mask-RT-DETR-S"
SIDE = 64
SMALL = HGNetV2Size(stem=(8, 8), layers=2, inner=(4, 4, 8, 8), outer=(8, 16, 16, 16), blocks=(1, 1, 2, 1))
# The module that comes with the reference numbers leaves files to the garbage collector.
reads_reference = pytest.mark.filterwarnings("ignore::ResourceWarning")


def tiny(num_classes: int = 3) -> MaskRTDETR:
    """A small model whose boxes move from layer to layer and whose masks have both signs."""
    paddle.seed(0)
    model = build_mask_rtdetr(
        SMALL,
        num_classes,
        channels=32,
        decoder_channels=16,
        attended=1,
        encoder_feedforward=16,
        decoder_feedforward=16,
        expansion=0.5,
        mask_channels=(8, 8),
        prototypes=6,
        num_queries=40,
        input_size=SIDE,
    )
    random = np.random.RandomState(0)
    last = model.transformer.bbox_head.layers[-1]
    last.weight.set_value(random.normal(0, 0.3, last.weight.shape).astype("float32"))
    last = model.transformer.mask_query_head.layers[-1]
    last.weight.set_value(random.normal(0, 2, last.weight.shape).astype("float32"))
    model.eval()
    return model


def noise(images: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.RandomState(7).uniform(size=(images, 3, height, width)).astype("float32")


def inputs(image: np.ndarray, *originals: tuple[int, int]) -> dict[str, paddle.Tensor]:
    size = np.array(image.shape[2:], "float32")
    arrays = {
        "image": image,
        "im_shape": np.stack([size] * len(originals)),
        "scale_factor": size / np.array(originals, "float32"),
    }
    return {name: paddle.to_tensor(value) for name, value in arrays.items()}


# ---- the reference numbers


@pytest.mark.parametrize("size", ["S", "M", "L", "X", "H"])
def test_names_order_shapes_and_what_learns_are_those_of_published_weights(shared_dir, size):
    wanted = json.loads((shared_dir / "zoo" / "keys" / f"Mask-RT-DETR-{size}.json").read_text())
    state = getattr(mask_rtdetr, f"build_mask_rtdetr_{size.lower()}")().state_dict()
    assert [[k, list(v.shape), str(v.dtype).removeprefix("paddle.")] for k, v in state.items()] == wanted["keys"]
    found = {name: attributes(value) for name, value in state.items()}
    assert {name: value for name, value in found.items() if value} == wanted["param_attrs"]


def attributes(tensor: paddle.Tensor) -> dict[str, object]:
    """What is not default of a parameter or buffer, in the words of the reference data."""
    found: dict[str, object] = {}
    if tensor.stop_gradient:
        found["trainable"] = False
    rate = getattr(tensor, "optimize_attr", {"learning_rate": 1})["learning_rate"]
    if rate != 1:
        found["lr_mult"] = rate
    if getattr(tensor, "regularizer", None) is not None:
        found["regularizer"] = f"L2Decay({tensor.regularizer._coeff})"
    return found


@pytest.mark.slow
@reads_reference
def test_every_layer_and_output_equals_the_reference(reference):
    oracle = reference.Oracle(NAME)
    model = build_mask_rtdetr_s()
    oracle.fill_layer(model)
    model.eval()
    trace = oracle.tracer(model)
    given = oracle.inputs_as_tensors()
    with paddle.no_grad():
        found = model(given)
        assert trace.report(tol=1e-4)
        stages = model.training_outputs(given["image"])
    with_parameters = {name.rsplit(".", 1)[0] for name in model.state_dict()}
    seen = {row[0].partition("#")[0] for row in trace.rows}
    embedding = {"transformer.denoising_class_embed"}  # only training looks at it
    attention = {name for name in with_parameters if name.endswith("self_attn")}
    assert with_parameters - embedding <= seen and attention <= seen
    assert oracle.check("out/bbox", found["bbox"], rtol=1e-4, atol=1e-2)
    assert oracle.check("out/bbox_num", found["bbox_num"], rtol=0, atol=0)
    assert oracle.check("enc/logits", stages.encoder.logits)
    assert oracle.check("enc/bboxes", stages.encoder.boxes, atol=1e-5)
    assert oracle.check("enc/masks", stages.encoder.masks[0], atol=1e-3)
    assert oracle.check("enc/mask_init_boxes", boxes_of_masks(stages.encoder.masks)[0], rtol=0, atol=1e-6)
    assert oracle.check("dec/logits", stages.layers[-1].logits)
    assert oracle.check("dec/bboxes", stages.layers[-1].boxes, atol=1e-5)
    assert oracle.check("dec/masks", stages.layers[-1].masks, atol=1e-3)
    mask = found["mask"].numpy()
    assert mask.dtype == np.int32 and mask.shape == (100, 480, 600)
    assert np.abs(mask.sum((1, 2)) - oracle.z["out/mask_pixel_sums"]).max() <= 2
    assert (mask[:8].ravel() != np.unpackbits(oracle.z["out/mask_bits_first8"])).sum() <= 8


# ---- the parts


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_a_mask_s_box_is_the_smallest_around_its_positive_pixels(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 9, 2)
    masks = random.normal(random.uniform(-3, 1), 1, (2, 3, height, width)).astype("float32")
    masks[0, 0] = -1
    found = boxes_of_masks(paddle.to_tensor(masks)).numpy()
    for i, j in np.ndindex(2, 3):
        ys, xs = np.nonzero(masks[i, j] > 0)
        x0, y0, x1, y1 = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
        wanted = np.array([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height])
        np.testing.assert_allclose(found[i, j], wanted, atol=1e-6)


def test_a_place_has_its_position_whatever_the_shape_of_the_map():
    wide, square = sine_positions(3, 5, 8).reshape([3, 5, 8]), sine_positions(5, 5, 8).reshape([5, 5, 8])
    np.testing.assert_array_equal(wide.numpy(), square[:3].numpy())
    tall = sine_positions(5, 3, 8).reshape([5, 3, 8])
    np.testing.assert_array_equal(tall.numpy(), square[:, :3].numpy())
    assert len({tuple(row) for row in square.reshape([25, 8]).numpy().tolist()}) == 25


def test_first_boxes_are_centred_on_their_places_in_maps_of_any_shape():
    boxes, usable = first_boxes([(4, 8), (2, 4)])
    assert boxes.shape == [1, 40, 4] and bool(usable.all())
    share = nn.functional.sigmoid(boxes)[0].numpy()
    np.testing.assert_allclose(share[8 + 3], [3.5 / 8, 1.5 / 4, 0.05, 0.05], atol=1e-6)  # second row, fourth column
    np.testing.assert_allclose(share[32 + 4 + 1], [1.5 / 4, 1.5 / 2, 0.1, 0.1], atol=1e-6)


def test_places_too_near_the_edge_are_not_used():
    boxes, usable = first_boxes([(2, 80)])
    inside = usable.reshape([2, 80]).numpy()
    assert inside[:, 1:-1].all() and not inside[:, [0, -1]].any()
    assert (boxes.numpy()[0, ~inside.ravel()] == FAR).all() and np.isfinite(boxes.numpy()).all()


def test_the_inverse_of_the_sigmoid_stops_at_the_edge():
    x = paddle.to_tensor([-1.0, 0.0, 0.25, 1.0, 2.0])
    np.testing.assert_allclose(nn.functional.sigmoid(inverse_sigmoid(x)).numpy(), [1e-5, 1e-5, 0.25, 1, 1], atol=2e-5)


def test_rows_are_taken_from_their_own_image():
    x = paddle.arange(24, dtype="float32").reshape([2, 4, 3])
    found = take_rows(x, paddle.to_tensor([[3, 0], [1, 1]]))
    np.testing.assert_array_equal(found[:, :, 0].numpy(), [[9, 0], [15, 15]])


def test_a_query_may_be_chosen_twice_for_two_classes():
    logits = paddle.to_tensor([[[3.0, 2.0], [-4.0, 1.0]]])
    boxes = paddle.to_tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.4, 0.4]]])
    rows, embeddings = best_objects(FinalQueries(logits, boxes, paddle.to_tensor([[[7.0], [8.0]]])), keep=3)
    np.testing.assert_array_equal(rows[0, :, 0].numpy(), [0, 1, 1])
    np.testing.assert_allclose(rows[0, :2, 2:].numpy(), [[0.4, 0.3, 0.6, 0.7]] * 2, atol=1e-6)
    np.testing.assert_allclose(rows[0, 2, 2:].numpy(), [-0.1, -0.1, 0.3, 0.3], atol=1e-6)  # not clipped
    assert embeddings.flatten().tolist() == [7, 7, 8]


@pytest.mark.parametrize("size", [(16, 16), (2, 2), (7, 100), (61, 3)])
def test_enlarging_equals_the_bilinear_resize(size):
    logits = paddle.to_tensor(np.random.RandomState(0).normal(size=(1, 5, 16, 16)).astype("float32"))
    values = nn.functional.interpolate(logits, size=list(size), mode="bilinear", align_corners=False).numpy()
    found = full_size_masks(logits, paddle.to_tensor([[float(side) for side in size]])).numpy()
    clear = np.abs(values) > 1e-5
    assert found.dtype == np.int32 and found.shape == (1, 5, *size)
    np.testing.assert_array_equal(found[clear], (values > 0)[clear])


def test_an_image_of_one_pixel_sees_the_middle_of_the_mask():
    """Paddle's resize takes the top left corner for it."""
    logits = paddle.to_tensor(np.float32([[[[9, 9, 9, 9], [9, -1, -2, 9], [9, -1, -2, 9], [9, 9, 9, 9]]]]))
    assert full_size_masks(logits, paddle.to_tensor([[1.0, 1.0]])).tolist() == [[[[0]]]]


def test_each_image_of_a_batch_has_masks_of_its_own_size():
    logits = paddle.to_tensor(np.random.RandomState(0).normal(size=(3, 4, 16, 16)).astype("float32"))
    sizes = [(40, 70), (9, 90), (50, 20)]
    together = full_size_masks(logits, paddle.to_tensor(np.array(sizes, "float32"))).numpy()
    assert together.shape == (3, 4, 50, 90)
    for i, (height, width) in enumerate(sizes):
        alone = full_size_masks(logits[i : i + 1], paddle.to_tensor([[float(height), float(width)]])).numpy()
        assert (together[i, :, :height, :width] != alone[0]).sum() <= 1
        assert together[i].sum() == together[i, :, :height, :width].sum() > 0


# ---- the network


@pytest.mark.parametrize("size", [(SIDE, SIDE), (96, 64)])
def test_an_image_has_the_same_objects_alone_and_in_a_batch(size):
    model, images = tiny(), noise(3, *size)
    rows, count, embeddings, prototypes = (t.numpy() for t in model.forward_lean(paddle.to_tensor(images)))
    assert count.dtype == np.int32 and count.tolist() == [100] * 3 and len(rows) == len(embeddings) == 300
    for i in range(3):
        alone = [t.numpy() for t in model.forward_lean(paddle.to_tensor(images[i : i + 1]))]
        part = slice(100 * i, 100 * i + 100)
        np.testing.assert_allclose(rows[part, 1:], alone[0][:, 1:], atol=1e-3)
        np.testing.assert_allclose(embeddings[part], alone[2], atol=1e-4)
        np.testing.assert_allclose(prototypes[i : i + 1], alone[3], atol=1e-4)


@pytest.mark.parametrize("original", [(SIDE, SIDE), (50, 131)])
def test_both_flavours_say_the_same(original):
    model, image = tiny(), noise(1)
    full = model(inputs(image, original))
    rows, count, embeddings, prototypes = model.forward_lean(paddle.to_tensor(image))
    assert full["mask"].shape == [100, *original] and full["bbox_num"].tolist() == count.tolist()
    scale = np.array([1, 1, *[original[1] / SIDE, original[0] / SIDE] * 2])
    np.testing.assert_allclose(full["bbox"].numpy(), rows.numpy() * scale, rtol=1e-5, atol=1e-4)
    coarse = (embeddings @ prototypes[0].flatten(1)).reshape([1, -1, SIDE // 4, SIDE // 4])
    values = nn.functional.interpolate(coarse, size=list(original), mode="bilinear", align_corners=False).numpy()[0]
    assert ((values > 0) != full["mask"].numpy()).sum() <= 2
    assert 0.1 < (values > 0).mean() < 0.9


def test_images_of_different_sizes_do_not_share_one():
    model, images = tiny(), noise(2)
    originals = [(40, 90), (120, 30)]
    full = model(inputs(images, *originals))
    assert full["mask"].shape == [200, 120, 90]
    for i, (height, width) in enumerate(originals):
        alone = model(inputs(images[i : i + 1], (height, width)))
        part = slice(100 * i, 100 * i + 100)
        np.testing.assert_allclose(full["bbox"][part].numpy(), alone["bbox"].numpy(), atol=1e-3)
        assert (full["mask"][part, :height, :width].numpy() != alone["mask"].numpy()).mean() < 1e-4


def test_the_last_stage_of_training_is_what_evaluation_says():
    model, image = tiny(), paddle.to_tensor(noise(2))
    stages = model.training_outputs(image)
    maps, prototypes = model.neck(model.backbone(image))
    final = model.transformer(maps, prototypes)
    assert stages.initial is None and len(stages.layers) == 6
    np.testing.assert_allclose(stages.layers[-1].logits.numpy(), final.logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(stages.layers[-1].boxes.numpy(), final.boxes.numpy(), atol=1e-5)
    assert stages.layers[-1].masks.shape == [2, 40, SIDE // 4, SIDE // 4]


def test_the_backbone_s_statistics_never_move():
    paddle.seed(0)
    backbone = HGNetV2(SMALL)
    image = paddle.to_tensor(noise(2))
    backbone.eval()
    wanted = [x.numpy() for x in backbone(image)]
    backbone.train()
    for found, map_ in zip(backbone(image), wanted, strict=True):
        np.testing.assert_array_equal(found.numpy(), map_)
    assert [map_.shape[2] for map_ in wanted] == [SIDE // stride for stride in (4, 8, 16, 32)]
    assert all(p.stop_gradient for p in backbone.stem.parameters())
    assert not all(p.stop_gradient for p in backbone.stages.parameters())


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    """The small model as inference directories, by flavour."""
    root = tmp_path_factory.mktemp("mask_rtdetr")
    return {f: export_model(tiny(), root / f, name="x", labels=["a", "b", "c"], flavour=f) for f in ("lean", "paddlex")}


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("flavour", ["lean", "paddlex"])
def test_a_program_gives_the_network_s_numbers_for_any_batch(exported, flavour, onednn):
    model, predictor = tiny(), load(exported[flavour], onednn=onednn)
    assert sorted(predictor.get_input_names()) == sorted(["image"] if flavour == "lean" else inputs(noise(1), (1, 1)))
    for count in (1, 3):
        feed = inputs(noise(count), *[(40, 90), (77, 33), (64, 64)][:count])
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(feed[name].numpy())
        predictor.run()
        found = [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
        wanted = model.forward_lean(feed["image"]) if flavour == "lean" else list(model(feed).values())
        assert [(a.dtype, a.shape) for a in found] == [(b.numpy().dtype, tuple(b.shape)) for b in wanted]
        np.testing.assert_allclose(found[0][:, 1:], wanted[0].numpy()[:, 1:], atol=2e-3)
        if flavour == "paddlex":
            assert (found[2] != wanted[2].numpy()).mean() < 1e-3
        else:
            np.testing.assert_allclose(found[3], wanted[3].numpy(), atol=1e-4)


def test_images_of_any_size_have_the_same_objects_in_either_flavour(exported):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (height, width, 3), np.uint8) for height, width in [(40, 90), (77, 33), (9, 64)]]
    lean, paddlex = (
        Predictor(load_model_dir(exported[f]), "paddle", threads=1).predict(pictures, 0.0) for f in ("lean", "paddlex")
    )
    for a, b in zip(lean, paddlex, strict=True):
        assert len(a) == len(b) > 30
        np.testing.assert_array_equal(a.class_ids, b.class_ids)
        np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3)
        masks = list(zip(map(rle.decode, a.masks), map(rle.decode, b.masks), strict=True))
        assert sum((x != y).sum() for x, y in masks) <= 3 and sum(x.sum() for x, _ in masks) > 0


def load(folder: Path, *, onednn: bool):
    """As the job does it; see predict/backends/paddle_inference.py."""
    from paddle.inference import Config, create_predictor

    config = Config(str(folder / "inference.json"), str(folder / "inference.pdiparams"))
    config.disable_glog_info()
    config.disable_gpu()
    if onednn:
        config.enable_mkldnn()
        config.delete_pass("onednn_placement_pass")
    else:
        config.disable_mkldnn()
    return create_predictor(config)


def test_exporting_leaves_the_network_in_train_mode_and_its_branches_apart():
    model = tiny()
    model.train()
    before = list(model.state_dict())
    layer, _ = model.lean_program()
    assert model.training and not layer.training and list(model.state_dict()) == before


def test_an_input_of_odd_size_is_refused():
    with pytest.raises(ModelError, match="multiples of 32, got 64 x 70; resize them to .*64"):
        tiny().forward_lean(paddle.to_tensor(noise(1, 64, 70)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"input_size": 100}, "multiple of 32, got 100"),
        ({"input_size": 32}, "has 21 places on the three maps, not enough for 300 queries"),
        ({"num_classes": 0}, "at least one class, got num_classes=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        build_mask_rtdetr(SMALL, **{"num_classes": 3, **options})
