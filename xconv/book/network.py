"""The convolutional networks of Deep Learning from Scratch: SimpleConvNet (section 7.5), DeepConvNet (section 8.1)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xconv import initializers
from xconv.backend import Backend
from xconv.errors import ConfigError, FileError, described
from xconv.layers import Conv2D, Dense, Dropout, Flatten, Layer, MaxPool2D, ReLU
from xconv.losses import SoftmaxCrossEntropy
from xconv.models import Sequential

CONV_PARAM = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}
DEEP_CONVOLUTIONS = ((16, 1), (16, 1), (32, 1), (32, 2), (64, 1), (64, 1))  # filters 3x3, and their padding


class BookNetwork(Sequential):
    """What the book's networks share: images NCHW, parameters W1, b1, W2, ..., softmax cross-entropy as the loss.

    For `fit` they come compiled with Adam; ``net.compile(xconv.AdaGrad(0.06))`` gives them another optimizer.
    """

    def __init__(self, layers: list[Layer], input_dim: Any, name: str, **settings: Any) -> None:
        if not isinstance(input_dim, tuple | list) or len(input_dim) != 3:
            raise ConfigError(f"input_dim: expected (channels, height, width). Received: {described(input_dim)}")
        super().__init__(layers, input_shape=tuple(input_dim), data_format="channels_first", name=name, **settings)
        self.compile("adam", SoftmaxCrossEntropy(), ["accuracy"])

    def predict(self, x: Any, batch_size: Any = None, *, train_flg: bool = False, **settings: Any) -> Any:
        """The scores of x[N,C,H,W], before softmax: [N, output_size]. `train_flg`, the second argument in chapter 8,
        must be False: dropout is for `gradient` and `fit`, which ask for it themselves.
        """
        if isinstance(batch_size, bool):
            train_flg, batch_size = batch_size, None
        if train_flg is not False:
            raise ConfigError(
                "predict: train_flg must be False: gradient and fit drop out by themselves. "
                f"Received: {described(train_flg)}"
            )
        return super().predict(x, batch_size, **settings)

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


class SimpleConvNet(BookNetwork):
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
        conv = _conv_param("conv_param", conv_param, CONV_PARAM)
        init = initializers.get(weight_init_std)
        super().__init__(
            [
                Conv2D(*conv.values(), kernel_initializer=init, name="conv1"),
                ReLU(name="relu1"),
                MaxPool2D(2, name="pool1"),
                Flatten(name="flatten"),
                Dense(hidden_size, kernel_initializer=init, name="affine1"),
                ReLU(name="relu2"),
                Dense(output_size, kernel_initializer=init, name="affine2"),
            ],
            input_dim,
            "simple-convnet",
            backend=backend,
            seed=seed,
            dtype=dtype,
            fuse=fuse,
        )


class DeepConvNet(BookNetwork):
    """[conv - relu - conv - relu - pool] three times - affine - relu - dropout - affine - dropout, He initialisation.

    Signature and methods of the book (deep_convnet.py of chapter 8): `conv_param_1` to `conv_param_6` are dicts of
    filter_num, filter_size, pad and stride; `params` and `gradient` have W1 to W8 and b1 to b8. Both dropouts, the last
    of them after the last affine layer as in the book, have `dropout_ratio`. Images are NCHW. Ours beside them:
    `backend`, `seed`, `dtype`, `fuse`, as for SimpleConvNet.
    """

    aliases: Mapping[str, str] = {
        f"{letter}{i}": f"{f'conv{i}' if i < 7 else f'affine{i - 6}'}.{letter.lower()}"
        for i in range(1, 9)
        for letter in "Wb"
    }

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param_1: Mapping[str, int] | None = None,
        conv_param_2: Mapping[str, int] | None = None,
        conv_param_3: Mapping[str, int] | None = None,
        conv_param_4: Mapping[str, int] | None = None,
        conv_param_5: Mapping[str, int] | None = None,
        conv_param_6: Mapping[str, int] | None = None,
        hidden_size: int = 50,
        output_size: int = 10,
        *,
        dropout_ratio: float = 0.5,
        backend: str | Backend | None = None,
        seed: int = 0,
        dtype: str = "float32",
        fuse: bool = True,
    ) -> None:
        given = conv_param_1, conv_param_2, conv_param_3, conv_param_4, conv_param_5, conv_param_6
        layers: list[Layer] = []
        for i, (param, (filters, pad)) in enumerate(zip(given, DEEP_CONVOLUTIONS, strict=True), 1):
            usual = {"filter_num": filters, "filter_size": 3, "pad": pad, "stride": 1}
            conv = _conv_param(f"conv_param_{i}", param, usual)
            layers += [
                Conv2D(*conv.values(), kernel_initializer="he_normal", name=f"conv{i}"),
                ReLU(name=f"relu{i}"),
            ]
            if i % 2 == 0:
                layers.append(MaxPool2D(2, name=f"pool{i // 2}"))
        layers += [
            Flatten(name="flatten"),
            Dense(hidden_size, kernel_initializer="he_normal", name="affine1"),
            ReLU(name="relu7"),
            Dropout(dropout_ratio, name="dropout1"),
            Dense(output_size, kernel_initializer="he_normal", name="affine2"),
            Dropout(dropout_ratio, name="dropout2"),
        ]
        super().__init__(layers, input_dim, "deep-convnet", backend=backend, seed=seed, dtype=dtype, fuse=fuse)


def _conv_param(what: str, given: Any, usual: Mapping[str, int]) -> dict[str, int]:
    """filter_num, filter_size, stride and pad, in Conv2D's order: the given ones, the others as usual."""
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{what}: expected a dict. Received: {described(given)}")
    unknown = [key for key in given or {} if key not in usual]
    if unknown:
        raise ConfigError(f"{what}: expected keys among {list(usual)}. Received: {unknown}")
    conv = {**usual, **(given or {})}
    return {key: conv[key] for key in ("filter_num", "filter_size", "stride", "pad")}


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
