"""200 random functional networks: xconv against PyTorch, and backends and fused plans against one another."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from tests.conftest import load
from tests.random_networks import Network, Node, Output, Results, in_xconv, kinds, networks, random_network
from xconv import layers
from xconv.layers.fused import ConvReLU, ConvReLUMaxPool, DenseReLU

COUNT, SEED = 200, 0
LIMITS = {"float64": 1e-9, "float32": 1e-4}  # the largest difference over the largest gradient of the network
# Of float32: how near to 0, or to the second largest, over the largest value there, a number may have been whose ReLU
# or maximum rounding is said to have flipped. Of a few thousand numbers one is so near in less than 1 network of 50.
FLIPS_BELOW, FLIPS = 2e-6, 2


def pairs(got: Results, expected: Results) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """What must be equal, with names."""
    assert list(got.gradients) == list(expected.gradients)
    found = [(f"d {name}", got.gradients[name], right) for name, right in expected.gradients.items()]
    for what in ("inputs", "predicted", "trained"):
        here, there = getattr(got, what), getattr(expected, what)
        found += [(f"{what} {i}", a, b) for i, (a, b) in enumerate(zip(here, there, strict=True))]
    return found


def difference(got: Results, expected: Results) -> tuple[float, str]:
    """The largest difference of outputs and gradients over the largest gradient, and where it is."""
    largest = max(np.abs(g).max() for g in [*expected.gradients.values(), *expected.inputs])
    worst = (0.0, "nowhere")
    for name, a, b in pairs(got, expected):
        assert a.shape == b.shape and a.dtype == b.dtype, f"{name}: {a.dtype}{a.shape}, expected {b.dtype}{b.shape}"
        far = float(np.abs(a - b).max())
        far = far / float(largest) if largest else far * float("inf") if far else 0.0
        if np.isnan(far):
            return far, name
        worst = max(worst, (far, name))
    return worst


def flipped(margins: dict[str, float]) -> str | None:
    """The ReLU or maximum that rounding may have flipped."""
    at = min(margins, key=margins.__getitem__, default=None)
    return at if at is not None and margins[at] < FLIPS_BELOW else None


# ---------------------------------------------------------------------- against PyTorch


@pytest.fixture(scope="module")
def in_torch():
    """The other builder, with PyTorch on one thread: handing such small networks to others costs far more."""
    torch = pytest.importorskip("torch", reason="needs PyTorch, the third opinion: pip install 'xconv[bench]'")
    from tests.random_networks import in_torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield in_torch
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_pytorch_on_two_hundred_networks(name, precision, in_torch):
    backend, flips, tensors, dead = load(name), [], 0, 0
    for network in networks(COUNT, SEED):
        model = in_xconv.build(network, backend, precision)
        weights, fixed = in_xconv.weights_of(model)
        got, expected = in_xconv.run(network, model), in_torch.run(network, weights, fixed, precision)
        assert got.loss == pytest.approx(expected.loss, rel=10 * LIMITS[precision], abs=10 * LIMITS[precision]), network
        far, where = difference(got, expected)
        if not far <= LIMITS[precision]:
            what = f"{network}: {far:.3g} of its largest gradient, at {where}"
            place = flipped(in_torch.margins(network, weights)) if precision == "float32" else None
            assert place, f"{what}. See it: python -m tests.random_networks {network.number} --seed {SEED}"
            flips.append(f"{what}: rounding flips {place}")
        tensors += len(expected.gradients)
        dead += sum(not g.any() for g in expected.gradients.values())
    print(*flips, sep="\n")
    assert len(flips) <= FLIPS, flips
    assert tensors > 4 * COUNT and dead < 0.03 * tensors  # or there is little to compare


def test_a_flip_is_believed_only_where_a_number_is_near(in_torch):
    """A ReLU given 1e-9 of its largest value, then 1e-3: only the first excuses a difference."""
    dense = Node("dense_1", "Dense", {"units": 1, "activation": "relu"}, (0,), (1,))
    network = Network(SEED, 0, "channels_last", 3, 0, ((2,),), (dense,), (Output(1, "linear", 1.0),))
    (x,), _ = network.examples()
    w = np.array([[1.0], [2.0]])
    z = np.sort((x @ w).ravel())  # the smallest comes to lie just above 0, the others far from it
    for gap, expected in ((1e-9, "dense_1 at 0"), (1e-3, None)):
        b = gap * (z[2] - z[0]) - z[0]
        margins = in_torch.margins(network, {"dense_1.w": w, "dense_1.b": np.array([b])})
        assert list(margins) == ["dense_1 at 0"]
        assert margins["dense_1 at 0"] == pytest.approx(gap, rel=0.01)
        assert flipped(margins) == expected


@pytest.mark.parametrize("kind", ["MaxPool2D", "GlobalMaxPooling2D", "Maximum"])
def test_how_near_a_maximum_was(in_torch, monkeypatch, kind):
    """3.75 comes next to 4, in one window, one image or one place of two inputs: 0.25 / 4."""
    arguments = {"pool_size": 2, "padding": "same"} if kind == "MaxPool2D" else {}
    x = np.array([[1.0, 3.75], [4.0, -2.0]]).reshape(1, 2, 2, 1)
    xs = [x, x.transpose(0, 2, 1, 3)] if kind == "Maximum" else [x]  # equal on the diagonal, which counts for nothing
    places = tuple(range(len(xs)))
    node = Node("it", kind, arguments, places, {"MaxPool2D": (1, 1, 1), "Maximum": (2, 2, 1)}.get(kind, (1,)))
    network = Network(SEED, 0, "channels_last", 1, 0, ((2, 2, 1),) * len(xs), (node,), (Output(len(xs), "mse", 1.0),))
    monkeypatch.setattr(Network, "examples", lambda self: (xs, []))
    assert in_torch.margins(network, {}) == {"it at 0": 0.0625}


# ---------------------------------------------------------------------- without PyTorch


def test_a_seed_gives_the_same_networks_each_time():
    found, again = networks(30, 7), [random_network(7, number) for number in reversed(range(30))][::-1]
    assert found == again
    assert json.loads(json.dumps([asdict(n) for n in found])) == json.loads(json.dumps([asdict(n) for n in again]))
    assert len({json.dumps(asdict(n)["nodes"]) for n in found}) == 30
    assert all(a.nodes != b.nodes for a, b in zip(found, networks(30, 8), strict=True))
    for one, other in zip(found[3].examples(), random_network(7, 3).examples(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_kind_of_layer_is_in_twenty_networks():
    exported = [getattr(layers, name) for name in layers.__all__]
    kinds_of_xconv = {kind.__name__ for kind in exported if isinstance(kind, type) and issubclass(kind, layers.Layer)}
    shown = kinds(networks(COUNT, SEED))
    assert set(shown) == kinds_of_xconv - {"Layer"} | {"Activation"}
    assert min(shown.values()) >= 20, shown.most_common()[-3:]


def features(network: Network) -> set[str]:
    """What is special in a network, besides its kinds of layers."""
    found = {network.data_format, *(out.loss for out in network.outputs)}
    found |= {f"{len(network.inputs)} inputs", f"{len(network.outputs)} outputs"}
    names = [node.layer for node in network.nodes]
    if len(set(names)) < len(names):
        found.add("a shared layer")
    read = [source for node in network.nodes for source in node.sources]
    if any(out.value in read for out in network.outputs):
        found.add("an output that is read")
    if len({out.value for out in network.outputs}) < len(network.outputs):
        found.add("an output given twice")
    if any(len(node.sources) > 2 for node in network.nodes):
        found.add("three branches")
    for node in network.nodes:
        arguments = node.arguments
        found |= {f"{node.kind}: {name}" for name in arguments if name in ("groups", "dilation_rate", "activation")}
        if "padding" in arguments and node.kind != "ZeroPadding2D":
            padding = arguments["padding"]
            found.add(f"{node.kind}: {padding if isinstance(padding, str) else 'padding by number'}")
        if (
            arguments.get("groups", 1) > 1
            and network.shape(node.sources[0])[2 if network.data_format == "channels_last" else 0]
            == arguments["groups"]
        ):
            found.add("depthwise")
        if arguments.get("trainable") is False:
            found.add(f"{node.kind}: frozen")
        if arguments.get("use_bias") is False:
            found.add(f"{node.kind}: no bias")
        found |= {"penalty" for name in arguments if name.endswith("regularizer")}
    return found


def test_what_is_special_comes_often():
    found = [features(network) for network in networks(COUNT, SEED)]
    wanted = [
        "channels_last", "channels_first", "1 inputs", "2 inputs", "2 outputs", "a shared layer", "three branches",
        "an output that is read", "an output given twice", "linear", "mse", "categorical", "soft", "smoothed", "sparse",
        "sparse of logits", "binary", "penalty", "depthwise", "Conv2D: groups", "Conv2D: dilation_rate",
        "Conv2D: activation", "Conv2D: frozen", "Conv2D: no bias", "Dense: activation", "Dense: frozen",
        "Dense: no bias", "BatchNormalization: frozen",
        *(f"{kind}: {pad}" for kind in ("Conv2D", "MaxPool2D", "AvgPool2D") for pad in ("same", "padding by number")),
        "Conv2D: valid", "MaxPool2D: valid",
    ]  # fmt: skip
    counts = {feature: sum(feature in these for these in found) for feature in wanted}
    assert min(counts.values()) >= 8, sorted(counts.items(), key=lambda item: item[1])[:5]


def test_backends_and_fused_plans_agree(backend):
    """On thirty of the networks in float64, fused and not: each against NumPy's plan without fusions."""
    fused, some = set(), networks(30, SEED)
    assert len(kinds(some)) == len(kinds(networks(COUNT, SEED)))
    for network in some:
        expected = in_xconv.run(network, in_xconv.build(network, load("numpy"), "float64", fuse=False))
        for fuse in (True, False):
            model = in_xconv.build(network, backend, "float64", fuse=fuse)
            found = {type(run.layer) for run in model._loss_plan().runs} & {ConvReLU, ConvReLUMaxPool, DenseReLU}
            fused |= found
            assert fuse or not found
            far, where = difference(in_xconv.run(network, model), expected)
            assert far <= 1e-12, f"{network}, fuse={fuse}: {far:.3g} of its largest gradient, at {where}"
    assert fused == {ConvReLU, DenseReLU} | (set() if backend.name == "numpy" else {ConvReLUMaxPool})
