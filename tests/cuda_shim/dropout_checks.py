"""The check of dropout.cu: its mask must be NumPy's own Philox, bit by bit."""

from __future__ import annotations

import itertools

import numpy as np

from tests.cuda_shim.checks import BLOCK, GRID, NAME, Guarded, draw

# seed, purpose, node, step
PLACES = [(0, 3, 0, 0), (2**64 - 1, 3, 7, 2**64 - 1), (12345, 2, 2**40, 1)]


def halves(seed, purpose, node, step, n):
    """The first n halves, one by one."""
    philox = np.random.Philox(key=np.array([seed, purpose], "u8"), counter=np.array([0, 0, node, step], "u8"))
    words = [int(word) for word in philox.random_raw(-(-n // 2))]
    return [words[i // 2] >> (32 * (i % 2)) & 0xFFFFFFFF for i in range(n)]


def check_dropout(module, source, dtype, name):
    function = module.get_function(f"{name}_{NAME[dtype]}")
    per_pass = 8 * GRID[0] * BLOCK[0]
    for (seed, purpose, node, step), size in itertools.product(PLACES, (1, 7, 8, 9, 3 * per_pass + 5)):
        drawn = halves(seed, purpose, node, step, size)
        # Half of all entries; none; all; and the very value that one entry draws, which keeps it.
        for threshold in (2**31, 2**32, 0, max(drawn)):
            guarded, x = Guarded(), draw(30, size, dtype=dtype)
            x[0] = np.inf  # dropped, it is 0 and no NaN
            y, scale = guarded.empty((size,), dtype), 1 / 0.7
            signed = seed - 2**64 if seed >= 2**63 else seed
            args = (guarded(x), y, guarded(np.array([step], "u8")), signed, purpose, node, threshold, scale, size)
            function(GRID, BLOCK, args)
            guarded.check()
            factor = np.dtype(dtype).type(scale)
            expected = [v * factor if half >= threshold else 0 for v, half in zip(x, drawn, strict=True)]
            assert y.tobytes() == np.array(expected, dtype).tobytes(), f"{seed}, {node}, {step}, {size}, {threshold}"


CHECKS = {"dropout": ("dropout", check_dropout)}  # kernel -> (its file, its check)
