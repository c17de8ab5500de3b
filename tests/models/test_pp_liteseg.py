"""PP-LiteSeg: the contract of semantic networks, and what is its own."""

from __future__ import annotations

from typing import ClassVar

import paddle

from rayseg.models.semantic.pp_liteseg import build_pp_liteseg_b, build_pp_liteseg_t
from tests.models.semantic_contract import SemanticContract, noise


class TestPPLiteSeg(SemanticContract):
    models: ClassVar = {"PP-LiteSeg-T": build_pp_liteseg_t, "PP-LiteSeg-B": build_pp_liteseg_b}
    # Its coarsest maps are at stride 32, and two of the three heads cannot draw a fine edge.
    overfit_hw = (128, 128)
    overfit_rate = 2e-3
    overfit_factor = 4.0


def test_more_classes_than_a_byte_holds_give_wider_labels():
    network = build_pp_liteseg_t(num_classes=300)
    network.eval()
    assert network.forward_lean(paddle.to_tensor(noise(1, 8, 8))).dtype == paddle.int32
