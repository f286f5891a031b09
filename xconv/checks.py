"""Bad input stops here: images and labels are checked once, on the host, with the same message for every backend."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from xconv.errors import BackendError, ConfigError, DataError, DTypeError, RawPixelsWarning, ShapeError, described

DTYPES = ("float32", "float64")
BRIGHT = 64  # below the brightest of any images' pixels, and above what scaled ones reach
T = TypeVar("T")


def dtype_name(dtype: Any) -> str:
    """ "float32" or "float64", else ConfigError."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = None
    if dtype is None or name not in DTYPES:
        raise ConfigError(f"dtype must be 'float32' or 'float64'. Received: {described(dtype)}")
    return name


def host_array(a: Any, what: str) -> np.ndarray:
    """`a` as a NumPy array of numbers."""
    if hasattr(a, "__cuda_array_interface__"):
        raise BackendError(
            f"{what}: expected a NumPy array. Received: {described(a)} on a GPU; call its .get(), or move the model "
            "there with model.to('cupy')"
        )
    try:
        array = np.asarray(a)
    except ValueError as error:  # ragged lists
        raise ShapeError(f"{what}: expected an array of numbers. Received: {described(a)} ({error})") from None
    if array.dtype.kind not in "buif":
        cure = ""
        if callable(getattr(a, "arrays", None)):
            cure = "; of a data set give its arrays: x, t, x_test, t_test = data.arrays()"
        elif inspect.isgeneratorfunction(a):
            cure = f"; a generator function is called first, as in {a.__name__}()"
        of = f", of which NumPy makes {array.dtype}" if isinstance(a, list | tuple) else ""
        raise DTypeError(f"{what}: expected real numbers (float, int or bool){cure}. Received: {described(a)}{of}")
    return array


def image_shape(shape: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """ShapeError unless `shape` is (N, *expected), with a guess at what went wrong."""
    if tuple(shape[1:]) == expected and len(shape) == len(expected) + 1:
        return
    guess = ""
    if tuple(shape) == expected:
        guess = "; this looks like one example: give x[None]"
    elif len(shape) == 4 and len(expected) == 3 and (shape[3], shape[1], shape[2]) == expected:
        guess = "; this looks like channels_last: give x.transpose(0, 3, 1, 2)"
    elif len(shape) == 4 and len(expected) == 3 and (shape[2], shape[3], shape[1]) == expected:
        guess = "; this looks like channels_first: give x.transpose(0, 2, 3, 1)"
    elif len(shape) == 2 and shape[1] == np.prod(expected):
        guess = f"; these look flattened: give x.reshape(-1, {', '.join(map(str, expected))})"
    elif tuple(shape[1:]) == expected[1:] and expected[0] == 1:
        guess = "; the channel axis is missing: give x[:, None]"
    elif tuple(shape[1:]) == expected[:-1] and expected[-1] == 1:
        guess = "; the channel axis is missing: give x[..., None]"
    axes = ", ".join(map(str, expected))
    raise ShapeError(f"{what}: expected shape (N, {axes}). Received: shape {tuple(shape)}{guess}")


def finite(x: np.ndarray, what: str, dtype: Any = None) -> None:
    """DataError where x holds NaN or infinity, saying how many and where the first is.

    `dtype`, where given, is what x will be turned into: then numbers too large for it are refused, too.
    """
    if x.dtype.kind != "f" or x.size == 0:
        return
    narrower = dtype is not None and np.dtype(dtype).itemsize < x.dtype.itemsize
    plain = x.dtype.char in "fd" and x.dtype.isnative and x.flags.c_contiguous and not narrower
    if plain and math.isfinite(np.vdot(x, x)):  # one pass, by BLAS, and no warnings; of large numbers it overflows
        return
    with np.errstate(over="ignore", invalid="ignore"):
        # Cheap passes first; only what fails them needs the exact answer. NaN wins in min and max.
        if np.isfinite(np.array([x.min(), x.max()]).astype(dtype)).all() if narrower else np.isfinite(x.sum()):
            return
        bad, kind = ~np.isfinite(x), "NaN or infinite values"
        if narrower and not bad.any():
            bad, kind = ~np.isfinite(x.astype(dtype)), f"values too large for {np.dtype(dtype)}"
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{what}: expected finite numbers. Received: {int(bad.sum())} {kind}, the first at index {at}: {x[at]}"
        )


def images(
    x: Any,
    expected: tuple[int, ...],
    what: str,
    *,
    empty_ok: bool = False,
    dtype: Any = None,
    tell: Callable[[str, np.dtype], None] | None = None,
) -> np.ndarray:
    """Examples x[N, *expected] as a NumPy array that is finite, also once it is turned into `dtype`, where given.

    RawPixelsWarning for whole numbers above 1, and images of floats up to 255; where there is somebody to `tell`, a
    call of that in its place.
    """
    x = host_array(x, what)
    examples(x, expected, what, empty_ok=empty_ok)
    finite(x, what, dtype)
    if x.size and _like_raw_pixels(x):
        (tell or raw_pixels)(what, x.dtype)
    return x


def _like_raw_pixels(x: np.ndarray) -> bool:
    """Whole numbers above 1; or images of floats from 0 to 255 that nobody can have scaled."""
    if x.dtype.kind == "f":
        return x.ndim == 4 and bool(BRIGHT < x.max() <= 255 and x.min() >= 0)
    return x.dtype.kind in "ui" and bool(x.max() > 1)


def examples(x: Any, expected: tuple[int, ...], what: str, *, empty_ok: bool = False) -> None:
    """ShapeError or DataError unless x, an array or something of its shape, holds examples [N, *expected]."""
    image_shape(x.shape, expected, what)
    if not empty_ok and x.shape[0] == 0:
        raise DataError(f"{what}: expected at least one example. Received: {described(x)}")


def source(x: Any, what: str) -> None:
    """ConfigError or DTypeError unless an xconv.data.Source says what it holds."""
    shape, name = getattr(x, "shape", None), type(x).__name__
    whole = isinstance(shape, tuple) and shape and all(isinstance(n, int | np.integer) and n >= 0 for n in shape)
    if not whole:
        raise ConfigError(f"{what}: {name} must say its shape, a tuple (N, ...). Received: {described(shape)}")
    try:
        dtype = np.dtype(getattr(x, "dtype", None) or object)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "buif":
        raise DTypeError(
            f"{what}: {name} must say the dtype of its numbers (float, int or bool). "
            f"Received: {described(getattr(x, 'dtype', None))}"
        )


def raw_pixels(what: str, dtype: np.dtype) -> None:
    """RawPixelsWarning."""
    # The same text for every batch, and in the user's own line: Python shows it once for each such line.
    cure = "divide by 255, or take data.arrays()"
    if dtype == np.uint8:
        cure = "divide by 255, take data.arrays(), or give xconv.data.Pixels(x), which stay bytes"
    held = "numbers from 0 to 255" if dtype.kind == "f" else "whole numbers above 1"
    warnings.warn(
        f"{what} holds {held} (dtype {dtype}), as raw pixels are; networks train best on numbers from 0 to 1: {cure}. "
        "If they are meant: warnings.simplefilter('ignore', xconv.errors.RawPixelsWarning)",
        RawPixelsWarning,
        stacklevel=users_level(),
    )


def users_level() -> int:
    """The `stacklevel`, for who calls this, of the nearest caller that is not xconv's (nor what ends its `with`)."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("xconv", "contextlib"):
        level, frame = level + 1, frame.f_back
    return level


def labels(t: Any, n: int, classes: int, what: str) -> np.ndarray:
    """Labels as int64[N] from integers [N] or one-hot rows [N, classes]."""
    t = host_array(t, what)
    if t.ndim == 2 and (t.shape[1] != 1 or classes == 1):
        return _from_one_hot(t, n, classes, what)
    if t.ndim != 1:
        raise ShapeError(
            f"{what}: expected integer labels (N,) or one-hot labels (N, {classes}). Received: {described(t)}"
        )
    integers(t, what)
    _same_count(t, n, what)
    return in_range(t, classes, what)


def integers(t: np.ndarray, what: str) -> None:
    """DTypeError unless the labels are integers; NaN among floats is the DataError it is anywhere."""
    finite(t, what)
    if t.dtype.kind not in "ui":
        raise DTypeError(f"{what}: expected integer labels; give t.astype(int). Received: {described(t)}")


def in_range(t: np.ndarray, classes: int, what: str) -> np.ndarray:
    """Integer labels of any shape as int64; DataError unless all are from 0 to classes - 1."""
    out = (t < 0) | (t >= classes)
    if out.any():
        i = first(out)
        raise DataError(f"{what}: expected labels from 0 to {classes - 1}. Received: {t[i]} at index {i}")
    return t.astype(np.int64)


def first(where: np.ndarray) -> Any:
    """Index of the first True: an int, or a tuple of ints where there are several axes."""
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))
    return index[0] if len(index) == 1 else index


def _from_one_hot(t: np.ndarray, n: int, classes: int, what: str) -> np.ndarray:
    if t.shape[1] != classes:
        raise ShapeError(f"{what}: expected one-hot labels of {classes} columns. Received: {described(t)}")
    _same_count(t, n, what)
    wrong = (((t != 0) & (t != 1)).any(axis=1)) | (t.sum(axis=1) != 1)
    if wrong.any():
        i = first(wrong)
        raise DataError(f"{what}: expected one-hot rows, a single 1 among 0s. Received: {t[i].tolist()} at index {i}")
    return t.argmax(axis=1).astype(np.int64)


def _same_count(t: np.ndarray, n: int, what: str) -> None:
    if t.shape[0] != n:
        raise ShapeError(f"{what}: expected one label for each of {n} examples. Received: {described(t)}")


def number(value: Any, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """`value` as a finite float from `least` to `most`."""
    plain = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or not least <= value <= most:
        low, high = (f" >= {least:g}", f" <= {most:g}")
        limit = f" from {least:g} to {most:g}" if math.isfinite(least) and math.isfinite(most) else ""
        limit = limit or (low if math.isfinite(least) else "") + (high if math.isfinite(most) else "")
        raise ConfigError(f"{what} must be a finite number{limit}. Received: {described(value)}")
    return float(value)


def from_config(config: Any, table: Mapping[str, Callable[..., T]], what: str) -> T:
    """table[config["kind"]] called with the rest of the config, which may come from a file; else ConfigError."""
    settings = dict(config) if isinstance(config, Mapping) else {}
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in table:
        raise ConfigError(
            f"{what}: expected a config whose 'kind' is {', '.join(map(repr, table))}. Received: {described(config)}"
        )
    try:
        return table[kind](**settings)
    except TypeError as error:  # an argument that it does not have
        raise ConfigError(f"{what}: {error}. Received: {described(config)}") from None
