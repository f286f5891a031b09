"""The stand-in module `cupy`, put together from NumPy's functions by name, and its `cuda` and `cuda.pathfinder`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests import cuda_shim
from tests.standin import array, device
from tests.standin.array import evaluate, fresh, host, like, ndarray
from tests.standin.device import state


def _names(text: str) -> list[str]:
    return text.split()


# Names that CuPy 14 has too (tests/test_cupy_backend.py compares them with a real one where it is installed).
UFUNCS = _names("""
    abs absolute add arccos arcsin arctan arctan2 bitwise_and bitwise_or bitwise_xor ceil conjugate cos cosh divide
    equal exp exp2 expm1 floor floor_divide fmax fmin greater greater_equal hypot invert isfinite isinf isnan less
    less_equal log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum
    multiply negative not_equal positive power reciprocal remainder rint sign signbit sin sinh sqrt square subtract
    tan tanh true_divide trunc
""")
FUNCTIONS = _names("""
    argmax argmin argsort atleast_1d atleast_2d average broadcast_to count_nonzero
    cumsum diagonal diff expand_dims flip hstack isclose median moveaxis nan_to_num nanmax nanmin outer
    pad ravel repeat reshape rollaxis roll rot90 round searchsorted sort split squeeze stack swapaxes take
    take_along_axis tile transpose trace tril triu vstack
""")
BLAS = ("matmul", "dot", "tensordot", "inner", "vdot", "einsum")
CONSTANTS = _names("""
    float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_ intp inf nan pi e newaxis dtype
    finfo iinfo generic floating integer issubdtype promote_types result_type can_cast ndim shape size
""")


def build() -> ModuleType:
    """A fresh module."""
    cupy = ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.ndarray = ndarray
    for name in CONSTANTS:
        setattr(cupy, name, getattr(np, name))
    cupy.ndim, cupy.shape, cupy.size = (lambda a: a.ndim), (lambda a: a.shape), (lambda a: a.size)
    for name in UFUNCS:
        setattr(cupy, name, _ufunc(getattr(np, name)))
    for name in FUNCTIONS:
        setattr(cupy, name, _function(getattr(np, name)))
    for name in array.REDUCTIONS:
        setattr(cupy, name, array.reduction(name))
    for name in BLAS:
        setattr(cupy, name, _function(array._blas(getattr(np, name))))
    for function in (empty, zeros, ones, full, empty_like, zeros_like, ones_like, full_like, arange, asarray):
        setattr(cupy, function.__name__, function)
    for function in (asnumpy, ascontiguousarray, clip, concatenate, copyto, get_array_module, where):
        setattr(cupy, function.__name__, function)
    cupy.array = lambda a, dtype=None, copy=True: asarray(a, dtype).copy()
    cupy.copy = lambda a, order="C": a.copy()
    cupy.random = _Refused("cuRAND")
    cupy.linalg = SimpleNamespace(norm=_function(array._blas(np.linalg.norm)))
    cupy.cuda = _cuda()
    cupy.RawModule = RawModule
    cupy.get_default_memory_pool = lambda: state.default_pool
    state.module = cupy
    return cupy


def _function(function: Any) -> Any:
    def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        return evaluate(function, *args, out=out, **kwargs)

    return call


def _ufunc(function: np.ufunc) -> Any:
    """CuPy's ufuncs take its arrays and scalars, never lists, and of NumPy's keywords these three: no `where`."""

    def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if set(kwargs) - {"dtype", "casting"}:
            raise TypeError(f"Wrong arguments {kwargs}")
        for arg in args:
            if not isinstance(arg, (ndarray, *array.SCALARS)):
                raise TypeError(f"Unsupported type {type(arg)}")
        return evaluate(function, *args, out=out, **kwargs)

    return call


class _Refused:
    """cupy.random: seeds from the host, and refuses a capture."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(f"calling {self._what} API during stream capture is currently unsupported: {name}")


# ---------------------------------------------------------------------- creation and transfers


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return fresh(shape, dtype)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    made = fresh(shape, dtype if dtype is not None else np.asarray(host(fill_value)).dtype)
    made.fill(fill_value)
    return made


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype)


def empty_like(a: ndarray, dtype: Any = None) -> ndarray:
    return like(a, dtype)


def zeros_like(a: ndarray, dtype: Any = None) -> ndarray:
    return full_like(a, 0, dtype)


def ones_like(a: ndarray, dtype: Any = None) -> ndarray:
    return full_like(a, 1, dtype)


def full_like(a: ndarray, fill_value: Any, dtype: Any = None) -> ndarray:
    made = like(a, dtype)
    made.fill(fill_value)
    return made


def arange(*args: Any, dtype: Any = None) -> ndarray:
    return evaluate(lambda: np.arange(*args, dtype=dtype))


def asarray(a: Any, dtype: Any = None, order: str | None = None) -> ndarray:
    """From the host: a transfer."""
    if isinstance(a, ndarray):
        if a.device.id != state.current_device():  # CuPy copies between devices here
            moved = fresh(a.shape, a.dtype)
            moved._host[...] = a._host
            a = moved
        return a if dtype is None else a.astype(dtype, copy=False)
    device.transfer("asarray of host data")
    a = np.asarray(a, dtype)
    made = fresh(a.shape, a.dtype)
    made._host[...] = a
    return made


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def asnumpy(a: Any, *_: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    array.check_device([dst, src, where])
    target, values, mask = dst._host, host(src), host(where)
    device.run(lambda: np.copyto(target, values, casting=casting, where=mask))


def where(condition: ndarray, x: Any = None, y: Any = None) -> Any:
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if x is None:
        device.transfer("the places where a condition holds, which must be counted")
        return tuple(asarray(found) for found in np.nonzero(condition._host))
    return evaluate(lambda *args: np.where(*args), condition.astype(bool, copy=False), x, y)


def clip(a: ndarray, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    return a.clip(a_min, a_max, out=out)


def concatenate(
    tup: Any, axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Any:
    if not all(isinstance(a, ndarray) for a in tup):
        raise TypeError("Only cupy arrays can be concatenated")
    if len(tup) > 8:  # CuPy then sends their addresses to the device, if they are small
        device.refuse_in_capture("concatenating more than 8 arrays")
    return evaluate(np.concatenate, list(tup), axis, dtype=dtype, casting=casting, out=out)


def get_array_module(*args: Any) -> Any:
    return state.module if any(isinstance(a, ndarray) for a in args) else np


# ---------------------------------------------------------------------- kernels, cuda, cuBLAS


class RawModule:
    """As cupy.RawModule: the source is compiled when the first kernel is asked for."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        if not isinstance(options, tuple) or not all(isinstance(o, str) for o in options):
            raise TypeError("options must be a tuple of str")
        self.code = code
        self._module: cuda_shim.Module | None = None

    def get_function(self, name: str) -> Callable[..., None]:
        if self._module is None:
            device.refuse_in_capture("compiling a kernel")
            self._module = cuda_shim.Module(self.code)
        kernel = self._module.get_function(name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            if not all(isinstance(t, tuple) for t in (grid, block, args)):
                raise TypeError(f"{name}: grid, block and args must be tuples")
            for a in args:
                if isinstance(a, np.ndarray) and a.size != 1:
                    raise TypeError(f"You are trying to pass a numpy.ndarray of shape {a.shape} as a kernel parameter")
                if isinstance(a, np.ndarray) and a.dtype.fields is None:
                    raise TypeError(f"{name}: a NumPy array where a pointer is meant")
            array.check_device(args)
            device.run(kernel.bind(grid, block, tuple(a._host if isinstance(a, ndarray) else a for a in args)))

        return launch


def cublas() -> Path:
    """The library that stands for cuBLAS, built once and cached; its products are announced to the device."""
    path = cuda_shim.built(Path(__file__).with_name("cublas.cpp").read_text())
    library = ctypes.PyDLL(str(path))

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p)
    def observed(product: int, stream: int | None) -> bool:
        capture = state.capture
        if capture is None:
            device.issue()
        elif stream == capture.stream.ptr:
            capture.append(lambda: library.standin_again(ctypes.c_size_t(product)))
        else:
            capture.spoilt = "cuBLAS has another stream than the one that is captured"
        return capture is not None

    library.standin_observe(observed)
    state.keep = (library, observed)
    return path


class Device:
    """As cupy.cuda.Device: the current one is each thread's own."""

    def __init__(self, number: int | None = None) -> None:
        self.id = state.current_device() if number is None else number

    def __enter__(self) -> Device:
        state.device_stack().append(_valid(self.id))
        return self

    def __exit__(self, *_: Any) -> None:
        state.device_stack().pop()

    def use(self) -> Device:
        state.device_stack()[-1] = _valid(self.id)
        return self

    def synchronize(self) -> None:
        device.synchronize()


def _valid(number: int) -> int:
    if not 0 <= number < state.devices:
        raise device.CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")
    return number


@contextmanager
def _nothing(*_: Any, **__: Any) -> Any:
    yield


def _cuda() -> Any:
    properties = {"name": b"stand-in", "major": 9, "minor": 0, "totalGlobalMem": 1 << 34, "multiProcessorCount": 1}
    runtime = SimpleNamespace(
        CUDARuntimeError=device.CUDARuntimeError,
        driverGetVersion=lambda: 13020,
        runtimeGetVersion=lambda: 13020,
        getDeviceCount=lambda: state.devices,
        getDevice=state.current_device,
        memGetInfo=lambda: (properties["totalGlobalMem"] - state.default_pool.total_bytes(), 1 << 34),
        getDeviceProperties=lambda number: dict(properties),
        deviceSynchronize=device.synchronize,
    )
    return SimpleNamespace(
        runtime=runtime,
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 2)),
        Stream=device.Stream,
        Event=device.Event,
        Graph=device.Graph,
        Device=Device,
        MemoryPool=device.MemoryPool,
        alloc_pinned_memory=bytearray,
        alloc=lambda size: state.allocator(size),
        using_allocator=device.using_allocator,
        get_current_stream=lambda: state.stream,
        get_device_id=state.current_device,
        is_available=lambda: True,
        memory=SimpleNamespace(OutOfMemoryError=device.OutOfMemoryError),
    )


def pathfinder() -> ModuleType:
    """`cuda.pathfinder`, which finds that library."""
    module = ModuleType("cuda.pathfinder")
    path = str(cublas())
    module.load_nvidia_dynamic_lib = lambda name: SimpleNamespace(abs_path=path if name == "cublas" else None)
    return module
