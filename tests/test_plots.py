"""Pictures: curves, the pieces that all are made of, and their files."""

from __future__ import annotations

import inspect
import os
import re

import numpy as np
import pytest
from PIL import Image

import xconv
from tests.drawn import BLUE, VERMILION, drawn, texts
from xconv import plots
from xconv.errors import ConfigError, FileError, ShapeError
from xconv.layers import Dense, Flatten
from xconv.plots.drawing import mosaic, percent, pixels

pytest.importorskip("matplotlib")
HISTORY = {
    "loss": [2.0, 1.0, 0.5, 0.4],
    "accuracy": [0.2, 0.5, 0.8, 0.9],
    "val_loss": [1.9, 1.2, 0.6, 0.7],
    "val_accuracy": [0.3, 0.6, 0.75, 0.7],
}


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
    truth, said = np.array([0, 1, 2, 0, 2, 1]), np.eye(3)[[0, 1, 0, 2, 2, 0]]
    plots.save_confusion(tmp_path / "matrix.png", truth, said, ["a very long name of a class", "b", "c"])
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
