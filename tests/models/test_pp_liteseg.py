"""PP-LiteSeg against the reference numbers, and what must hold of its label maps and of its exported program."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import paddle
import pytest
from paddle import inference
from paddle.static import InputSpec

from rayseg.models.semantic.pp_liteseg import build_pp_liteseg_b, build_pp_liteseg_t

SIZES = [(1, 64, 96), (2, 250, 333), (3, 33, 17), (1, 1, 1)]
RTOL = 1e-4


class Reference:
    """The stored numbers of PP-LiteSeg-T and the weights and inputs they were made with."""

    def __init__(self, zoo):
        spec = importlib.util.spec_from_file_location("fill", zoo / "fill.py")
        self.fill = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.fill)
        self.keys = json.loads((zoo / "keys/PP-LiteSeg-T.json").read_text())
        self.out = np.load(zoo / "out/PP-LiteSeg-T.npz")
        self.loss = np.load(zoo / "loss/PP-LiteSeg-T.npz")
        self.losses = json.loads((zoo / "loss/PP-LiteSeg-T.json").read_text())["losses"]["loss_list"]

    def network(self):
        network = build_pp_liteseg_t()
        scales = self.fill.load_scales("PP-LiteSeg-T")
        for name, tensor in network.state_dict().items():
            tensor.set_value(self.fill.fill(name, tensor.shape, "float32", scales.get(name, 1.0)))
        return network

    def image(self, height, width, seed):
        return self.fill.normalize(self.fill.image(int(height), int(width), int(seed)), "half")


@pytest.fixture(scope="module")
def reference(shared_dir):
    return Reference(shared_dir / "zoo")


@pytest.fixture(scope="module")
def network():
    paddle.seed(0)
    network = build_pp_liteseg_t(num_classes=5)
    network.eval()
    return network


def noise(batch, height, width, seed=0):
    x = np.random.default_rng(seed).normal(size=(batch, 3, height, width)).astype("float32")
    return x + np.linspace(-2, 2, width, dtype="float32")


@pytest.mark.parametrize(("model", "build"), [("PP-LiteSeg-T", build_pp_liteseg_t), ("PP-LiteSeg-B", build_pp_liteseg_b)])
def test_parameter_names_shapes_and_order_equal_the_reference(shared_dir, model, build):
    keys = json.loads((shared_dir / f"zoo/keys/{model}.json").read_text())
    network = build(keys["facts"]["config"]["model"]["num_classes"])
    got = [[name, list(tensor.shape), str(tensor.dtype).removeprefix("paddle.")] for name, tensor in network.state_dict().items()]
    assert got == keys["keys"]
    fixed = {name for name, tensor in network.state_dict().items() if tensor.stop_gradient}
    assert fixed == {name for name, attrs in keys["param_attrs"].items() if attrs == {"trainable": False}}


def test_every_layer_computes_what_the_reference_computes(reference):
    network = reference.network()
    network.eval()
    got, calls = {}, {}

    def keep(path):
        def hook(layer, inputs, output):
            call = calls[path] = calls.get(path, -1) + 1
            many = isinstance(output, list | tuple)
            for index, tensor in enumerate(output if many else [output]):
                got[f"{path}#{call}" + (f"/{index}" if many else "")] = tensor.numpy()

        return hook

    for path, layer in network.named_sublayers():
        layer.register_forward_post_hook(keep(path))
    height, width = reference.out["in/image_hw"]
    (logits,) = network(paddle.to_tensor(reference.image(height, width, reference.out["in/seed"])))

    names = json.loads(str(reference.out["trace/names"]))
    shapes = json.loads(str(reference.out["trace/shapes"]))
    samples = reference.out["trace/samples"]
    for name, shape, wanted in zip(names, shapes, samples, strict=True):
        # The reference wraps each ReLU of the decoder in a layer of its own, with the same output.
        array = got[name.replace("._relu.act_func#", "._relu#")]
        wanted = wanted[~np.isnan(wanted)]
        found = array.ravel()[reference.fill.sample_idx(array.size, samples.shape[1])]
        assert list(array.shape) == shape, name
        assert np.linalg.norm(found - wanted) <= RTOL * np.linalg.norm(wanted), name

    wanted = reference.out["out/0@samples"]
    found = logits.numpy().ravel()[reference.fill.sample_idx(logits.size, wanted.size)]
    assert np.linalg.norm(found - wanted) <= RTOL * np.linalg.norm(wanted)
    # 0.4% of the pixels have a margin below 1e-3, so a few could tip over on another processor.
    assert (logits.numpy()[0].argmax(axis=0) != reference.out["out/argmax"]).mean() < 1e-4


def test_losses_gradients_and_batch_norm_statistics_equal_the_reference(reference):
    network, stored = reference.network(), reference.loss
    network.train()
    images = np.concatenate([reference.image(*stored["in/hw"], seed) for seed in stored["in/seeds"]])
    losses = network.loss(paddle.to_tensor(images), paddle.to_tensor(stored["gt/label"]))
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(reference.losses, rel=RTOL)

    losses["loss"].backward()
    wanted = dict(zip(json.loads(str(stored["grad/loss_list/names"])), stored["grad/loss_list/l2"], strict=True))
    parameters = dict(network.named_parameters())
    norms = {name: float(np.linalg.norm(p.grad.numpy())) for name, p in parameters.items() if p.grad is not None}
    assert norms.keys() == wanted.keys()
    for name, norm in wanted.items():
        if name.endswith("_conv.bias"):
            # Before a batch norm: no effect but rounding.
            assert norms[name] < 1e-5, name
        else:
            assert norms[name] == pytest.approx(norm, rel=RTOL), name

    state = network.state_dict()
    for kind in ("mean", "var"):
        suffix = "_mean" if kind == "mean" else "_variance"
        for name, norm in zip(json.loads(str(stored["bn_after/names"])), stored[f"bn_after/{kind}_l2"], strict=True):
            assert np.linalg.norm(state[f"{name}.{suffix}"].numpy()) == pytest.approx(norm, rel=RTOL), name


@pytest.mark.parametrize("shape", SIZES)
def test_a_label_map_has_the_size_of_its_image_and_is_the_argmax_of_the_logits(network, shape):
    x = paddle.to_tensor(noise(*shape))
    with paddle.no_grad():
        (logits,), lean, paddlex = network(x), network.forward_lean(x), network.forward_paddlex(x)
    batch, height, width = shape
    assert logits.shape == [batch, 5, height, width]
    assert (lean.dtype, paddlex.dtype) == (paddle.uint8, paddle.int32)
    assert (lean.numpy() == logits.numpy().argmax(axis=1)).all()
    assert (paddlex.numpy() == lean.numpy()).all()


def test_an_image_has_the_same_label_map_alone_and_in_a_batch(network):
    x = noise(3, 70, 50)
    with paddle.no_grad():
        together = network.forward_lean(paddle.to_tensor(x)).numpy()
        alone = [network.forward_lean(paddle.to_tensor(x[k : k + 1])).numpy()[0] for k in range(3)]
    assert len(np.unique(together)) > 1
    assert (together == np.stack(alone)).mean() > 1 - 1e-4


def test_more_classes_than_a_byte_holds_give_wider_labels():
    network = build_pp_liteseg_t(num_classes=300)
    network.eval()
    assert network.forward_lean(paddle.to_tensor(noise(1, 8, 8))).dtype == paddle.int32


def test_the_loss_runs_all_heads_in_either_mode(network):
    x, labels = paddle.to_tensor(noise(1, 32, 32)), paddle.ones([1, 32, 32], dtype="int64")
    terms = network.loss(x, labels)
    assert set(terms) == {"loss", "loss_0", "loss_1", "loss_2"}
    assert float(terms["loss"]) == pytest.approx(sum(float(terms[f"loss_{k}"]) for k in range(3)))
    assert not network.training and len(network(x)) == 1


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """Path, without ending, of the lean program with free batch, height and width."""
    path = str(tmp_path_factory.mktemp("pp_liteseg") / "inference")
    spec = [InputSpec([None, 3, None, None], "float32", name="x")]
    paddle.jit.save(paddle.jit.to_static(network.forward_lean, input_spec=spec, full_graph=True), path)
    return path


def predictor_of(path, *, onednn):
    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.disable_glog_info()
    if onednn:
        config.enable_mkldnn()
        config.delete_pass("onednn_placement_pass")  # with it, a program that resizes cannot run
    else:
        config.disable_mkldnn()
    return inference.create_predictor(config)


def run(predictor, x):
    handle = predictor.get_input_handle("x")
    handle.reshape(x.shape)
    handle.copy_from_cpu(x)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


@pytest.mark.parametrize("onednn", [False, True])
def test_one_exported_program_gives_the_same_label_maps_for_every_batch_and_size(network, exported, onednn):
    predictor = predictor_of(exported, onednn=onednn)
    for shape in SIZES:
        x = noise(*shape)
        with paddle.no_grad():
            wanted = network.forward_lean(paddle.to_tensor(x)).numpy()
        got = run(predictor, x)
        assert (got.dtype, got.shape) == (np.uint8, wanted.shape)
        # Folded batch norms round differently: a pixel between two classes may tip over.
        assert (got == wanted).mean() > 1 - 1e-4
