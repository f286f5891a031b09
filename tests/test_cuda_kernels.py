"""Every CUDA kernel, run on the CPU, against naive loops; and kernels broken on purpose, which must be caught."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from xconv.kernels import cuda

from tests import cuda_shim

if cuda_shim.MISSING:
    if os.environ.get("XCONV_REQUIRE_CUDA_TOOLS") == "1":
        raise RuntimeError(f"XCONV_REQUIRE_CUDA_TOOLS=1, and {cuda_shim.MISSING}")
    pytest.skip(f"CUDA kernels on the CPU: {cuda_shim.MISSING}", allow_module_level=True)

FILES = sorted(path.stem for path in cuda.FOLDER.glob("*.cu"))
CHECKS = cuda_shim.all_checks()
ORDERS = (0, 1, 2, 3)  # of a block's threads: first to last, last to first, and two that are shuffled
BARRIER = "__syncthreads();"
WITH_BARRIERS = [file for file in FILES if BARRIER in cuda.source(file)]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", CHECKS)
def test_kernel_equals_naive_loops(name, dtype):
    file, check = CHECKS[name]
    check(cuda_shim.module(file), cuda.source(file), dtype, name)


@pytest.mark.parametrize("order", ORDERS[1:])
@pytest.mark.parametrize("name", CHECKS)
def test_the_order_of_threads_does_not_matter(name, order):
    file, check = CHECKS[name]
    with cuda_shim.threads_in_order(order):
        check(cuda_shim.module(file), cuda.source(file), "f4", name)


def test_every_kernel_has_a_check():
    names = {name for file in FILES for name in cuda_shim.kernel_names(cuda.source(file))}
    without_types = {re.sub(r"(_(f32|f64|bf16|u8|i32|i64))+$", "", name) for name in names}
    assert without_types == set(CHECKS)
    for base in without_types - {"maps_to_nhwc", "nhwc_to_maps", "cast"}:  # for cuDNN, which float64 never sees
        assert {n for n in names if n.startswith(base + "_f32")} and {n for n in names if n.startswith(base + "_f64")}


BROKEN = [  # file, kernel, what is changed, into what
    ("pool", "max_pool", "!(value <= best)", "!(value < best)"),  # the last of equal maxima wins
    ("pool", "max_pool", "&& best == best", ""),  # the last NaN wins
    ("pool", "max_pool_backward", "/ stride + 1", "/ stride"),  # a window too many
    ("pool", "avg_pool", "w >= 0 && w < s.w", "w >= 0"),  # reads past the row
    ("columns", "col2im", "oy >= s.oh", "oy > s.oh"),  # reads past the columns
    ("columns", "im2col", "h >= 0 && h < s.h", "h >= 0"),
    ("columns", "im2col", "m * s.by_place + c", "m * s.by_place + 1 + c"),  # writes one too far
    ("elementwise", "add_bias", "bias[i % o]", "bias[i % o + 1]"),
    ("reduce", "row_sums", "(length + gridDim.y - 1) / gridDim.y", "length / gridDim.y"),  # leaves the last ones out
    ("gather", "gather", "row >= n", "row > n"),
    ("augment", "warp_affine", "1ll << 31", "0"),  # rounds down
    ("augment", "warp_affine", "if (fx | fy) {", "if (fx) {"),
    ("augment", "warp_affine", "i >= bottom", "i > bottom"),
    ("augment", "warp_affine", "column < w;", "column <= w;"),  # the next row's first pixel
    ("augment", "warp_affine", "least(row, h - 1)", "least(row, h)"),
    ("norm", "batch_norm", "k < last", "k <= last"),  # an image of the next part
    ("norm", "batch_norm_inference", "channels || p >= end", "channels || p > end"),  # an entry of the next plane
    ("norm", "batch_norm_moments", "T(k) < some.count", "T(k) <= some.count"),
    ("norm", "batch_norm_moments", "apart * apart * a.count * share", "T(0)"),  # parts that lie apart
    ("norm", "batch_norm_gradients", "place * channels + c) * 2", "place * channels + c + 1) * 2"),
    ("norm", "batch_norm_backward", "sums.gamma * inverse * inverse", "sums.gamma * inverse"),
    ("layout", "maps_to_nhwc", "channel + threadIdx.x < c", "channel + threadIdx.x <= c"),  # over the next place
    ("layout", "cast", "bits >> 16 & 1u", "1u"),  # ties away from zero
    ("layout", "cast", "(bits & 0x7fffffffu) > 0x7f800000u", "false"),  # a NaN becomes zero
    ("layout", "nhwc_to_maps", "relu ? positive_part(value) : value", "relu ? value : positive_part(value)"),
    ("layout", "nhwc_to_maps", "bias[channel + row]", "bias[channel]"),
    ("channels", "channel_sums", "n * (blockIdx.y + 1)", "n * blockIdx.y + 1"),  # leaves images out
    (
        "softmax",
        "softmax_cross_entropy",
        "    shared[me] = value;\n",
        "    shared[me] = value;\n    if (me) return shared[0];\n",
    ),
    ("softmax", "softmax_cross_entropy", "exp(z[i] - top)", "exp(z[i])"),  # overflows
    ("dropout", "dropout", "round < 10", "round < 9"),
    ("dropout", "dropout", "static_cast<u64>(block) + 1", "static_cast<u64>(block)"),  # NumPy counts up first
    ("dropout", "dropout", "k % 2 * 32", "(1 - k % 2) * 32"),  # the high half first
    ("dropout", "dropout", "half >= threshold", "half > threshold"),
    ("dropout", "dropout", "if (i < size) y", "y"),  # writes past the end
    ("dropout", "dropout", "i64 half = static_cast<unsigned>", "i64 half = static_cast<int>"),
    ("optimizers", "adam", "1.0 - pow(beta2, t)", "1.0 - pow(beta2, t + 1)"),
    ("optimizers", "adam", "hyper[0] * wd", "wd"),
    ("optimizers", "sgd", "*going == 0", "*going == 1"),
    ("optimizers", "guard", "finite && ", "finite || "),
    ("optimizers", "guard", "loss[0] - loss[0] == T(0)", "loss[0] == loss[0]"),  # an infinity passes
    ("optimizers", "guard", "!state[1]", "state[1]"),
    ("optimizers", "spoil", "none == T(0)", "none != none"),
    ("optimizers", "spoil", "was - was == L(0)", "was == was"),  # an infinite loss becomes NaN
    ("norm", "moving_statistics", "static_cast<T>(1.0 - momentum)", "static_cast<T>(momentum)"),
]


@pytest.mark.parametrize(("file", "name", "old", "new"), BROKEN, ids=[f"{b[1]}-{i}" for i, b in enumerate(BROKEN)])
def test_broken_kernel_is_caught(file, name, old, new):
    source = cuda.source(file)
    assert old in source
    broken = cuda_shim.Module(source.replace(old, new))  # it compiles
    with pytest.raises((AssertionError, RuntimeError)):
        CHECKS[name][1](broken, source, "f4", name)


def is_caught(module, name, orders=ORDERS):
    """Whether the kernel's check fails in one of these orders."""
    file, check = CHECKS[name]
    for order in orders:
        with cuda_shim.threads_in_order(order):
            try:
                check(module, cuda.source(file), "f4", name)
            except (AssertionError, RuntimeError):
                return True
    return False


def kernels_with_barriers(file):
    """Those of a file whose check comes to a barrier."""
    module, found = cuda_shim.module(file), []
    for name in (name for name in CHECKS if CHECKS[name][0] == file):
        before = module.barriers()
        CHECKS[name][1](module, cuda.source(file), "f4", name)
        found += [name] * (module.barriers() > before)
    return found


@pytest.mark.parametrize("file", WITH_BARRIERS)
def test_each_removed_barrier_is_caught(file):
    """All of them in each kernel, and each of them in one."""
    source, names = cuda.source(file), kernels_with_barriers(file)
    without = cuda_shim.Module(source.replace(BARRIER, ""))
    assert names and [name for name in names if not is_caught(without, name)] == []
    places = [match.start() for match in re.finditer(re.escape(BARRIER), source)]
    for place in places:
        without = cuda_shim.Module(source[:place] + source[place + len(BARRIER) :])
        line = source[:place].count("\n") + 1
        assert any(is_caught(without, name) for name in names), f"the barrier in line {line} may be removed"


def test_one_order_would_not_be_enough():
    """Last to first, a tree without barriers reads what has been written already; first to last, it does not."""
    without = cuda_shim.Module(cuda.source("reduce").replace(BARRIER, ""))
    assert is_caught(without, "row_sums", [0])
    assert not is_caught(cuda_shim.module("reduce"), "row_sums")


def test_no_atomics_and_no_includes():
    for file in FILES:
        assert "atomic" not in cuda.source(file).replace("no atomics", "")
        assert "#include" not in cuda.source(file)


def test_wrong_arguments_are_refused():
    relu = cuda_shim.module("elementwise").get_function("relu_f32")
    x = np.zeros(4, "f4")
    for args in [(x, x.astype("f8"), 4), (x, x, 4.0), (x, None, 4), (x, x), (x[::2], x, 4), (x, x, np.int32(4))]:
        with pytest.raises(TypeError):
            relu((1,), (32,), args)
    for grid, block in [((0,), (32,)), ((1,), (2048,)), ((1, 70000), (32,))]:
        with pytest.raises(RuntimeError, match="INVALID_VALUE"):
            relu(grid, block, (x, x, 4))
    with pytest.raises(RuntimeError, match="not found"):
        cuda_shim.module("elementwise").get_function("relu_f16")
