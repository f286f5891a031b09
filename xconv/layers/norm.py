"""Batch normalisation."""

from __future__ import annotations

from typing import Any, NamedTuple

from xconv import checks, initializers
from xconv.backend import Array, Need
from xconv.backend.saved import BatchNormSaved, NormReLUSaved
from xconv.errors import DataError
from xconv.layers.axes import as_maps, of_channels, whole
from xconv.layers.base import Context, Layer, ParamSpec, Shape


class GivenStatistics(NamedTuple):
    """What is kept where mean and variance are not the batch's, and so do not depend on x."""

    x: Array
    inv_std: Array
    y: Array | None = None  # where a ReLU was done in the same go


class BatchNormalization(Layer):
    """y = gamma (x - mean) / sqrt(var + epsilon) + beta, for each channel by itself (Ioffe and Szegedy 2015).

    x[N,C,H,W], with mean[C] and var[C] over N, H and W; of x[N,...,F] over all but the last axis. In training they are
    the batch's, and afterwards move the layer's own, which are used in inference:

        mean = momentum mean + (1 - momentum) batch mean;  var likewise

    As in Keras, the variance that moves is the biased one, the mean of (x - mean)^2; PyTorch takes N / (N - 1) of it,
    and calls 1 - momentum its momentum. A layer with trainable=False is frozen altogether, and uses its own statistics
    in training, too.

    Args:
        axis: the channels' axis as the user sees it, -1 or 3 of channels_last images, 1 of channels_first ones; None
            takes it from the shape. No other axis is normalised along.
        momentum: how much of the moving statistics a step keeps, from 0 to 1.
        epsilon: added to the variance, > 0.
        center: False leaves out beta.
        scale: False leaves out gamma.
    """

    def __init__(
        self,
        axis: int | None = None,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.axis = None if axis is None else whole(axis, f"{self.label}: axis")
        self.momentum = checks.number(momentum, f"{self.label}: momentum", least=0.0, most=1.0)
        self.epsilon = checks.number(epsilon, f"{self.label}: epsilon", least=1e-12)
        self.center, self.scale = bool(center), bool(scale)

    def output_shape(self, in_shape: Shape) -> Shape:
        of_channels(self, self.axis, in_shape, ", or left out")
        return in_shape

    def param_specs(self, in_shape: Shape) -> dict[str, ParamSpec]:
        channels = (in_shape[0] if len(in_shape) == 3 else in_shape[-1],)
        gamma = {"gamma": ParamSpec(channels, initializers.ones)} if self.scale else {}
        beta = {"beta": ParamSpec(channels, initializers.zeros)} if self.center else {}
        return {
            **gamma,
            **beta,
            "mean": ParamSpec(channels, initializers.zeros, trainable=False),
            "var": ParamSpec(channels, initializers.ones, trainable=False),
        }

    def forward(self, x: Array, ctx: Context, relu: bool = False) -> tuple[Array, Any]:
        maps, (gamma, beta, mean, var) = as_maps(x), self._four()
        if ctx.train and self.trainable:
            if maps.size == maps.shape[1]:
                raise DataError(
                    f"{self.label}: one value for each channel has no variance to train on; give larger batches, or "
                    f"drop the last one where it is a single example. Received: a training batch of shape {x.shape}"
                )
            operation = self.backend.batch_norm_relu if relu else self.backend.batch_norm
            y, saved = operation(maps, gamma, beta, self.epsilon)
            return y.reshape(x.shape), saved
        y = self.backend.batch_norm_inference(maps, gamma, beta, mean, var, self.epsilon, relu)
        inv_std = 1.0 / self.backend.xp.sqrt(var + self.epsilon)
        return y.reshape(x.shape), GivenStatistics(maps, inv_std, y if relu else None)

    def learnt(self, saved: Any) -> Any:
        if isinstance(saved, NormReLUSaved):
            saved = saved.norm
        if not isinstance(saved, BatchNormSaved):  # the statistics were given
            return None
        return saved.mean, saved.var

    def update(self, saved: Any) -> None:
        if saved is not None:
            mean, var = saved
            self.backend.moving_statistics(self.params["mean"], self.params["var"], mean, var, self.momentum)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        maps = as_maps(dy)
        if isinstance(saved, BatchNormSaved):
            dx, dgamma, dbeta = self.backend.batch_norm_backward(maps, saved, need)
        elif isinstance(saved, NormReLUSaved):
            dx, dgamma, dbeta = self.backend.batch_norm_relu_backward(maps, saved, need)
        else:
            dx, dgamma, dbeta = self._backward_given(maps, saved, need)
        grads = {"gamma": dgamma} if self.scale else {}
        return None if dx is None else dx.reshape(dy.shape), {**grads, "beta": dbeta} if self.center else grads

    def _backward_given(self, dy: Array, saved: GivenStatistics, need: Need) -> tuple[Array, Array, Array]:
        """With xhat = (x - mean) / sqrt(var + epsilon): dx = dy gamma / sqrt(var + epsilon), dgamma = sum dy xhat."""
        gamma, _, mean, _ = self._four()
        if saved.y is not None:
            dy = self.backend.relu_backward(dy, saved.y)
        dx = dy * (gamma * saved.inv_std)[:, None, None] if need.x else None
        if not need.params:
            return dx, None, None
        xhat = (saved.x - mean[:, None, None]) * saved.inv_std[:, None, None]
        return dx, (dy * xhat).sum(axis=(0, 2, 3)), dy.sum(axis=(0, 2, 3))

    def _four(self) -> tuple[Array, Array, Array, Array]:
        """gamma, beta, mean, var [C]; a gamma or beta that is left out is all 1 or all 0."""
        xp, mean = self.backend.xp, self.params["mean"]
        gamma = self.params["gamma"] if self.scale else xp.ones(mean.shape, mean.dtype)
        beta = self.params["beta"] if self.center else xp.zeros(mean.shape, mean.dtype)
        return gamma, beta, mean, self.params["var"]

    def config(self) -> dict[str, Any]:
        return {
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
        }
