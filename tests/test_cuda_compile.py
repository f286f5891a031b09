"""Every CUDA source compiles to machine code with the options that the backend uses; no device is needed."""

from __future__ import annotations

import os
import re

import pytest
from xconv.kernels import cuda

from tests import nvrtc

FILES = sorted(path.stem for path in cuda.FOLDER.glob("*.cu"))
ARCHS = ["sm_80", "sm_90"]


@pytest.fixture(scope="module")
def compiler():
    if nvrtc.library() is None:
        reason = "NVRTC is not installed: pip install nvidia-cuda-nvrtc"
        if os.environ.get("XCONV_REQUIRE_CUDA_TOOLS") == "1":
            pytest.fail(f"XCONV_REQUIRE_CUDA_TOOLS=1, and {reason}")
        pytest.skip(reason)
    return nvrtc.compile_cubin


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("file", FILES)
def test_compiles(compiler, file, arch):
    cubin = compiler(cuda.source(file), f"{file}.cu", arch, "-std=c++17")
    assert cubin.startswith(b"\x7fELF")
    names = re.findall(r'extern "C" __global__ void (\w+?)(?:##suffix)?\(', cuda.source(file))
    assert names and [name for name in names if name.encode() not in cubin] == []


def test_an_error_is_reported(compiler):
    with pytest.raises(RuntimeError, match="undefined"):
        compiler('extern "C" __global__ void f(float* x) { x[0] = no_such_thing; }', "broken.cu", "sm_90")
