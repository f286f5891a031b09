"""Pictures: what is drawn where, in which colour, beside which number; and what cannot be drawn."""

from __future__ import annotations

import inspect
import os
import re
import warnings

import numpy as np
import pytest
from PIL import Image

import xconv
from xconv import plots
from xconv.errors import ConfigError, DataError, DTypeError, FileError, ShapeError, XconvError
from xconv.layers import Conv2D, Dense, Flatten, MaxPool2D, ReLU
from xconv.plots.drawing import mosaic, percent, pixels

pytest.importorskip("matplotlib")
BLUE, VERMILION = (0, 114, 178), (213, 94, 0)
HISTORY = {
    "loss": [2.0, 1.0, 0.5, 0.4],
    "accuracy": [0.2, 0.5, 0.8, 0.9],
    "val_loss": [1.9, 1.2, 0.6, 0.7],
    "val_accuracy": [0.3, 0.6, 0.75, 0.7],
}


def texts(figure) -> list[str]:
    """All that is written on a figure."""
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def drawn(figure) -> np.ndarray:
    """The pixels uint8[H,W,3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


# ---------------------------------------------------------------------- curves


def test_curves_have_labelled_axes_and_mark_the_best_epoch():
    figure = plots.curves(HISTORY, "a title", held_out="test")
    loss, accuracy = figure.axes
    assert [(a.get_xlabel(), a.get_ylabel()) for a in (loss, accuracy)] == [("epoch", "loss"), ("epoch", "accuracy")]
    assert "a title" in texts(figure)
    for axes, epoch, value, said in ((loss, 3, 0.6, "0.6"), (accuracy, 3, 0.75, "75.00 %")):
        (ring,) = [line for line in axes.lines if line.get_gid() == "best"]
        assert ring.get_xydata().tolist() == [[epoch, value]]
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert (
            legend[0].startswith("while training: ") and f"best {said}, epoch 3" in legend[1] and "test: " in legend[1]
        )
    (line,) = [line for line in loss.lines if line.get_label().startswith("while training")]
    assert line.get_xydata().tolist() == [[1, 2.0], [2, 1.0], [3, 0.5], [4, 0.4]]
    assert accuracy.yaxis.get_major_formatter()(0.5) == "50 %"


def test_a_long_title_takes_more_lines():
    name = "resnet20-cifar10 on a-folder-of-OVERWHELMINGLY-long-names of pictures of cats and dogs, numba"
    figure = plots.curves({"loss": [2.0, 1.0]}, name)
    drawn(figure)
    (heading,) = figure.texts
    title, box = heading.get_text(), heading.get_window_extent()
    assert title.replace("\n", " ").replace("- ", "-") == name and "\n" in title
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
    assert box.y0 >= figure.axes[0].get_tightbbox().y1


def test_what_never_changes_has_no_best():
    figure = plots.curves(
        {"loss": [2.0, 1.0], "val_loss": [2.0, 1.5], "accuracy": [0.1, 0.5], "val_accuracy": [0.1] * 2}
    )
    rings = [[line.get_gid() for line in axes.lines].count("best") for axes in figure.axes]
    held_out = [axes.get_legend().get_texts()[1].get_text() for axes in figure.axes]
    assert rings == [1, 0] and "best" in held_out[0] and held_out[1] == "validation: 10.00 % at the end"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.88, 0.96, r"\d\d %"), (0.98, 0.99, r"9[789]\.\d %"), (0.0, 1.0, r"-?\d+ %"), (0.991, 0.9915, r"99\.\d\d %")],
)
def test_percents_have_the_decimals_that_tell_ticks_apart(low, high, expected):
    (axes,) = plots.curves({"accuracy": [low, high]}).axes
    figure = axes.figure
    drawn(figure)
    said = [text.get_text() for text in axes.get_yticklabels()]
    assert len(said) > 3 and len(set(said)) == len(said) and all(re.fullmatch(expected, text) for text in said), said


def test_curves_of_one_epoch_show_points_and_no_best():
    figure = plots.curves({name: values[:1] for name, values in HISTORY.items()})
    for axes in figure.axes:
        assert axes.get_xticks().tolist() == [1] and not [line for line in axes.lines if line.get_gid() == "best"]
        assert all(line.get_marker() in "os" and line.get_markersize() >= 4 for line in axes.lines)
    pixels_ = drawn(figure)
    assert (pixels_ == BLUE).all(-1).sum() > 100 and (pixels_ == VERMILION).all(-1).sum() > 100


def test_curves_of_other_quantities_nan_and_large_ranges():
    figure = plots.curves(
        {"loss": [9000.0, 3.0], "val_loss": [np.nan, np.inf], "mae": [3, 2], "lr": [0.1, 0.01], "epoch": [5, 6]}
    )
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "mae", "lr", ""]
    assert figure.axes[0].get_yscale() == "log" and figure.axes[1].get_yscale() == "linear"
    rings = [[line.get_gid() for line in axes.lines].count("best") for axes in figure.axes]
    assert rings == [0, 1, 0, 0]  # no finite held-out loss; a learning rate is neither good nor bad
    drawn(figure)


@pytest.mark.parametrize("epochs", [7, 61])
def test_epochs_without_validation_do_not_break_the_curve(epochs):
    """As `fit(..., validation_freq=2)` leaves them, the last one too; beyond 60 epochs there are no markers."""
    every = np.arange(1.0, epochs + 1)
    val = np.where(every % 2 == 0, 1 + 1 / every, np.nan)
    figure = plots.curves({"loss": 1 / every, "val_loss": val, "mae": 1 / every, "val_mae": np.full(epochs, np.nan)})
    loss, mae = figure.axes
    training, held_out = [line for line in loss.lines if line.get_gid() != "best"]
    assert held_out.get_xdata().tolist() == every[1::2].tolist()
    assert held_out.get_ydata().tolist() == val[1::2].tolist() and len(training.get_xdata()) == epochs
    last = epochs - 1
    said = f"validation: {val[last - 1]:.4g} after epoch {last}; best {val[last - 1]:.4g}, epoch {last}"
    assert held_out.get_label() == said and training.get_label().endswith(" at the end")
    assert [line.get_label() for line in mae.lines][1:] == ["validation: no number"]
    vermilion = (drawn(figure) == VERMILION).all(-1)
    assert vermilion.any(axis=0).sum() > 200  # a line, not points


def test_curves_of_what_fit_gives(tmp_path):
    net = xconv.Sequential([Flatten(), Dense(2, activation="softmax")], input_shape=(2, 2, 1), backend="numpy")
    net.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    history = net.fit(np.zeros((4, 2, 2, 1)), [0, 1, 0, 1], epochs=2, verbose=0)
    assert [axes.get_ylabel() for axes in plots.curves(history).axes] == ["loss", "accuracy"]
    assert plots.save_curves(tmp_path / "c.png", history) is None


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ({}, ConfigError, "at least one epoch"),
        ({"loss": []}, ConfigError, "at least one epoch"),
        ({"epoch": [1]}, ConfigError, "at least one epoch"),
        ({"loss": [1, 2], "val_loss": [1]}, ShapeError, "val_loss: expected 2 values"),
        ({"loss": ["high"]}, ConfigError, "loss: expected one number an epoch"),
        ([1, 2], ConfigError, "expected what fit gives"),
    ],
)
def test_histories_that_cannot_be_drawn(history, error, message):
    with pytest.raises(error, match=message):
        plots.curves(history)


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


# ---------------------------------------------------------------------- predictions

P = np.array([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.999, 0.001, 0], [0.3, 0.3, 0.4], [0, 0, 1], [0.6, 0.4, 0]])
T = np.array([0, 1, 2, 0, 2, 1])  # 2, 3 and 5 are wrong
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 1), np.uint8)


def frames(figure):
    """(right or wrong, box in pixels from the top left) of each framed image, in the order of drawing."""
    pixels_ = drawn(figure)
    (axes,) = figure.axes
    out = []
    for patch in axes.patches:
        box = patch.get_window_extent()
        top = pixels_.shape[0] - box.y1
        out.append((patch.get_gid(), round(box.x0), round(top), round(box.x1), round(top + box.height)))
    return out, pixels_


def test_wrong_ones_come_first_in_vermilion_and_crossed():
    found, pixels_ = frames(plots.predictions(IMAGES, T, P, ["cat", "dog", "cow"], title="pets"))
    assert [kind for kind, *_ in found] == ["wrong"] * 3 + ["right"] * 3
    for kind, left, top, right, bottom in found:
        color, other = (VERMILION, BLUE) if kind == "wrong" else (BLUE, VERMILION)
        edge = pixels_[(top + bottom) // 2, left - 1 : left + 2]
        assert (edge == color).all(-1).any(), (kind, edge)
        label = pixels_[bottom + 4 : bottom + 40, left - 20 : right + 20].astype(int)
        near = np.abs(label - color).sum(-1) < 30
        assert near.sum() > 50 and not (np.abs(label - other).sum(-1) < 30).any()
    assert found[0][2] < found[3][2]  # a block above the other


def test_what_stands_below_each_image():
    figure = plots.predictions(IMAGES, T, P, ["cat", "dog", "cow"], title="pets")
    said = texts(figure)
    assert said[0] == "pets: 3 of 6 right (50.00 %)"
    assert "Wrong: all 3, those it was surest of first" in said and "Right: all 3" in said
    crossed = [text for text in said if text.startswith("✗")]
    assert crossed == ["✗ cat: 99.9 %", "✗ cat: 60 %", "✗ cow: 40 %"]
    assert [text for text in said if text.startswith("is ")] == ["is cow: 0 %", "is dog: 40 %", "is cat: 30 %"]
    assert [text for text in said if text.startswith("✓")] == ["✓ cat: 90 %", "✓ dog: 70 %", "✓ cow: 100 %"]


def test_the_images_are_those_of_the_answers():
    (axes,) = plots.predictions(IMAGES, T, P).axes
    assert [
        np.array_equal(i.get_array(), IMAGES[k, :, :, 0] / 255)
        for i, k in zip(axes.images, [2, 5, 3, 0, 1, 4], strict=True)
    ] == [True] * 6


@pytest.mark.parametrize("channels", [1, 3])
def test_formats_of_images_are_one(channels):
    raw = np.random.default_rng(2).integers(0, 256, (6, 4, 4, channels), np.uint8)
    forms = [(raw, "channels_last"), (raw.transpose(0, 3, 1, 2), "channels_first"), (raw / 255, "channels_last")]
    forms += [(raw[..., 0], "channels_last")] if channels == 1 else []
    shown = [drawn(plots.predictions(x, np.eye(3)[T], P, data_format=form)) for x, form in forms]
    assert all(np.array_equal(shown[0], other) for other in shown[1:])


def test_many_are_cut_half_and_half():
    n = 200
    p = np.full((n, 2), 0.25)
    p[:, 0] = 0.75
    t = np.arange(n) % 2
    figure = plots.predictions(np.zeros((n, 2, 2)), t, p, most=10)
    assert [patch.get_gid() for patch in figure.axes[0].patches] == ["wrong"] * 5 + ["right"] * 5
    assert "Wrong: 5 of 100, those it was surest of first" in texts(figure)
    assert "Right: 5 of 100, taken evenly from the set" in texts(figure)
    all_right = plots.predictions(np.zeros((n, 2, 2)), np.zeros(n, int), p, most=10)
    assert [patch.get_gid() for patch in all_right.axes[0].patches] == ["right"] * 10
    all_wrong = plots.predictions(np.zeros((n, 2, 2)), np.ones(n, int), p, most=10)
    assert [patch.get_gid() for patch in all_wrong.axes[0].patches] == ["wrong"] * 10


def test_hostile_and_long_names_are_drawn_as_they_are():
    names = ["$x_$ \\frac{", "a name\nof two lines that is too long", "%s & <b>"]
    for figure in (plots.predictions(IMAGES, T, P, names, title="$"), plots.confusion(T, P, names, title="$\\")):
        drawn(figure)
    assert any(text.startswith("✗ $x_$ \\frac{: ") for text in texts(plots.predictions(IMAGES, T, P, names)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES[:5]}, ShapeError, r"probabilities \(5, classes\)"),
        ({"images": np.zeros((6, 5, 5, 2))}, ShapeError, "1, 3 or 4 channels"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, ShapeError, 'give data_format="channels_first"'),
        ({"images": IMAGES.astype(int) + 300}, DataError, "0 to 255"),
        ({"images": IMAGES[:0]}, DataError, "at least one image"),
        ({"truth": T + 1}, DataError, "labels from 0 to 2"),
        ({"truth": T[:5]}, ShapeError, "one label for each of 6"),
        ({"probabilities": P * 2}, DataError, "give logits through a softmax"),
        ({"probabilities": P - 0.1}, DataError, "rows of numbers >= 0"),
        ({"classes": ["a", "b"]}, ConfigError, "to name 3 classes. Received: 2 names"),
        ({"classes": "abc"}, ConfigError, "to name 3 classes"),
        ({"most": 0}, ConfigError, "most"),
        ({"data_format": "NHWC"}, ConfigError, "data_format"),
    ],
)
def test_predictions_that_cannot_be_drawn(change, error, message):
    given = {"images": IMAGES.astype(int), "truth": T, "probabilities": P, **change}
    with pytest.raises(error, match=message):
        plots.predictions(**given)


def test_logits_become_probabilities():
    logits = np.array([[1000.0, 0, 0], [1, 2, 3]])
    p = plots.as_probabilities(logits)
    assert p[0].tolist() == [1, 0, 0] and p[1] == pytest.approx(np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())
    assert np.array_equal(plots.as_probabilities(P), P)
    with pytest.raises(ShapeError, match="tells classes apart"):
        plots.as_probabilities(np.zeros((3, 1)))


# ---------------------------------------------------------------------- confusion


def test_the_matrix_counts_and_its_recall():
    truth, said = [0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 1, 2, 2, 0, 2]
    figure = plots.confusion(truth, said, ["a", "b", "c", "d"])
    matrix = figure.axes[0]
    cells = {text.get_gid(): text.get_text() for text in matrix.texts}
    assert cells == {"0,0": "2", "0,1": "1", "1,1": "2", "2,0": "1", "2,2": "3"}
    assert (matrix.get_xlabel(), matrix.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["a", "b", "c", "d"]
    said_of = [text for text in texts(figure) if text.endswith(" %") and "." in text and "right" not in text]
    assert {"66.7 %", "100.0 %", "75.0 %"} <= set(said_of) and "no images" in texts(figure)
    assert "7 of 9 right (77.78 %)" in texts(figure)


def test_right_answers_are_blue_and_mistakes_vermilion():
    figure = plots.confusion([0] * 9 + [1] * 10, [0] * 9 + [1] * 9 + [0])
    pixels_ = drawn(figure)
    matrix = figure.axes[0]

    def cell(i, j):
        x, y = matrix.transData.transform((j + 0.35, i + 0.35))
        return pixels_[int(pixels_.shape[0] - y), int(x)].astype(int)

    assert np.abs(cell(0, 0) - BLUE).sum() < 10 and np.abs(cell(1, 0) - VERMILION).sum() < 10  # few among many are seen
    assert cell(0, 1).tolist() == [255, 255, 255]


def test_a_hundred_classes_have_no_numbers():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 100, 2000)
    figure = plots.confusion(truth, np.where(rng.random(2000) < 0.5, truth, 7), [f"class {k}" for k in range(100)])
    matrix = figure.axes[0]
    assert not matrix.texts and len(matrix.get_yticklabels()) == 100
    height = matrix.get_position().height * figure.get_figheight() * 72 / 100
    assert 5 <= matrix.get_yticklabels()[0].get_fontsize() < height  # points: legible, and no row on its neighbour
    with pytest.raises(ConfigError, match=r"at most 100 classes\. Received: 101"):
        plots.confusion([0, 100], [0, 0])


@pytest.mark.parametrize(
    ("truth", "said", "classes", "error"),
    [
        ([0, 1], [0], None, ShapeError),
        ([], [], None, ShapeError),
        ([0.5], [0], None, XconvError),
        ([0, 3], [0, 1], ["a", "b"], DataError),
        ([-1], [0], None, DataError),
        ([0], np.ones((1, 3)), ["a"], ConfigError),
    ],
)
def test_matrices_that_cannot_be_drawn(truth, said, classes, error):
    with pytest.raises(error, match="Received: "):
        plots.confusion(truth, said, classes)


# ---------------------------------------------------------------------- pieces, files


def test_pixels_beyond_their_range_are_stretched_by_one_scale():
    x = np.array([[[-2.0, 0.0]], [[1.0, 2.0]]])
    assert pixels(x, "channels_last", "x").tolist() == [[[0, 0.5]], [[0.75, 1]]]
    assert (pixels(np.full((1, 2, 2), 7.0), "channels_last", "x") == 0.5).all()


def test_a_mosaic_of_large_and_small_tiles():
    small = mosaic(np.arange(3.0).reshape(3, 1, 1) * np.ones((3, 2, 2)), 2)
    assert small.shape == (14 * 2 + 1, 14 * 2 + 1)
    assert small[0, 0] == 0 and small[0, 15] == 1 and small[15, 0] == 2
    assert np.isnan(small[14]).all() and np.isnan(small[15:, 15:]).all()
    large = mosaic(np.arange(448 * 448.0).reshape(1, 448, 448), 1)
    assert large.shape == (56, 56) and large.mean() == pytest.approx((448 * 448 - 1) / 2)


def test_a_mosaic_of_long_thin_tiles_shows_them():
    """A spectrogram's last maps, say: two rows of 300 become one of 60, each the mean of 2 x 5."""
    tiles = np.arange(2 * 2 * 300.0).reshape(2, 2, 300)
    means = tiles.reshape(2, 2, 60, 5).mean(axis=(1, 3))
    for turned in (False, True):
        shown = mosaic(tiles.transpose(0, 2, 1) if turned else tiles, 2 if turned else 1)
        shown = shown.T if turned else shown
        assert shown.shape == (1 + 4 + 1, 60) and np.array_equal(shown[[0, -1]], means)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (1e-9, "<0.1 %"),
        (1 - 1e-9, ">99.9 %"),
        (0.031, "3.1 %"),
        (0.5, "50 %"),
        (0.994, "99.4 %"),
    ],
)
def test_shares_are_never_rounded_to_never_or_always(share, said):
    assert percent(share) == said


@pytest.mark.parametrize(
    ("name", "start"), [("c.png", b"\x89PNG"), ("c", b"\x89PNG"), ("c.svg", b"<?xml"), ("c.pdf", b"%PDF")]
)
def test_the_suffix_names_the_format(tmp_path, name, start):
    plots.save_curves(tmp_path / name, HISTORY)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert os.listdir(tmp_path) == [name]


def test_a_picture_is_sharp_and_whole(tmp_path):
    plots.save_confusion(tmp_path / "matrix.png", T, P, ["a very long name of a class", "b", "c"])
    plots.save_filters(
        tmp_path / "filters.png", np.random.default_rng(0).normal(size=(20, 5, 7, 7))
    )  # taller than wide
    for name in ("matrix.png", "filters.png"):
        with Image.open(tmp_path / name) as image:
            assert image.info["dpi"] == pytest.approx((150, 150), abs=1)
            shown = np.asarray(image.convert("L"))
        assert min(edge.min() for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1])) == 255, (
            name
        )  # nothing cut off


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    (tmp_path / "c.png").write_text("before")
    with pytest.raises(ConfigError, match="expected at least one epoch"):
        plots.save_curves(tmp_path / "c.png", {})
    with pytest.raises(ConfigError, match=r"expected a picture's suffix.*Received: '\.docx'"):
        plots.save_curves(tmp_path / "c.docx", HISTORY)
    monkeypatch.setattr("xconv.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(FileError, match="the disk is full"):
        plots.save_curves(tmp_path / "c.png", HISTORY)
    assert os.listdir(tmp_path) == ["c.png"] and (tmp_path / "c.png").read_text() == "before"
    with pytest.raises(FileError, match="no such folder"):
        plots.save_curves(tmp_path / "nowhere" / "c.png", HISTORY)


def test_without_matplotlib_the_cure_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'xconv\[plot\]'"):
        plots.curves(HISTORY)


def test_every_picture_is_a_figure_or_a_file():
    for name in ("curves", "filters", "feature_maps", "predictions", "confusion"):
        draw, save = getattr(plots, name), getattr(plots, f"save_{name}")
        assert list(inspect.signature(save).parameters) == ["path", *inspect.signature(draw).parameters]
        assert save.__name__ == f"save_{name}" and name in save.__doc__
