"""Two small networks with lively outputs, exported once in both flavours, and pictures for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

LABELS = ["round", "long", "bent"]
CLASSES = ["sky", "land", "sea", "town", "road"]


@pytest.fixture(scope="session")
def instance_network():
    """PP-YOLOE_seg for 96 x 96 pixels that finds hundreds of objects of all sizes in anything."""
    import paddle

    from rayseg.models.instance.ppyoloe_seg import build_ppyoloe_seg

    paddle.seed(0)
    network = build_ppyoloe_seg(len(LABELS), width_mult=0.125, depth_mult=0.33, input_size=96, num_protos=8)
    _settle_batch_norms(network, network.predictions, paddle.rand([4, 3, 96, 96]))
    head = network.yolo_head
    short_distances = paddle.tile(-0.9 * paddle.arange(head.bins, dtype="float32"), [4])
    for level in range(3):
        for layer, spread in ((head.pred_cls, 0.6), (head.pred_reg, 0.8), (head.pred_ins, 1.5)):
            layer[level].weight.set_value(paddle.randn(layer[level].weight.shape) * spread)
        head.pred_cls[level].bias.set_value(paddle.full([len(LABELS)], -1.0))
        head.pred_reg[level].bias.set_value(short_distances)
    return network


@pytest.fixture(scope="session")
def semantic_network():
    """PP-LiteSeg with a narrow backbone."""
    import paddle

    from rayseg.models.backbones.stdc import STDC
    from rayseg.models.semantic.pp_liteseg import PPLiteSeg

    paddle.seed(1)
    backbone = STDC(blocks=(2, 2, 2), base=16)
    network = PPLiteSeg(backbone, len(CLASSES), fusion_channels=(8, 16, 16), head_channels=(8, 8, 8), context_channels=16)
    _settle_batch_norms(network, network, paddle.rand([4, 3, 96, 96]) * 2 - 1)
    last = network.seg_heads[0].conv_out.weight
    last.set_value(paddle.randn(last.shape))
    return network


def _settle_batch_norms(network, forward, batch) -> None:
    import paddle

    network.train()
    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._momentum = 0.5
    with paddle.no_grad():
        for _ in range(6):
            forward(batch)
    network.eval()


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory, instance_network, semantic_network) -> dict[tuple[str, str], Path]:
    """(task, flavour) -> exported directory. Tests that change one copy it first."""
    from rayseg.predict.export import export_model

    root = tmp_path_factory.mktemp("models")
    networks = {"instance": (instance_network, LABELS), "semantic": (semantic_network, CLASSES)}
    return {
        (task, flavour): export_model(network, root / task / flavour, name=f"my-{task}", labels=labels, flavour=flavour)
        for task, (network, labels) in networks.items()
        for flavour in ("lean", "paddlex")
    }


@pytest.fixture(scope="session")
def conversions(tmp_path_factory) -> Path:
    """Where `own_cache` has programs kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(conversions, monkeypatch) -> None:
    """Programs are converted once for all tests that ask for this, and nothing is written at home."""
    monkeypatch.setenv("RAYSEG_CACHE", str(conversions))


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Smooth colourful images of mixed sizes; two of them share one."""
    random = np.random.default_rng(5)
    sizes = [(80, 120), (96, 96), (137, 600), (80, 120), (33, 65)]
    return [cv2.resize(random.integers(0, 256, (7, 7, 3), dtype=np.uint8), (width, height)) for height, width in sizes]
