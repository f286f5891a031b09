"""The errors that xconv raises on purpose. Each message names the place, what was expected and what came."""

from __future__ import annotations

from typing import Any

_LONGEST = 80  # characters of a repr
_SHOWN = 4  # items of a tuple, list or dict of arrays
_DEPTH = 3  # how far into tuples of tuples arrays are looked for


class XconvError(Exception):
    """Parent of every error raised by xconv."""


class ConfigError(XconvError, ValueError):
    """An argument that cannot be: an unknown name, a stride of 0, a negative rate."""


class ShapeError(XconvError, ValueError):
    """An array of the wrong rank or size, or a window that leaves no output."""


class DTypeError(XconvError, TypeError):
    """An array whose dtype cannot be used, such as object or complex."""


class DataError(XconvError, ValueError):
    """Values that cannot be trained on: NaN pixels, labels out of range, an empty set."""


class FileError(XconvError, OSError):
    """A file that is missing, truncated, altered, or cannot be written."""


class NonFiniteError(XconvError, ArithmeticError):
    """The loss, or a gradient, became NaN or infinite. Where `fit` raises it, the model is as it was before the first
    such step.
    """


class BackendError(XconvError, RuntimeError):
    """A backend that does not exist, cannot run here, or was mixed with another one's arrays.

    Where a backend cannot run, `reason` is the cause in a few words, `fix` the line that mends it and `version` what
    was found.
    """

    def __init__(
        self, message: str, *, reason: str | None = None, fix: str | None = None, version: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason, self.fix, self.version = reason, fix, version


class RecordingError(BackendError):
    """Training steps were to be recorded, and cannot be."""


class RecordingWarning(UserWarning):
    """Training steps are not recorded where the backend would: training is slower than it could be."""


class OutOfMemoryError(XconvError, MemoryError):
    """Work that does not fit into memory, also in parts. What it was to change is as before."""


class OutOfMemoryWarning(UserWarning):
    """Memory is short: work goes in parts, which is slower."""


class DeadNetworkWarning(UserWarning):
    """Every ReLU gives zero for every image: the network can learn no more."""


class RawPixelsWarning(UserWarning):
    """Images of whole numbers up to 255, say, where networks train best on numbers from 0 to 1."""


def described(value: Any) -> str:
    """What came, for the end of a message, short and on one line.

    Shape and dtype of an array, also of those in a tuple, list or dict; the beginning of anything else's repr.
    """
    return _described(value, _DEPTH)


def _described(value: Any, depth: int) -> str:
    if _is_array(value):
        return f"array of shape {tuple(value.shape)}, dtype {value.dtype}"
    if _holds_arrays(value, depth):
        if isinstance(value, dict):
            items = [f"{name!r}: {_described(item, depth - 1)}" for name, item in list(value.items())[:_SHOWN]]
        else:
            items = [_described(item, depth - 1) for item in value[:_SHOWN]]
        if len(value) > _SHOWN:
            items.append(f"{len(value) - _SHOWN} more")
        return f"{type(value).__name__} of ({'; '.join(items)})"
    long = isinstance(value, tuple | list) and len(value) > _LONGEST
    text = repr(value[:_LONGEST] if long else value)
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _is_array(value: Any) -> bool:
    return getattr(value, "shape", None) is not None and getattr(value, "dtype", None) is not None


def _holds_arrays(value: Any, depth: int) -> bool:
    """Whether a tuple, list or dict has an array among its first items, or theirs."""
    if depth == 0 or not isinstance(value, dict | tuple | list):
        return False
    items = list(value.values() if isinstance(value, dict) else value[:_SHOWN])[:_SHOWN]
    return any(_is_array(item) or _holds_arrays(item, depth - 1) for item in items)
