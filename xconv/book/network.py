"""SimpleConvNet of Deep Learning from Scratch, section 7.5."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xconv import initializers
from xconv.backend import Backend
from xconv.errors import ConfigError, FileError, described
from xconv.layers import Conv2D, Dense, Flatten, MaxPool2D, ReLU
from xconv.losses import SoftmaxCrossEntropy
from xconv.models import Sequential

CONV_PARAM = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}


class SimpleConvNet(Sequential):
    """conv - relu - pool - affine - relu - affine, with softmax cross-entropy as its loss.

    Signature and methods of the book; `params` and `gradient` have W1[F,C,KH,KW], b1[F], W2[F*PH*PW,hidden], b2,
    W3[hidden,output], b3. `weight_init_std` is a standard deviation or "he". Images are NCHW. Ours beside them:
    `backend` ("numpy", "numba", "cupy" or "auto"), `seed`, `dtype` ("float32" or "float64"). For `fit` it comes
    compiled with Adam; ``net.compile(xconv.AdaGrad(0.06))`` gives it another optimizer.
    """

    aliases: Mapping[str, str] = {
        "W1": "conv1.w", "b1": "conv1.b", "W2": "affine1.w", "b2": "affine1.b", "W3": "affine2.w", "b3": "affine2.b",
    }  # fmt: skip

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param: Mapping[str, int] | None = None,
        hidden_size: int = 100,
        output_size: int = 10,
        weight_init_std: float | str = 0.01,
        *,
        backend: str | Backend | None = None,
        seed: int = 0,
        dtype: str = "float32",
        fuse: bool = True,
    ) -> None:
        if conv_param is not None and not isinstance(conv_param, Mapping):
            raise ConfigError(f"conv_param: expected a dict. Received: {described(conv_param)}")
        unknown = [key for key in conv_param or {} if key not in CONV_PARAM]
        if unknown:
            raise ConfigError(f"conv_param: expected keys among {list(CONV_PARAM)}. Received: {unknown}")
        conv = {**CONV_PARAM, **(conv_param or {})}
        if not isinstance(input_dim, tuple | list) or len(input_dim) != 3:
            raise ConfigError(f"input_dim: expected (channels, height, width). Received: {described(input_dim)}")
        init = initializers.get(weight_init_std)
        filters, size = conv["filter_num"], conv["filter_size"]
        super().__init__(
            [
                Conv2D(filters, size, conv["stride"], conv["pad"], kernel_initializer=init, name="conv1"),
                ReLU(name="relu1"),
                MaxPool2D(2, name="pool1"),
                Flatten(name="flatten"),
                Dense(hidden_size, kernel_initializer=init, name="affine1"),
                ReLU(name="relu2"),
                Dense(output_size, kernel_initializer=init, name="affine2"),
            ],
            input_shape=tuple(input_dim),
            data_format="channels_first",
            name="simple-convnet",
            backend=backend,
            seed=seed,
            dtype=dtype,
            fuse=fuse,
        )
        self.compile("adam", SoftmaxCrossEntropy(), ["accuracy"])

    def numerical_gradient(self, x: Any, t: Any, h: float = 1e-4) -> dict[str, np.ndarray]:
        """(loss(p + h) - loss(p - h)) / 2h for every parameter: for checks in float64, and slow as the book's."""
        grads = {}
        for name, start in self.params.to_numpy().items():
            grads[name] = np.empty(start.shape, start.dtype)
            for i in np.ndindex(start.shape):
                moved = start.copy()
                losses = []
                for value in (start[i] + h, start[i] - h):
                    moved[i] = value
                    self.params[name] = moved
                    losses.append(self.loss(x, t))
                grads[name][i] = (losses[0] - losses[1]) / (2 * h)
            self.params[name] = start
        return grads

    def save_params(self, file_name: str | Path = "params.safetensors") -> None:
        """Write the parameters to one safetensors file; a name in .pkl gets that suffix instead, with a warning."""
        self.save(_no_pickle(file_name))

    def load_params(self, file_name: str | Path = "params.safetensors") -> None:
        """Read what `save_params` wrote. Nothing is ever unpickled: FileError says how to convert the book's files."""
        path = Path(file_name)
        if _is_pickle(path) and path.exists() and not path.with_suffix(".safetensors").exists():
            raise FileError(
                f"{path}: expected a safetensors file, which save_params writes. Received: a pickle, which xconv does "
                "not read, since it can run code. If you trust it, convert it once:\n"
                f"    network.params.update(pickle.load(open({str(path)!r}, 'rb')))\n"
                f"    network.save_params({str(path.with_suffix('.safetensors'))!r})"
            )
        self.load_weights(_no_pickle(path))


def _is_pickle(path: Path) -> bool:
    return path.suffix.lower() in (".pkl", ".pickle")


def _no_pickle(file_name: str | Path) -> Path:
    path = Path(file_name)
    if not _is_pickle(path):
        return path
    safe = path.with_suffix(".safetensors")
    warnings.warn(
        f"{path.name}: xconv neither writes nor reads pickles, which can run code; using {safe.name} instead",
        stacklevel=3,
    )
    return safe
