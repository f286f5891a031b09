"""Random networks in PyTorch. Imports nothing of xconv; needs the `bench` extra.

Values keep the axis order of the network's data format. What PyTorch does to [N,C,H,W] alone, or otherwise than Keras,
is brought there and back here: padding is always explicit, and an average leaves out the padding of "same" by counting.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.random_networks.description import Network, Node, Results, four_pads, two

Margins = dict[str, float]  # where a decision fell -> how far it was from falling otherwise, over the largest value

LAMBDAS = {
    "square": torch.square,
    "bell": lambda x: torch.exp(-torch.square(x)),
    "centre": lambda x: x - x.mean(-1, keepdim=True),
    "flip": lambda x: x.flip(1),
    "total": lambda x: x.sum(-1, keepdim=True),
}


def run(network: Network, weights: dict[str, np.ndarray], fixed: frozenset[str], dtype: str) -> Results:
    """Everything the network gives with these weights."""
    kind = getattr(torch, dtype)
    arrays, targets = network.examples()
    p = {name: torch.tensor(w, dtype=kind, requires_grad=name not in fixed) for name, w in weights.items()}
    xs = [torch.tensor(x, dtype=kind, requires_grad=True) for x in arrays]
    ts = [torch.tensor(t, dtype=torch.int64 if t.dtype.kind == "i" else kind) for t in targets]
    with torch.no_grad():
        predicted = _Pass(network, p, train=False).outputs(xs)
    forward = _Pass(network, p, train=True)
    trained = forward.outputs(xs)
    loss = sum(
        out.weight * forward.loss(out.loss, y, t) for out, y, t in zip(network.outputs, trained, ts, strict=True)
    )
    loss = loss + forward.penalty()
    names = [name for name in p if name not in fixed]
    found = torch.autograd.grad(loss, [*(p[name] for name in names), *xs], allow_unused=True, materialize_grads=True)
    found = [g.numpy() for g in found]
    return Results(
        [y.detach().numpy() for y in predicted],
        [y.detach().numpy() for y in trained],
        float(loss.detach()),
        dict(zip(names, found, strict=False)),
        found[len(names) :],
    )


def margins(network: Network, weights: dict[str, np.ndarray]) -> Margins:
    """How close each ReLU, maximum and clipping of a training pass in float64 came to going the other way."""
    p = {name: torch.tensor(w, dtype=torch.float64) for name, w in weights.items()}
    forward = _Pass(network, p, train=True, margins={})
    with torch.no_grad():
        forward.outputs([torch.tensor(x, dtype=torch.float64) for x in network.examples()[0]])
    assert forward.margins is not None
    return forward.margins


class _Pass:
    """One forward pass. `margins`, where given, is filled."""

    def __init__(
        self, network: Network, p: dict[str, torch.Tensor], *, train: bool, margins: Margins | None = None
    ) -> None:
        self.network, self.p, self.train, self.margins = network, p, train, margins
        self.last = network.data_format == "channels_last"
        self.finals: list[
            tuple[str, torch.Tensor, torch.Tensor]
        ] = []  # each softmax and sigmoid, and what it was given

    def outputs(self, xs: list[torch.Tensor]) -> list[torch.Tensor]:
        values, place = list(xs), 0  # in xconv's order of nodes, where an activation is a node of its own
        for node in self.network.nodes:
            self.node, self.place = node, place
            sources = [values[source] for source in node.sources]
            y = getattr(self, node.kind)(*sources, **node.arguments)
            place += 1
            activation = node.arguments.get("activation")
            if node.kind != "Activation" and activation not in (None, "linear"):
                y = self.Activation(y, activation)
                place += 1
            values.append(y)
        return [values[out.value] for out in self.network.outputs]

    # ------------------------------------------------------------------ axes

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2) if self.last and x.ndim == 4 else x

    def _back(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1) if self.last and x.ndim == 4 else x

    # ------------------------------------------------------------------ windows

    def Conv2D(self, x: torch.Tensor, **args: Any) -> torch.Tensor:
        w, b = self.p[f"{self.node.layer}.w"], self.p.get(f"{self.node.layer}.b")
        strides, dilation = two(args.get("strides", 1)), two(args.get("dilation_rate", 1))
        x = self._padded(self._first(x), args["padding"], two(args["kernel_size"]), strides, dilation, 0.0)
        return self._back(F.conv2d(x, w, b, strides, 0, dilation, args.get("groups", 1)))

    def MaxPool2D(self, x: torch.Tensor, **args: Any) -> torch.Tensor:
        size, strides = two(args["pool_size"]), two(args.get("strides", args["pool_size"]))
        x = self._padded(self._first(x), args["padding"], size, strides, (1, 1), -math.inf)
        if self.margins is not None:
            n, c = x.shape[:2]
            self._close(F.unfold(x.reshape(n * c, 1, *x.shape[2:]), size, 1, 0, strides).transpose(1, 2))
        return self._back(F.max_pool2d(x, size, strides))

    def AvgPool2D(self, x: torch.Tensor, **args: Any) -> torch.Tensor:
        size, strides, padding = two(args["pool_size"]), two(args.get("strides", args["pool_size"])), args["padding"]
        x = self._first(x)
        total = F.avg_pool2d(self._padded(x, padding, size, strides, (1, 1), 0.0), size, strides) * math.prod(size)
        inside = self._padded(torch.ones_like(x), padding, size, strides, (1, 1), 0.0 if padding == "same" else 1.0)
        return self._back(total / (F.avg_pool2d(inside, size, strides) * math.prod(size)))

    def _padded(
        self, x: torch.Tensor, padding: Any, size: Any, strides: Any, dilation: Any, value: float
    ) -> torch.Tensor:
        top, bottom, left, right = four_pads(padding, tuple(x.shape[2:]), size, strides, dilation)
        return F.pad(x, (left, right, top, bottom), value=value)

    def GlobalAveragePooling2D(self, x: torch.Tensor) -> torch.Tensor:
        return self._first(x).mean((2, 3))

    def GlobalMaxPooling2D(self, x: torch.Tensor) -> torch.Tensor:
        flat = self._first(x).flatten(2)
        self._close(flat)
        return flat.gather(2, flat.argmax(2, keepdim=True))[..., 0]

    def ZeroPadding2D(self, x: torch.Tensor, padding: Any) -> torch.Tensor:
        return self._back(self._padded(self._first(x), padding, (1, 1), (1, 1), (1, 1), 0.0))

    def ChannelPadding(self, x: torch.Tensor, before: int, behind: int) -> torch.Tensor:
        return self._back(F.pad(self._first(x), (0, 0, 0, 0, before, behind)))

    # ------------------------------------------------------------------ other layers with numbers of their own

    def Rescaling(self, x: torch.Tensor, scale: float, offset: float) -> torch.Tensor:
        return x * scale + offset

    def Normalization(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        mean, var = (self.p[f"{self.node.layer}.{name}"] for name in ("mean", "var"))
        if x.ndim == 4:
            mean, var = mean[:, None, None], var[:, None, None]
        return self._back((self._first(x) - mean) / torch.sqrt(var + 1e-14))

    def Dense(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        y, b = x @ self.p[f"{self.node.layer}.w"], self.p.get(f"{self.node.layer}.b")
        return y if b is None else y + b

    def BatchNormalization(self, x: torch.Tensor, *, epsilon: float, trainable: bool = True, **_: Any) -> torch.Tensor:
        gamma, beta, mean, var = (self.p.get(f"{self.node.layer}.{name}") for name in ("gamma", "beta", "mean", "var"))
        x = self._first(x) if x.ndim == 4 else x.movedim(-1, 1)
        if self.train and trainable:
            y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=epsilon)
        else:
            y = F.batch_norm(x, mean, var, gamma, beta, training=False, eps=epsilon)
        return self._back(y) if y.ndim == 4 else y.movedim(1, -1)

    def Dropout(self, x: torch.Tensor, rate: float) -> torch.Tensor:
        """Entry i of [N,C,H,W] is kept where half i of Philox's words, the low half first, is at least rate 2^32."""
        if not self.train or rate == 0:
            return x
        key = np.array([self.network.dropout_seed, 3], np.uint64)
        counter = np.array([0, 0, self.place, 0], np.uint64)  # of the first step
        words = np.random.Philox(key=key, counter=counter).random_raw(x.numel() // 2 + 1)
        halves = np.stack([words & np.uint64(2**32 - 1), words >> np.uint64(32)], axis=1).ravel()[: x.numel()]
        x = self._first(x)
        kept = torch.from_numpy(halves >= rate * 2**32).reshape(x.shape)
        return self._back(torch.where(kept, x / (1.0 - rate), 0.0))

    # ------------------------------------------------------------------ activations

    def ReLU(self, x: torch.Tensor) -> torch.Tensor:
        self._near_zero(x)
        return F.relu(x)

    def LeakyReLU(self, x: torch.Tensor, negative_slope: float = 0.3, alpha: float | None = None) -> torch.Tensor:
        self._near_zero(x)
        return F.leaky_relu(x, negative_slope if alpha is None else alpha)

    def Sigmoid(self, x: torch.Tensor) -> torch.Tensor:
        return self._final("sigmoid", torch.sigmoid(x), x)

    def Tanh(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    def Softmax(self, x: torch.Tensor, axis: int = -1) -> torch.Tensor:
        y = torch.softmax(x, axis)
        return self._final("softmax", y, x) if axis in (-1, x.ndim - 1) else y

    def Identity(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def Activation(self, x: torch.Tensor, activation: Any) -> torch.Tensor:
        if isinstance(activation, dict):
            return getattr(self, activation["kind"])(x, **{k: v for k, v in activation.items() if k != "kind"})
        return {
            "relu": self.ReLU,
            "sigmoid": self.Sigmoid,
            "tanh": self.Tanh,
            "softmax": self.Softmax,
            "leaky_relu": lambda x: self.LeakyReLU(x, 0.2),
            "linear": self.Identity,
        }[activation](x)

    def _final(self, kind: str, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.finals.append((kind, y, x))
        return y

    def _logits(self, kind: str, y: torch.Tensor) -> torch.Tensor | None:
        """What went into y, if y is this activation of it."""
        return next((x for this, made, x in self.finals if this == kind and made is y), None)

    # ------------------------------------------------------------------ moving numbers, and merging them

    def Flatten(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    def Reshape(self, x: torch.Tensor, target_shape: Any) -> torch.Tensor:
        return x.reshape(x.shape[0], *target_shape)

    def Lambda(self, x: torch.Tensor, function: str) -> torch.Tensor:
        return LAMBDAS[function](x)

    def Add(self, *xs: torch.Tensor) -> torch.Tensor:
        return torch.stack(xs).sum(0)

    def Subtract(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b

    def Average(self, *xs: torch.Tensor) -> torch.Tensor:
        return torch.stack(xs).mean(0)

    def Multiply(self, *xs: torch.Tensor) -> torch.Tensor:
        return math.prod(xs[1:], start=xs[0])

    def Maximum(self, *xs: torch.Tensor) -> torch.Tensor:
        side = torch.stack(xs, dim=-1)
        self._close(side)
        return side.gather(-1, side.argmax(-1, keepdim=True))[..., 0]

    def Concatenate(self, *xs: torch.Tensor, axis: int) -> torch.Tensor:
        return torch.cat(xs, axis)

    # ------------------------------------------------------------------ losses

    def loss(self, kind: str, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The mean over examples and positions, whose last axis is the classes; "linear" is a sum."""
        if kind == "linear":
            return (y * t).sum()
        if kind == "mse":
            return F.mse_loss(y, t)
        z = self._logits("sigmoid" if kind == "binary" else "softmax", y)
        if kind == "binary":
            if z is not None:
                return F.binary_cross_entropy_with_logits(z, t)
            log_p, log_rest = y.clamp(1e-7, 1 - 1e-7).log(), (1 - y).clamp(1e-7, 1 - 1e-7).log()
            return -(t * log_p + (1 - t) * log_rest).mean()
        if kind == "sparse of logits":
            log_p = torch.log_softmax(y, -1)
        elif z is not None:
            log_p = torch.log_softmax(z, -1)
        else:
            log_p = (y / y.sum(-1, keepdim=True)).clamp(1e-7, 1 - 1e-7).log()
        if kind.startswith("sparse"):
            return -log_p.gather(-1, t[..., None]).mean()
        smoothing = 0.1 if kind == "smoothed" else 0.0
        return -((t * (1 - smoothing) + smoothing / y.shape[-1]) * log_p).sum(-1).mean()

    def penalty(self) -> torch.Tensor:
        """Of each layer once, however often it is used."""
        layers: dict[str, Node] = {node.layer: node for node in self.network.nodes}
        total = torch.zeros(())
        for name, node in layers.items():
            for argument, parameter in (("kernel_regularizer", "w"), ("bias_regularizer", "b")):
                told = node.arguments.get(argument, {})
                if told:
                    w = self.p[f"{name}.{parameter}"]
                    total = total + told.get("l1", 0.0) * w.abs().sum() + told.get("l2", 0.0) * w.square().sum()
        return total

    # ------------------------------------------------------------------ margins

    def _near_zero(self, x: torch.Tensor) -> None:
        """A number that is exactly zero is so in every dtype."""
        self._note(x.abs(), x)

    def _close(self, candidates: torch.Tensor) -> None:
        """The two largest along the last axis. Equal ones are equal in every dtype, and then the first wins."""
        if self.margins is not None:
            best = candidates.topk(2, dim=-1).values if candidates.shape[-1] > 1 else candidates[..., :0]
            self._note(best[..., :1] - best[..., 1:], best)

    def _note(self, distances: torch.Tensor, values: torch.Tensor) -> None:
        if self.margins is not None:
            distances, values = distances[distances > 0], values[values.isfinite()].abs()
            if len(distances) and len(values):
                name = f"{self.node.layer} at {self.place}"
                self.margins[name] = float(distances.min() / values.max())
