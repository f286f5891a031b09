"""Penalties and their gradients against sums in plain Python and differences."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests import standin
from tests.checks import close, draw
from tests.mistakes import message
from tests.reference import numerical_gradient
from xconv import regularizers
from xconv.errors import ConfigError

CASES = {
    "L1": (regularizers.L1(0.3), 0.3, 0.0),
    "L2": (regularizers.L2(0.02), 0.0, 0.02),
    "L1L2": (regularizers.L1L2(0.3, 0.02), 0.3, 0.02),
    "nothing": (regularizers.L1L2(), 0.0, 0.0),
}


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2), (5,)])
@pytest.mark.parametrize("case", CASES)
def test_penalty_and_gradient(backend, dtype, case, shape):
    regularizer, l1, l2 = CASES[case]
    w = draw(*shape, dtype=dtype, seed=1)

    def penalty(w: np.ndarray) -> float:
        return math.fsum(l1 * abs(v) + l2 * v * v for v in w.ravel().tolist())

    given = backend.asarray(w)
    got = regularizer.penalty(backend.xp, given)
    assert got.shape == () and got.dtype == dtype
    assert float(backend.to_numpy(got)) == pytest.approx(penalty(w), rel=1e-6 if dtype == "float32" else 1e-14)
    gradient = regularizer.gradient(backend.xp, given)
    assert gradient.dtype == dtype
    close(backend, gradient, l1 * np.sign(w).astype("float64") + 2 * l2 * w.astype("float64"), "elementwise")
    np.testing.assert_allclose(backend.to_numpy(gradient), numerical_gradient(penalty, w), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(backend.to_numpy(given), w)


def test_a_weight_of_zero_is_left_alone(backend):
    w = backend.asarray(np.zeros((2, 2)))
    for regularizer, _, _ in CASES.values():
        assert not backend.to_numpy(regularizer.gradient(backend.xp, w)).any()


@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
@pytest.mark.parametrize("case", CASES)
def test_regularizers_can_be_recorded_as_a_graph(case):
    backend, regularizer = standin.install(), CASES[case][0]
    w = backend.asarray(draw(4, 3, dtype="float32"))
    step = lambda: (regularizer.penalty(backend.xp, w), regularizer.gradient(backend.xp, w))  # noqa: E731
    launch, results = standin.record(backend, step)
    w[...] = w * 2.0
    launch()
    for got, expected in zip(results, step(), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(got), backend.to_numpy(expected))


def test_names_and_configs():
    for spec, kind, config in (
        ("l1", regularizers.L1, {"kind": "L1", "l1": 0.01}),
        ("l2", regularizers.L2, {"kind": "L2", "l2": 0.01}),
        ("l1_l2", regularizers.L1L2, {"kind": "L1L2", "l1": 0.01, "l2": 0.01}),
        (regularizers.l1(0.5), regularizers.L1, {"kind": "L1", "l1": 0.5}),
        (regularizers.l2(0.5), regularizers.L2, {"kind": "L2", "l2": 0.5}),
        (regularizers.l1_l2(0.5, 2), regularizers.L1L2, {"kind": "L1L2", "l1": 0.5, "l2": 2.0}),
    ):
        found = regularizers.get(spec)
        assert type(found) is kind and found.config() == config
        again = regularizers.get(json.loads(json.dumps(config)))
        assert type(again) is kind and again.config() == config
    assert regularizers.get(None) is None
    mine = CASES["L1"][0]
    assert regularizers.get(mine) is mine


def test_a_regularizer_of_your_own():
    class Centred:
        def penalty(self, xp, w):
            return ((w - 1) ** 2).sum()

        def gradient(self, xp, w):
            return 2 * (w - 1)

    mine = Centred()
    assert regularizers.get(mine) is mine


EXPECTED = "regularizer: expected 'l1', 'l2', 'l1_l2', None, or an instance with penalty and gradient, as"
MISTAKES = {
    "a name": (lambda: regularizers.get("l3"), f"{EXPECTED} regularizers.L2(1e-4). Received: 'l3'"),
    "a number": (lambda: regularizers.get(0.01), f"{EXPECTED} regularizers.L2(1e-4). Received: 0.01"),
    "a class": (
        lambda: regularizers.get(regularizers.L2),
        f"{EXPECTED} regularizers.L2(1e-4). Received: <class 'xconv.regularizers.L2'>",
    ),
    "negative": (lambda: regularizers.L2(-1e-4), "L2: l2 must be a finite number >= 0. Received: -0.0001"),
    "NaN": (lambda: regularizers.L1(math.nan), "L1: l1 must be a finite number >= 0. Received: nan"),
    "no number": (lambda: regularizers.L1L2("0.1"), "L1L2: l1 must be a finite number >= 0. Received: '0.1'"),
    "a config": (
        lambda: regularizers.get({"l2": 0.1}),
        "regularizer: expected a config whose 'kind' is 'L1', 'L2', 'L1L2'. Received: {'l2': 0.1}",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_regularizers_that_cannot_be(mistake):
    act, text = MISTAKES[mistake]
    message(ConfigError, text, act)
