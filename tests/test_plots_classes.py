"""Pictures of answers: predictions and the confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest

from tests.drawn import BLUE, VERMILION, drawn, texts
from xconv import plots
from xconv.errors import ConfigError, DataError, ShapeError, XconvError

pytest.importorskip("matplotlib")


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
