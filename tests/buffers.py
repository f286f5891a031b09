"""Parameters and gradients for tests of optimizers: a few arrays of several ranks in one flat buffer."""

from __future__ import annotations

import numpy as np

from tests.checks import close, draw
from xconv.parameters import Parameters

SHAPES = {"w": (3, 7), "b": (7,), "scale": (), "k": (2, 3, 2, 2)}


def numbers(seed, dtype, size=1.0):
    """An array of each shape."""
    return {
        name: size * draw(*shape, dtype=dtype, seed=100 * seed + i) if shape else np.array(0.5 - seed, dtype)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def filled(backend, arrays, dtype, fixed=()):
    made = Parameters(backend, {name: a.shape for name, a in arrays.items()}, dtype, fixed)
    made.update(arrays)
    return made


def wide(arrays):
    return {name: np.asarray(a, np.float64) for name, a in arrays.items()}


def compare(backend, params, expected, kind="sum"):
    for name, array in expected.items():
        got = backend.to_numpy(params[name])
        close(backend, backend.asarray(np.atleast_1d(got)), np.atleast_1d(array), kind, name)
