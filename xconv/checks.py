"""Bad input stops here: images and labels are checked once, on the host, with the same message for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from xconv.errors import BackendError, ConfigError, DataError, DTypeError, ShapeError, described

DTYPES = ("float32", "float64")


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
        a = np.asarray(a)
    except ValueError as error:  # ragged lists
        raise ShapeError(f"{what}: expected an array of numbers. Received: {described(a)} ({error})") from None
    if a.dtype.kind not in "buif":
        raise DTypeError(f"{what}: expected real numbers (float, int or bool). Received: {described(a)}")
    return a


def image_shape(shape: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """ShapeError unless `shape` is (N, *expected), with a guess at what went wrong."""
    if tuple(shape[1:]) == expected and len(shape) == len(expected) + 1:
        return
    guess = ""
    if tuple(shape) == expected:
        guess = "; this looks like one example: give x[None]"
    elif len(shape) == 4 and len(expected) == 3 and (shape[3], shape[1], shape[2]) == expected:
        guess = "; this looks like channels_last: give x.transpose(0, 3, 1, 2)"
    elif len(shape) == 2 and shape[1] == np.prod(expected):
        guess = f"; these look flattened: give x.reshape(-1, {', '.join(map(str, expected))})"
    elif tuple(shape[1:]) == expected[1:] and expected[0] == 1:
        guess = "; the channel axis is missing: give x[:, None]"
    axes = ", ".join(map(str, expected))
    raise ShapeError(f"{what}: expected shape (N, {axes}). Received: shape {tuple(shape)}{guess}")


def finite(x: np.ndarray, what: str) -> None:
    """DataError where x holds NaN or infinity, saying how many and where the first is."""
    if x.dtype.kind != "f" or x.size == 0:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):  # one cheap pass; only a sum that is not finite needs the exact answer
            return
    bad = ~np.isfinite(x)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{what}: expected finite numbers. Received: {int(bad.sum())} NaN or infinite values, the first at index "
            f"{first}: {x[first]}"
        )


def images(x: Any, expected: tuple[int, ...], what: str, *, empty_ok: bool = False) -> np.ndarray:
    """Examples x[N, *expected] as a finite NumPy array."""
    x = host_array(x, what)
    image_shape(x.shape, expected, what)
    if not empty_ok and x.shape[0] == 0:
        raise DataError(f"{what}: expected at least one example. Received: {described(x)}")
    finite(x, what)
    return x


def labels(t: Any, n: int, classes: int, what: str) -> np.ndarray:
    """Labels as int64[N] from integers [N] or one-hot rows [N, classes]."""
    t = host_array(t, what)
    if t.ndim == 2 and (t.shape[1] != 1 or classes == 1):
        return _from_one_hot(t, n, classes, what)
    if t.ndim != 1:
        raise ShapeError(
            f"{what}: expected integer labels (N,) or one-hot labels (N, {classes}). Received: {described(t)}"
        )
    if t.dtype.kind not in "ui":
        raise DTypeError(f"{what}: expected integer labels; give t.astype(int). Received: {described(t)}")
    _same_count(t, n, what)
    out = (t < 0) | (t >= classes)
    if out.any():
        i = int(np.argmax(out))
        raise DataError(f"{what}: expected labels from 0 to {classes - 1}. Received: {t[i]} at index {i}")
    return t.astype(np.int64)


def _from_one_hot(t: np.ndarray, n: int, classes: int, what: str) -> np.ndarray:
    if t.shape[1] != classes:
        raise ShapeError(f"{what}: expected one-hot labels of {classes} columns. Received: {described(t)}")
    _same_count(t, n, what)
    wrong = (((t != 0) & (t != 1)).any(axis=1)) | (t.sum(axis=1) != 1)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise DataError(f"{what}: expected one-hot rows, a single 1 among 0s. Received: {t[i].tolist()} at index {i}")
    return t.argmax(axis=1).astype(np.int64)


def _same_count(t: np.ndarray, n: int, what: str) -> None:
    if t.shape[0] != n:
        raise ShapeError(f"{what}: expected one label for each of {n} examples. Received: {described(t)}")
