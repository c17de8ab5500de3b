"""Each parameter moves at the rate and with the decay that its network and its plan give it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.regularizer import L2Decay

from rayseg.errors import ConfigError
from rayseg.models.zoo import build_model
from rayseg.training.optim import applied_rates, decays, freeze, make_optimizer, set_training
from tests.training.toys import Toy, plan_of

KINDS = pytest.mark.parametrize("kind", ["adamw", "momentum"])


class Rated(nn.Layer):
    """A backbone at a tenth of the rate with a fixed layer, and a head with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        tenth = paddle.ParamAttr(learning_rate=0.1)
        self.backbone = nn.Sequential(nn.Linear(2, 2, weight_attr=tenth), nn.Linear(2, 2), nn.BatchNorm1D(2))
        self.head = nn.Linear(2, 2)
        self.spared = nn.Linear(2, 2, weight_attr=paddle.ParamAttr(regularizer=L2Decay(0.0)))
        self.pos_embed = self.create_parameter([1, 2])


def ones(network: nn.Layer) -> dict[str, paddle.Tensor]:
    """All weights 1, by name."""
    weights = dict(network.named_parameters())
    for parameter in weights.values():
        parameter.set_value(paddle.ones_like(parameter))
    return weights


@pytest.mark.parametrize("head_rate", [1.0, 10.0])
def test_the_rates_read_back_are_the_ones_weights_move_at(head_rate):
    """Without momentum and decay a gradient of 1 moves a weight by its rate."""
    network = Rated()
    weights = ones(network)
    plan = plan_of(optimizer="momentum", weight_decay=0.0, momentum=0.0, head_rate=head_rate)
    for _ in range(2):  # made twice, rates are not multiplied twice
        optimizer = make_optimizer(network, plan)
    optimizer.set_lr(0.01)
    sum(parameter.sum() for parameter in weights.values() if not parameter.stop_gradient).backward()
    optimizer.step()
    rates = applied_rates(network, optimizer)
    moved = {name: 1 - weights[name].numpy() for name in rates}
    for name, rate in rates.items():
        assert np.allclose(moved[name], rate, rtol=1e-4), name
    assert rates["backbone.0.weight"] == pytest.approx(0.001)
    assert rates["backbone.1.weight"] == pytest.approx(0.01)
    assert rates["head.weight"] == rates["pos_embed"] == pytest.approx(0.01 * head_rate)
    assert "backbone.2._mean" not in rates


@pytest.mark.parametrize(
    "name, wanted",
    [("Mask-RT-DETR-S", {0.1, 1.0}), ("SeaFormer_tiny", {1.0, 10.0})],
)
def test_networks_of_the_zoo_train_at_their_own_rates(name, wanted):
    from rayseg.models.zoo import find_model

    network = build_model(name, 2)
    plan = plan_of(head_rate=find_model(name).recipe.head_rate)
    optimizer = make_optimizer(network, plan)
    optimizer.set_lr(1.0)
    rates = applied_rates(network, optimizer)
    assert {round(rate, 6) for rate in rates.values()} == wanted
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {max(wanted)}


@KINDS
def test_decay_shrinks_matrices_and_spares_the_rest(kind):
    network = Rated()
    weights = ones(network)
    optimizer = make_optimizer(network, plan_of(optimizer=kind, weight_decay=0.5))
    optimizer.set_lr(0.1)
    sum((parameter * 0).sum() for parameter in weights.values() if not parameter.stop_gradient).backward()
    optimizer.step()
    shrunk = {name for name, parameter in weights.items() if (parameter.numpy() < 0.999).all()}
    assert shrunk == {"backbone.0.weight", "backbone.1.weight", "head.weight"}
    kept = {name for name, parameter in weights.items() if (parameter.numpy() == 1).all()}
    assert shrunk | kept == set(weights)


def test_positions_and_norms_of_the_zoo_do_not_decay():
    spared = {name for name, p in build_model("SeaFormer_tiny", 2).named_parameters() if not decays(name, p)}
    assert any(name.endswith("pos_embed") for name in spared)
    assert not any(name.endswith("conv.weight") for name in spared)


@KINDS
def test_an_optimizer_walks_downhill(kind):
    paddle.seed(0)
    layer, x = nn.Linear(3, 1), paddle.randn([16, 3])
    optimizer = make_optimizer(layer, plan_of(optimizer=kind, weight_decay=1e-4))
    optimizer.set_lr(0.05)
    losses = []
    for _ in range(50):
        loss = ((layer(x) - x.sum(-1, keepdim=True)) ** 2).mean()
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert losses[-1] < 0.2 * losses[0]


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="optimizer 'lion' is unknown; choose adamw or momentum"):
        make_optimizer(nn.Linear(1, 1), plan_of(optimizer="lion"))


def test_what_is_frozen_does_not_move_nor_do_its_statistics():
    network = Rated()
    freeze(network, ("backbone",))
    set_training(network, ("backbone",))
    assert {name for name, p in network.named_parameters() if not p.stop_gradient} == {
        "head.weight", "head.bias", "spared.weight", "spared.bias", "pos_embed",
    }  # fmt: skip
    before = network.backbone[2]._mean.numpy().copy()
    network.head(network.backbone(paddle.rand([8, 2]) + 5)).sum().backward()
    assert (network.backbone[2]._mean.numpy() == before).all()
    assert network.head.training and not network.backbone.training and network.backbone[0].weight.grad is None


def test_a_prefix_ends_where_a_part_of_the_name_does():
    network = Toy()
    freeze(network, ("backbone.0.w", "out.")[1:])
    assert network.out.weight.stop_gradient and not network.backbone[0].weight.stop_gradient
    with pytest.raises(ConfigError, match="no parameter's name begins with 'back'. Did you mean 'backbone'?"):
        freeze(network, ("back",))


def test_freezing_everything_is_refused():
    with pytest.raises(ConfigError, match="nothing is left to train"):
        freeze(Toy(), ("backbone", "norm", "out"))
