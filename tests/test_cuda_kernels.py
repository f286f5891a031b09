"""Every CUDA kernel, run on the CPU, against naive loops; and kernels broken on purpose, which must be caught."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from xconv.kernels import cuda

from tests import cuda_shim
from tests.cuda_shim import checks, dropout_checks, gather_checks, layout_checks

if cuda_shim.MISSING:
    if os.environ.get("XCONV_REQUIRE_CUDA_TOOLS") == "1":
        raise RuntimeError(f"XCONV_REQUIRE_CUDA_TOOLS=1, and {cuda_shim.MISSING}")
    pytest.skip(f"CUDA kernels on the CPU: {cuda_shim.MISSING}", allow_module_level=True)

CHECKS = checks.CHECKS | dropout_checks.CHECKS | gather_checks.CHECKS | layout_checks.CHECKS
FILES = sorted(path.stem for path in cuda.FOLDER.glob("*.cu"))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", CHECKS)
def test_kernel_equals_naive_loops(name, dtype):
    file, check = CHECKS[name]
    check(cuda_shim.module(file), cuda.source(file), dtype, name)


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
    ("columns", "col2im", "y / s.sy >= s.oh", "y / s.sy > s.oh"),  # reads past the columns
    ("columns", "im2col", "h >= 0 && h < s.h", "h >= 0"),
    ("reduce", "row_sums", "        __syncthreads();\n        if (me < half)", "        if (me < half)"),
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
]


@pytest.mark.parametrize(("file", "name", "old", "new"), BROKEN, ids=[f"{b[1]}-{i}" for i, b in enumerate(BROKEN)])
def test_broken_kernel_is_caught(file, name, old, new):
    source = cuda.source(file)
    assert old in source
    broken = cuda_shim.Module(source.replace(old, new))  # it compiles
    with pytest.raises((AssertionError, RuntimeError)):
        CHECKS[name][1](broken, source, "f4", name)


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
