"""The checks of layout.cu and channels.cu: changes of layout are exact, and bfloat16 rounds to the nearest even."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.cuda_shim.checks import GRID, NAME, Guarded, draw, near

BLOCK = (32, 8)
SIZES = [(1, 1, 1), (2, 3, 5), (1, 33, 31), (2, 32, 64), (3, 65, 40), (7, 1, 70), (2, 40, 1)]  # n, c, p
AWKWARD = [np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38, -1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20]


def rounded(value):
    """The bfloat16 nearest to a float32, even where two are as near, as its 16 bits: found among its neighbours."""
    bits = int(np.float32(value).view("u4"))
    if math.isnan(value):
        return bits >> 16 | 0x40
    if math.isinf(value):
        return bits >> 16
    near_by = [bits >> 16, (bits >> 16) + 1]
    exact = [abs(2.0**128 - abs(float(value)) if b & 0x7F80 == 0x7F80 else widened(b) - float(value)) for b in near_by]
    return near_by[0] if exact[0] < exact[1] or (exact[0] == exact[1] and near_by[0] % 2 == 0) else near_by[1]


def widened(bits):
    """A bfloat16's bits as the float that they are."""
    return float(np.array([bits << 16], "u4").view("f4")[0])


def awkward(seed, *shape):
    x = draw(seed, *shape, dtype="f4")
    x.reshape(-1)[: len(AWKWARD)] = AWKWARD[: x.size]
    x.reshape(-1).view("u4")[0] = 0x7FFFFFFF  # the NaN that rounding up would make a zero
    return x


def kept(narrow, values):
    """float32 values as the kernel stores them."""
    return np.array([rounded(v) for v in values.ravel()], "u2").reshape(values.shape) if narrow else values


@np.errstate(all="ignore")
def check_to_nhwc(module, source, dtype, name):
    narrow = dtype == "f8"  # there is no float64 here: the second run is bfloat16's
    function = module.get_function(f"{name}_{'bf16' if narrow else 'f32'}")
    for seed, (n, c, p) in enumerate(SIZES):
        for mask in (None, draw(seed + 50, n, c, p, dtype="f4")):
            guarded, x = Guarded(), awkward(seed, n, c, p)
            out = guarded.empty((n, p, c), "u2" if narrow else "f4")
            function(GRID, BLOCK, (guarded(x), 0 if mask is None else guarded(mask), out, n, c, p))
            guarded.check()
            expected = np.zeros((n, p, c), "f4")
            for i, j, k in itertools.product(range(n), range(c), range(p)):
                shut = mask is not None and not mask[i, j, k] > 0
                expected[i, k, j] = x[i, j, k] * np.float32(0) if shut else x[i, j, k]
            same_bits(out, kept(narrow, expected))


@np.errstate(all="ignore")
def check_from_nhwc(module, source, dtype, name):
    narrow = dtype == "f8"
    function = module.get_function(f"{name}_{'bf16' if narrow else 'f32'}")
    for seed, (n, c, p) in enumerate(SIZES):
        for bias, relu in itertools.product((None, draw(seed + 50, c, dtype="f4")), (0, 1)):
            guarded, x = Guarded(), kept(narrow, awkward(seed, n, p, c))
            values = (x.astype("u4") << 16).view("f4") if narrow else x
            out = guarded.empty((n, c, p), "f4")
            given = 0 if bias is None else guarded(bias)
            function(GRID, BLOCK, (guarded(x), given, out, n, c, p, relu))
            guarded.check()
            expected = np.zeros((n, c, p), "f4")
            for i, j, k in itertools.product(range(n), range(c), range(p)):
                value = values[i, k, j] + (np.float32(0) if bias is None else bias[j])
                expected[i, j, k] = 0 if relu and value < 0 else value
            same_bits(out, expected)


def same_bits(got, expected):
    """Equal to the bit but for the sign of zero and NaN."""
    if got.dtype == np.uint16:
        assert np.array_equal(got & 0x7FFF, expected & 0x7FFF)
        got, expected = ((a.astype("u4") << 16).view("f4") for a in (got, expected))
    assert np.array_equal(got, expected, equal_nan=True)


def check_cast(module, source, dtype, name):
    function = module.get_function("cast_bf16")
    for size in (1, 7, 400):
        guarded, x = Guarded(), awkward(size, size)
        out = guarded.empty((size,), "u2")
        function(GRID, (32,), (guarded(x), out, size))
        guarded.check()
        assert out.tolist() == kept(True, x).tolist()


def check_channel_sums(module, source, dtype, name):
    function = module.get_function(f"{name}_{NAME[dtype]}")
    for (n, c, p), parts in itertools.product([(1, 1, 1), (5, 3, 7), (3, 2, 300), (4, 1, 64)], (1, 2, 3)):
        for mask in (None, draw(9, n, c, p, dtype=dtype)):
            guarded, x = Guarded(), draw(8, n, c, p, dtype=dtype)
            out = guarded.empty((parts, c), dtype)
            function((c, parts), (256,), (guarded(x), 0 if mask is None else guarded(mask), out, n, p))
            guarded.check()
            terms = x.astype("f8") * (1.0 if mask is None else mask > 0)
            near(out.astype("f8").sum(axis=0), [math.fsum(terms[:, j].ravel()) for j in range(c)], dtype)


def check_relu_in_place(module, source, dtype, name):
    function = module.get_function(f"{name}_{NAME[dtype]}")
    for size in (1, 5, 400):
        guarded, x = Guarded(), draw(3, size, dtype=dtype)
        x[: min(size, 4)] = [np.nan, -np.inf, np.inf, -0.0][:size]
        y = guarded(x)
        function(GRID, (32,), (y, size))
        guarded.check()
        assert np.array_equal(y, [0 if v < 0 else v for v in x], equal_nan=True)


CHECKS = {  # kernel -> (its file, its check)
    "maps_to_nhwc": ("layout", check_to_nhwc),
    "nhwc_to_maps": ("layout", check_from_nhwc),
    "cast": ("layout", check_cast),
    "channel_sums": ("channels", check_channel_sums),
    "relu_in_place": ("channels", check_relu_in_place),
}
