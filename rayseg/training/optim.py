"""What moves the weights: the optimizer, each parameter's own rate and decay, and parameters that do not move at all.

There are no parameter groups, because Paddle (3.3) cuts gradients for each group by itself, so that a global norm would
not be one, and overwrites the rates that networks give their parameters. Gradients are cut by gradients.py.
"""

from __future__ import annotations

import difflib

import paddle
from paddle import nn
from paddle.regularizer import L2Decay

from rayseg.errors import ConfigError
from rayseg.training.plan import Plan

POSITION_TABLES = ("pos_embed", "relative_position_bias_table")
"""Last part of the names of learned positions, which like biases are not drawn towards 0."""
_BACKBONE = "backbone."
_DECLARED = "declared_learning_rate"


def make_optimizer(network: nn.Layer, plan: Plan) -> paddle.optimizer.Optimizer:
    """Optimizer over the weights that train; its rate is set before every step.

    A parameter's rate is that times its `optimize_attr["learning_rate"]`, outside the backbone times `plan.head_rate`.
    Momentum takes the decay as an L2 term of the gradient, AdamW apart from it. Vectors (biases, norms), positions, and
    parameters whose regularizer is L2Decay(0) do not decay.

    Raises:
        ConfigError: an unknown optimizer.
    """
    weights = {name: p for name, p in network.named_parameters() if not p.stop_gradient}
    for name, parameter in weights.items():
        attributes = parameter.optimize_attr
        declared = attributes.setdefault(_DECLARED, attributes["learning_rate"])
        attributes["learning_rate"] = declared * (1.0 if name.startswith(_BACKBONE) else plan.head_rate)
    spared = {name for name, parameter in weights.items() if not decays(name, parameter)}
    listed = list(weights.values())
    if plan.optimizer == "adamw":
        decayed = {parameter.name for name, parameter in weights.items() if name not in spared}
        return paddle.optimizer.AdamW(
            parameters=listed, weight_decay=float(plan.weight_decay), apply_decay_param_fun=decayed.__contains__
        )
    if plan.optimizer == "momentum":
        for name in spared:
            weights[name].regularizer = L2Decay(0.0)
        return paddle.optimizer.Momentum(momentum=plan.momentum, parameters=listed, weight_decay=float(plan.weight_decay))
    raise ConfigError(f"optimizer {plan.optimizer!r} is unknown; choose adamw or momentum")


def decays(name: str, parameter: paddle.Tensor) -> bool:
    """Whether weight decay applies to a parameter."""
    regularizer = getattr(parameter, "regularizer", None)
    declared_not = isinstance(regularizer, L2Decay) and regularizer._coeff == 0.0
    return parameter.ndim > 1 and not declared_not and name.rpartition(".")[2] not in POSITION_TABLES


def applied_rates(network: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, float]:
    """The rate the optimizer applies to each parameter in its next step, read back from it."""
    own = {id(parameter) for parameter in optimizer._parameter_list}
    rate = float(optimizer.get_lr())
    return {
        name: rate * parameter.optimize_attr["learning_rate"]
        for name, parameter in network.named_parameters()
        if id(parameter) in own
    }


def freeze(network: nn.Layer, prefixes: tuple[str, ...]) -> None:
    """Stop the parameters whose names begin with one of these from training.

    Raises:
        ConfigError: a beginning that no parameter has, or nothing is left to train.
    """
    names = dict(network.named_parameters())
    for prefix in prefixes:
        chosen = [name for name in names if _is_under(name, prefix)]
        if not chosen:
            parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
            near = difflib.get_close_matches(prefix, sorted(parts), n=1, cutoff=0.0)
            raise ConfigError(f"freeze: no parameter's name begins with {prefix!r}. Did you mean {near[0]!r}?")
        for name in chosen:
            names[name].stop_gradient = True
    if all(parameter.stop_gradient for parameter in names.values()):
        raise ConfigError(f"freeze {list(prefixes)}: nothing is left to train")


def set_training(network: nn.Layer, prefixes: tuple[str, ...]) -> None:
    """Training mode, but for frozen parts: their running statistics stay and nothing is dropped there."""
    network.train()
    for name, layer in network.named_sublayers():
        if any(_is_under(name, prefix) for prefix in prefixes):
            layer.eval()


def _is_under(name: str, prefix: str) -> bool:
    """`backbone.conv1` is under `backbone` and `backbone.`, `backbone2` is not."""
    prefix = prefix.rstrip(".")
    return bool(prefix) and (name == prefix or name.startswith(prefix + "."))
