"""Backends beside one another: differences that are there are found, in the right layer; none where there are none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.conftest import load
from tests.tolerances import TOLERANCES
from xconv import Input, Model, optimizers, streams
from xconv.backend.numpy_backend import NumpyBackend
from xconv.book import SimpleConvNet
from xconv.errors import BackendError, ConfigError, DeadNetworkWarning, NonFiniteError
from xconv.layers import Add, BatchNormalization, Conv2D, Dense, Dropout, Flatten, ReLU
from xconv.measure import agreement, charts, gaps, tolerances
from xconv.measure.agreement import Batches, agree
from xconv.measure.gaps import gap, parts
from xconv.models import Sequential

RNG = np.random.default_rng(5)
X = RNG.integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
T = RNG.integers(0, 10, 60)
QUICK = {"batch_size": 10, "steps": (1, 3)}


class Twin(NumpyBackend):
    """NumPy's arithmetic under another name."""

    name = "twin"


class WrongGradient(Twin):
    """The last layer's weights have gradients that are 2 % too large."""

    def dense_backward(self, dy, x, w, *rest):
        dx, dw, db = super().dense_backward(dy, x, w, *rest)
        return dx, dw * np.asarray(1.02, dw.dtype) if w.shape[1] == 10 else dw, db


def small(backend, dtype, rule="sgd", lr=0.01):
    net = SimpleConvNet((1, 8, 8), {"filter_num": 3, "filter_size": 3}, 5, 10, "he", backend=backend, dtype=dtype)
    net.compile(optimizers.get(rule, lr=lr))
    return net


def normalised(backend, dtype, lr=0.01):
    layers = [
        Conv2D(4, 3, name="conv"),
        BatchNormalization(name="norm"),
        ReLU(name="relu"),
        Flatten(name="flatten"),
        Dropout(0.4, name="dropout"),
        Dense(10, activation="softmax", name="dense"),
    ]
    net = Sequential(layers, input_shape=(1, 8, 8), data_format="channels_first", backend=backend, dtype=dtype, seed=3)
    net.compile(optimizers.SGD(lr), "sparse_categorical_crossentropy", ["accuracy"])
    return net


# ---------------------------------------------------------------------- numbers


def test_a_gap_is_of_the_largest_entry(monkeypatch):
    monkeypatch.setattr(gaps, "BLOCK", 2)  # more than one block
    found = gap(np.array([[1.0, 2.5, -4.0]], "f"), np.array([[1.0, 2.0, -5.0]], "f"))
    assert tuple(found) == (1.0, 5.0, 1.25, 30.0) and found.ratio == 0.2
    assert gap(np.zeros(3), np.zeros(3)).ratio == gap(np.ones(3), np.ones(3)).ratio == 0.0
    for got, expected in (([np.nan, 1], [1, 1]), ([1, 1], [1, np.inf]), ([0, 1e-9], [0, 0])):
        assert gap(np.array(got), np.array(expected)).ratio == math.inf


def test_biases_that_batch_normalisation_takes_away():
    image = Input((8, 8, 1))
    a = Conv2D(2, 3, padding="same", name="a")(image)
    b = BatchNormalization(name="b")(a)
    c = Conv2D(2, 3, padding="same", activation="relu", name="c")(b)  # a ReLU between
    d = Conv2D(2, 3, padding="same", use_bias=False, name="d")(BatchNormalization(name="n1")(c))
    e = Conv2D(2, 3, padding="same", name="e")(BatchNormalization(name="n2")(d))  # read twice
    y = Dense(3, name="g")(Flatten()(Add()([e, BatchNormalization(name="f")(e)])))
    net = Model(image, y, backend="numpy")
    found = {part.name: part for part in parts(net)}
    assert list(found) == ["a", "b", "c", "n1", "d", "n2", "e", "f", "g"]
    assert [name for name, part in found.items() if part.cancelled] == ["a"]
    assert found["a"].tensors == ("a.w", "a.b") and found["a"].judged == ("a.w",)
    assert found["b"].tensors == ("b.gamma", "b.beta", "b.mean", "b.var")
    net.freeze("b")  # it uses its own mean now, from which a bias is not taken away
    assert [part.name for part in parts(net) if part.cancelled] == []
    assert [part.tensors for part in parts(small("numpy", "float32"))] == [("W1", "b1"), ("W2", "b2"), ("W3", "b3")]


def test_batches_are_those_of_fit(monkeypatch):
    net, seen = small("numpy", "float32"), []
    step = net.train_step
    monkeypatch.setattr(net, "train_step", lambda x, t, *w: seen.append((x[0], t[0])) or step(x, t, *w))
    net.fit(X[:25] / np.float32(255), T[:25], 10, 2, verbose=0)
    batches = Batches(X[:25], T[:25], 10, net.seed, "float32")
    whole = [pair for pair in seen if len(pair[0]) == 10]
    assert len(seen) == 6 and len(whole) == 4
    for number, (x, t) in enumerate(whole, 1):
        mine = batches(number)
        assert mine[0].tobytes() == x.tobytes() and mine[1].tolist() == t.tolist()
    order = streams.permutation(net.seed, 2, 25)
    assert batches(3)[1].tolist() == T[order[:10]].tolist()


def test_turns_end_where_something_is_compared():
    assert agreement._turns((1, 10, 25)) == [(1, 1), (2, 10), (11, 20), (21, 25)]
    assert agreement._turns((3,)) == [(1, 3)]


def test_tolerances_are_those_of_the_suite():
    for dtype in ("float32", "float64"):
        assert tolerances.TRAJECTORY[dtype] == TOLERANCES["trajectory", dtype]
        assert tolerances.TRAJECTORY[dtype] == TOLERANCES["adaptive trajectory", dtype]
        assert tolerances.LOSS[dtype] == TOLERANCES["loss", dtype]


# ---------------------------------------------------------------------- comparisons


@pytest.fixture(scope="module")
def same():
    return agree(small, [NumpyBackend(), Twin()], X, T, **QUICK)


def test_the_same_arithmetic_gives_the_same_bits(same):
    row = same["comparisons"][0]
    assert (row["backend"], row["beside"]) == ("twin", "numpy")
    assert [after["steps"] for after in row["after"]] == [1, 3]
    for found in (row["gradient"], *row["after"]):
        assert list(found["layers"].items()) == [("conv1", 0.0), ("affine1", 0.0), ("affine2", 0.0)]
    assert [after["loss"] for after in row["after"]] == [after["norm"] for after in row["after"]] == [0.0, 0.0]
    assert row["verdict"]["status"] == "within" and row["verdict"]["value"] == 0.0
    rounding = same["rounding"]
    assert rounding["beside"] == "numpy float64"
    assert all(0 < value < 1e-5 for after in rounding["after"] for value in after["layers"].values())


def test_the_twin_in_float64_starts_from_the_same_numbers():
    found = agree(lambda b, d: small(b, d, lr=0.0), [NumpyBackend(), Twin()], X, T, **QUICK)
    assert found["rounding"]["after"][1]["layers"] == {"conv1": 0.0, "affine1": 0.0, "affine2": 0.0}
    assert 0 < found["rounding"]["after"][1]["loss"] < 1e-6


def test_the_result_is_json(same):
    assert json.loads(json.dumps(same, allow_nan=False)) == same
    assert same["start"]["numbers"] == 3 * 9 + 3 + 3 * 9 * 5 + 5 + 5 * 10 + 10 and len(same["start"]["sha256"]) == 64
    assert (same["reference"], same["steps"], same["dtype"]) == ("numpy", [1, 3], "float32")
    assert same["tolerance"] == {
        "steps": 10, "measure": "tensor", "trajectory": 1e-4, "loss": None, "gradient": 1e-4,
    }  # fmt: skip
    assert list(same["backends"]) == ["numpy", "twin"] and same["turns"] == 4
    for row in (*same["backends"].values(), same["twin"]):
        assert row["images_per_second"] > 0 and len(row["seconds_by_turn"]) == 2 and row["stopped"] is None
        assert row["algorithms"]["conv1"] == "im2col" and row["compile_seconds"] >= 0
    assert same["layers"][0] == {"name": "conv1", "kind": "Conv2D", "tensors": ["W1", "b1"], "cancelled": []}


def test_the_trajectory_is_that_of_training_by_hand():
    """After three steps the weights of each are those of train_on_batch; only then do differences mean anything."""
    nets = []

    def build(backend, dtype):
        nets.append(small(backend, dtype))
        return nets[-1]

    found = agree(build, [NumpyBackend(), WrongGradient()], X, T, rounding=False, **QUICK)
    for net in nets:
        alone, batches = small(net.backend, "float32"), Batches(X, T, 10, 0, "float32")
        for step in (1, 2, 3):
            loss = alone.train_on_batch(*batches(step))[0]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(alone.get_weights(), net.get_weights(), strict=True))
    one, two = (net.params.to_numpy()["W3"].astype("f8") for net in nets)
    measured = found["comparisons"][0]["after"][1]
    assert measured["tensors"]["W3"] == np.abs(two - one).max() / np.abs(one).max()
    assert found["rounding"] is None and loss > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_gradient_is_found_in_its_layer(dtype):
    row = agree(small, [NumpyBackend(), WrongGradient()], X, T, dtype=dtype, **QUICK)["comparisons"][0]
    first = row["after"][0]["layers"]
    assert row["gradient"]["layers"] == {"conv1": 0.0, "affine1": 0.0, "affine2": pytest.approx(0.02, rel=1e-4)}
    assert first["conv1"] == first["affine1"] == 0.0 < first["affine2"]
    assert row["after"][1]["layers"]["conv1"] > 0, "by then it has gone through the network"
    verdict = row["verdict"]
    assert (verdict["status"], verdict["what"], verdict["place"]) == ("beyond", "gradient", "W3")
    assert verdict["value"] > verdict["allowed"]


def test_moving_statistics_are_compared():
    """Though no gradient nor loss of training depends on them."""

    def build(backend, dtype):
        net = normalised(backend, dtype)
        net.get_layer("norm").momentum = 0.98 if isinstance(backend, Twin) else 0.99
        return net

    row = agree(build, [NumpyBackend(), Twin()], X, T, batch_size=10, steps=(1,))["comparisons"][0]
    tensors = row["after"][0]["tensors"]
    assert tensors["norm.mean"] == pytest.approx(1.0, rel=1e-4)  # 0.02 of the batch's for 0.01 of it
    assert [name for name, value in tensors.items() if value] == ["norm.mean", "norm.var"]
    assert row["after"][0]["layers"]["norm"] == tensors["norm.mean"]
    assert list(row["gradient"]["tensors"]) == [name for name in tensors if name not in ("norm.mean", "norm.var")]
    assert (row["verdict"]["status"], row["verdict"]["place"]) == ("beyond", "norm.mean")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numba_agrees_with_numpy(dtype):
    """Though the bias before batch normalisation, which is rounding alone, is anything."""
    found = agree(normalised, [NumpyBackend(), load("numba")], X, T, dtype=dtype, **QUICK)
    row = found["comparisons"][0]
    assert found["layers"][0]["cancelled"] == ["conv.b"] and found["start"]["dropout_layers"] == ["dropout"]
    assert row["verdict"]["status"] == "within"
    after, limit = row["after"][1], TOLERANCES["trajectory", dtype]
    assert 0 < max(after["layers"].values()) <= limit < after["tensors"]["conv.b"]
    assert after["layers"]["conv"] == after["tensors"]["conv.w"]
    assert (found["rounding"] is None) == (found["twin"] is None) == (dtype == "float64")


def test_recorded_steps_agree_with_numpy():
    """On CuPy, or its stand-in: steps are recorded once their shape has come twice."""
    found = agree(small, [NumpyBackend(), load("cupy")], X, T, batch_size=4, steps=(1, 5))
    cupy = found["backends"]["cupy"]
    assert cupy["recording"] == "recorded" and found["backends"]["numpy"]["recording"].startswith("eager")
    assert found["comparisons"][0]["verdict"]["status"] == "within"
    assert 0 < max(found["comparisons"][0]["after"][1]["layers"].values()) < 1e-5


def test_an_adaptive_rule_is_judged_by_norms():
    found = agree(
        lambda backend, dtype: small(backend, dtype, "adam", 1e-3), [NumpyBackend(), load("numba")], X, T, **QUICK
    )
    assert found["tolerance"]["measure"] == "norm" and found["tolerance"]["loss"] == 1e-5
    verdict = found["comparisons"][0]["verdict"]
    assert verdict["status"] == "within" and verdict["place"] in ("all weights", "the loss")


# ---------------------------------------------------------------------- what must be the same


class Coarse(Twin):
    """Takes float32 for less than it is."""

    def asarray(self, a, dtype=None):
        made = super().asarray(a, dtype)
        return made.astype("f2").astype(made.dtype) if made.dtype.kind == "f" else made


class CoarseImages(Twin):
    """The same, of batches alone."""

    def asarray(self, a, dtype=None):
        made = super().asarray(a, dtype)
        return made.astype("f2").astype("f4") if made.shape == (10, 1, 8, 8) else made


class OtherMasks(Twin):
    """Dropout of another seed."""

    def dropout(self, x, rate, seed, step, node):
        return super().dropout(x, rate, seed + 1, step, node)


@pytest.mark.parametrize(
    ("kind", "build", "words"),
    [
        (Coarse, small, "initial W1"),
        (CoarseImages, small, "the images of a batch"),
        (OtherMasks, normalised, "the mask of dropout"),
    ],
)
def test_other_bits_are_no_comparison(kind, build, words):
    with pytest.raises(BackendError, match=f"'twin' was given other bits than the reference: {words}"):
        agree(build, [NumpyBackend(), kind()], X, T, **QUICK)


def test_other_weights_are_no_comparison():
    def build(backend, dtype):
        net = small(backend, dtype)
        if backend.name == "twin":
            net.params["W2"][3, 3] *= np.float32(1 + 1e-7)
        return net

    with pytest.raises(BackendError, match="initial W2"):
        agree(build, [NumpyBackend(), Twin()], X, T, **QUICK)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backends": [NumpyBackend()]}, "at least two backends, each once. Received: numpy"),
        ({"backends": [NumpyBackend(), NumpyBackend()]}, "each once. Received: numpy, numpy"),
        ({"steps": (1, 1)}, r"increasing numbers of steps from 1 up. Received: \[1, 1\]"),
        ({"steps": (0, 1)}, r"Received: \[0, 1\]"),
        ({"steps": ()}, r"Received: \[\]"),
        ({"batch_size": 61}, "a batch of 1 to 60, the examples there are. Received: 61"),
        ({"batch_size": 0}, "Received: 0"),
    ],
)
def test_mistakes(changes, words):
    settings = {"build": small, "backends": [NumpyBackend(), Twin()], "x": X, "t": T, **QUICK} | changes
    with pytest.raises(ConfigError, match=words):
        agree(**settings)


# ---------------------------------------------------------------------- what is not finite


class Breaking(Twin):
    """From the sixth pass on, that of the second step or third, the logits are NaN."""

    calls = 0

    def dense(self, x, w, b, activation=None):
        y = super().dense(x, w, b, activation)
        self.calls += w.shape[1] == 10
        return y * np.float32(np.nan) if self.calls > 5 else y


def test_a_backend_whose_loss_is_not_finite_is_beyond():
    found = agree(small, [NumpyBackend(), Breaking()], X, T, batch_size=10, steps=(1, 4, 6))
    row = found["comparisons"][0]
    assert [after["steps"] for after in row["after"]] == [1]
    assert found["backends"]["twin"]["stopped"].startswith("the loss became nan between steps 2 and 4")
    assert row["verdict"]["status"] == "beyond" and row["verdict"]["stopped"]
    assert len(found["rounding"]["after"]) == 3, "the others go on"
    json.dumps(found, allow_nan=False)


def test_a_reference_whose_loss_is_not_finite_is_an_error():
    with pytest.raises(NonFiniteError, match=r"numpy: the loss became .* and so did that of twin; try a smaller"):
        agree(lambda b, d: small(b, d, lr=1e30), [NumpyBackend(), Twin()], X, T, rounding=False, **QUICK)


def test_a_dead_network_is_told_of():
    def build(backend, dtype):
        net = small(backend, dtype)
        net.params["b1"][...] = -1e3  # shuts every ReLU of the first layer
        return net

    with pytest.warns(DeadNetworkWarning, match="W1 are all zero"):
        agree(build, [NumpyBackend(), Twin()], X, T, **QUICK)


# ---------------------------------------------------------------------- verdicts


def row(value, steps=10, gradient=0.0, **other):
    after = [{"steps": steps, "tensors": {"w": value, "b": 1.0}, "norm": value, "loss": value}]
    return {"gradient": {"of_largest": {"w": gradient}}, "after": after, **other}


@pytest.mark.parametrize(
    ("value", "rounding", "algorithm", "status"),
    [
        (9e-5, None, "columns", "within"),
        (9e-5, 1e-7, "columns", "within"),
        (2e-4, None, "columns", "beyond"),
        (2e-4, 1e-5, "columns", "beyond"),
        (2e-4, 3e-5, "columns", "rounding"),
        (2e-4, 1e-5, "winograd F(4x4)", "unpromised"),
        (2e-4, 3e-5, "winograd F(4x4)", "rounding"),
        (None, 3e-5, "columns", "beyond"),
    ],
)
def test_verdicts(value, rounding, algorithm, status):
    """`b` is a bias that is taken away, and is not judged."""
    alone = None if rounding is None else row(rounding)
    about = {"algorithms": {"conv": algorithm}, "about": {"precision": "float32"}, "stopped": None}
    found = tolerances.judge(row(value), alone, "float32", False, ["b"], about)
    assert (found["status"], found["place"], found["value"]) == (status, "w", value)


def test_verdicts_on_gradients_and_steps():
    about = {"algorithms": {}, "about": {"precision": "bf16"}, "stopped": None}
    judged = {
        (steps, gradient): tolerances.judge(row(1e-9, steps, gradient), None, "float64", False, ["b"], about)["status"]
        for steps, gradient in [(1, 0.0), (11, 0.0), (11, 2e-9)]
    }
    assert judged == {(1, 0.0): "unpromised", (11, 0.0): "unjudged", (11, 2e-9): "unpromised"}
    assert tolerances.unpromised(about) == ["products in bf16"]


# ---------------------------------------------------------------------- the chart


def test_the_chart(tmp_path, same):
    pytest.importorskip("matplotlib")
    machine = {"cpu": "a CPU", "threads": 2, "versions": {"numpy": "2"}, "python": "3", "date": "2026-01-01"}
    told = {**machine, "model": "small", "data": "noise", **same}
    broken = {**told, "rounding": None}
    broken["comparisons"][0]["after"][1]["layers"]["conv1"] = None  # not finite
    for whole in (told, broken):
        charts.agreement(tmp_path / "chart.png", whole)
        assert (tmp_path / "chart.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        (tmp_path / "chart.png").unlink()


def test_points_of_the_chart(same):
    """What is 0 lies on the left edge, what is not finite on the right one; everything else where it belongs."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    row = {"backend": "twin", "after": [{"steps": 1, "layers": {"conv1": 0.0, "affine1": None, "affine2": 1e-3}}]}
    charts._differences(axes, {**same, "steps": [1], "comparisons": [row], "rounding": None})
    points = next(line for line in axes.lines if line.get_marker() == "o")
    low, high = axes.get_xlim()
    assert points.get_xdata().tolist() == [low, high, 1e-3] and points.get_ydata().tolist() == [0, 1, 2]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "affine1", "affine2"]
    assert "0: left edge" in axes.get_xlabel()
