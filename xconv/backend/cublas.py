"""Matrix products by cuBLAS through ctypes. CuPy's own refuse to be recorded in a CUDA graph; these do not."""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from xconv.backend.base import Array
from xconv.backend.cuda import refuse
from xconv.errors import BackendError, DTypeError, ShapeError, described

WORKSPACE = 32 << 20  # bytes, NVIDIA's advice for Hopper; a workspace of ours also makes results repeat to the bit
_N, _T = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
_INT_MAX = 2**31 - 1
_PER_THREAD = 2  # cudaStreamPerThread: one name for a stream in each thread

_handle, _int, _pointer = ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
_GEMM = [_handle, _int, _int, _int, _int, _int, _pointer, _pointer, _int, _pointer, _int, _pointer, _pointer, _int]
_FLOAT32, _BFLOAT16 = 0, 14  # cudaDataType_t: CUDA_R_32F, CUDA_R_16BF
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77  # cublasComputeType_t
_DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
_GEMM_EX = [
    _handle, _int, _int, _int, _int, _int, _pointer, _pointer, _int, _int, _pointer, _int, _int, _pointer, _pointer,
    _int, _int, _int, _int,
]  # fmt: skip
_SCALARS = {  # 0 and 1 on the host, where cuBLAS reads alpha and beta at the call
    "f": (ctypes.c_float(0), ctypes.c_float(1)),
    "d": (ctypes.c_double(0), ctypes.c_double(1)),
}


def load_library(cuda_major: int, version: str) -> Any:
    """libcublas, from CuPy's own wheels or the system's CUDA; BackendError where there is none."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        names = [load_nvidia_dynamic_lib("cublas").abs_path]
    except (ImportError, RuntimeError):  # no pathfinder, or it found nothing: ask the system's loader
        names = [f"libcublas.so.{cuda_major}", f"cublas64_{cuda_major}.dll"]
    problems = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            problems.append(error)
    fix = f'pip install "cupy-cuda{cuda_major}x[ctk]"'
    return refuse("cuBLAS, CUDA's matrix library, was not found", fix, version, problems[0])


class _Handle(NamedTuple):
    pointer: ctypes.c_void_p
    workspace: Any  # kept alive as long as the handle


class Cublas:
    """gemm on CuPy's current stream.

    A handle and its workspace serve one device and stream, whose order keeps products apart, and one call at a time.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        version = f"cupy {cupy.__version__}"
        self._lib = load_library(cupy.cuda.runtime.runtimeGetVersion() // 1000, version)
        self._lib.cublasCreate_v2.argtypes = [ctypes.POINTER(_handle)]
        self._lib.cublasSetStream_v2.argtypes = [_handle, _pointer]
        self._lib.cublasSetWorkspace_v2.argtypes = [_handle, _pointer, ctypes.c_size_t]
        self._lib.cublasGetVersion_v2.argtypes = [_handle, ctypes.POINTER(_int)]
        self._gemm = {"f": self._lib.cublasSgemm_v2, "d": self._lib.cublasDgemm_v2}
        for function in self._gemm.values():
            function.argtypes = _GEMM
        self._lib.cublasGemmEx.argtypes = _GEMM_EX
        self._idle: dict[tuple[int, ...], list[_Handle]] = defaultdict(list)

    def version(self) -> str:
        """cuBLAS's version, as 13.2.0."""
        number = _int()
        with self._handle_for_current_stream() as handle:
            self._check(self._lib.cublasGetVersion_v2(handle, ctypes.byref(number)), "cublasGetVersion")
        return f"{number.value // 10000}.{number.value % 10000 // 100}.{number.value % 100}"

    def gemm(self, a: Array, b: Array, out: Array, accumulate: bool = False, tf32: bool = False) -> None:
        """out[M,P] = a[M,K] @ b[K,P], added to `out` where `accumulate`; a and b may be transposed views.

        float32 is computed in float32, or in TF32 where asked to; a and b may be bfloat16 (as uint16), out is float32
        then. The same shapes on the same device give the same bits.
        """
        m, k, p = a.shape[0], a.shape[1], b.shape[1]
        if b.shape[0] != k or out.shape != (m, p):
            raise ShapeError(f"matmul: a[M,K] @ b[K,P] -> [M,P] does not fit. Received: {a.shape} @ {b.shape}")
        narrow = a.dtype.char == "H"
        if a.dtype != b.dtype or (out.dtype.char != "f" if narrow else out.dtype != a.dtype):
            raise DTypeError(f"matmul: expected two of float32 or of float64. Received: {a.dtype} and {b.dtype}")
        if out.dtype.char not in self._gemm:
            raise DTypeError(f"matmul: expected float32 or float64. Received: {a.dtype}")
        if max(m, k, p) > _INT_MAX:
            raise ShapeError(f"matmul: sizes must be <= {_INT_MAX}. Received: {a.shape} @ {b.shape}")
        if m == 0 or p == 0:
            return
        if k == 0:
            if not accumulate:
                out.fill(0)
            return
        a, lda, op_a = self._operand(a)
        b, ldb, op_b = self._operand(b)
        zero, one = _SCALARS[out.dtype.char]
        # cuBLAS counts columns first, so our row-major out is its out', and out' = b' a'.
        sizes = op_b, op_a, p, m, k
        alpha, beta = ctypes.addressof(one), ctypes.addressof(one if accumulate else zero)
        with self._handle_for_current_stream() as handle:
            if narrow or (tf32 and out.dtype.char == "f"):
                kind = _BFLOAT16 if narrow else _FLOAT32
                status = self._lib.cublasGemmEx(
                    handle, *sizes, alpha, b.data.ptr, kind, ldb, a.data.ptr, kind, lda, beta,
                    out.data.ptr, _FLOAT32, p, _COMPUTE_32F if narrow else _COMPUTE_32F_FAST_TF32, _DEFAULT_ALGORITHM,
                )  # fmt: skip
            else:
                gemm = self._gemm[out.dtype.char]
                status = gemm(handle, *sizes, alpha, b.data.ptr, ldb, a.data.ptr, lda, beta, out.data.ptr, p)
        self._check(status, f"matmul: {a.shape} @ {b.shape}")

    def _operand(self, a: Array) -> tuple[Array, int, int]:
        """(array, leading dimension, operation) of a matrix; copied where neither axis is contiguous."""
        (rows, columns), size = a.shape, a.dtype.itemsize
        down, right = (stride // size for stride in a.strides)
        if (right == 1 or columns == 1) and (down >= columns or rows == 1):
            return a, max(down, columns) if rows > 1 else columns, _N
        if (down == 1 or rows == 1) and (right >= rows or columns == 1):
            return a, max(right, rows) if columns > 1 else rows, _T
        return self._cupy.ascontiguousarray(a), columns, _N

    @contextmanager
    def _handle_for_current_stream(self) -> Iterator[ctypes.c_void_p]:
        stream = self._cupy.cuda.get_current_stream().ptr
        thread = threading.get_ident() if stream == _PER_THREAD else 0
        idle = self._idle[self._cupy.cuda.get_device_id(), stream, thread]
        try:
            handle = idle.pop()
        except IndexError:
            handle = self._new_handle(stream)
        yield handle.pointer
        idle.append(handle)

    def _new_handle(self, stream: int) -> _Handle:
        pointer = ctypes.c_void_p()
        self._check(self._lib.cublasCreate_v2(ctypes.byref(pointer)), "cublasCreate")
        self._check(self._lib.cublasSetStream_v2(pointer, stream), "cublasSetStream")
        # From the pool of all, since it outlives a recording and its pool; after the stream, as setting one takes a
        # workspace away.
        workspace = self._cupy.get_default_memory_pool().malloc(WORKSPACE)
        self._check(self._lib.cublasSetWorkspace_v2(pointer, workspace.ptr, WORKSPACE), "cublasSetWorkspace")
        return _Handle(pointer, workspace)

    def _check(self, status: int, what: str) -> None:
        if status:
            raise BackendError(f"{what}: cuBLAS failed with status {described(status)}")
