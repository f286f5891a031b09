"""A strict `cudnn` (NVIDIA's nvidia-cudnn-frontend) on the stand-in's device: convolutions by raw pointers.

It has what xconv calls, in the order in which the real one wants it, and refuses what the real one refuses or cannot
see: a tensor that is missing or unknown, a handle on another stream, pointers to memory that is too small, freed or not
aligned. Its engines have numerical notes, and each that xconv should leave out spoils its results visibly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np

from tests.standin import device
from tests.standin.device import Memory, state

NOTES = """TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT NONDETERMINISTIC WINOGRAD WINOGRAD_TILE_4x4
    WINOGRAD_TILE_6x6 WINOGRAD_TILE_13x13 STRICT_NAN_PROP"""
data_type = Enum("data_type", "FLOAT DOUBLE HALF BFLOAT16 NOT_SET")
numerical_note = Enum("numerical_note", NOTES)
heur_mode = Enum("heur_mode", "A B FALLBACK")

HUGE = 1 << 40  # bytes, of an engine's workspace
WORKSPACE = 1000


class cudnnGraphNotSupportedError(RuntimeError):  # noqa: N801, N818, RUF100 - the name that cuDNN's has
    """No engine can do this."""


class Handle:
    """What create_handle gives; xconv knows nothing of it."""

    def __init__(self) -> None:
        device.refuse_in_capture("cudnnCreate")
        self.stream = 0


class Tensor:
    """A tensor of a graph."""

    def __init__(self, dim: Any, stride: Any, data_type: Any, uid: int, virtual: bool) -> None:
        self.dim, self.stride, self.data_type, self.uid, self.virtual = dim, stride, data_type, uid, virtual

    def set_output(self, output: bool) -> Tensor:
        self.virtual = not output
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = list(dim)
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = list(stride)
        return self

    def set_data_type(self, data_type: Any) -> Tensor:
        self.data_type = data_type
        return self

    def set_uid(self, uid: int) -> Tensor:
        self.uid = uid
        return self

    def nbytes(self) -> int:
        last = sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True))
        return (last + 1) * (2 if self.data_type is data_type.BFLOAT16 else 4)

    def values(self, pointer: int) -> np.ndarray:
        """What lies there, seen with the tensor's own strides: uint16 for bfloat16."""
        size = 2 if self.data_type is data_type.BFLOAT16 else 4
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * self.nbytes()).from_address(pointer))
        flat = raw.view("u2" if size == 2 else "f4")
        return np.lib.stride_tricks.as_strided(flat, self.dim, [s * size for s in self.stride])


STEPS = ["made", "validated", "lowered", "planned", "supported", "built"]


class pygraph:  # noqa: N801, RUF100
    """As cudnn.pygraph, for one convolution, with or without a bias."""

    def __init__(self, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any, handle: Handle) -> None:
        assert isinstance(handle, Handle)
        self._tensors: list[Tensor] = []
        self._step, self._operation, self._bias = "made", "", None
        self._left_out: set[Any] = set()
        self._limit = HUGE

    def _after(self, step: str, then: str) -> None:
        if self._step != step:
            raise RuntimeError(f"{then} needs a graph that is {step}, not {self._step}")
        self._step = then

    def tensor(self, dim: list[int], stride: list[int], data_type: Any, uid: int) -> Tensor:
        for numbers in (dim, stride):
            if not isinstance(numbers, list) or len(numbers) != 4 or not all(type(n) is int for n in numbers):
                raise TypeError(f"four ints are meant: {numbers}")
        self._tensors.append(Tensor(dim, stride, data_type, uid, False))
        return self._tensors[-1]

    def _convolution(self, operation: str, inputs: tuple[Tensor, Tensor], **window: Any) -> Tensor:
        self._operation, self._inputs, self._window = operation, inputs, window
        self._out = Tensor(None, None, None, -1, True)
        self._tensors.append(self._out)
        return self._out

    def conv_fprop(self, image: Tensor, weight: Tensor, *, pre_padding: Any, post_padding: Any, stride: Any,
                   dilation: Any, compute_data_type: Any) -> Tensor:  # fmt: skip
        return self._convolution("fprop", (image, weight), pre=pre_padding, post=post_padding, stride=stride,
                                 dilation=dilation)  # fmt: skip

    def conv_dgrad(self, loss: Tensor, filter: Tensor, *, pre_padding: Any, post_padding: Any, stride: Any,
                   dilation: Any, compute_data_type: Any) -> Tensor:  # fmt: skip
        return self._convolution("dgrad", (loss, filter), pre=pre_padding, post=post_padding, stride=stride,
                                 dilation=dilation)  # fmt: skip

    def conv_wgrad(self, image: Tensor, loss: Tensor, *, pre_padding: Any, post_padding: Any, stride: Any,
                   dilation: Any, compute_data_type: Any) -> Tensor:  # fmt: skip
        return self._convolution("wgrad", (image, loss), pre=pre_padding, post=post_padding, stride=stride,
                                 dilation=dilation)  # fmt: skip

    def bias(self, input: Tensor, bias: Tensor) -> Tensor:
        assert input is self._out and self._operation == "fprop"
        self._bias = bias
        return input  # whose virtual convolution nobody asks for

    def _roles(self) -> tuple[Tensor, Tensor, Tensor]:
        """x, w, y."""
        first, second, out = *self._inputs, self._out
        return {
            "fprop": (first, second, out),
            "dgrad": (out, second, first),
            "wgrad": (first, out, second),
        }[self._operation]

    def validate(self) -> None:
        self._after("made", "validated")
        if self._out.virtual or None in (self._out.dim, self._out.stride, self._out.data_type):
            raise ValueError("the output's dim, stride and data type are not set")
        x, w, y = (tensor.dim for tensor in self._roles())
        pre, post, stride, dilation = (self._window[name] for name in ("pre", "post", "stride", "dilation"))
        for a in (0, 1):
            room = x[2 + a] + pre[a] + post[a] - dilation[a] * (w[2 + a] - 1) - 1
            if room < 0 or y[2 + a] != room // stride[a] + 1:
                raise ValueError(f"output of axis {a}: {y[2 + a]} does not fit {x}, {w} and {self._window}")
        if y[0] != x[0] or y[1] != w[0] or x[1] % w[1] or w[0] % (x[1] // w[1]):
            raise ValueError(f"x {x}, w {w} and y {y} do not fit")
        if self._bias is not None and self._bias.dim != [1, w[0], 1, 1]:
            raise ValueError(f"the bias must be [1, {w[0]}, 1, 1], not {self._bias.dim}")

    def build_operation_graph(self) -> None:
        self._after("validated", "lowered")

    def create_execution_plans(self, modes: list[Any]) -> None:
        self._after("lowered", "planned")
        if heur_mode.FALLBACK not in modes:
            raise cudnnGraphNotSupportedError("No valid engine configs")
        kinds = {tensor.data_type for tensor in self._tensors}
        packed = {(c * h * w, 1, c * w, c) for _, c, h, w in [self._out.dim]}
        narrow = data_type.BFLOAT16 in kinds
        if len(kinds) > 1 or (narrow and (self._bias is not None or tuple(self._out.stride) not in packed)):
            raise cudnnGraphNotSupportedError("No valid engine configs")
        if self._window["dilation"][0] == 5:  # so that there is something without a plan
            raise cudnnGraphNotSupportedError("No valid engine configs")
        note = numerical_note
        engines: list[tuple[set[Any], int, Callable[[np.ndarray], np.ndarray]]] = [
            ({note.NONDETERMINISTIC}, 0, _spoilt),
            (set(), HUGE, _spoilt),
            ({note.TENSOR_CORE}, WORKSPACE, _bf16 if narrow else _tf32),
        ]
        if not narrow:
            others = set(note) - {note.NONDETERMINISTIC, note.TENSOR_CORE, note.STRICT_NAN_PROP}
            engines += [({note.TENSOR_CORE, one}, 0, _spoilt) for one in others]
            engines += [({one}, 0, _spoilt) for one in others]
            engines.append((set(), WORKSPACE, _exact))
        self._engines = engines

    def deselect_numeric_notes(self, notes: list[Any]) -> None:
        if self._step != "planned":
            raise RuntimeError("a filter set before there are plans marks none")
        self._left_out |= set(notes)

    def deselect_workspace_greater_than(self, limit: int) -> None:
        self._limit = limit

    def check_support(self) -> None:
        self._after("planned", "supported")
        self._engines = [e for e in self._engines if not e[0] & self._left_out and e[1] <= self._limit]
        if not self._engines:
            raise cudnnGraphNotSupportedError("No execution plans support the graph")

    def build_plans(self) -> None:
        device.refuse_in_capture("building a plan")
        self._after("supported", "built")
        _, self._workspace, self._read = self._engines[0]

    def get_workspace_size(self) -> int:
        if self._step != "built":
            raise RuntimeError("Call build() first")
        return self._workspace

    def execute(self, pack: dict[int, int], workspace: int, handle: Handle) -> None:
        if self._step != "built":
            raise RuntimeError("the plan is not built")
        needed = {tensor.uid: tensor for tensor in [*self._tensors, *[self._bias][: self._bias is not None]]}
        if pack.keys() != needed.keys():
            raise ValueError(f"the variant pack has tensors {sorted(pack)}, and {sorted(needed)} are needed")
        if handle.stream != state.stream.ptr:
            raise RuntimeError("the handle has another stream than the current one")
        for uid, tensor in needed.items():
            _check(pack[uid], tensor.nbytes(), f"tensor {uid}")
        _check(workspace, self._workspace, "workspace")

        def work() -> None:
            ctypes.memset(workspace, 0xAB, self._workspace)
            self._compute(pack)

        device.run(work)

    def _compute(self, pack: dict[int, int]) -> None:
        first, second = (self._read(tensor.values(pack[tensor.uid])) for tensor in self._inputs)
        out = self._out.values(pack[self._out.uid])
        made = np.zeros(out.shape)
        _loops(self._operation, *self._roles_of(first, second, made), self._window)
        if self._bias is not None:
            made += self._bias.values(pack[self._bias.uid])
        made *= 1.01 if self._read is _spoilt else 1.0
        out[...] = to_bits(made) if out.dtype == np.uint16 else made

    def _roles_of(self, first: np.ndarray, second: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, ...]:
        return {
            "fprop": (first, second, out),
            "dgrad": (out, second, first),
            "wgrad": (first, out, second),
        }[self._operation]


def _loops(operation: str, x: np.ndarray, w: np.ndarray, y: np.ndarray, window: dict[str, Any]) -> None:
    """y += x * w, or x += y * w, or w += x * y: tap by tap, group by group, in float64."""
    (top, left), stride, dilation = window["pre"], window["stride"], window["dilation"]
    groups = x.shape[1] // w.shape[1]
    c, f = w.shape[1], w.shape[0] // groups
    for oy, ox in np.ndindex(y.shape[2:]):
        for ky, kx in np.ndindex(w.shape[2:]):
            iy, ix = oy * stride[0] + ky * dilation[0] - top, ox * stride[1] + kx * dilation[1] - left
            if not (0 <= iy < x.shape[2] and 0 <= ix < x.shape[3]):
                continue
            for g in range(groups):
                channels, filters = slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)
                seen, tap, at = x[:, channels, iy, ix], w[filters, :, ky, kx], y[:, filters, oy, ox]
                if operation == "fprop":
                    at += seen @ tap.T
                elif operation == "dgrad":
                    seen += at @ tap
                else:
                    tap += at.T @ seen


def _check(pointer: int, size: int, what: str) -> None:
    """The memory must be the device's, not given back, large enough from there on, and aligned."""
    if type(pointer) is not int:
        raise TypeError(f"{what}: a bare address is meant, not {type(pointer)}")
    if pointer % 16:
        raise RuntimeError(f"{what}: CUDNN_STATUS_EXECUTION_FAILED: misaligned address")
    if not any(m.ptr <= pointer and pointer + size <= m.ptr + m.block.size for m in list(Memory.live)):
        raise RuntimeError(f"{what}: CUDNN_STATUS_EXECUTION_FAILED: {size} bytes are not the device's")


# What an engine reads of its inputs.


def _exact(a: np.ndarray) -> np.ndarray:
    return a.astype("f8")


def _spoilt(a: np.ndarray) -> np.ndarray:
    return _exact(a)


def _tf32(a: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(a).view("u4") & 0xFFFFE000).view("f4").astype("f8")


def _bf16(a: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(a).astype("u4") << 16).view("f4").astype("f8")


def to_bits(a: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, as its bits; NaN aside."""
    bits = a.astype("f4").view("u4").astype("u8")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("u2")


def set_stream(handle: Handle, stream: int) -> None:
    assert isinstance(handle, Handle) and type(stream) is int
    handle.stream = stream


def build() -> ModuleType:
    """A fresh module."""
    cudnn = ModuleType("cudnn")
    cudnn.__version__ = "1.28.0"
    cudnn.backend_version = lambda: 91400
    cudnn.backend_version_string = lambda: "9.14.0"
    cudnn.create_handle = Handle
    for thing in (data_type, numerical_note, heur_mode, cudnnGraphNotSupportedError, pygraph, set_stream):
        setattr(cudnn, thing.__name__, thing)
    return cudnn
