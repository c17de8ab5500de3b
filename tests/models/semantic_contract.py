"""What must hold of every semantic family: a test class to derive from, which states the names of its networks.

Each family is held to stored numbers of the reference, to itself (one image alone and in a batch, eager and exported) and
to learning two images by heart.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg.metrics.mean_iou import ConfusionMatrix
from rayseg.models.blocks.drop_path import DropPath
from rayseg.predict.backends.paddle_inference import onednn_cpu, plain_cpu
from rayseg.predict.export import export_model
from rayseg.predict.model_dir import load_model_dir

RTOL = 1e-4
NUM_CLASSES = 5
IGNORE = 255
SHAPES = [(1, 64, 96), (2, 70, 50), (3, 33, 17), (1, 1, 1)]
LARGE = (1, 250, 333)
# Below it a gradient is rounding: a convolution's bias before a batch norm has no effect.
NO_GRADIENT = 2e-6
# A pixel between two classes may tip over where sums are added in another order.
SAME_PIXELS = 1 - 1e-4


class Reference:
    """The stored numbers of one network, and the weights and inputs they were made with."""

    def __init__(self, zoo: Path, name: str) -> None:
        spec = importlib.util.spec_from_file_location("fill", zoo / "fill.py")
        self.fill = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.fill)
        self.name = name
        self.out = np.load(zoo / f"out/{name}.npz")
        self.loss = np.load(zoo / f"loss/{name}.npz")
        self.losses = json.loads((zoo / f"loss/{name}.json").read_text())["losses"]["loss_list"]

    def fill_network(self, network: nn.Layer) -> None:
        scales = self.fill.load_scales(self.name)
        for name, tensor in network.state_dict().items():
            values = self.fill.fill(name, tensor.shape, "float32", scales.get(name, 1.0))
            if values is not None:
                tensor.set_value(values)

    def image(self, hw: np.ndarray, seed: int) -> np.ndarray:
        height, width = (int(side) for side in hw)
        return self.fill.normalize(self.fill.image(height, width, int(seed)), "half")

    def check_trace(self, stored: Any, got: dict[str, np.ndarray]) -> None:
        """Compare all outputs of `got` that the reference has too."""
        names, shapes = (json.loads(str(stored[f"trace/{what}"])) for what in ("names", "shapes"))
        noise = stored.get("trace/noise_rel_l2_for_1e-6_input", np.zeros(len(names)))
        for name, shape, samples, moved in zip(names, shapes, stored["trace/samples"], noise, strict=True):
            if name in got:
                assert list(got[name].shape) == shape, name
                self._check_samples(name, samples[~np.isnan(samples)], got[name], rtol=max(RTOL, 10 * moved), of=samples.size)

    def check_output(self, name: str, got: np.ndarray) -> None:
        wanted = self.out[f"{name}@samples"]
        self._check_samples(name, wanted, got, rtol=RTOL, of=wanted.size)

    def _check_samples(self, name: str, wanted: np.ndarray, got: np.ndarray, *, rtol: float, of: int) -> None:
        found = got.ravel()[self.fill.sample_idx(got.size, of)]
        error = float(np.linalg.norm(found - wanted) / (np.linalg.norm(wanted) + 1e-12))
        assert error <= rtol, f"{name}: {error}"


class SemanticContract:
    """Derive a class `Test<Family>` and state what is open."""

    models: ClassVar[dict[str, Callable[[int], nn.Layer]]]
    """Name -> builder; the first is the smallest one, with reference numbers."""
    published_classes: ClassVar[int] = 19
    """Of the reference numbers."""
    gradient_hw: ClassVar[tuple[int, int]] = (40, 33)
    """Size at which every parameter matters: attention to a single key, say, does not depend on it."""
    overfit_hw: ClassVar[tuple[int, int]] = (64, 64)
    """Size of the two images to be learnt."""
    overfit_steps: ClassVar[int] = 40
    """Steps of Adam."""
    overfit_rate: ClassVar[float] = 1e-3
    """Learning rate at its peak."""
    overfit_factor: ClassVar[float] = 10.0
    """What the loss must at least be divided by."""

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, shared_dir: Path) -> Reference:
        return Reference(shared_dir / "zoo", next(iter(cls.models)))

    @pytest.fixture(scope="class")
    @classmethod
    def filled(cls, reference: Reference) -> nn.Layer:
        """With the reference's weights; tests that train it leave only the gradients and statistics of one step."""
        network = cls.build(cls.published_classes)
        reference.fill_network(network)
        return network

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls) -> nn.Layer:
        paddle.seed(0)
        network = cls.build(NUM_CLASSES)
        network.eval()
        return network

    @classmethod
    def build(cls, num_classes: int) -> nn.Layer:
        return next(iter(cls.models.values()))(num_classes)

    def test_names_shapes_and_frozen_parameters_equal_the_reference(self, shared_dir: Path) -> None:
        for name, build in self.models.items():
            stored = json.loads((shared_dir / f"zoo/keys/{name}.json").read_text())
            state = build(self.published_classes).state_dict()
            keys = [[key, list(tensor.shape), str(tensor.dtype).removeprefix("paddle.")] for key, tensor in state.items()]
            assert keys == stored["keys"], name
            found = {key: _attributes(tensor) for key, tensor in state.items() if tensor.is_floating_point()}
            assert {key: attrs for key, attrs in found.items() if attrs} == stored["param_attrs"], name

    def test_every_layer_computes_what_the_reference_computes(self, reference: Reference, filled: nn.Layer) -> None:
        filled.eval()
        got, stop = _watch(filled)
        with paddle.no_grad():
            (logits,) = filled(paddle.to_tensor(reference.image(reference.out["in/image_hw"], reference.out["in/seed"])))
        stop()
        owners = {name.rpartition(".")[0] for name, _ in filled.named_parameters()}
        called, traced = (
            {name.partition("#")[0] for name in names} & owners for names in (got, json.loads(str(reference.out["trace/names"])))
        )
        assert called == traced and called
        reference.check_trace(reference.out, got)
        reference.check_output("out/0", logits.numpy())
        assert (logits.numpy()[0].argmax(axis=0) == reference.out["out/argmax"]).mean() > SAME_PIXELS

    def test_losses_gradients_and_batch_norm_statistics_equal_the_reference(self, reference: Reference, filled: nn.Layer) -> None:
        stored = reference.loss
        _without_dropout(filled).train()
        got, stop = _watch(filled)
        images = np.concatenate([reference.image(stored["in/hw"], seed) for seed in stored["in/seeds"]])
        losses = filled.loss(paddle.to_tensor(images), paddle.to_tensor(stored["gt/label"]))
        stop()
        assert {name: float(value) for name, value in losses.items()} == pytest.approx(reference.losses, rel=RTOL)
        reference.check_trace(stored, got)

        losses["loss"].backward()
        wanted = dict(zip(json.loads(str(stored["grad/loss_list/names"])), stored["grad/loss_list/l2"], strict=True))
        norms = {name: _norm(p.grad.numpy()) for name, p in filled.named_parameters() if p.grad is not None}
        assert norms.keys() == wanted.keys()
        for name, norm in wanted.items():
            assert norms[name] == pytest.approx(norm, rel=RTOL, abs=NO_GRADIENT), name

        state = filled.state_dict()
        for kind, suffix in (("mean", "_mean"), ("var", "_variance")):
            for name, norm in zip(json.loads(str(stored["bn_after/names"])), stored[f"bn_after/{kind}_l2"], strict=True):
                assert _norm(state[f"{name}.{suffix}"].numpy()) == pytest.approx(norm, rel=RTOL), name

    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_label_map_has_the_size_of_its_image_and_is_the_argmax_of_the_logits(self, network: nn.Layer, shape) -> None:
        x = paddle.to_tensor(noise(*shape))
        with paddle.no_grad():
            (logits,), lean, paddlex = network(x), network.forward_lean(x), network.forward_paddlex(x)
        batch, height, width = shape
        assert logits.shape == [batch, NUM_CLASSES, height, width]
        assert (lean.dtype, paddlex.dtype) == (paddle.uint8, paddle.int32)
        assert (lean.numpy() == logits.numpy().argmax(axis=1)).all()
        assert (paddlex.numpy() == lean.numpy()).all()

    def test_an_image_has_the_same_label_map_alone_and_in_a_batch(self, network: nn.Layer) -> None:
        x = noise(3, 70, 50)
        x[1] *= 20
        with paddle.no_grad():
            together = network.forward_lean(paddle.to_tensor(x)).numpy()
            alone = [network.forward_lean(paddle.to_tensor(x[k : k + 1])).numpy()[0] for k in range(3)]
        assert len(np.unique(together)) > 1
        assert (together == np.stack(alone)).mean() > SAME_PIXELS

    @pytest.mark.parametrize("flavour", ["lean", "paddlex"])
    def test_one_exported_program_gives_the_same_label_maps_for_every_batch_and_size(self, network, flavour, tmp_path) -> None:
        labels = [f"class {k}" for k in range(NUM_CLASSES)]
        spec = load_model_dir(export_model(network, tmp_path / flavour, name="mine", labels=labels, flavour=flavour))
        backends = [plain_cpu(spec, threads=1), onednn_cpu(spec, threads=1)]
        for shape in [*SHAPES, LARGE] if flavour == "lean" else SHAPES[1:2]:
            x = noise(*shape)
            with paddle.no_grad():
                wanted = network.forward_lean(paddle.to_tensor(x)).numpy()
            for backend in backends:
                (got,) = backend.run({"x": x})
                assert (got.dtype, got.shape) == (np.uint8 if flavour == "lean" else np.int32, wanted.shape)
                assert (got == wanted).mean() > SAME_PIXELS, (backend.name, shape)

    def test_the_loss_runs_all_heads_in_either_mode_and_leaves_it(self, network: nn.Layer) -> None:
        x, labels = paddle.to_tensor(noise(2, 33, 40)), paddle.ones([2, 33, 40], dtype="int64")
        terms = network.loss(x, labels)
        heads = [term for name, term in terms.items() if name != "loss"]
        assert float(terms["loss"]) == pytest.approx(sum(float(term) for term in heads))
        assert not network.training and len(network(x)) == 1
        network.train()
        try:
            assert len(network(x)) == len(heads)
        finally:
            network.eval()

    def test_without_a_labelled_pixel_the_loss_is_zero_and_the_gradients_finite(self) -> None:
        losses, gradients = self._one_step(np.full((2, 40, 33), IGNORE, dtype="uint8"))
        assert losses["loss"] == 0.0
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())

    def test_one_labelled_pixel_is_enough_to_learn_from_and_two_seeded_runs_agree(self) -> None:
        labels = np.full((2, 40, 33), IGNORE, dtype="uint8")
        labels[1, 39, 0] = NUM_CLASSES - 1
        (losses, gradients), (again, gradients_again) = self._one_step(labels), self._one_step(labels)
        assert np.isfinite(losses["loss"]) and losses["loss"] > 0
        assert losses == again
        for name, gradient in gradients.items():
            assert np.isfinite(gradient).all(), name
            assert (gradient == gradients_again[name]).all(), name

    def test_gradients_reach_every_trainable_parameter_and_no_other(self) -> None:
        labels = np.random.default_rng(0).integers(0, NUM_CLASSES, (2, *self.gradient_hw), dtype="uint8")
        paddle.seed(0)
        network = self.build(NUM_CLASSES)
        _, gradients = self._one_step(labels)
        assert set(gradients) == {name for name, p in network.named_parameters() if not p.stop_gradient}
        dead = {name for name, gradient in gradients.items() if not gradient.any()}
        assert not dead

    def test_a_network_survives_pickling_its_weights(self, network: nn.Layer) -> None:
        state = pickle.loads(pickle.dumps({name: tensor.numpy() for name, tensor in network.state_dict().items()}))
        copy = self.build(NUM_CLASSES)
        copy.set_state_dict(state)
        copy.eval()
        x = paddle.to_tensor(noise(1, 33, 40))
        with paddle.no_grad():
            assert (copy(x)[0].numpy() == network(x)[0].numpy()).all()

    @pytest.mark.slow
    def test_two_images_are_learnt_by_heart(self) -> None:
        images, labels = two_pictures(*self.overfit_hw)
        paddle.seed(0)
        network = self.build(NUM_CLASSES)
        network.train()
        for layer in network.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._momentum = 0.5  # so few steps must count in the statistics
        schedule = paddle.optimizer.lr.CosineAnnealingDecay(self.overfit_rate, T_max=self.overfit_steps)
        optimizer = paddle.optimizer.Adam(schedule, parameters=network.parameters())
        history = []
        for _ in range(self.overfit_steps):
            loss = network.loss(paddle.to_tensor(images), paddle.to_tensor(labels))["loss"]
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()
            history.append(float(loss))
        network.eval()
        with paddle.no_grad():
            predicted = network.forward_lean(paddle.to_tensor(images)).numpy()
        scores = ConfusionMatrix.of(predicted, labels, num_classes=NUM_CLASSES).scores()
        assert scores.miou > 0.9, scores
        assert history[-1] < history[0] / self.overfit_factor, history

    def _one_step(self, labels: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Losses and gradients of a freshly seeded network in training mode, dropout included."""
        paddle.seed(0)
        network = self.build(NUM_CLASSES)
        network.train()
        losses = network.loss(paddle.to_tensor(noise(*labels.shape)), paddle.to_tensor(labels))
        losses["loss"].backward()
        gradients = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
        return {name: float(value) for name, value in losses.items()}, gradients


def noise(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 [N, 3, H, W] around 0, brighter to the right."""
    x = np.random.default_rng(seed).normal(size=(batch, 3, height, width)).astype("float32")
    return x + np.linspace(-2, 2, width, dtype="float32")


def two_pictures(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [2, 3, H, W] and labels uint8 [2, H, W]: discs of four classes on a ground, with an unlabelled rim."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] + 0.5
    colours = rng.uniform(-1, 1, (NUM_CLASSES, 3))
    labels = np.zeros((2, height, width), dtype="uint8")
    for image in range(2):
        for k, (top, left) in enumerate([(0.28, 0.28), (0.28, 0.75), (0.75, 0.28), (0.75, 0.75)]):
            where = np.hypot(y / height - top, x / width - left)
            label = 1 + (k + image) % (NUM_CLASSES - 1)
            labels[image][where < 0.2] = label
    images = colours[labels].transpose(0, 3, 1, 2) + rng.normal(0, 0.2, (2, 3, height, width))
    labels[:, :2] = IGNORE
    return images.astype("float32"), labels


def _attributes(tensor: paddle.Tensor) -> dict[str, Any]:
    """What differs from an ordinary parameter, as the reference writes it."""
    found: dict[str, Any] = {}
    if tensor.stop_gradient:
        found["trainable"] = False
    rate = getattr(tensor, "optimize_attr", {"learning_rate": 1.0})["learning_rate"]
    if rate != 1.0:
        found["learning_rate"] = rate
    if getattr(tensor, "regularizer", None) is not None:
        found["regularizer"] = str(tensor.regularizer)
    return found


def _watch(network: nn.Layer) -> tuple[dict[str, np.ndarray], Callable[[], None]]:
    """Every output of every layer from now on, under the reference's names; and how to stop."""
    got: dict[str, np.ndarray] = {}
    calls: dict[str, int] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(layer: nn.Layer, inputs: Any, output: Any) -> None:
            calls[path] = calls.get(path, -1) + 1
            many = isinstance(output, list | tuple)
            for index, tensor in enumerate(output if many else [output]):
                if isinstance(tensor, paddle.Tensor):
                    got[f"{path}#{calls[path]}" + (f"/{index}" if many else "")] = tensor.numpy()

        return hook

    handles = [layer.register_forward_post_hook(keep(path)) for path, layer in network.named_sublayers()]
    return got, lambda: [handle.remove() for handle in handles] and None


def _without_dropout(network: nn.Layer) -> nn.Layer:
    for layer in network.sublayers():
        if isinstance(layer, nn.Dropout | nn.Dropout2D):
            layer.p = 0.0
        if isinstance(layer, DropPath):
            layer.rate = 0.0
    return network


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))
