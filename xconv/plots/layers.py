"""What is inside a network: its filters, and what its layers make of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv import checks
from xconv.errors import ConfigError, DataError, ShapeError, described
from xconv.layers import Conv2D, LeakyReLU, ReLU, Sigmoid, Tanh
from xconv.layers.pool import AvgPool2D, MaxPool2D
from xconv.layers.symbolic import Tensor
from xconv.models import Model
from xconv.models.network import Network
from xconv.plots.drawing import INK, figure, mosaic, pixels, plain
from xconv.shapes import positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACTIVATIONS, _POOLS = (ReLU, LeakyReLU, Sigmoid, Tanh), (MaxPool2D, AvgPool2D)
_STAGES = 5  # layers that are shown where none are named
_IN_A_ROW = 8
_GAPS = "#b5b9be"  # between tiles: no colour of either map, and neither black nor white

# ---------------------------------------------------------------------- filters


def first_filters(model: Network) -> np.ndarray:
    """A copy of the weights [F,C,KH,KW] of the model's first convolution; ConfigError where it has none."""
    for layer in model.layers:
        if isinstance(layer, Conv2D):
            model.params  # noqa: B018  a layer has its weights once its model is used
            return layer.get_weights()[0]
    raise ConfigError(f"{model.name}: expected a network with a convolution. Received: none among its layers")


def filters(after: Any, before: Any = None, *, most: int = 64, title: str = "") -> Figure:
    """A convolution's filters, up to `most` of them; with `before` those before training beside them.

    Weights are [F,C,KH,KW], as `first_filters` gives them. With three channels a filter is shown as the colours it
    answers to: grey is 0, and the largest weight of all is full colour. With one, blue is negative and red positive;
    with others each filter has a row, its channels side by side. One scale holds for all that is shown.
    """
    shown = [_weights(after, "filters: after")]
    if before is not None:
        shown.insert(0, _weights(before, "filters: before"))
        if shown[0].shape != shown[1].shape:
            raise ShapeError(f"filters: before: expected the shape {shown[1].shape}. Received: {shown[0].shape}")
    count, channels = shown[0].shape[:2]
    most = positive(most, "filters: most")
    if channels in (1, 3):
        number, columns = min(count, most), int(np.ceil(np.sqrt(min(count, most))))
        said = f"{number} of {count} filters" if number < count else f"{count} filters"
        tiles = [w[:number].transpose(0, 2, 3, 1) if channels == 3 else w[:number, 0] for w in shown]
    else:
        columns = min(channels, 8)
        number = min(count, max(1, most // columns), 8)
        said = f"filters 1 to {number} of {count}, a row each, channels 1 to {columns} of {channels},"
        tiles = [w[:number, :columns].reshape(-1, *w.shape[2:]) for w in shown]
    size = f"{shown[0].shape[2]}×{shown[0].shape[3]}"
    limit = max(float(np.abs(part).max()) for part in tiles) or 1.0
    rows = -(-len(tiles[0]) // columns)
    made = figure(4.2 * len(shown) + 0.8, 4.1 * rows / columns + 0.4 + 0.3 * bool(title) + 0.3 * (channels == 3), title)
    panels = made.subplots(1, len(shown), squeeze=False)[0]
    names = ["before training", "after training"] if before is not None else [""]
    drawn = None
    for axes, name, part in zip(panels, names, tiles, strict=True):
        if channels == 3:
            _tiles(axes, mosaic(part / (2 * limit) + 0.5, columns))
            axes.set_facecolor("white")
        else:
            drawn = _tiles(axes, mosaic(part, columns), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(f"{name}: {said} of {size}".removeprefix(": "), loc="left", fontsize=10)
    if drawn is not None:
        made.colorbar(drawn, cax=panels[-1].inset_axes((1.03, 0, 0.04, 1)), label="weight")
    else:
        made.supxlabel(f"mid-grey is a weight of 0; full colour is ±{limit:.3g}", fontsize=9, color=INK)
    return made


def _weights(given: Any, what: str) -> np.ndarray:
    w = checks.host_array(given, what)
    if w.ndim != 4 or 0 in w.shape:
        raise ShapeError(f"{what}: expected weights (F, C, KH, KW) of a convolution. Received: {described(w)}")
    checks.finite(w, what)
    return w.astype(np.float64)


def _tiles(axes: Axes, image: np.ndarray, **how: Any) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_facecolor(_GAPS)
    return axes.imshow(image, interpolation="nearest", **how)


# ---------------------------------------------------------------------- feature maps


def feature_maps(
    model: Network, image: Any, layers: Sequence[str] | None = None, *, most: int = 16, title: str = ""
) -> Figure:
    """What layers make of one image: up to `most` channels of each of `layers`, the first ones, in order.

    `image` is one example as the model takes it, or bytes from 0 to 255, which are divided by 255. Without names: the
    activations of convolutions, and the poolings where there is room, five of them, evenly from first to last. A layer
    with an activation of its own is shown after it. Each layer has its own scale, from 0 to its largest value, or
    symmetric about 0 where values are negative. ConfigError for a name that is no layer's or whose output is no image.
    """
    if not isinstance(model, Network):
        raise ConfigError(f"feature_maps: expected a model. Received: {described(model)}")
    most = positive(most, "feature_maps: most")
    tensors = _by_layer(model)
    names = _stages(tensors) if layers is None else _named(layers, tensors)
    x = _one(model, image)
    model.params  # noqa: B018  the weights are this model's: those of the other follow
    outputs = [tensors[name] for name in names]
    answers = Model(model.inputs, outputs, name=model.name, backend=model.backend, dtype=model.dtype).predict(x)
    answers = answers if len(names) > 1 else [answers]

    lines = [-(-min(t.inside[0], most) // _IN_A_ROW) for t in outputs]
    made = figure(9.0, 0.9 * sum(lines) + 0.36 * len(names) + (0.4 if title else 0.1), title)
    parts: Any = made.subfigures(1, 2, width_ratios=[1.35, 7.65])
    left, right = parts
    axes = left.subplots()
    _tiles(axes, _shown(x, model.data_format), cmap="gray", vmin=0, vmax=1)
    axes.set_anchor("N")
    axes.set_title("image", fontsize=10)
    panels = right.subplots(len(names), 1, squeeze=False, gridspec_kw={"height_ratios": lines})[:, 0]
    for panel, name, tensor, answer in zip(panels, names, outputs, answers, strict=True):
        maps = answer[0] if model.data_format == "channels_first" else answer[0].transpose(2, 0, 1)
        count, height, width = maps.shape
        low, high = float(maps[:most].min()), float(maps[:most].max())
        limit = max(abs(low), abs(high)) or 1.0
        scale = ("RdBu_r", -limit) if low < 0 else ("viridis", 0.0)
        image_of_all = mosaic(maps[:most].astype(np.float64), min(count, _IN_A_ROW))
        drawn = _tiles(panel, image_of_all, cmap=scale[0], vmin=scale[1], vmax=limit)
        kind = type(tensor.sources[0].layer if tensor.hidden else tensor.layer).__name__
        kind += f", {type(tensor.layer).__name__}" if tensor.hidden else ""
        number = f"{most} of {count}" if count > most else f"{count}"
        dead = "; all zero" if low == high == 0 else ""
        panel.set_title(f"{plain(name)} ({kind}): {number} maps of {height}×{width}{dead}", loc="left", fontsize=10)
        right.colorbar(drawn, cax=panel.inset_axes((1.01, 0, 0.016, 1)))
    return made


def _by_layer(model: Network) -> dict[str, Tensor]:
    """What each layer of the model gives, by its name, in order; after its own activation, at its last use."""
    found: dict[int, Tensor] = {}
    waiting = list(model.outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor.number not in found:
            found[tensor.number] = tensor
            waiting.extend(tensor.sources)
    ordered = [found[number] for number in sorted(found) if found[number].layer is not None]
    return {str((t.sources[0].layer if t.hidden else t.layer).name): t for t in ordered}  # type: ignore[union-attr]


def _is_map(tensor: Tensor) -> bool:
    return len(tensor.inside) == 3


def _stages(tensors: dict[str, Tensor]) -> list[str]:
    maps = {name: t for name, t in tensors.items() if _is_map(t)}
    if not maps:
        raise ConfigError("feature_maps: expected a network whose layers give images. Received: one without")
    active = [name for name, t in maps.items() if isinstance(t.layer, _ACTIVATIONS)]
    pools = [name for name, t in maps.items() if isinstance(t.layer, _POOLS)]
    chosen = [name for name in maps if name in active or name in pools] or list(maps)
    if len(chosen) > _STAGES and active:
        chosen = active
    at = np.linspace(0, len(chosen) - 1, min(_STAGES, len(chosen))).round().astype(int)
    return [chosen[i] for i in at]


def _named(layers: Any, tensors: dict[str, Tensor]) -> list[str]:
    names = [layers] if isinstance(layers, str) else list(layers)
    for name in names:
        if name not in tensors or not _is_map(tensors[name]):
            known = ", ".join(n for n, t in tensors.items() if _is_map(t)) or "none"
            raise ConfigError(
                f"feature_maps: layers: expected names of layers that give images: {known}. Received: {described(name)}"
            )
    if not names:
        raise ConfigError("feature_maps: layers: expected at least one name. Received: none")
    return names


def _one(model: Network, image: Any) -> np.ndarray:
    """The image as a batch of one, in the model's dtype."""
    if len(model.inputs) != 1:
        raise ConfigError(f"feature_maps: expected a model with one input. Received: one with {len(model.inputs)}")
    x = checks.host_array(image, "feature_maps: image")
    x = x[None] if x.shape == model.input_shape else x
    if x.shape != (1, *model.input_shape):
        raise ShapeError(f"feature_maps: image: expected shape {model.input_shape}. Received: {described(image)}")
    if x.dtype.kind in "ui":
        if x.min() < 0 or x.max() > 255:
            raise DataError("feature_maps: image: expected whole numbers from 0 to 255. Received: others")
        x = x / 255
    return x.astype(model.dtype)


def _shown(x: np.ndarray, data_format: str) -> np.ndarray:
    """x[1, ...] as matplotlib shows it; of channels that are no colours the mean."""
    channels = x.shape[-1 if data_format == "channels_last" else 1]
    if x.ndim == 4 and channels not in (1, 3, 4):
        x = x.mean(axis=-1 if data_format == "channels_last" else 1)
    return pixels(x, data_format, "feature_maps: image")[0]
