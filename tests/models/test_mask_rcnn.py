"""Mask R-CNN: equal to the reference numbers, the same alone and in a batch, the same in both flavours, exportable.

What holds for Cascade Mask R-CNN too is tested for both here; the rest of it is in test_cascade.py.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg import rle
from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.blocks.anchors import AnchorGenerator
from rayseg.models.blocks.fpn import FPN
from rayseg.models.blocks.roi_align import RoIAlign
from rayseg.models.instance import rcnn_builders
from rayseg.models.instance.cascade_mask_rcnn import CascadeMaskRCNN
from rayseg.models.instance.mask_rcnn import MaskRCNN, build_mask_rcnn_c4
from rayseg.models.instance.rcnn_cascade_head import CascadeHead
from rayseg.models.instance.rcnn_detect import in_original_pixels, paste_masks
from rayseg.models.instance.rcnn_heads import BBoxHead, TwoFCHead
from rayseg.models.instance.rcnn_mask_head import MaskHead
from rayseg.models.instance.rpn import ProposalLimits, RPNHead
from rayseg.predict.finish.pasted_masks import pasted_masks

BUILDERS = {
    "MaskRCNN-ResNet50": rcnn_builders.maskrcnn_resnet50,
    "MaskRCNN-ResNet50-FPN": rcnn_builders.maskrcnn_resnet50_fpn,
    "MaskRCNN-ResNet50-vd-FPN": rcnn_builders.maskrcnn_resnet50_vd_fpn,
    "MaskRCNN-ResNet50-vd-SSLDv2-FPN": rcnn_builders.maskrcnn_resnet50_vd_ssldv2_fpn,
    "MaskRCNN-ResNet101-FPN": rcnn_builders.maskrcnn_resnet101_fpn,
    "MaskRCNN-ResNet101-vd-FPN": rcnn_builders.maskrcnn_resnet101_vd_fpn,
    "MaskRCNN-ResNeXt101-vd-FPN": rcnn_builders.maskrcnn_resnext101_vd_fpn,
    "Cascade-MaskRCNN-ResNet50-FPN": rcnn_builders.cascade_maskrcnn_resnet50_fpn,
    "Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN": rcnn_builders.cascade_maskrcnn_resnet50_vd_ssldv2_fpn,
}
KINDS = ["c4", "fpn", "cascade"]
ALIGNED = [pytest.param(True, id="aligned"), pytest.param(False, id="not aligned")]
# The module that comes with the reference numbers leaves files to the garbage collector.
reads_reference = pytest.mark.filterwarnings("ignore::ResourceWarning")


# ---- a network small enough to run often


class Steps(nn.Layer):
    """A backbone of one convolution a map."""

    def __init__(self, channels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.channels_out, self.strides = channels, strides
        before = [(3, 1), *zip(channels, strides, strict=True)]
        self.convs = nn.LayerList(
            nn.Conv2D(before[i][0], channels[i], 5, stride=strides[i] // before[i][1], padding=2) for i in range(len(channels))
        )

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        maps = []
        for conv in self.convs:
            x = nn.functional.relu(conv(x))
            maps.append(x)
        return maps


class Halve(nn.Layer):
    """The place of the stage that C4 runs on every region."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels_out = channels
        self.conv = nn.Conv2D(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.relu(self.conv(x))


def tiny(kind: str, *, certainty: float = 3.0) -> MaskRCNN:
    """A network that finds many objects in noise; with no certainty at all, none."""
    paddle.seed(0)
    if kind == "c4":
        backbone, neck = Steps([8], [16]), None
        channels, anchors = 8, AnchorGenerator([(16, 32, 64)], (0.5, 1.0, 2.0), [16])
    else:
        backbone, neck = Steps([4, 8, 12, 16], [4, 8, 16, 32]), FPN([4, 8, 12, 16], channels=8)
        channels, anchors = 8, AnchorGenerator([(8,), (16,), (32,), (64,), (99,)], (0.5, 1.0, 2.0), neck.strides)
    strides = backbone.strides
    limits = ProposalLimits(before_nms=100, after_nms=40, keep=60)
    rpn_head = RPNHead(channels, anchors, train_limits=limits, test_limits=limits)
    if kind == "c4":
        bbox_head = BBoxHead(Halve(channels), RoIAlign(14, strides, aligned=True), num_classes=3)
    elif kind == "fpn":
        bbox_head = BBoxHead(TwoFCHead(channels, 16, side=7), RoIAlign(7, strides, aligned=True), num_classes=3)
    else:
        bbox_head = CascadeHead(channels, 16, RoIAlign(7, strides, aligned=True), num_classes=3)
    mask_head = MaskHead(
        channels,
        8,
        convs=0 if kind == "c4" else 2,
        roi_extractor=RoIAlign(14, strides, aligned=True),
        num_classes=3,
        share_box_features=kind == "c4",
    )
    network = (CascadeMaskRCNN if kind == "cascade" else MaskRCNN)(backbone, neck, rpn_head, bbox_head, mask_head)
    network.eval()
    _make_lively(network, certainty)
    return network


def _make_lively(network: MaskRCNN, certainty: float) -> None:
    """Outputs of the heads get a spread of about one; scores one of `certainty`, minus a lot without any."""
    heads = [network.bbox_head] if not isinstance(network.bbox_head, CascadeHead) else []
    names = [("bbox_score", "bbox_delta")] if heads else [(f"bbox_score_stage{i}", f"bbox_delta_stage{i}") for i in range(3)]
    features = network.features(paddle.to_tensor(noise(2)))
    network.rpn_head.rpn_rois_score.weight.set_value(network.rpn_head.rpn_rois_score.weight * 100)
    network.rpn_head.rpn_rois_delta.weight.set_value(network.rpn_head.rpn_rois_delta.weight * 30)
    rois, counts = network.rpn_head(features, paddle.to_tensor(IM_SHAPE[:2]))
    for score, delta in names:
        for name, spread in ((score, certainty), (delta, 1.0)):
            layer = getattr(network.bbox_head, name)
            layer.weight.set_value(paddle.randn(layer.weight.shape))
            found = []
            hook = layer.register_forward_post_hook(lambda _, __, out, found=found: found.append(out))
            network.bbox_head.candidates(features, rois, counts, paddle.to_tensor(IM_SHAPE[:2]))
            hook.remove()
            layer.weight.set_value(layer.weight * (spread / float(found[0].std())))
            layer.bias.set_value(-found[0].mean(0) * (spread / float(found[0].std())))
        if not certainty:
            getattr(network.bbox_head, score).bias.set_value(paddle.to_tensor([-9.0, -9.0, -9.0, 9.0]))
    masks = network.mask_head.mask_fcn_logits
    masks.weight.set_value(masks.weight * 30)


IM_SHAPE = np.float32([[96, 128], [70, 128], [96, 90]])
SCALE = np.float32([[1, 1], [0.5, 0.7], [2, 1.5]])


def noise(images: int) -> np.ndarray:
    """float32 (images, 3, 96, 128): smooth noise, padded with zeros beyond IM_SHAPE."""
    random = np.random.RandomState(7)
    coarse = paddle.to_tensor(random.normal(size=(images, 3, 12, 16)).astype("float32"))
    found = nn.functional.interpolate(coarse, size=[96, 128], mode="bilinear").numpy() * 2
    for image, (height, width) in zip(found, IM_SHAPE.astype(int), strict=False):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return found


def feed(images: slice) -> dict[str, np.ndarray]:
    return {"image": noise(3)[images], "im_shape": IM_SHAPE[images], "scale_factor": SCALE[images]}


def lean(network: MaskRCNN, images: slice) -> list[np.ndarray]:
    inputs = feed(images)
    with paddle.no_grad():
        found = network.forward_lean(paddle.to_tensor(inputs["image"]), paddle.to_tensor(inputs["im_shape"]))
    return [t.numpy() for t in found]


def full(network: MaskRCNN, images: slice) -> dict[str, np.ndarray]:
    with paddle.no_grad():
        found = network({name: paddle.to_tensor(value) for name, value in feed(images).items()})
    return {name: t.numpy() for name, t in found.items()}


ALL = slice(0, 3)


@pytest.fixture(scope="module")
def networks() -> dict[str, MaskRCNN]:
    """One of each kind; no test changes them."""
    return {kind: tiny(kind) for kind in KINDS}


# ---- the reference numbers


@pytest.mark.parametrize("name", BUILDERS)
def test_names_order_shapes_and_what_trains_are_those_of_published_weights(shared_dir, name):
    wanted = json.loads((shared_dir / "zoo" / "keys" / f"{name}.json").read_text())
    state = BUILDERS[name]().state_dict()
    assert [[k, list(v.shape), str(v.dtype).removeprefix("paddle.")] for k, v in state.items()] == wanted["keys"]
    for key, value in state.items():
        attrs = wanted["param_attrs"].get(key, {})
        assert value.stop_gradient == (not attrs.get("trainable", True)), key
        if hasattr(value, "optimize_attr"):
            assert value.optimize_attr["learning_rate"] == attrs.get("lr_mult", 1.0), key
            assert (value.regularizer is not None) == ("regularizer" in attrs), key


@pytest.mark.slow
@reads_reference
@pytest.mark.parametrize("aligned", [ALIGNED[0], pytest.param(False, id="not aligned", marks=pytest.mark.zoo)])
@pytest.mark.parametrize("name", ["MaskRCNN-ResNet50-FPN", "Cascade-MaskRCNN-ResNet50-FPN"])
def test_every_layer_and_output_equals_the_reference(reference, shared_dir, name, aligned):
    oracle = oracle_of(reference, shared_dir, name, aligned=aligned)
    network = BUILDERS[name](aligned=aligned)
    oracle.fill_layer(network)
    network.eval()
    trace = oracle.tracer(network)
    inputs = oracle.inputs_as_tensors()
    with paddle.no_grad():
        found = network(inputs)
    assert trace.report(tol=1e-4)
    # What is not seen has no parameters: two lists that we give in another order.
    unseen = {row.split("#")[0] for row in set(trace.want) - {row[0] for row in trace.rows}}
    assert unseen == {"rpn_head", "bbox_head"}
    assert oracle.check("out/bbox", found["bbox"], rtol=1e-4, atol=1e-3)
    assert oracle.check("out/bbox_num", found["bbox_num"], rtol=0, atol=0)
    assert found["mask"].dtype == paddle.int32 and found["bbox_num"].dtype == paddle.int32
    masks = found["mask"].numpy()
    assert np.abs(masks.sum((1, 2)) - oracle.z["out/mask_pixel_sums"]).max() <= 4
    assert (np.unpackbits(oracle.z["out/mask_bits_first8"]) != masks[:8].ravel()).sum() <= 8
    with paddle.no_grad():
        features, im_shape = network.features(inputs["image"]), inputs["im_shape"]
        rois, counts = network.rpn_head(features, im_shape)
        candidates = network.bbox_head.candidates(features, rois, counts, im_shape)
    assert oracle.check("rpn/rois", rois, rtol=1e-4, atol=1e-2)
    assert_candidates_equal(oracle, "rcnn", candidates)
    assert_heads_equal_on_given_boxes(oracle, network, features)


@pytest.mark.slow
@reads_reference
@pytest.mark.parametrize("aligned", ALIGNED)
def test_the_heads_without_a_pyramid_equal_the_reference(reference, shared_dir, aligned):
    """On the proposals stored for comparison: those of its own would run a stage of the backbone a thousand times."""
    oracle = oracle_of(reference, shared_dir, "MaskRCNN-ResNet50", aligned=aligned)
    network = build_mask_rcnn_c4(aligned=aligned)
    oracle.fill_layer(network)
    network.eval()
    inputs = oracle.inputs_as_tensors()
    trace = oracle.tracer(network)
    with paddle.no_grad():
        features = network.features(inputs["image"])
        rois, _ = network.rpn_head(features, inputs["im_shape"])
    assert trace.report(tol=1e-4) and len(trace.rows) > 150
    assert oracle.check("rpn/rois", rois, rtol=1e-4, atol=1e-2)
    with paddle.no_grad():
        assert_heads_equal_on_given_boxes(oracle, network, features)


def oracle_of(reference, shared_dir: Path, name: str, *, aligned: bool):
    oracle = reference.Oracle(name)
    if aligned:
        oracle.z = np.load(shared_dir / "zoo" / "out" / f"{name}.aligned_true.npz")
    return oracle


def assert_candidates_equal(oracle, group: str, candidates) -> None:
    assert oracle.check(f"{group}/deltas", candidates.deltas, rtol=1e-4, atol=1e-3)
    assert oracle.check(f"{group}/scores", candidates.probabilities, rtol=1e-4, atol=1e-4)
    if f"{group}/refined_rois" in oracle.z:
        assert oracle.check(f"{group}/refined_rois", candidates.rois, rtol=1e-4, atol=1e-2)


@paddle.no_grad()
def assert_heads_equal_on_given_boxes(oracle, network: MaskRCNN, features) -> None:
    im_shape, scale_factor = (paddle.to_tensor(oracle.z[f"in/{name}"]) for name in ("im_shape", "scale_factor"))
    rois, boxes = (paddle.to_tensor(oracle.z[f"fixed/{name}"]) for name in ("rois", "mask_boxes"))
    rois_num, boxes_num = (paddle.to_tensor([len(rows)], dtype="int32") for rows in (rois, boxes))
    roi_features = network.bbox_head.roi_extractor(features, rois, rois_num)
    assert oracle.check("fixed/roi_feat", roi_features, rtol=1e-4, atol=1e-3)
    assert_candidates_equal(oracle, "fixed", network.bbox_head.candidates(features, rois, rois_num, im_shape))
    probabilities = network.masks(features, boxes, boxes_num)
    assert oracle.check("fixed/mask_prob", probabilities, rtol=1e-4, atol=1e-4)
    bbox, sizes = in_original_pixels(boxes, boxes_num, im_shape, scale_factor)
    assert oracle.check("fixed/bbox_pred", bbox, rtol=1e-5, atol=1e-3)
    pasted = np.unpackbits(oracle.z["fixed/pasted_masks_bits"]).reshape(oracle.z["fixed/pasted_masks_shape"])
    assert (paste_masks(probabilities, bbox[:, 2:], sizes).numpy() != pasted).sum() <= 4
    size = Size(*pasted.shape[1:])
    for mask, wanted in zip(pasted_masks(probabilities.numpy(), bbox[:, 2:].numpy(), size), pasted, strict=True):
        assert (rle.decode(mask) != wanted).sum() <= 2


# ---- inference


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_has_the_same_objects_alone_and_in_a_batch(networks, kind):
    rows, counts, masks = lean(networks[kind], ALL)
    assert counts.dtype == np.int32 and counts.sum() == len(rows) == len(masks) and (counts > 3).all()
    assert rows.dtype == masks.dtype == np.float32 and masks.shape[1:] == (networks[kind].mask_head.resolution,) * 2
    start = 0
    for i in range(3):
        part = slice(start, start + counts[i])
        start += counts[i]
        alone = lean(networks[kind], slice(i, i + 1))
        assert alone[1].tolist() == [counts[i]]
        np.testing.assert_allclose(rows[part], alone[0], atol=1e-3)
        np.testing.assert_allclose(masks[part], alone[2], atol=1e-4)
        height, width = IM_SHAPE[i]
        assert rows[part, 2:].min() >= 0 and rows[part, 4].max() <= width and rows[part, 5].max() <= height


@pytest.mark.parametrize("kind", KINDS)
def test_both_flavours_say_the_same_of_every_image(networks, kind):
    rows, counts, probabilities = lean(networks[kind], ALL)
    found = full(networks[kind], ALL)
    assert found["bbox_num"].tolist() == counts.tolist() and found["bbox_num"].dtype == np.int32
    assert found["mask"].dtype == np.int32
    sizes = np.floor(IM_SHAPE / SCALE + 0.5).astype(int)
    assert found["mask"].shape == (len(rows), *sizes.max(0))
    start = 0
    for count, scale, (height, width) in zip(counts, SCALE, sizes.tolist(), strict=True):
        for row, small, bbox, mask in zip(
            *(a[start : start + count] for a in (rows, probabilities, found["bbox"], found["mask"])), strict=True
        ):
            box = np.clip(row[2:] / np.tile(scale[::-1], 2), 0, np.float32([width, height] * 2))
            np.testing.assert_allclose(bbox, [*row[:2], *box], rtol=1e-5, atol=1e-4)
            assert (mask[height:] == -1).all() and (mask[:, width:] == -1).all()
            (wanted,) = pasted_masks(small[None], bbox[None, 2:], Size(height, width))
            assert (mask[:height, :width] != rle.decode(wanted)).sum() <= 1
        start += count


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_found_is_one_empty_row_in_full_and_none_in_lean(kind):
    network = tiny(kind, certainty=0.0)
    rows, counts, masks = lean(network, ALL)
    assert rows.shape == (0, 6) and counts.tolist() == [0, 0, 0] and len(masks) == 0
    found = full(network, ALL)
    np.testing.assert_allclose(found["bbox"], [[0, 0, 0, 0, 1 / sx, 1 / sy] for sy, sx in SCALE], rtol=1e-6)
    assert found["bbox_num"].tolist() == [1, 1, 1] and found["mask"].max() == 0


def test_an_image_without_objects_between_others_gets_the_only_empty_row(networks):
    network = networks["fpn"]
    whole, without = full(network, ALL), full_without_second(network)
    first, second, third = whole["bbox_num"]
    assert without["bbox_num"].tolist() == [first, 1, third]
    kept = np.r_[0:first, first + second : first + second + third]
    np.testing.assert_array_equal(np.delete(without["bbox"], first, 0), whole["bbox"][kept])
    np.testing.assert_array_equal(np.delete(without["mask"], first, 0), whole["mask"][kept])
    assert without["bbox"][first, 1] == 0 and without["mask"][first].max() == 0


def full_without_second(network: MaskRCNN) -> dict[str, np.ndarray]:
    """What the network says when it detects nothing in the second of three images."""
    detect = network.detect

    def blind(features, im_shape):
        rows, counts = detect(features, im_shape)
        first, second, third = counts.tolist()
        rows = paddle.concat([rows[:first], rows[first + second :]])
        return rows, paddle.to_tensor([first, 0, third], dtype="int32")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "detect", blind)
        return full(network, ALL)


def test_a_copy_says_the_same(networks):
    for a, b in zip(lean(networks["fpn"], ALL), lean(copy.deepcopy(networks["fpn"]), ALL), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_needs_a_class():
    with pytest.raises(ModelError, match="num_classes=0"):
        build_mask_rcnn_c4(0)


# ---- export


@pytest.mark.parametrize("kind", KINDS)
def test_the_lean_program_takes_any_batch_and_equals_the_network(networks, kind, tmp_path):
    for engine in programs(networks[kind].lean_program(), tmp_path / "lean"):
        assert sorted(engine.inputs) == ["im_shape", "image"]
        for images in (ALL, slice(1, 2)):
            for a, b in zip(engine.run(feed(images)), lean(networks[kind], images), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_paddlex_program_takes_any_batch_and_equals_the_network(networks, kind, tmp_path):
    for engine in programs(networks[kind].paddlex_program(), tmp_path / "full"):
        assert engine.inputs == ["im_shape", "image", "scale_factor"]
        for images in (ALL, slice(1, 2)):
            boxes, counts, masks = engine.run(feed(images))
            wanted = full(networks[kind], images)
            np.testing.assert_allclose(boxes, wanted["bbox"], rtol=1e-3, atol=2e-3)
            assert counts.tolist() == wanted["bbox_num"].tolist() and counts.dtype == np.int32
            assert masks.dtype == np.int32 and (masks != wanted["mask"]).mean() < 1e-4


def test_programs_survive_images_without_objects(tmp_path):
    network = tiny("fpn", certainty=0.0)
    for engine in programs(network.lean_program(), tmp_path / "lean"):
        rows, counts, masks = engine.run(feed(ALL))
        assert rows.shape == (0, 6) and counts.tolist() == [0, 0, 0] and masks.shape == (0, 28, 28)
    for engine in programs(network.paddlex_program(), tmp_path / "full"):
        boxes, counts, masks = engine.run(feed(ALL))
        assert len(boxes) == 3 and counts.tolist() == [1, 1, 1] and masks.max() == 0


class Engine:
    """An exported program in Paddle Inference."""

    def __init__(self, prefix: Path, *, onednn: bool) -> None:
        from paddle import inference

        config = inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
        config.disable_gpu()
        if onednn:
            config.enable_mkldnn()
            config.delete_pass("onednn_placement_pass")
        else:
            config.disable_mkldnn()
        config.set_cpu_math_library_num_threads(1)
        config.disable_glog_info()
        self.predictor = inference.create_predictor(config)
        self.inputs = self.predictor.get_input_names()

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        for name in self.inputs:
            self.predictor.get_input_handle(name).copy_from_cpu(inputs[name])
        self.predictor.run()
        return [self.predictor.get_output_handle(name).copy_to_cpu() for name in self.predictor.get_output_names()]


def programs(program, prefix: Path) -> list[Engine]:
    """Export, and load both without and with oneDNN."""
    layer, spec = program
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(prefix))
    return [Engine(prefix, onednn=onednn) for onednn in (False, True)]
