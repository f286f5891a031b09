"""The stand-in's ndarray: host memory that behaves as CuPy's device memory, with CuPy's refusals."""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.standin import device
from tests.standin.device import state

SCALARS = (bool, int, float, complex, np.generic)


def fresh(shape: Any, dtype: Any) -> ndarray:
    """An uninitialised array in memory from the pool."""
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(int(n) for n in shape)
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {dtype}")
    memory = state.allocator(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return ndarray(device.host_array(memory, shape, dtype), memory)


def like(a: ndarray, dtype: Any = None) -> ndarray:
    """An uninitialised array with the axes of `a` in the same order in memory: transposed, where `a` is."""
    strides = np.empty_like(a._host).strides
    order = sorted(range(a.ndim), key=lambda axis: -strides[axis])
    made = fresh([a.shape[axis] for axis in order], a.dtype if dtype is None else dtype)
    return made.transpose(*(order.index(axis) for axis in range(a.ndim))) if a.ndim else made


def host(x: Any) -> Any:
    """What NumPy computes with on the stand-in's side; NumPy arrays are refused, as CuPy refuses them."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {np.ndarray}: convert it with cupy.asarray")
    if isinstance(x, list | tuple):
        return type(x)(host(item) for item in x)
    if isinstance(x, slice):
        return slice(*(operator.index(v) if v is not None else None for v in (x.start, x.stop, x.step)))
    return x


def devices(x: Any) -> list[ndarray]:
    """The stand-in arrays among arguments, at any depth."""
    if isinstance(x, ndarray):
        return [x]
    return [a for item in x for a in devices(item)] if isinstance(x, list | tuple) else []


def _touched(a: ndarray) -> device.Memory:
    """The memory of an array that work is asked of; a capture counts on it from now on."""
    if state.capture is not None:
        state.capture.touch(a._memory)
    return a._memory


def check_device(*arguments: Any) -> None:
    """ValueError where an array lies on another device than the current one, and none can look into another."""
    for argument in arguments if state.devices > 1 or state.capture else ():
        for a in devices(list(argument.values()) if isinstance(argument, dict) else argument):
            _touched(a)
            if a._memory.device != state.current_device():
                raise ValueError(
                    f"The device where the array resides ({a._memory.device}) is different from the current device "
                    f"({state.current_device()}). Peer access is unavailable between these devices."
                )


@np.errstate(all="ignore")  # a device warns of no overflow
def evaluate(function: Any, *args: Any, out: Any = None, **kwargs: Any) -> Any:
    """function over device arrays: a view where NumPy gives a view, else a new device array (or `out`)."""
    inputs, given = host(list(args)), (args, kwargs, out)
    kwargs = {name: host(value) for name, value in kwargs.items()}
    if isinstance(out, tuple):
        (out,) = out
    if out is not None:
        if not isinstance(out, ndarray):
            raise TypeError(f"out must be a cupy.ndarray, not {type(out)}")
        check_device(*given)
        device.run(
            lambda: function(*inputs, out=out._host, **kwargs), again=_again(function, inputs, kwargs, out._host)
        )
        return out
    result = function(*inputs, **kwargs)
    if isinstance(result, tuple | list):
        parts = [_settled(r, args) for r in result]
        if any(settled is None for settled in parts):
            raise NotImplementedError(f"{function} gives several new arrays")
        return parts
    view = _settled(result, args)
    if view is not None:
        return view
    check_device(*given)
    made = fresh(np.shape(result), np.asarray(result).dtype)
    target = made._host

    def again() -> None:
        target[...] = function(*inputs, **kwargs)

    def first() -> None:
        target[...] = result

    device.run(first, again=again)
    return made


def _again(function: Any, inputs: list[Any], kwargs: dict[str, Any], target: np.ndarray) -> Any:
    return lambda: function(*inputs, out=target, **kwargs)


def _settled(result: Any, args: tuple[Any, ...]) -> ndarray | None:
    """The array itself where `result` is a view of an argument's memory."""
    if isinstance(result, np.ndarray):
        for arg in devices(list(args)):
            if np.may_share_memory(result, arg._host):
                return ndarray(result, arg._memory)
    return None


class MemoryPointer:
    """As cupy.cuda.MemoryPointer."""

    def __init__(self, memory: device.Memory, ptr: int) -> None:
        self.mem, self.ptr = memory, ptr


class ndarray:  # the name that CuPy's has
    """See the module."""

    __array_priority__ = 100

    def __init__(self, host_view: np.ndarray, memory: device.Memory) -> None:
        self._host, self._memory = host_view, memory

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    data = property(lambda self: MemoryPointer(_touched(self), self._host.ctypes.data))
    device = property(lambda self: SimpleNamespace(id=self._memory.device))
    T = property(lambda self: evaluate(np.transpose, self))

    @property
    def flags(self) -> Any:
        flags = self._host.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        pointer = (self._host.ctypes.data, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": pointer, "version": 3, "strides": self.strides}

    # ------------------------------------------------------------------ to and from the host

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def get(self, stream: Any = None, order: str = "C", out: Any = None) -> np.ndarray:
        device.transfer("get")
        return np.array(self._host, order="C")

    def set(self, values: np.ndarray, stream: Any = None) -> None:
        device.transfer("set")
        if not isinstance(values, np.ndarray) or values.dtype != self.dtype or values.shape != self.shape:
            raise ValueError("set needs a NumPy array of the same shape and dtype")
        self._host[...] = values

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return f"standin{self._host!r}"  # a look by pytest is no transfer

    # ------------------------------------------------------------------ indexing

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        _check_index(index)
        where = _whole(host(index))
        return evaluate(lambda a: a[where], self)

    def __setitem__(self, index: Any, value: Any) -> None:
        _check_index(index)
        check_device(self, index, value)
        target, where, values = self._host, _whole(host(index)), host(value)
        if value is self:  # `a[1:] += x` ends so
            return

        def work() -> None:
            target[where] = values

        device.run(work)

    # ------------------------------------------------------------------ arithmetic

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if getattr(state.module, ufunc.__name__, None) is None:
            return NotImplemented
        if method == "__call__":
            if "out" in kwargs:
                (kwargs["out"],) = kwargs["out"]
            return getattr(state.module, ufunc.__name__)(*inputs, **kwargs)
        return evaluate(getattr(ufunc, method), *inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        found = state.module
        for name in (*function.__module__.split(".")[1:], function.__name__):
            found = getattr(found, name, None)
        if found is None:
            return NotImplemented
        if any(issubclass(t, np.ndarray) for t in types):
            raise TypeError(f"Unsupported type {np.ndarray}: convert it with cupy.asarray")
        return found(*args, **kwargs)

    def __matmul__(self, other: Any) -> ndarray:
        return evaluate(_blas(np.matmul), self, other)

    def __rmatmul__(self, other: Any) -> ndarray:
        return evaluate(_blas(np.matmul), other, self)

    def dot(self, other: Any) -> ndarray:
        return evaluate(_blas(np.dot), self, other)

    # ------------------------------------------------------------------ methods

    def fill(self, value: Any) -> None:
        check_device(self)
        target, value = self._host, host(value)
        device.run(lambda: target.fill(value))

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        made = like(self, dtype) if order == "K" else fresh(self.shape, dtype)
        made[...] = self
        return made

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        return evaluate(lambda a: a.reshape(*shape, order=order), self)

    def transpose(self, *axes: Any) -> ndarray:
        return evaluate(lambda a: a.transpose(*axes), self)

    def view(self, dtype: Any = None) -> ndarray:
        return evaluate(lambda a: a.view(*(() if dtype is None else (dtype,))), self)

    def clip(self, min: Any = None, max: Any = None, out: Any = None) -> ndarray:
        return evaluate(np.clip, self, min, max, out=out)

    def copy(self, order: str = "C") -> ndarray:
        return evaluate(lambda a: np.array(a, order="C"), self)

    def flatten(self) -> ndarray:
        return evaluate(lambda a: a.flatten(), self)


def _blas(function: Any) -> Any:
    """CuPy goes to cuBLAS here, and refuses to while a stream is captured."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        if state.capture is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        return function(*args, **kwargs)

    return checked


def _check_index(index: Any) -> None:
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, ndarray) and part.dtype.kind == "b":
            device.transfer("index by a mask, whose count must be known")
        if isinstance(part, np.ndarray | list):
            device.transfer("index by values of the host")


def _whole(index: Any) -> tuple[Any, ...]:
    """The index with an ellipsis, so that NumPy gives arrays, and views, even of single entries."""
    index = index if isinstance(index, tuple) else (index,)
    return index if any(part is Ellipsis for part in index) else (*index, Ellipsis)


def _binary(name: str, ufunc: Any) -> None:
    def forward(self: ndarray, other: Any) -> Any:
        if not isinstance(other, (ndarray, np.ndarray, *SCALARS)):
            return NotImplemented
        return evaluate(ufunc, self, other)

    def reflected(self: ndarray, other: Any) -> Any:
        return evaluate(ufunc, other, self)

    def in_place(self: ndarray, other: Any) -> ndarray:
        return evaluate(ufunc, self, other, out=self)

    setattr(ndarray, f"__{name}__", forward)
    if name not in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(ndarray, f"__r{name}__", reflected)
        setattr(ndarray, f"__i{name}__", in_place)


# What CuPy's reductions take after the array, in this order: no `where`, no `initial`.
REDUCTIONS = {
    **dict.fromkeys(("all", "any", "amax", "amin", "max", "min"), ("axis", "out", "keepdims")),
    **dict.fromkeys(("sum", "prod", "mean"), ("axis", "dtype", "out", "keepdims")),
    **dict.fromkeys(("var", "std"), ("axis", "dtype", "out", "ddof", "keepdims")),
}


def reduction(name: str) -> Any:
    """CuPy's function of that name."""

    def call(a: ndarray, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(REDUCTIONS[name], args, strict=False))
        unknown = set(kwargs) - set(REDUCTIONS[name]) | set(kwargs) & set(given)
        if not isinstance(a, ndarray) or unknown or len(args) > len(REDUCTIONS[name]):
            raise TypeError(f"cupy.{name} takes an array, {', '.join(REDUCTIONS[name])}: {type(a)}, {args}, {kwargs}")
        return evaluate(getattr(np, name), a, **given, **kwargs)

    return call


def _method(name: str) -> None:
    if name in REDUCTIONS:
        setattr(ndarray, name, reduction(name))
        return

    def method(self: ndarray, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        return evaluate(getattr(np, name), self, *args, out=out, **kwargs)

    setattr(ndarray, name, method)


for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}.items():  # fmt: skip
    _binary(_name, _ufunc)
for _name, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", lambda self, _ufunc=_ufunc: evaluate(_ufunc, self))
for _name in (
    "sum", "mean", "max", "min", "prod", "var", "std", "argmax", "argmin", "any", "all", "squeeze", "ravel",
    "swapaxes", "take", "repeat", "round",
):  # fmt: skip
    _method(_name)
ndarray.__hash__ = None  # type: ignore[assignment]
