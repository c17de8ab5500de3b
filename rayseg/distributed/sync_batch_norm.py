"""Batch norm over the batches of all workers, so that two workers with b images each train as one with 2b.

On GPUs Paddle's own kernel does it (`paddle.nn.SyncBatchNorm`, over NCCL). Paddle has none for CPUs, so `SharedBatchNorm` here
says the same in plain operators over any backend. It is also the definition that the kernel is compared with.

The algebra of merging counts, means and sums of squares of parts: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances", 1979. The gradient: Ioffe, Szegedy, "Batch Normalization", 2015, section 3, with its
two sums taken over all workers.
"""

from __future__ import annotations

from typing import Any, TypeVar

import paddle
from paddle import distributed, nn
from paddle.autograd import PyLayer
from paddle.nn.layer.norm import _BatchNormBase

L = TypeVar("L", bound=nn.Layer)


class BackwardOrder:
    """Makes the backward passes of the layers of a network talk to the other workers in one order.

    What runs first in a backward pass depends on the graph, and graphs differ between workers: losses look at the objects of
    their own images. So a tensor without meaning goes from each layer to the next; its gradient comes back the other way round.
    """

    def __init__(self) -> None:
        self.token: paddle.Tensor | None = None

    def tie(self, loss: paddle.Tensor) -> paddle.Tensor:
        """The loss, with nothing added, such that its backward pass also goes through layers this worker's loss left out."""
        token, self.token = self.token, None
        return loss if token is None else loss + token.astype(loss.dtype).sum() * 0.0


class SharedBatchNorm(nn.Layer):
    """A batch norm that takes mean and variance over the workers' batches together. Channels first, any number of axes.

    Shares weight, bias and running statistics with the layer it stands for, under the same names. In evaluation it does what
    that layer does. The workers may hold batches of different size. All workers must come by here equally often: one that
    skips this layer leaves the others waiting.

    Args:
        layer: what it stands for.
        order: one for all layers of a network.
    """

    def __init__(self, layer: _BatchNormBase, order: BackwardOrder) -> None:
        super().__init__()
        self._order = order
        self.weight, self.bias = layer.weight, layer.bias
        self._mean, self._variance = layer._mean, layer._variance
        self._momentum, self._epsilon = layer._momentum, layer._epsilon
        self.training = layer.training

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Float (N, C, ...) to the same shape and dtype; statistics are float32 whatever comes in."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self._mean, self._variance, self.weight, self.bias, training=False, epsilon=self._epsilon
            )
        with paddle.amp.auto_cast(enable=False):
            token = self._order.token
            if token is None:
                token = paddle.zeros([1])
                token.stop_gradient = False
            normal, mean, variance, self._order.token = _Normalise.apply(x.astype("float32"), token, self._epsilon)
            with paddle.no_grad():
                # Paddle's rule: the share `momentum` of the old stays, and the variance is that of the batch, uncorrected
                for kept, new in ((self._mean, mean), (self._variance, variance)):
                    kept.set_value(kept * self._momentum + new * (1 - self._momentum))
            shape = [1, -1] + [1] * (x.ndim - 2)
            if self.weight is not None:
                normal = normal * self.weight.astype("float32").reshape(shape)
            if self.bias is not None:
                normal = normal + self.bias.astype("float32").reshape(shape)
            return normal.astype(x.dtype)


def share_batch_norms(network: L, order: BackwardOrder | None = None) -> L:
    """Replace, in place, every batch norm that looks at its batch by one that looks at all workers' batches.

    Layers with `use_global_stats` (frozen ones) stay: they look at no batch. Names in `state_dict` do not change.

    Args:
        order: whose `tie` the losses pass; needed where the losses of two workers may use different parts of the network.

    Raises:
        NotImplementedError: a batch norm with channels last; the zoo has none.
    """
    order = order or BackwardOrder()
    if _follows_batch(network):
        return _shared(network, order)
    for parent in network.sublayers(include_self=True):
        for name, child in list(parent.named_children()):
            if _follows_batch(child):
                setattr(parent, name, _shared(child, order))
    return network


def _follows_batch(layer: nn.Layer) -> bool:
    return isinstance(layer, _BatchNormBase) and not isinstance(layer, nn.SyncBatchNorm) and not layer._use_global_stats


def _shared(layer: Any, order: BackwardOrder) -> Any:
    if layer._data_format[1] != "C":
        raise NotImplementedError(f"{layer}: batch norm over workers is written for channels first")
    if distributed.get_backend() != "NCCL":
        return SharedBatchNorm(layer, order)
    kernel = nn.SyncBatchNorm(layer._num_features, layer._momentum, layer._epsilon, data_format=layer._data_format)
    kernel.weight, kernel.bias, kernel._mean, kernel._variance = layer.weight, layer.bias, layer._mean, layer._variance
    kernel.training = layer.training
    return kernel


class _Normalise(PyLayer):
    """(x - mean) / sqrt(variance + epsilon) over all workers; also mean and variance, which carry no gradient, and the token."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, token: paddle.Tensor, epsilon: float) -> tuple[paddle.Tensor, ...]:
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.size // x.shape[1]
        mine = x.mean(axes)
        # Sums of squares about each worker's own mean: about zero they would cancel where means are large.
        spread = ((x - mine.reshape(shape)) ** 2).sum(axes)
        parts = _gathered(paddle.concat([paddle.full([1], count, "float32"), mine, spread]))
        counts, (means, spreads) = parts[:, :1], parts[:, 1:].split(2, axis=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (spreads + counts * (means - mean) ** 2).sum(0) / total
        scale = (variance + epsilon).rsqrt()
        normal = (x - mean.reshape(shape)) * scale.reshape(shape)
        ctx.save_for_backward(normal, scale, total)
        ctx.mark_non_differentiable(mean, variance)
        ctx.learns = not x.stop_gradient  # the same on all workers
        return normal, mean, variance, token + 0.0

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor, *more: paddle.Tensor) -> tuple[paddle.Tensor | None, paddle.Tensor]:
        token = paddle.zeros([1])
        if not ctx.learns:
            return None, token
        normal, scale, total = ctx.saved_tensor()
        axes = [0, *range(2, gradient.ndim)]
        shape = [1, -1] + [1] * (gradient.ndim - 2)
        sums = paddle.concat([gradient.sum(axes), (gradient * normal).sum(axes)])
        distributed.all_reduce(sums)
        of_gradient, of_product = (part.reshape(shape) for part in (sums / total).split(2))
        return scale.reshape(shape) * (gradient - of_gradient - normal * of_product), token


def _gathered(row: paddle.Tensor) -> paddle.Tensor:
    """The rows of all workers, stacked by rank."""
    rows: list[paddle.Tensor] = []
    distributed.all_gather(rows, row)
    return paddle.stack(rows)
