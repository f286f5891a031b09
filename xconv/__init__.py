"""xconv: a CNN engine you can read. Layers are written once and run on NumPy, Numba or CuPy, with equal results."""

from pathlib import Path as _Path

# Python started at the root of a checkout finds this folder before any installed xconv, and with it no xconv.kernels,
# which lies beside it there. This also lets a clone run uninstalled.
_root = _Path(__file__).resolve().parent.parent
if (_root / "kernels" / "cuda").is_dir() and (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))
del _root, _Path

from xconv import data, layers, losses, metrics, optimizers  # noqa: E402
from xconv.backend import Backend, BackendInfo, backends, get_backend  # noqa: E402
from xconv.book.network import SimpleConvNet  # noqa: E402
from xconv.errors import XconvError  # noqa: E402
from xconv.layers import AvgPool2D, Conv2D, Dense, Flatten, Layer, MaxPool2D, ReLU  # noqa: E402
from xconv.models import Model  # noqa: E402
from xconv.optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AvgPool2D",
    "Backend",
    "BackendInfo",
    "Conv2D",
    "Dense",
    "Flatten",
    "Layer",
    "MaxPool2D",
    "Model",
    "Momentum",
    "Nesterov",
    "RMSprop",
    "ReLU",
    "SimpleConvNet",
    "XconvError",
    "__version__",
    "backends",
    "data",
    "get_backend",
    "layers",
    "losses",
    "metrics",
    "optimizers",
]
