"""xconv: a CNN engine you can read. Layers are written once and run on NumPy, Numba or CuPy, with equal results."""

from pathlib import Path as _Path

# Python started at the root of a checkout finds this folder before any installed xconv, and with it no xconv.kernels,
# which lies beside it there. This also lets a clone run uninstalled.
_root = _Path(__file__).resolve().parent.parent
if (_root / "kernels" / "cuda").is_dir() and (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))
del _root, _Path

__version__ = "0.1.0"  # first: reports name it

from xconv import (  # noqa: E402
    book,
    callbacks,
    data,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    plots,
    regularizers,
    report,
    schedules,
    testing,
    utils,
    zoo,
)
from xconv.backend import Backend, BackendInfo, backends, get_backend  # noqa: E402
from xconv.book.network import DeepConvNet, SimpleConvNet  # noqa: E402
from xconv.callbacks import *  # noqa: E402, F403
from xconv.errors import XconvError  # noqa: E402
from xconv.layers import *  # noqa: E402, F403
from xconv.models import Model, Sequential, load, load_model  # noqa: E402
from xconv.optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, RMSprop  # noqa: E402

__all__ = [
    *callbacks.__all__,
    *layers.__all__,
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Backend",
    "BackendInfo",
    "DeepConvNet",
    "Model",
    "Momentum",
    "Nesterov",
    "RMSprop",
    "Sequential",
    "SimpleConvNet",
    "XconvError",
    "__version__",
    "backends",
    "book",
    "callbacks",
    "data",
    "datasets",
    "get_backend",
    "initializers",
    "layers",
    "load",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "plots",
    "regularizers",
    "report",
    "schedules",
    "testing",
    "utils",
    "zoo",
]
