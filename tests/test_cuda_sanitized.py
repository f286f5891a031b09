"""Every CUDA kernel, run on the CPU, touches no memory but its arrays'; and one that does is caught."""

from __future__ import annotations

import os

import pytest
from xconv.kernels import cuda

from tests import cuda_shim
from tests.cuda_shim import sanitized

MISSING = cuda_shim.MISSING or (not sanitized.runtime() and "g++ came without AddressSanitizer")
if MISSING:
    if os.environ.get("XCONV_REQUIRE_CUDA_TOOLS") == "1":
        raise RuntimeError(f"XCONV_REQUIRE_CUDA_TOOLS=1, and {MISSING}")
    pytest.skip(f"CUDA kernels on the CPU: {MISSING}", allow_module_level=True)

FILES = sorted(path.stem for path in cuda.FOLDER.glob("*.cu"))


@pytest.mark.parametrize("file", FILES)
def test_kernels_stay_within_their_arrays(file):
    result = sanitized.run(file)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    names = [name for name, (where, _) in cuda_shim.all_checks().items() if where == file]
    assert names and [line.split()[0] for line in result.stdout.splitlines()] == names


OVERRUNS = [  # file, kernel, what is changed, into what: each by one entry
    ("reduce", "column_sums", "if (at < o) {", "if (at <= o) {"),
    ("pool", "avg_pool", "w >= 0 && w < s.w", "w >= 0 && w <= s.w"),
    ("gather", "gather", "place < length", "place <= length"),
    ("softmax", "softmax_cross_entropy", "i < k; i += blockDim.x) top", "i <= k; i += blockDim.x) top"),
    ("norm", "batch_norm_moments", "at + k * stride < end", "at + k * stride <= end"),
]


@pytest.mark.parametrize(("file", "name", "old", "new"), OVERRUNS, ids=[o[1] for o in OVERRUNS])
def test_one_entry_too_many_is_caught(file, name, old, new):
    result = sanitized.run(file, name, old, new)
    assert result.returncode != 0 and "AddressSanitizer: heap-buffer-overflow" in result.stderr, (
        result.stdout + result.stderr[-2000:]
    )
