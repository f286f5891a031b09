"""Pictures of a network: its filters and feature maps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import xconv
from tests.drawn import texts
from xconv import plots
from xconv.errors import ConfigError, DataError, DTypeError, ShapeError
from xconv.layers import Conv2D, Dense, Flatten, MaxPool2D, ReLU

pytest.importorskip("matplotlib")


# ---------------------------------------------------------------------- filters


def test_filters_share_one_scale_and_have_a_colour_bar():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(30, 1, 5, 5)), rng.normal(size=(30, 1, 5, 5))
    figure = plots.filters(after, before, title="conv1")
    first, second = figure.axes
    (bar,) = second.child_axes
    limit = max(abs(before).max(), abs(after).max())
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-limit, limit) == bar.get_ylim()
    assert first.get_title("left") == "before training: 30 filters of 5×5"
    assert second.get_title("left") == "after training: 30 filters of 5×5" and "weight" in texts(figure)
    shown = second.images[0].get_array()
    assert np.nanmax(shown) == after.max()
    assert len(plots.filters(after).axes) == 1


def test_rgb_filters_are_shown_in_their_colours():
    w = np.zeros((4, 3, 3, 3))
    w[0, 0] = 2.0  # a filter that answers to red alone, by the largest weight
    shown = plots.filters(w).axes[0].images[0].get_array()
    assert shown.shape[-1] == 4  # the fourth: where there is no tile
    assert np.allclose(shown[0, 0], [1, 0.5, 0.5, 1]) and np.allclose(shown[0, -1], [0.5, 0.5, 0.5, 1])
    assert "mid-grey is a weight of 0; full colour is ±2" in texts(plots.filters(w))


def test_many_filters_and_many_channels_are_cut_and_said():
    assert "64 of 70 filters of 3×3" in texts(plots.filters(np.ones((70, 1, 3, 3))))[0]
    (axes,) = plots.filters(np.ones((70, 5, 3, 3))).axes
    assert axes.get_title("left") == "filters 1 to 8 of 70, a row each, channels 1 to 5 of 5, of 3×3"
    assert "3 of 70 filters" in plots.filters(np.ones((70, 3, 3, 3)), most=3).axes[0].get_title("left")


def test_first_filters_are_a_copy():
    net = xconv.SimpleConvNet(backend="numpy")
    w = plots.first_filters(net)
    assert np.array_equal(w, net.params["W1"]) and w.shape == (30, 1, 5, 5)
    w[:] = 7
    assert not (net.params["W1"] == 7).any()
    dense = xconv.Sequential([Flatten(), Dense(2)], input_shape=(2, 2, 1), backend="numpy")
    with pytest.raises(ConfigError, match="expected a network with a convolution"):
        plots.first_filters(dense)


@pytest.mark.parametrize(
    ("after", "before", "error"),
    [
        (np.ones((3, 3)), None, ShapeError),
        (np.ones((0, 1, 3, 3)), None, ShapeError),
        (np.full((1, 1, 3, 3), np.nan), None, DataError),
        (np.ones((2, 1, 3, 3)), np.ones((3, 1, 3, 3)), ShapeError),
        (np.ones((2, 1, 3, 3), complex), None, DTypeError),
    ],
)
def test_filters_that_cannot_be_drawn(after, before, error):
    with pytest.raises(error, match="Received: "):
        plots.filters(after, before)


# ---------------------------------------------------------------------- feature maps


def two_convolutions(data_format="channels_last", channels=1):
    shape = (8, 8, channels) if data_format == "channels_last" else (channels, 8, 8)
    layers = [
        Conv2D(3, 3, padding="same", activation="relu", name="one"),
        MaxPool2D(2, name="pool"),
        Conv2D(20, 3, name="two"),
        ReLU(name="active"),
        Flatten(name="flat"),
        Dense(2, name="dense"),
    ]
    return xconv.Sequential(layers, input_shape=shape, data_format=data_format, backend="numpy", seed=3)


def maps_by_hand(net, x):
    """What "one" makes of x[C,H,W]: a convolution with zeros all round, in loops, and ReLU."""
    w, b = net.get_layer("one").get_weights()
    _, height, width = x.shape
    y = np.zeros((len(w), height, width))
    for f in range(len(w)):
        for i in range(height):
            for j in range(width):
                total = b[f]
                for di in range(3):
                    for dj in range(3):
                        if 0 <= i + di - 1 < height and 0 <= j + dj - 1 < width:
                            total += (w[f, :, di, dj] * x[:, i + di - 1, j + dj - 1]).sum()
                y[f, i, j] = max(total, 0)
    return y


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_feature_maps_are_what_the_layer_gives(data_format):
    net = two_convolutions(data_format)
    x = np.random.default_rng(0).random((1, 8, 8))
    figure = plots.feature_maps(net, x.transpose(1, 2, 0) if data_format == "channels_last" else x)
    image, one, *_ = figure.axes
    assert np.allclose(image.images[0].get_array(), x[0], atol=1e-6)
    titles = [axes.get_title("left") for axes in figure.axes[1:]]
    assert titles == [
        "one (Conv2D, ReLU): 3 maps of 8×8", "pool (MaxPool2D): 3 maps of 4×4", "active (ReLU): 16 of 20 maps of 2×2"
    ]  # fmt: skip
    expected = maps_by_hand(net, x)
    shown = one.images[0].get_array()
    assert shown.max() == pytest.approx(expected.max(), rel=1e-5) and one.images[0].get_clim()[0] == 0
    assert np.allclose(
        np.asarray(shown)[:16:2, :16:2], expected[0], atol=1e-6
    )  # grown twofold, so that gaps are narrow


def test_named_layers_bytes_and_negative_values():
    net = two_convolutions()
    raw = np.random.default_rng(1).integers(0, 256, (8, 8, 1), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.feature_maps(net, raw, ["two"], most=4)
    _, two = figure.axes
    low, high = two.images[0].get_clim()
    assert low == -high and two.get_title("left") == "two (Conv2D): 4 of 20 maps of 2×2"
    same = plots.feature_maps(net, raw / 255, ["two"], most=4).axes[1]
    assert np.allclose(two.images[0].get_array(), same.images[0].get_array(), equal_nan=True)


def test_five_stages_of_a_deep_network():
    layers = [Conv2D(2, 1, activation="relu", name=f"c{i}") for i in range(9)]
    net = xconv.Sequential(layers, input_shape=(4, 4, 3), backend="numpy")
    titles = [axes.get_title("left") for axes in plots.feature_maps(net, np.ones((4, 4, 3))).axes[1:]]
    assert [title.split()[0] for title in titles] == ["c0", "c2", "c4", "c6", "c8"]


def test_feature_maps_leave_the_model_as_it_is():
    """A layer that was called in another model later on, and a model that is asked before it has weights."""
    net = two_convolutions()
    assert net(xconv.Input((8, 8, 1))).shape == (None, 2)
    figure = plots.feature_maps(net, np.ones((8, 8, 1)), "one")
    assert "one (Conv2D, ReLU): 3 maps of 8×8" in texts(figure)
    twin = two_convolutions()
    assert all(np.array_equal(a, b) for a, b in zip(net.get_weights(), twin.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("image", "layers", "error", "message"),
    [
        (np.ones((9, 9, 1)), None, ShapeError, r"expected shape \(8, 8, 1\)"),
        (
            np.ones((8, 8, 1)),
            ["dense"],
            ConfigError,
            "expected names of layers that give images: one, pool, two, active",
        ),
        (np.ones((8, 8, 1)), ["nobody"], ConfigError, "Received: 'nobody'"),
        (np.ones((8, 8, 1)), [], ConfigError, "at least one name"),
        (np.full((8, 8, 1), 300), None, DataError, "from 0 to 255"),
        (np.full((8, 8, 1), np.nan), None, DataError, "finite"),
    ],
)
def test_feature_maps_that_cannot_be_drawn(image, layers, error, message):
    with pytest.raises(error, match=message):
        plots.feature_maps(two_convolutions(), image, layers)


def test_a_network_without_maps():
    dense = xconv.Sequential([Dense(2)], input_shape=(3,), backend="numpy")
    with pytest.raises(ConfigError, match="whose layers give images"):
        plots.feature_maps(dense, np.ones(3))
