"""Makes networks up: rows, branches that meet again, shared layers, every kind of layer with all its arguments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.random_networks.description import Network, Node, Output, Shape, from_chw, shape_after, to_chw, two

Proposal = tuple[str, dict[str, Any]]  # kind of layer, its arguments

MERGES = ("Add", "Average", "Multiply", "Maximum", "Concatenate")  # of two values Subtract, too
ACTIVATIONS = ("relu", "relu", "sigmoid", "tanh", "leaky_relu", "softmax", "linear")
LAMBDAS = ("square", "bell", "centre", "flip", "total")
LABELLED = ("categorical", "sparse", "soft", "smoothed", "sparse of logits", "binary")
# Kind -> how often it is proposed, relative to the others: of images, and of vectors and rows of them.
IMAGES = {
    "Conv2D": 7.0, "MaxPool2D": 4.0, "AvgPool2D": 4.0, "BatchNormalization": 2.5, "Dropout": 1.5, "ReLU": 1.5,
    "LeakyReLU": 1.5, "Sigmoid": 1.0, "Tanh": 1.0, "Softmax": 0.7, "Identity": 1.0, "Activation": 1.5,
    "ZeroPadding2D": 5.0, "Dense": 1.2, "Reshape": 1.2, "Lambda": 1.5, "Rescaling": 1.2, "Normalization": 1.2,
    "ChannelPadding": 4.5,
}  # fmt: skip
VECTORS = {
    "Dense": 4.0, "BatchNormalization": 1.5, "Dropout": 1.5, "ReLU": 1.0, "LeakyReLU": 1.0, "Sigmoid": 0.8,
    "Tanh": 0.8, "Softmax": 0.5, "Identity": 0.7, "Activation": 1.2, "Reshape": 1.2, "Lambda": 1.0, "Flatten": 0.5,
    "Rescaling": 0.7, "Normalization": 0.7,
}  # fmt: skip


def networks(count: int = 200, seed: int = 0) -> list[Network]:
    """The first `count` networks of a seed."""
    return [random_network(seed, number) for number in range(count)]


def kinds(found: Sequence[Network]) -> Counter[str]:
    """In how many of the networks each kind of layer comes."""
    return Counter(kind for network in found for kind in {node.kind for node in network.nodes})


def random_network(seed: int, number: int) -> Network:
    """Network `number` of a seed, the same one each time."""
    return _Author(seed, number).network()


class _Author:
    """Draws a network piece by piece; a value is an input or what a node gives, by number."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = np.random.default_rng([seed, number])
        self.seed, self.number = seed, number
        self.data_format = self.one_of("channels_last", "channels_first")
        self.batch = self.whole(2, 4)
        self.shapes: list[Shape] = []
        self.inputs = 0
        self.nodes: list[Node] = []
        self.named: Counter[str] = Counter()
        self.outputs: list[Output] = []
        self.between: list[int] = []  # values inside what a backend may fuse

    # small draws

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def whole(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def one_of(self, *options: Any) -> Any:
        return options[self.whole(0, len(options) - 1)]

    def scalar_or_pair(self, draw: Callable[[], int]) -> Any:
        return draw() if self.chance(0.6) else (draw(), draw())

    # values

    def input(self, shape: Shape) -> int:
        self.shapes.append(shape)
        self.inputs += 1
        return self.inputs - 1

    def image_shape(self) -> Shape:
        return from_chw((self.whole(1, 4), self.whole(5, 10), self.whole(5, 10)), self.data_format)

    def channels(self, shape: Shape) -> int:
        return to_chw(shape, self.data_format)[0]

    def add(self, proposal: Proposal, *sources: int, layer: str | None = None) -> int:
        """A node; with the name of a layer that there is, another use of it."""
        kind, arguments = proposal
        shape = shape_after(kind, arguments, [self.shapes[s] for s in sources], self.data_format)
        assert shape is not None, (proposal, sources)
        if layer is None:
            self.named[kind] += 1
            layer = f"{kind.lower()}_{self.named[kind]}"
        self.nodes.append(Node(layer, kind, arguments, sources, shape))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    # one layer

    def proposal(self, shape: Shape, *, keep: bool = False) -> Proposal:
        """A layer that takes `shape`; with `keep` one that gives the same shape."""
        weights = IMAGES if len(shape) == 3 else VECTORS
        share = np.array(list(weights.values()))
        while True:
            kind = str(self.rng.choice(list(weights), p=share / share.sum()))
            arguments = self.arguments(kind, shape, keep)
            after = None if arguments is None else shape_after(kind, arguments, [shape], self.data_format)
            if arguments is None or after is None or math.prod(after) > 900 or (keep and after != shape):
                continue
            if not _is_constant(kind, arguments, after):
                return kind, arguments

    def arguments(self, kind: str, shape: Shape, keep: bool = False) -> dict[str, Any] | None:
        """Arguments for a layer of this kind on `shape`; None where there are none that make sense."""
        if kind in ("Conv2D", "MaxPool2D", "AvgPool2D"):
            return self.conv(shape, keep) if kind == "Conv2D" else self.pool(keep)
        if kind == "Dense":
            return {"units": shape[-1] if keep else self.whole(2, 6), **self.weighted(0.4)}
        if kind == "BatchNormalization":
            if self.batch * (math.prod(shape) // self.normalised(shape)) < 3:
                return None  # two values are -1 and 1 whatever they are: nothing but rounding is left of the gradient
            frozen = {"trainable": False} if self.chance(0.3) else {}
            flags = {"center": self.chance(0.8), "scale": self.chance(0.8)}
            return {"epsilon": self.one_of(1e-3, 1e-2), "momentum": self.one_of(0.9, 0.99), **flags, **frozen}
        return {
            "Dropout": lambda: {"rate": self.one_of(0.0, 0.1, 0.25, 0.5)},
            "LeakyReLU": lambda: self.one_of({}, {"negative_slope": 0.1}, {"alpha": 0.5}),
            "Softmax": lambda: {"axis": self.axis(shape)},
            "Activation": lambda: {"activation": self.one_of(*ACTIVATIONS)},
            "ZeroPadding2D": lambda: {"padding": self.zeros_around()},
            "ChannelPadding": lambda: {"before": self.whole(0, 2), "behind": self.whole(0, 2)},
            "Rescaling": lambda: {"scale": self.one_of(-1.5, 0.5, 2.0), "offset": self.one_of(0.0, 0.3)},
            "Normalization": lambda: {"axis": None, "mean": self.one_of(-0.2, 0.3), "variance": self.one_of(0.5, 2.0)},
            "Reshape": lambda: self.reshape(shape),
            "Lambda": lambda: {"function": self.one_of(*(LAMBDAS[:-1] if keep else LAMBDAS))},
        }.get(kind, dict)()

    def normalised(self, shape: Shape) -> int:
        """How many channels BatchNormalization sees."""
        return self.channels(shape) if len(shape) == 3 else shape[-1]

    def axis(self, shape: Shape) -> int:
        """Any but the batch's, from the front or from the back."""
        axis = self.whole(1, len(shape))
        return axis if self.chance(0.5) else axis - len(shape) - 1

    def zeros_around(self) -> Any:
        side = [self.whole(0, 2) for _ in range(4)]
        return self.one_of(1, 2, (side[0], side[1]), ((side[0], side[1]), (side[2], side[3])))

    def padding(self, most: int) -> Any:
        number = [self.whole(0, most) for _ in range(4)]
        return self.one_of("valid", "same", "same", number[0], (number[0], number[1]), tuple(number))

    def weighted(self, activated: float) -> dict[str, Any]:
        """What Conv2D and Dense have in common."""
        arguments: dict[str, Any] = {"use_bias": self.chance(0.75)}
        if self.chance(activated):
            arguments["activation"] = self.one_of(*ACTIVATIONS, {"kind": "LeakyReLU", "negative_slope": 0.05})
        if self.chance(0.12):
            arguments["kernel_regularizer"] = self.one_of(
                {"kind": "L1", "l1": 0.01}, {"kind": "L2", "l2": 0.02}, {"kind": "L1L2", "l1": 0.02, "l2": 0.01}
            )
        if arguments["use_bias"] and self.chance(0.08):
            arguments["bias_regularizer"] = {"kind": "L2", "l2": 0.03}
        if self.chance(0.1):
            arguments["trainable"] = False
        return arguments

    def conv(self, shape: Shape, keep: bool) -> dict[str, Any]:
        c = self.channels(shape)
        groups = self.one_of(*[g for g in range(1, c + 1) if c % g == 0])
        arguments = {
            "filters": c if keep else groups * self.whole(1, max(1, 6 // groups)),
            "kernel_size": self.scalar_or_pair(lambda: self.whole(1, 3)),
            "strides": 1 if keep else self.scalar_or_pair(lambda: self.one_of(1, 1, 2, 3)),
            "padding": "same" if keep else self.padding(2),
            **self.weighted(0.4),
        }
        if groups > 1:
            arguments["groups"] = groups
        if self.chance(0.25):
            arguments["dilation_rate"] = self.scalar_or_pair(lambda: self.whole(1, 2))
        return arguments

    def pool(self, keep: bool) -> dict[str, Any]:
        size = self.scalar_or_pair(lambda: self.whole(2, 3))
        strides = 1 if keep else self.one_of(None, None, 1, 2, (2, 1))
        arguments = {"pool_size": size, "padding": "same" if keep else self.padding(min(two(size)) - 1)}
        return arguments if strides is None else {**arguments, "strides": strides}

    def reshape(self, shape: Shape) -> dict[str, Any] | None:
        """Any factors of the size as a vector, rows of vectors or an image."""
        size = math.prod(shape)
        factors = []
        for _ in range(self.whole(0, 2)):
            factors.append(self.one_of(*[n for n in range(1, 13) if size % n == 0]))
            size //= factors[-1]
        target = [*factors, size]
        self.rng.shuffle(target)
        if len(target) == 3 and max(to_chw(tuple(target), self.data_format)[0], *target) > 16:
            return None
        if self.chance(0.4):
            target[self.whole(0, len(target) - 1)] = -1
        return {"target_shape": tuple(int(n) for n in target)}

    # several layers

    def row(self, x: int, length: int) -> int:
        for _ in range(length):
            x = self.add(self.proposal(self.shapes[x]), x)
        return x

    def kept(self, x: int, length: int) -> int:
        for _ in range(length):
            x = self.add(self.proposal(self.shapes[x], keep=True), x)
        return x

    def merge(self, *values: int) -> int:
        """Of values of one shape."""
        differ = len(values) == 2 and self.made(values[0]) != self.made(values[1])  # x - x passes no gradient
        kind = self.one_of(*MERGES, *["Subtract"] * 2 * differ)
        return self.add((kind, {"axis": self.axis(self.shapes[values[0]])} if kind == "Concatenate" else {}), *values)

    def made(self, x: int) -> Any:
        """By which layers a value is made of the inputs, but for those that change no number."""
        if x < self.inputs:
            return x
        node = self.nodes[x - self.inputs]
        sources = tuple(self.made(source) for source in node.sources)
        same = node.kind in ("Identity", "Flatten", "Reshape") or "linear" in node.arguments.values()
        if node.kind not in ("Dense", "Conv2D") and (same or node.arguments.get("rate") == 0.0):
            return sources[0]
        return node.layer, *sources

    def branches(self, x: int) -> int:
        """Two or three ways from x that meet again."""
        lengths = [self.whole(0, 1), *(self.whole(1, 2) for _ in range(self.whole(1, 2)))]
        self.rng.shuffle(lengths)
        return self.merge(*(self.kept(x, length) for length in lengths))

    def reductions(self, x: int) -> int:
        """Ways that halve an image, each by another layer and to as many channels as it likes, side by side."""
        ends = []
        for kind in ("Conv2D", "MaxPool2D", "AvgPool2D")[: self.whole(2, 3)]:
            size = self.scalar_or_pair(lambda: self.whole(2, 3))
            arguments = {"pool_size": size, "strides": 2, "padding": "same"}
            if kind == "Conv2D":
                arguments = {**arguments, "filters": self.whole(1, 4), "kernel_size": size, **self.weighted(0.5)}
                del arguments["pool_size"]
            ends.append(self.add((kind, arguments), x))
        self.rng.shuffle(ends)
        return self.add(("Concatenate", {"axis": -1 if self.data_format == "channels_last" else 1}), *ends)

    def shared(self, x: int, other: int | None = None) -> int:
        """One layer used twice: on x and on its own result, on x and on something else of x, or on two inputs."""
        proposal = self.proposal(self.shapes[x], keep=True)
        first = self.add(proposal, x)
        source = other if other is not None else first if self.chance(0.5) else self.kept(x, 1)
        second = self.add(proposal, source, layer=self.nodes[first - self.inputs].layer)
        return second if source == first and self.chance(0.5) else self.merge(first, second)

    def usual(self, x: int) -> int:
        """Conv2D, ReLU, MaxPool2D, which a backend may fuse; or nearly: another pooling, another reader between."""
        if self.chance(0.25):
            x = self.add(("ZeroPadding2D", {"padding": self.zeros_around()}), x)
        kernel = self.whole(1, min(3, *to_chw(self.shapes[x], self.data_format)[1:]))
        conv = {"filters": self.whole(2, 5), "kernel_size": kernel, "padding": self.one_of("valid", "same", 1)}
        if self.chance(0.3):
            conv["padding"], conv["dilation_rate"] = "same", 2
        conv.update(self.weighted(0.0))
        if self.chance(0.5):
            y = self.add(("Conv2D", {**conv, "activation": "relu"}), x)
        else:
            z = self.add(("Conv2D", conv), x)
            y = self.add(("ReLU", {}), z)
            self.between.append(z)
            if self.chance(0.3):
                return self.merge(y, z)
        self.between.append(y)
        pool = {"pool_size": 2, "padding": self.one_of("valid", "valid", "same", 1), "strides": self.one_of(1, 2)}
        kind = self.one_of("MaxPool2D", "MaxPool2D", "MaxPool2D", "AvgPool2D")
        fits = shape_after(kind, pool, [self.shapes[y]], self.data_format) is not None
        return self.add((kind, pool), y) if fits else y

    def block(self, x: int) -> int:
        image = len(self.shapes[x]) == 3
        kind = self.one_of("row", "row", "branches", "branches", "shared", *["usual", "usual", "reductions"] * image)
        if math.prod(self.shapes[x]) > 700 and kind in ("branches", "shared"):
            kind = "row"
        return self.row(x, self.whole(1, 3)) if kind == "row" else getattr(self, kind)(x)

    def vector(self, x: int) -> int:
        """Any value as a vector."""
        if len(self.shapes[x]) == 1:
            return x
        ways = ["Flatten", "Reshape"]
        if len(self.shapes[x]) == 3:
            ways += ["GlobalMaxPooling2D"] * 2
            made = self.nodes[x - self.inputs] if x >= self.inputs else None
            if not made or (made.kind != "Softmax" and made.arguments.get("activation") != "softmax"):
                ways += ["GlobalAveragePooling2D"] * 2  # of a softmax it may be constant, and no gradient pass
        kind = self.one_of(*ways)
        return self.add((kind, {"target_shape": (-1,)} if kind == "Reshape" else {}), x)

    # ends

    def head(self, x: int) -> None:
        """An output made from x, and its loss."""
        loss = self.one_of(*["linear"] * 4, "mse", *LABELLED)
        if loss in LABELLED:
            x = self.add(("Dense", arguments := {"units": self.whole(2, 5)}), x)
            end = "Sigmoid" if (loss == "binary") != self.chance(0.15) else "Softmax"
            if loss != "sparse of logits":
                way = self.one_of("argument", "Activation", end, end)
                if way == "argument":
                    arguments["activation"] = end.lower()
                elif way == "Activation":
                    x = self.add((way, {"activation": end.lower()}), x)
                else:
                    axis = self.axis(self.shapes[x]) if end == "Softmax" and self.chance(0.7) else -1
                    known = axis == -1 or _is_constant(end, {"axis": axis}, self.shapes[x])
                    x = self.add((end, {} if known else {"axis": axis}), x)
        elif self.chance(0.3) and len(self.shapes[x]) == 1:
            x = self.add(("Dense", {"units": self.whole(1, 5)}), x)
        self.output(x, loss)

    def output(self, x: int, loss: str) -> None:
        self.outputs.append(Output(x, loss, self.one_of(1.0, 1.0, 0.5, 2.0)))

    def second_head(self) -> None:
        """On any value, or straight from one, which may be inside what a backend fuses, or the first output again."""
        if self.chance(0.4):
            self.head(self.vector(self.whole(self.inputs, len(self.shapes) - 1)))
        else:
            value = self.one_of(self.outputs[0].value, self.whole(self.inputs, len(self.shapes) - 1), *self.between * 3)
            self.output(value, self.one_of("linear", "mse"))

    def network(self) -> Network:
        first = self.image_shape() if self.chance(0.88) else tuple(self.whole(2, 6) for _ in range(self.whole(1, 2)))
        x = self.input(first)
        second = None
        if self.chance(0.25):
            second = self.input(self.one_of(first, self.image_shape(), (self.whole(2, 6),)))
            if self.shapes[second] == first:
                x, second = self.shared(x, second), None
        for _ in range(self.whole(1, 3)):
            x = self.block(x)
        if second is not None:
            joined = self.vector(x), self.vector(self.row(second, self.whole(1, 2)))
            if self.chance(0.5):
                x = self.add(("Concatenate", {"axis": self.one_of(1, -1)}), *joined)
            else:
                units = self.whole(2, 6)
                x = self.merge(*(self.add(("Dense", {"units": units, **self.weighted(0.3)}), v) for v in joined))
        elif self.chance(0.75):
            x = self.vector(x)
        if len(self.shapes[x]) < 3 and self.chance(0.7):
            x = self.block(x)
        self.head(x)
        if self.chance(0.4):
            self.second_head()
        read = {source for node in self.nodes for source in node.sources} | {out.value for out in self.outputs}
        assert read == set(range(len(self.shapes))), "something is made and not used"
        return Network(
            self.seed, self.number, self.data_format, self.batch, int(self.rng.integers(2**63)),
            tuple(self.shapes[: self.inputs]), tuple(self.nodes), tuple(self.outputs),
        )  # fmt: skip


def _is_constant(kind: str, arguments: dict[str, Any], after: Shape) -> bool:
    """Whether all it gives is 1, or 0, whatever comes in, and no gradient passes: one number alone, normalised."""
    if kind == "Softmax":
        axis = arguments["axis"]
        return after[axis - 1 if axis > 0 else axis] == 1
    alone = arguments.get("activation") == "softmax" or arguments.get("function") == "centre"
    return alone and after[-1] == 1
