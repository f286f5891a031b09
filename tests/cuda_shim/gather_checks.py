"""The check of gather.cu: examples in the order asked for, converted or normalised to the very bits."""

from __future__ import annotations

import itertools

import numpy as np

from tests.cuda_shim.checks import Guarded

CODE = {"u8": "u1", "i64": "i8", "f32": "f4", "f64": "f8"}
SOURCES = {"f4": ("u8", "i64", "f32", "f64"), "f8": ("u8", "i64", "f32", "f64"), "i8": ("u8", "i64")}
NAME = {"f4": "f32", "f8": "f64", "i8": "i64"}
SHAPES = [(5, 1, 1), (4, 3, 7), (3, 2, 70)]  # examples, channels, entries of a plane
GRIDS = [((2, 2, 2), (8, 4)), ((1, 1, 1), (1, 3)), ((9, 4, 1), (64, 2))]


def data_of(code, *shape):
    rng = np.random.default_rng(31)
    return rng.integers(0, 256, shape).astype(code) if code in ("u1", "i8") else rng.normal(size=shape).astype(code)


def check_gather(module, source, dtype, name):
    for kind, (n, c, p) in itertools.product(SOURCES[dtype], SHAPES):
        data = data_of(CODE[kind], n, c, p)
        order = np.array([n - 1, 0, n, 1, -1, n - 2, 0], "i8")  # two that the data do not have
        shift, scale = np.linspace(-1, 2, c), np.linspace(0.1, 1 / 255, c)
        chosen = itertools.product(GRIDS, ((0, 7), (2, 3), (4, 5), (-1, 2)), (False, True), (False, True))
        for (grid, block), (first, count), on_device, normalised in chosen:
            if normalised and dtype == "i8":
                continue
            guarded = Guarded()
            expected = np.empty((count, c, p), dtype)
            for i, ch, at in np.ndindex(count, c, p):
                row = order[first + i] if 0 <= first + i < len(order) else -1
                if not 0 <= row < n:
                    expected[i, ch, at] = -1 if dtype == "i8" else np.nan
                elif normalised:
                    expected[i, ch, at] = (float(data[row, ch, at]) - shift[ch]) * scale[ch]
                else:
                    expected[i, ch, at] = data[row, ch, at]
            y = guarded.empty((count, c, p), dtype)
            at = (guarded(np.array([first], "i8")), 77) if on_device else (0, first)
            norm = (guarded(shift), guarded(scale)) if normalised else (0, 0)
            args = (guarded(data), guarded(order), *at, *norm, y, n, len(order), count, c, p)
            module.get_function(f"{name}_{kind}_{NAME[dtype]}")(grid, block, args)
            guarded.check()
            assert np.array_equal(y, expected, equal_nan=dtype != "i8"), (kind, n, c, p, grid, first, count)


def check_bytes(module, source, dtype, name):
    """Every byte times 1/255 is the byte over 255, to the bit."""
    x = np.arange(256, dtype="u1")[:, None]
    y = np.empty((256, 1), dtype)
    norm = np.zeros(1), np.array([1 / 255])
    args = (x, np.arange(256), 0, 0, *norm, y, 256, 256, 256, 1, 1)
    module.get_function(f"gather_u8_{NAME[dtype]}")((4,), (1, 64), args)
    if dtype == "f4":
        assert y.tobytes() == np.divide(x, 255, dtype="f4").tobytes()


def check_all(module, source, dtype, name):
    check_gather(module, source, dtype, name)
    check_bytes(module, source, dtype, name)
    if dtype == "f8":
        check_gather(module, source, "i8", name)  # labels


CHECKS = {"gather": ("gather", check_all)}  # kernel -> (its file, its check)
