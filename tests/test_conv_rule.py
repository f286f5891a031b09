"""Which algorithm a network's convolutions take on Numba, and that training gives the same whichever it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.algorithms import Forced
from tests.checks import draw
from tests.random_networks import in_xconv, networks
from tests.test_equality import train
from tests.test_random_networks import difference
from tests.tolerances import TOLERANCES
from xconv import Input, Model, Sequential, data
from xconv.backend.numpy_backend import NumpyBackend
from xconv.layers import Add, BatchNormalization, Conv2D, Dense, Flatten, MaxPool2D, ReLU
from xconv.optimizers import SGD
from xconv.testing import check_backend

ROOT = Path(__file__).parent.parent


def ran(layers, channels=16, size=8, fuse=True, algorithm=None):
    """The algorithms of a network's convolutions in a step and in a prediction, where "direct" may be "rows", too."""
    backend, found = Forced(algorithm), []
    model = Sequential(
        [*layers, Flatten(), Dense(3)], input_shape=(size, size, channels), backend=backend, fuse=fuse, dtype="float64"
    )
    model.compile("sgd", "mse")
    x = draw(4, size, size, channels)
    for run in (lambda: model.train_on_batch(x, draw(4, 3)), lambda: model.predict(x)):
        backend.ran.clear()
        run()
        found.append(tuple(backend.ran))
    trained, predicted = ([("direct" if name == "rows" else name) for name in names] for names in found)
    assert trained == predicted
    return trained


# ---------------------------------------------------------------------- the rule


def test_winograd_where_batch_normalisation_follows():
    conv = [Conv2D(32, 3, padding="same"), BatchNormalization(), ReLU(), MaxPool2D(2)]
    assert ran(conv) == ["winograd"]
    assert ran([*conv, Conv2D(48, 3), BatchNormalization()]) == ["winograd", "winograd"]
    assert ran([Conv2D(16, 3, padding=2, use_bias=False), BatchNormalization(scale=False)]) == ["winograd"]


@pytest.mark.parametrize(
    ("filters", "channels", "settings"),
    [
        (32, 3, {}),
        (20, 16, {}),
        (32, 24, {}),
        (16, 16, {"strides": 2}),
        (16, 16, {"strides": (1, 2)}),
        (16, 16, {"dilation_rate": 2}),
        (16, 16, {"kernel_size": 1}),
        (16, 16, {"kernel_size": 5}),
        (16, 16, {"kernel_size": (3, 2)}),
    ],
)
@pytest.mark.parametrize("algorithm", [None, "winograd"])
def test_not_for_shapes_it_cannot_do(filters, channels, settings, algorithm):
    conv = Conv2D(filters, **{"kernel_size": 3, **settings})
    assert ran([conv, BatchNormalization()], channels=channels, algorithm=algorithm) == ["columns"]


def test_groups_are_not_fused():
    """Each is a convolution of its own, and nothing tells it what follows."""
    for algorithm, taken in ((None, "columns"), ("direct", "columns"), ("winograd", "winograd")):
        for following in (BatchNormalization(), ReLU()):
            assert ran([Conv2D(32, 3, groups=2), following], channels=32, algorithm=algorithm) == [taken] * 2


def test_never_before_a_relu():
    """Where a window of zeros must give exactly zero."""
    assert ran([Conv2D(16, 3, activation="relu")]) == ["direct"]
    assert ran([Conv2D(16, 3), ReLU(), BatchNormalization()]) == ["direct"]
    assert ran([Conv2D(16, 3), ReLU(), MaxPool2D(2)]) == ["direct"]
    assert ran([Conv2D(16, 3), MaxPool2D(2), BatchNormalization()]) == ["columns"]
    assert ran([Conv2D(16, 3)]) == ["columns"]
    assert ran([Conv2D(16, 3, activation="relu", dilation_rate=2)]) == ["columns"]


def test_fusing_is_what_tells_what_follows():
    assert ran([Conv2D(16, 3), BatchNormalization()], fuse=False) == ["columns"]
    assert ran([Conv2D(16, 3), ReLU()], fuse=False) == ["columns"]


@pytest.mark.parametrize("again", ["relu", "output", "normalised twice"])
def test_not_where_the_map_is_read_twice(again):
    """BatchNormalization is not all that sees it."""
    backend, x = Forced(None), Input((6, 6, 16))
    conv = Conv2D(16, 3)(x)
    y = BatchNormalization()(conv)
    if again == "relu":
        outputs = [Add()([y, ReLU()(conv)])]
    elif again == "output":
        outputs = [y, conv]
    else:
        outputs = [Add()([y, BatchNormalization()(conv)])]
    Model([x], outputs, backend=backend).predict(draw(2, 6, 6, 16, dtype="float32"))
    assert backend.ran == ["columns"]


def test_names():
    backend = Forced(None)
    tell = (16, 16, 3, 3), (1, 1), (0, 0, 0, 0)
    assert backend.conv_algorithm((2, 16, 5, 5), *tell, normalized=True) == "winograd F(4x4)"
    assert backend.conv_algorithm((2, 16, 9, 4), *tell, normalized=True) == "winograd F(2x2)"
    assert backend.conv_algorithm((2, 16, 5, 5), *tell, activation="relu") == "direct"
    assert backend.conv_algorithm((2, 16, 5, 5), *tell, activation="relu", normalized=True) == "direct"
    assert backend.conv_algorithm((2, 16, 5, 5), *tell) == "columns"
    backend.algorithm = "winograd"
    assert backend.conv_algorithm((2, 16, 5, 5), *tell, activation="relu") == "winograd F(4x4)"
    backend.algorithm = "columns"
    assert backend.conv_algorithm((2, 16, 5, 5), *tell, activation="relu", normalized=True) == "columns"
    backend.algorithm = "direct"  # which needs a ReLU: else by the rule
    assert backend.conv_algorithm((2, 16, 5, 5), *tell, normalized=True) == "winograd F(4x4)"


@pytest.mark.parametrize("pool", [[], [MaxPool2D(2)]], ids=["", "pool"])
@pytest.mark.parametrize("algorithm", ["columns", "winograd", "direct"])
def test_an_algorithm_that_is_forced_is_taken(algorithm, pool):
    assert ran([Conv2D(16, 3), ReLU(), *pool], algorithm=algorithm) == [algorithm]


# ---------------------------------------------------------------------- training


class Margins(NumpyBackend):
    """NumPy, which keeps how near a number came to another side of a ReLU or a maximum."""

    nearest = np.inf

    def relu(self, x):
        self.nearest = min(self.nearest, np.abs(x).min())
        return super().relu(x)

    def max_pool(self, x, kernel, stride, pads):
        n, c, h, w = x.shape
        windows = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(-1, 4)
        top = np.sort(windows[windows.max(axis=1) > 0], axis=1)  # the others give zero whichever is taken
        self.nearest = min(self.nearest, (top[:, -1] - top[:, -2]).min())
        return super().max_pool(x, kernel, stride, pads)


def normalised(backend, dtype, fuse=True):
    """Twice 3x3, batch normalisation, ReLU and max-pooling, which Winograd does on Numba; and a classifier."""
    layers = [
        Conv2D(16, 3, padding="same", name="c1"),
        BatchNormalization(name="n1"),
        ReLU(),
        MaxPool2D(2),
        Conv2D(32, 3, padding="same", name="c2"),
        BatchNormalization(name="n2"),
        ReLU(),
        MaxPool2D(2),
        Flatten(),
        Dense(5, name="d"),
    ]
    model = Sequential(layers, input_shape=(8, 8, 16), backend=backend, dtype=dtype, seed=3, fuse=fuse)
    model.compile(SGD(0.1), "mse")
    return model


IMAGES, TARGETS = draw(60, 8, 8, 16, seed=8), draw(60, 5, seed=9)


def test_three_steps_of_a_normalised_network_in_float64():
    mine, theirs = (normalised(backend, "float64") for backend in (Forced(None), "numpy"))
    for step in range(3):
        part = slice(20 * step, 20 * step + 20)
        for model in (mine, theirs):
            model.train_on_batch(IMAGES[part], TARGETS[part])
    assert mine.backend.ran == ["winograd"] * 6
    largest = max(np.abs(w).max() for w in theirs.get_weights())
    for name, end in theirs.params.to_numpy().items():
        assert np.abs(mine.params.to_numpy()[name] - end).max() <= 1e-9 * largest, name


def test_outputs_and_gradients_of_a_normalised_network_in_float32():
    """Within the tolerance of one convolution by Winograd, though the gradient of c1 passes four of them.

    Each adds its error, but the tolerance is made for 512 channels: with 16 or 32 one is at most a fifth of it. Batch
    normalisation leaves errors beside the largest entry as they were, four standard deviations before and after it.
    """
    x, t = IMAGES[:4].astype("f"), TARGETS[:4].astype("f")
    mine, theirs = normalised(Forced(None), "float32"), normalised(Margins(), "float64", fuse=False)
    theirs.set_weights([w.astype("f8") for w in mine.get_weights()])
    limit = TOLERANCES["winograd", "float32"]
    got, expected = mine.gradient(x, t), theirs.gradient(x.astype("f8"), t.astype("f8"))
    assert mine.backend.ran == ["winograd"] * 2
    assert theirs.backend.nearest > 2e-5, "so near that rounding may flip a ReLU: take another seed"
    largest = max(np.abs(g).max() for g in expected.to_numpy().values())
    far = {name: np.abs(got.to_numpy()[name] - g).max() / largest for name, g in expected.to_numpy().items()}
    assert max(far.values()) <= limit, far
    outputs, truth = mine.predict(x), theirs.predict(x.astype("f8"))
    assert np.abs(outputs - truth).max() <= limit * np.abs(truth).max()


def both(backend, dtype):
    """A convolution before ReLU, one before batch normalisation and ReLU, and one before ReLU and max-pooling."""
    layers = [
        Conv2D(16, 3, padding="same", activation="relu"),
        Conv2D(32, 3, padding="same", use_bias=False),  # the gradient of a bias here would be rounding alone
        BatchNormalization(),
        ReLU(),
        Conv2D(16, 3),
        ReLU(),
        MaxPool2D(2),
        Flatten(),
        Dense(5),
    ]
    model = Sequential(layers, input_shape=(8, 8, 16), backend=backend, dtype=dtype, seed=3)
    model.compile(SGD(0.01), "mse")
    return model


@pytest.mark.parametrize(
    ("algorithm", "dtype", "taken"),
    [
        ("columns", "float32", ["columns"] * 3),
        ("columns", "float64", ["columns"] * 3),
        ("direct", "float64", ["direct", "winograd", "direct"]),  # no ReLU behind the second: by the rule
        ("winograd", "float64", ["winograd"] * 3),  # in float32 it has a tolerance for one operation alone
    ],
)
def test_ten_steps_with_each_algorithm(algorithm, dtype, taken):
    mine, theirs = both(Forced(algorithm), dtype), both("numpy", dtype)
    before = theirs.get_weights()
    for step in range(10):
        part = slice(6 * step, 6 * step + 6)
        for model in (mine, theirs):
            model.train_on_batch(IMAGES[part], TARGETS[part])
    assert mine.backend.ran == taken * 10
    for name, end in theirs.params.to_numpy().items():
        far = np.abs(mine.params.to_numpy()[name] - end).max()
        assert far <= TOLERANCES["trajectory", dtype] * np.abs(end).max(), name
    assert not any(np.array_equal(a, b) for a, b in zip(before, theirs.get_weights(), strict=True))


@pytest.mark.parametrize("algorithm", ["columns", "direct"])
def test_ten_steps_of_the_books_network(algorithm, dtype):
    """It has one channel, so that Winograd cannot do it."""
    x, t, _, _ = data.load("mnist-sample").arrays("float64")
    backend = Forced(algorithm)
    size = {"small": True, "batch": 10}
    mine, theirs = (train(b, (x, t), "sgd", 0.01, dtype, **size) for b in (backend, "numpy"))
    assert backend.ran == [algorithm] * 10
    for name, end in theirs[1].items():
        assert np.abs(mine[1][name] - end).max() <= TOLERANCES["trajectory", dtype] * np.abs(end).max(), name
    np.testing.assert_allclose(mine[2], theirs[2], rtol=TOLERANCES["loss", dtype])


@pytest.mark.parametrize("algorithm", ["columns", "winograd", "direct"])
def test_random_networks_with_each_algorithm(algorithm):
    taken = set()
    for network in networks(12, 1):
        expected = in_xconv.run(network, in_xconv.build(network, "numpy", "float64", fuse=False))
        backend = Forced(algorithm)
        far, where = difference(in_xconv.run(network, in_xconv.build(network, backend, "float64")), expected)
        assert far <= 1e-12, f"{network}: {far:.3g} of its largest gradient, at {where}"
        taken |= set(backend.ran)
    assert algorithm in taken or algorithm == "winograd", taken  # whose channels these networks do not have


@pytest.mark.parametrize("algorithm", ["columns", "winograd", "direct"])
def test_the_checks_for_backends_of_ones_own(algorithm):
    check_backend(Forced(algorithm))


# ---------------------------------------------------------------------- memory


@pytest.mark.skipif(os.name != "posix", reason="forbids pages with mprotect")
@pytest.mark.parametrize("side", ["start", "end"])
def test_nothing_beyond_an_array_is_touched(side):
    done = subprocess.run(
        [sys.executable, "-m", "tests.guarded", side],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0 and last == ["done"], f"exit code {done.returncode} at {last}\n{done.stderr[-2000:]}"
