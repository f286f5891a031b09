"""The errors that xconv raises on purpose. Each message names the place, what was expected and what came."""

from __future__ import annotations

from typing import Any


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
    """The loss became NaN or infinite."""


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


class DeadNetworkWarning(UserWarning):
    """Every ReLU gives zero for every image: the network can learn no more."""


def described(value: Any) -> str:
    """Shape and dtype of an array, or the repr of anything else, for the end of a message."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"array of shape {tuple(shape)}, dtype {dtype}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
