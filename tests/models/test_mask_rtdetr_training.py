"""Training Mask-RT-DETR: equal to the reference's losses and to slow loops, unmoved by padding, and able to learn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from pycocotools import mask as coco

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.metrics.mask_ap import mask_ap
from rayseg.models.backbones.hgnetv2 import SIZES
from rayseg.models.instance.mask_rtdetr import MaskRTDETR, build_mask_rtdetr, build_mask_rtdetr_s
from rayseg.models.instance.mask_rtdetr_decoder import Predictions, TrainingOutputs
from rayseg.models.instance.mask_rtdetr_denoising import attention_mask, denoising_groups
from rayseg.models.instance.mask_rtdetr_loss import NAMES, mask_rtdetr_loss
from rayseg.models.instance.mask_rtdetr_matcher import TermWeights, match_queries, pair_costs
from rayseg.models.instance.mask_rtdetr_truth import Truth, truth_of

NAME = "Mask-RT-DETR-S"
SIDE = 64
# The module that comes with the reference numbers leaves files to the garbage collector.
reads_reference = pytest.mark.filterwarnings("ignore::ResourceWarning")
Box = tuple[int, int, int, int]
BOXES: list[list[Box]] = [[(8, 8, 40, 44), (30, 20, 62, 60)], [(16, 20, 52, 36)]]


def rectangles(boxes: list[list[Box]], *, objects: int, side: int = SIDE) -> dict[str, paddle.Tensor]:
    """Targets of rectangular objects of classes 0, 1, 2, ..., padded to `objects`."""
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
            gt["gt_class"][i, j] = j % 3
            gt["pad_gt_mask"][i, j] = 1
            gt["gt_segm"][i, j, y0:y1, x0:x1] = 1
    return {name: paddle.to_tensor(value) for name, value in gt.items()}


def truth(boxes: list[list[Box]], *, side: int = SIDE) -> Truth:
    objects = max(len(found) for found in boxes)
    return truth_of(rectangles(boxes, objects=objects, side=side), Size(height=side, width=side))


def guesses(images: int, queries: int, *, seed: int = 0, classes: int = 3, side: int = 8) -> Predictions:
    """Random predictions that a gradient can be taken of."""
    random = np.random.RandomState(seed)
    values = {
        "logits": random.normal(0, 2, (images, queries, classes)),
        "boxes": random.uniform(0.2, 0.6, (images, queries, 4)),
        "masks": random.normal(0, 2, (images, queries, side, side)),
    }
    return Predictions(**{k: paddle.to_tensor(v.astype("float32"), stop_gradient=False) for k, v in values.items()})


class StubNetwork:
    """Answers with numbers made up beforehand, whatever the image; three stages after the encoder's."""

    def __init__(self, *, queries: int = 6, classes: int = 3) -> None:
        self.queries, self.classes = queries, classes
        embedding = paddle.to_tensor(np.random.RandomState(5).normal(size=(classes, 4)).astype("float32"))
        embedding.stop_gradient = False
        self.transformer = SimpleNamespace(num_queries=queries, denoising_class_embed=SimpleNamespace(weight=embedding))

    def training_outputs(self, image: paddle.Tensor, denoising=None) -> TrainingOutputs:
        images = image.shape[0]
        extra = 0 if denoising is None else denoising.boxes.shape[1]
        stages = [guesses(images, extra + self.queries, seed=seed, classes=self.classes) for seed in (1, 2, 3)]
        self.outputs = TrainingOutputs(
            encoder=guesses(images, self.queries, classes=self.classes),
            initial=None if denoising is None else stages[0],
            layers=stages[1:],
        )
        return self.outputs


def values(terms: dict[str, paddle.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in terms.items()}


# ---- slow and obvious versions


def slow_corners(box):
    cx, cy, w, h = (float(v) for v in box)
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def slow_iou(a, b) -> tuple[float, float]:
    """IoU and GIoU of two boxes given by centre, width and height."""
    a, b = slow_corners(a), slow_corners(b)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union, width * height / union - (hull - union) / hull


def slow_read(mask: np.ndarray, x: float, y: float) -> float:
    """Bilinear, pixel centres at +0.5, nothing beyond the border."""
    height, width = mask.shape
    x, y = x * width - 0.5, y * height - 0.5
    total = 0.0
    for column in (int(np.floor(x)), int(np.floor(x)) + 1):
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            if 0 <= column < width and 0 <= row < height:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * float(mask[row, column])
    return total


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def slow_entropy(x: float, t: float) -> float:
    return float(-(t * np.log(sigmoid(x)) + (1 - t) * np.log(1 - sigmoid(x))))


def slow_dice(x: list[float], t: list[float]) -> float:
    p = sigmoid(x)
    return 1 - (2 * float((p * np.array(t)).sum()) + 1) / (float(p.sum()) + sum(t) + 1)


def fixed_rand(shape) -> paddle.Tensor:
    """The same numbers for the same shape, so that a slow version can draw them again."""
    return paddle.to_tensor(np.random.RandomState(sum(shape)).rand(*shape).astype("float32"))


def slow_stage(stage: Predictions, true: Truth, pairs: list[tuple[int, int, int]], *, last: bool, objects: int, points):
    """The five terms from pairs of (image, query, object) by loops; unweighted."""
    logits, boxes, masks = (t.numpy().astype(float) for t in (stage.logits, stage.boxes, stage.masks))
    fits = {}
    terms = dict.fromkeys(NAMES, 0.0)
    for k, (i, q, o) in enumerate(pairs):
        box, mask = true.boxes.numpy()[o], true.masks.numpy()[o]
        iou, giou = slow_iou(boxes[i, q], box)
        terms["loss_bbox"] += np.abs(boxes[i, q] - box).sum()
        terms["loss_giou"] += 1 - giou
        mine = [slow_read(masks[i, q], x, y) for x, y in points[k]]
        theirs = [slow_read(mask, x, y) for x, y in points[k]]
        terms["loss_mask"] += np.mean([slow_entropy(x, t) for x, t in zip(mine, theirs, strict=True)])
        terms["loss_dice"] += slow_dice(mine, theirs)
        if last:
            side = 2 * masks.shape[-1]
            at = (np.arange(side) + 0.5) / side
            edge = 0.5 / masks.shape[-1]
            inside = at.clip(edge, 1 - edge)  # resizing repeats the border where reading at points fades out
            found = np.array([[slow_read(masks[i, q], x, y) > 0 for x in inside] for y in inside])
            step = mask.shape[-1] // side
            wanted = mask.reshape(side, step, side, step)[:, 1:3, :, 1:3].mean((1, 3)) > 0.5
            iou = ((found & wanted).sum() + 0.01) / ((found | wanted).sum() + 0.01)
        fits[i, q, int(true.classes[o])] = iou
    for place, x in np.ndenumerate(logits):
        t = fits.get(place, 0.0)
        terms["loss_class"] += (t if place in fits else 0.75 * sigmoid(x) ** 2) * slow_entropy(x, t)
    return {name: value / objects for name, value in terms.items()}


# ---- the reference numbers


@pytest.fixture(scope="module")
def reference(shared_dir: Path):
    """The module that fills weights and makes inputs."""
    sys.path.insert(0, str(shared_dir / "zoo"))
    try:
        import compare
        import fill
    finally:
        sys.path.pop(0)
    return SimpleNamespace(Oracle=compare.Oracle, image=compare.image, normalize=compare.normalize, rand=fill.fake_rand)


@pytest.mark.slow
@reads_reference
@pytest.mark.parametrize(("case", "denoising"), [("no_denoising", 0), ("denoising100", 100)])
def test_losses_and_gradients_equal_the_reference(reference, shared_dir, case, denoising):
    stored = np.load(shared_dir / "zoo" / "loss" / f"{NAME}.npz")
    wanted = json.loads((shared_dir / "zoo" / "loss" / f"{NAME}.json").read_text())["losses"][case]
    network = build_mask_rtdetr_s(80)
    reference.Oracle(NAME).fill_layer(network)
    network.train()
    height, width = (int(v) for v in stored["in/hw"])
    images = [reference.normalize(reference.image(height, width, int(s)), str(stored["in/norm"])) for s in stored["in/seeds"]]
    targets = {name: value.numpy() for name, value in rectangles([[], []], objects=3, side=height).items()}
    for i in range(2):
        shape = stored[f"gt/mask_shape{i}"]
        objects = slice(0, int(shape[0]))
        targets["gt_bbox"][i, objects] = stored[f"gt/boxes{i}"]
        targets["gt_class"][i, objects] = stored[f"gt/class{i}"]
        targets["pad_gt_mask"][i, objects] = 1
        bits = np.unpackbits(stored[f"gt/mask_bits{i}"])[: shape.prod()]
        targets["gt_segm"][i, objects] = bits.reshape(shape)

    terms = network.loss(
        {"image": paddle.to_tensor(np.concatenate(images))},
        {name: paddle.to_tensor(value) for name, value in targets.items()},
        num_denoising=denoising,
        rand=lambda shape: paddle.to_tensor(reference.rand(shape)),
    )
    terms["loss"].backward()

    assert values(terms) == pytest.approx(wanted, rel=1e-4)
    parameters = dict(network.named_parameters())
    names = json.loads(str(stored[f"grad/{case}/names"]))
    norms = stored[f"grad/{case}/l2"]
    found = np.array([np.linalg.norm(parameters[n].grad.numpy().astype("float64")) for n in names])
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(norms), rel=2e-4)
    # A relative input change of 1e-6 moves gradients by up to 1.6e-3, half of them by more than 5e-5.
    error = np.abs(found - norms) / np.maximum(norms, 1e-4 * norms.max())
    assert error.max() < 1e-3 and np.median(error) < 5e-5
    learning = {name for name, parameter in parameters.items() if not parameter.stop_gradient}
    assert learning - set(names) == (set() if denoising else {"transformer.denoising_class_embed.weight"})


# ---- true objects


def test_padding_is_taken_out_wherever_it_stands():
    targets = rectangles([[(0, 0, 8, 8)], [(8, 16, 24, 20), (4, 4, 5, 5)]], objects=2)
    targets = {name: paddle.to_tensor(value.numpy()[:, ::-1]) for name, value in targets.items()}
    true = truth_of(targets, Size(height=SIDE, width=2 * SIDE))
    assert true.counts == [1, 2] and true.total == 3 and true.fullest == 2 and true.starts() == [0, 1]
    assert true.classes.tolist() == [0, 1, 0]
    pixels = np.array([[4, 4, 8, 8], [4.5, 4.5, 1, 1], [16, 18, 16, 4]])
    np.testing.assert_allclose(true.boxes.numpy() * [2 * SIDE, SIDE, 2 * SIDE, SIDE], pixels)
    assert true.masks.numpy().sum((1, 2)).tolist() == [64, 1, 64]


@pytest.mark.parametrize("objects", [0, 3])
def test_a_batch_without_objects_has_an_empty_truth(objects):
    true = truth_of(rectangles([[], []], objects=objects), Size(height=SIDE, width=SIDE))
    assert true.counts == [0, 0] and true.total == 0 and true.fullest == 0
    assert true.classes.shape == [0] and true.boxes.shape == [0, 4] and true.masks.shape == [0, SIDE, SIDE]


# ---- which query answers for which object


def test_costs_equal_those_of_a_loop():
    random = np.random.RandomState(0)
    logits, boxes = random.normal(0, 2, (4, 3)), random.uniform(0.2, 0.6, (4, 4))
    masks = random.normal(0, 2, (4, 5))
    classes, true_boxes, true_masks = np.array([2, 0, 2]), random.uniform(0.2, 0.6, (3, 4)), random.rand(3, 5)
    weights = TermWeights(class_=1.5, box=2.5, giou=3.5, mask=4.5, dice=5.5)
    wanted = np.zeros((4, 3))
    for q in range(4):
        for t in range(3):
            p = sigmoid(logits[q, classes[t]])
            focal = 0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p)
            entropy = np.mean([slow_entropy(x, y) for x, y in zip(masks[q], true_masks[t], strict=True)])
            wanted[q, t] = (
                1.5 * focal
                + 2.5 * np.abs(boxes[q] - true_boxes[t]).sum()
                - 3.5 * slow_iou(boxes[q], true_boxes[t])[1]
                + 4.5 * entropy
                + 5.5 * slow_dice(list(masks[q]), list(true_masks[t]))
            )
    arrays = (logits, boxes, masks, classes, true_boxes, true_masks)
    found = pair_costs(*(paddle.to_tensor(a if a is classes else a.astype("float32")) for a in arrays), weights=weights)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_logits_of_any_size_have_finite_costs():
    big = paddle.to_tensor([[300.0], [-300.0]])
    boxes = paddle.to_tensor([[0.5, 0.5, 0.0, 0.0]] * 2)
    found = pair_costs(
        big, boxes, big.expand([2, 4]), paddle.to_tensor([0]), boxes[:1], paddle.ones([1, 4]), weights=TermWeights()
    )
    assert np.isfinite(found.numpy()).all() and found[0, 0] < found[1, 0]


def right_guesses(true: Truth, places: list[tuple[int, int]], images: int, queries: int) -> Predictions:
    """Object k of `true` is guessed exactly by query places[k][1] of image places[k][0], the others guess nothing."""
    height, width = true.masks.shape[1:]
    logits = np.full((images, queries, 3), -5, "float32")
    boxes = np.tile(np.array([0.05, 0.05, 0.02, 0.02], "float32"), (images, queries, 1))
    masks = np.full((images, queries, height, width), -5, "float32")
    for (i, q), label, box, mask in zip(places, true.classes.tolist(), true.boxes.numpy(), true.masks.numpy(), strict=True):
        logits[i, q, label] = 5
        boxes[i, q] = box
        masks[i, q] = mask * 10.0 - 5.0
    return Predictions(*(paddle.to_tensor(a) for a in (logits, boxes, masks)))


def matched(predictions: Predictions, true: Truth, *, num_points: int = 64) -> list[tuple[int, int]]:
    paddle.seed(0)
    pairs = match_queries(predictions, true, weights=TermWeights(), num_points=num_points, rand=paddle.rand)
    return list(zip(pairs.queries.tolist(), pairs.objects.tolist(), strict=True))


def test_the_query_that_is_right_gets_the_object_of_its_own_image():
    true = truth([BOXES[0], [], BOXES[1]])
    found = matched(right_guesses(true, [(0, 4), (0, 1), (2, 3)], images=3, queries=5), true)
    assert found == [(1, 1), (4, 0), (2 * 5 + 3, 2)]


def test_objects_beyond_the_number_of_queries_stay_alone():
    true = truth([[(x, 0, x + 6, 10) for x in range(0, 56, 8)], BOXES[1]])
    found = matched(guesses(2, 4), true)
    assert len(found) == 4 + 1
    assert len({q for q, _ in found}) == len({o for _, o in found}) == 5
    assert [q // 4 for q, _ in found] == [0, 0, 0, 0, 1] and found[-1][1] == 7


def test_outputs_that_are_no_numbers_are_refused():
    good = guesses(1, 4)
    logits = good.logits.numpy()
    logits[0, 2, 0] = np.nan
    with pytest.raises(ModelError, match="1 of 8 pairing costs are not finite"):
        matched(Predictions(paddle.to_tensor(logits), good.boxes, good.masks), truth([BOXES[0]]))


# ---- denoising queries


def test_ordinary_queries_do_not_see_the_answers_and_groups_do_not_see_each_other():
    allowed = attention_mask(3, 2, 4)
    assert allowed.shape == (10, 10)
    for row in range(10):
        for column in range(10):
            ordinary = row >= 6, column >= 6
            assert allowed[row, column] == (ordinary[1] or (not ordinary[0] and row // 2 == column // 2))


def embedding() -> paddle.Tensor:
    weight = paddle.to_tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    weight.stop_gradient = False
    return weight


def test_without_noise_every_group_holds_every_object_as_it_is():
    true = truth([BOXES[0], [], BOXES[1]])
    made = denoising_groups(true, embedding(), num_queries=7, num_denoising=7, label_noise=0, box_noise=0, rand=paddle.rand)
    assert made.groups == 3 and made.per_image == 6
    assert made.inputs.queries.shape == [3, 6, 2] and made.inputs.attention.shape == [13, 13]
    queries, boxes = made.inputs.queries.flatten(0, 1).numpy(), made.inputs.boxes.flatten(0, 1).numpy()
    assert made.pairs.queries.tolist() == [0, 1, 2, 3, 4, 5, 12, 14, 16]
    assert made.pairs.objects.tolist() == [0, 1] * 3 + [2] * 3
    for q, o in zip(made.pairs.queries.tolist(), made.pairs.objects.tolist(), strict=True):
        assert queries[q].tolist() == embedding()[true.classes[o]].tolist()
        np.testing.assert_allclose(sigmoid(boxes[q]), true.boxes[o].numpy(), atol=1e-6)
    filler = sorted(set(range(18)) - set(made.pairs.queries.tolist()))
    assert (queries[filler] == 0).all() and (sigmoid(boxes[filler]) < 1.1e-5).all()


def test_noise_is_as_large_as_it_says():
    paddle.seed(0)
    true = truth([[(16, 24, 48, 40)]])
    made = denoising_groups(true, embedding(), num_queries=3, num_denoising=4000, rand=paddle.rand)
    changed = (made.inputs.queries[0] != embedding()[0]).any(-1).numpy().mean()
    assert changed == pytest.approx(0.25 * 2 / 3, abs=0.02)  # a quarter is drawn anew, one in three of them back
    moved = (sigmoid(made.inputs.boxes[0].numpy()) - true.boxes[0].numpy()) / np.array([0.5, 0.25, 0.5, 0.25])
    assert np.abs(moved).max(0) == pytest.approx([0.5, 0.5, 1, 1], abs=0.01)
    assert np.abs(moved.mean(0)).max() < 0.02


def test_there_is_one_group_at_least_and_none_without_objects():
    many = truth([[(x, 0, x + 2, 2) for x in range(12)]])
    made = denoising_groups(many, embedding(), num_queries=3, num_denoising=5, rand=paddle.rand)
    assert made.groups == 1 and made.per_image == 12
    assert denoising_groups(truth([[], []]), embedding(), num_queries=3, rand=paddle.rand) is None
    assert denoising_groups(many, embedding(), num_queries=3, num_denoising=0, rand=paddle.rand) is None


def test_class_embeddings_learn_through_the_queries():
    weight = embedding()
    true = truth([BOXES[0]])
    made = denoising_groups(true, weight, num_queries=3, num_denoising=4, label_noise=0, rand=paddle.rand)
    made.inputs.queries.sum().backward()
    assert weight.grad.tolist() == [[2, 2], [2, 2], [0, 0]]


# ---- the loss, on made-up predictions


def stub_loss(network: StubNetwork, targets: dict[str, paddle.Tensor], **options) -> dict[str, paddle.Tensor]:
    options = {"num_points": 16, "num_denoising": 4, "rand": fixed_rand, **options}
    images = targets["gt_bbox"].shape[0]
    return mask_rtdetr_loss(network, {"image": paddle.zeros([images, 3, SIDE, SIDE])}, targets, **options)


@pytest.mark.parametrize("denoising", [0, 4])
def test_all_terms_equal_those_of_loops(denoising):
    network, true, how = StubNetwork(), truth(BOXES), TermWeights(1.5, 2.5, 3.5, 4.5, 5.5)
    terms = values(stub_loss(network, rectangles(BOXES, objects=4), num_denoising=denoising, weights=how))
    outputs = network.outputs
    split = 2 * denoising // 2 if denoising else 0
    factors = dict(zip(NAMES, (1.5, 2.5, 3.5, 4.5, 5.5), strict=True))

    def part(stage, queries):
        return Predictions(stage.logits[:, queries], stage.boxes[:, queries], stage.masks[:, queries])

    def points(stage, pairs):
        candidates = fixed_rand([len(pairs), 1, 48, 2]).numpy()[:, 0]
        others = fixed_rand([len(pairs), 4, 2]).numpy()
        chosen = []
        for k, (i, q, _) in enumerate(pairs):
            doubt = [abs(slow_read(stage.masks[i, q].numpy(), x, y)) for x, y in candidates[k]]
            chosen.append(np.concatenate([candidates[k][np.argsort(doubt)[:12]], others[k]]))
        return chosen

    def add_up(stages, pairs_of, objects, suffix):
        for name in NAMES:
            wanted[name + suffix] = wanted[f"{name}_aux{suffix}"] = 0.0
        for stage in stages:
            pairs, last = pairs_of(stage), stage is stages[-1]
            found = slow_stage(stage, true, pairs, last=last, objects=objects, points=points(stage, pairs))
            for name in NAMES:
                wanted[name + ("" if last else "_aux") + suffix] += factors[name] * found[name]

    def by_matching(stage):
        queries = stage.boxes.shape[1]
        pairs = match_queries(stage, true, weights=how, num_points=16, rand=fixed_rand)
        return [(q // queries, q % queries, o) for q, o in zip(pairs.queries.tolist(), pairs.objects.tolist(), strict=True)]

    wanted: dict[str, float] = {}
    later = [*([outputs.initial] if denoising else []), *outputs.layers]
    ordinary, noisy = slice(split, None), slice(0, split)
    add_up([outputs.encoder, *(part(s, ordinary) for s in later)], by_matching, 3, "")
    known = [(0, 0, 0), (0, 1, 1), (0, 2, 0), (0, 3, 1), (1, 0, 2), (1, 2, 2)]
    add_up([part(s, noisy) for s in later] if denoising else [], lambda _: known, 3 * 2, "_dn")
    wanted["loss"] = sum(wanted.values())
    assert terms == pytest.approx(wanted, rel=1e-4)


def test_padding_and_the_type_of_masks_do_not_change_the_loss():
    results = []
    for objects, kind in ((2, "uint8"), (5, "bool"), (3, "float32")):
        targets = rectangles(BOXES, objects=objects)
        targets["gt_segm"] = targets["gt_segm"].astype(kind)
        results.append(values(stub_loss(StubNetwork(), targets)))
    assert all(results[0][name] > 0 for name in results[0])
    assert results[1] == pytest.approx(results[0], rel=1e-6)
    assert results[2] == pytest.approx(results[0], rel=1e-6)


def test_masks_at_a_quarter_of_the_size_give_nearly_the_same_loss():
    full, quarter = rectangles(BOXES, objects=2), rectangles(BOXES, objects=2)
    quarter["gt_segm"] = quarter["gt_segm"][:, :, 1::4, 1::4]
    found, wanted = (values(stub_loss(StubNetwork(), targets, num_points=500)) for targets in (quarter, full))
    assert found == pytest.approx(wanted, rel=0.02)
    assert found["loss_mask"] != wanted["loss_mask"]


def test_one_seed_gives_one_loss():
    def run(seed):
        paddle.seed(seed)
        return values(stub_loss(StubNetwork(), rectangles(BOXES, objects=2), rand=paddle.rand))

    assert run(3) == run(3)
    assert run(3)["loss_mask"] != run(4)["loss_mask"]


def test_a_right_answer_costs_next_to_nothing_and_a_wrong_one_much():
    true = truth([BOXES[0]])
    network = StubNetwork(queries=4)
    right = right_guesses(true, [(0, 1), (0, 2)], images=1, queries=4)
    right.logits.set_value(right.logits * 2)

    def answer(image, denoising=None):
        return TrainingOutputs(encoder=right, initial=None, layers=[right, right])

    network.training_outputs = answer
    terms = values(stub_loss(network, rectangles([BOXES[0]], objects=2), num_denoising=0, num_points=400))
    assert terms["loss_class"] < 1e-3 and terms["loss_bbox"] < 1e-4 and terms["loss_giou"] < 1e-4
    assert terms["loss_mask"] < 1 and terms["loss_dice"] < 0.5  # reading between pixels blurs an object's edge
    wrong = values(stub_loss(network, rectangles([[(2, 50, 20, 62), (50, 2, 60, 12)]], objects=2), num_denoising=0))
    assert wrong["loss_bbox"] > 5 and wrong["loss_giou"] > 2 and wrong["loss_mask"] > 5 and wrong["loss_dice"] > 2


def gradients(network: StubNetwork) -> dict[str, paddle.Tensor]:
    """Of every output a parameter could hide behind."""
    stages = {"encoder": network.outputs.encoder, "initial": network.outputs.initial}
    stages |= {f"layer {i}": stage for i, stage in enumerate(network.outputs.layers)}
    found = {"embedding": network.transformer.denoising_class_embed.weight.grad}
    for name, stage in stages.items():
        if stage is not None:
            found |= {f"{name} {part}": getattr(stage, part).grad for part in ("logits", "boxes", "masks")}
    return found


UGLY: dict[str, list[list[Box]]] = {
    "one image without objects": [BOXES[0], []],
    "no objects": [[], []],
    "one pixel": [[(5, 7, 6, 8)], [(63, 63, 64, 64), (0, 0, 1, 1)]],
    "300 objects": [[(x, y, x + 3, y + 2) for x in range(0, 60, 3) for y in range(0, 60, 4)], BOXES[1]],
    "no area": [[(5, 5, 5, 9)], [(0, 0, 0, 0)]],
    "two alike": [[BOXES[0][0], BOXES[0][0]], []],
}


@pytest.mark.parametrize("boxes", UGLY.values(), ids=UGLY.keys())
@pytest.mark.parametrize("denoising", [0, 100])
def test_losses_and_gradients_are_finite_for(boxes, denoising):
    network = StubNetwork(queries=300 if len(boxes[0]) > 6 else 6)
    targets = rectangles(boxes, objects=max(len(b) for b in boxes))
    terms = stub_loss(network, targets, num_denoising=denoising)
    terms["loss"].backward()
    assert all(np.isfinite(v) for v in values(terms).values())
    assert float(terms["loss"]) == pytest.approx(sum(v for k, v in values(terms).items() if k != "loss"), rel=1e-5)
    # Denoising queries enter the decoder; here they end in it, so the embedding learns only when nothing else does.
    found = {name: grad for name, grad in gradients(network).items() if name != "embedding"}
    assert [name for name, grad in found.items() if grad is None] == []
    assert all(np.isfinite(grad.numpy()).all() for grad in found.values())
    if not any(boxes):
        assert float(terms["loss_class"]) > 0
        assert float(terms["loss"]) == pytest.approx(float(terms["loss_class"] + terms["loss_class_aux"]))
        assert network.transformer.denoising_class_embed.weight.grad is not None


# ---- the loss, on the network


def small(*, queries: int = 20, side: int = SIDE, classes: int = 3, backbone_lr_mult: float = 0.1) -> MaskRTDETR:
    """Mask-RT-DETR-S but for the number of queries; its parameters have the same shapes."""
    paddle.seed(0)
    network = build_mask_rtdetr(
        SIZES["S"],
        classes,
        attended=1,
        expansion=0.5,
        mask_channels=(64, 32),
        num_queries=queries,
        input_size=side,
        backbone_lr_mult=backbone_lr_mult,
    )
    network.train()
    return network


def noise(images: int, *, side: int = SIDE) -> dict[str, paddle.Tensor]:
    image = np.random.RandomState(7).uniform(size=(images, 3, side, side))
    return {"image": paddle.to_tensor(image.astype("float32"))}


@pytest.mark.parametrize("boxes", [BOXES, UGLY["one image without objects"], UGLY["no objects"], UGLY["one pixel"]])
def test_every_trainable_parameter_gets_a_finite_gradient(boxes):
    network = small()
    terms = network.loss(noise(2), rectangles(boxes, objects=2), num_points=64, num_denoising=8)
    terms["loss"].backward()
    assert all(np.isfinite(v) for v in values(terms).values())
    learning = {name: p for name, p in network.named_parameters() if not p.stop_gradient}
    assert [name for name, p in learning.items() if p.grad is None] == []
    assert [name for name, p in learning.items() if not np.isfinite(p.grad.numpy()).all()] == []
    assert all(p.grad is None for p in network.parameters() if p.stop_gradient)


@pytest.mark.slow
def test_300_objects_are_more_than_the_queries_and_harm_nothing():
    network, boxes = small(queries=250, side=128), [(x, y, x + 5, y + 7) for x in range(0, 120, 6) for y in range(0, 120, 8)]
    assert len(boxes) == 300
    targets = rectangles([boxes], objects=300, side=128)
    targets["gt_segm"] = targets["gt_segm"][:, :, ::4, ::4]
    terms = network.loss(noise(1, side=128), targets, num_points=1000, num_denoising=1)
    terms["loss"].backward()
    assert all(np.isfinite(v) for v in values(terms).values())
    assert all(np.isfinite(p.grad.numpy()).all() for p in network.parameters() if not p.stop_gradient)


def test_two_runs_from_one_seed_learn_the_same():
    def run(seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
        network, history = small(), []
        optimizer = paddle.optimizer.AdamW(1e-3, parameters=network.parameters())
        paddle.seed(seed)
        for _ in range(2):
            terms = network.loss(noise(2), rectangles(BOXES, objects=2), num_points=64, num_denoising=8)
            terms["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()
            history.append(values(terms))
        return history, network.transformer.denoising_class_embed.weight.numpy()

    (first, weights), (again, same), (other, _) = run(1), run(1), run(2)
    assert first == again and (weights == same).all()
    assert first[0] != other[0]


# ---- learning

LEARNED_SIDE = 128
STEPS = 60


def two_pictures(side: int) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """float32 [2, 3, side, side], and the masks of each picture's objects: a rectangle (class 0) and an ellipse (1)."""
    random = np.random.RandomState(0)
    y, x = (np.mgrid[:side, :side] + 0.5) * (128 / side)
    places = [((16, 12, 76, 60), (60, 64, 116, 116)), ((72, 16, 116, 80), (12, 44, 60, 108))]
    pictures = random.uniform(0, 0.2, (2, 3, side, side)).astype("float32")
    masks = []
    for picture, ((x0, y0, x1, y1), (left, top, right, bottom)) in zip(pictures, places, strict=True):
        rectangle = (x > x0) & (x < x1) & (y > y0) & (y < y1)
        across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
        ellipse = across**2 + down**2 < 1
        for mask, colour in ((rectangle, (0.9, 0.3, 0.2)), (ellipse, (0.2, 0.5, 0.9))):
            picture[:, mask] = np.array(colour)[:, None] + random.uniform(-0.05, 0.05, (3, mask.sum()))
        masks.append([rectangle & ~ellipse, ellipse])
    return pictures, masks


def targets_of(masks: list[list[np.ndarray]]) -> dict[str, paddle.Tensor]:
    segm = np.array(masks)
    images, objects = segm.shape[:2]
    boxes = np.zeros((images, objects, 4), "float32")
    for place in np.ndindex(images, objects):
        rows, columns = np.nonzero(segm[place])
        boxes[place] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    classes = np.tile(np.arange(objects)[:, None], (images, 1, 1))
    gt = {"gt_bbox": boxes, "gt_class": classes, "pad_gt_mask": np.ones_like(boxes[..., :1]), "gt_segm": segm}
    return {name: paddle.to_tensor(value) for name, value in gt.items()}


def take_statistics_from(network: MaskRTDETR, images: paddle.Tensor) -> None:
    """Set the frozen batch norms of a fresh backbone to what passes them, as published weights would be set."""

    def look(norm: paddle.nn.Layer, inputs: tuple[paddle.Tensor]) -> None:
        norm._mean.set_value(inputs[0].mean([0, 2, 3]))
        norm._variance.set_value(inputs[0].var([0, 2, 3]) + 1e-3)

    norms = [layer for layer in network.backbone.sublayers() if hasattr(layer, "_variance")]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    with paddle.no_grad():
        network.backbone(images)
    for hook in hooks:
        hook.remove()


def average_precision(network: MaskRTDETR, images: paddle.Tensor, masks: list[list[np.ndarray]]) -> float:
    """Mask AP of what the lean program says, its masks enlarged to the image."""
    network.eval()
    with paddle.no_grad():
        rows, counts, embeddings, prototypes = network.forward_lean(images)
    size, detections, start = images.shape[2:], [], 0
    for image, count in enumerate(counts.tolist()):
        part = slice(start, start + count)
        logits = (embeddings[part] @ prototypes[image].flatten(1)).reshape([1, count, *prototypes.shape[2:]])
        found = paddle.nn.functional.interpolate(logits, size=size, mode="bilinear")[0].numpy() > 0
        detections += [
            {"image_id": image, "category_id": int(row[0]), "score": float(row[1]), "segmentation": rle(mask)}
            for row, mask in zip(rows[part].numpy(), found, strict=True)
        ]
        start += count
    truth = [
        {"id": 2 * i + k + 1, "image_id": i, "category_id": k, "segmentation": rle(mask)}
        for i, found in enumerate(masks)
        for k, mask in enumerate(found)
    ]
    pictures = [{"id": i, "height": size[0], "width": size[1]} for i in range(len(masks))]
    categories = [{"id": 0, "name": "rectangle"}, {"id": 1, "name": "ellipse"}]
    return mask_ap({"images": pictures, "categories": categories, "annotations": truth}, detections).ap


def rle(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask.astype("uint8")))


@pytest.mark.slow
def test_two_images_are_learnt_by_heart():
    pictures, masks = two_pictures(LEARNED_SIDE)
    images, targets = paddle.to_tensor(pictures), targets_of(masks)
    network = small(queries=30, side=LEARNED_SIDE, classes=2)
    take_statistics_from(network, images)
    falling = paddle.optimizer.lr.CosineAnnealingDecay(5e-4, T_max=STEPS)
    schedule = paddle.optimizer.lr.LinearWarmup(falling, warmup_steps=5, start_lr=5e-5, end_lr=5e-4)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=network.parameters())
    history = []
    for _ in range(STEPS):
        # Denoising queries whose classes were drawn anew cannot be learnt by heart: they would hide what the rest learns.
        loss = network.loss({"image": images}, targets, num_points=256, num_denoising=0)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        history.append(float(loss))
    assert average_precision(network, images, masks) > 0.9
    assert history[-1] < history[0] / 8, history
