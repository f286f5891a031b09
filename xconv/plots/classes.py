"""What a network says of images, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv import checks
from xconv.errors import ConfigError, DataError, ShapeError, described
from xconv.plots.drawing import BLUE, INK, PALE, VERMILION, class_names, figure, percent, pixels, plain
from xconv.shapes import positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERED = 30  # classes up to which a confusion matrix has its counts written into it
_MOST_CLASSES = 100
_NAME = 12  # characters of a class's name beside a picture

# ---------------------------------------------------------------------- predictions


def predictions(
    images: Any,
    truth: Any,
    probabilities: Any,
    classes: Sequence[Any] | None = None,
    *,
    most: int = 32,
    title: str = "",
    data_format: str = "channels_last",
) -> Figure:
    """A grid of images with what the network takes them for: first the mistakes of which it was surest, then hits.

    Half of the `most` images are wrong ones, where there are so many, framed in vermilion, crossed and with both
    classes' probabilities; the rest are right ones, taken evenly from the set, in blue and ticked. `images` are
    [N,H,W,C], [N,C,H,W] or [N,H,W], bytes or floats; `truth` labels [N] or one-hot; `probabilities` [N,K], rows that
    sum to 1. DataError, ShapeError or ConfigError where these do not fit.
    """
    x = pixels(images, data_format, "predictions: images")
    p = _probabilities(probabilities, len(x))
    t = checks.labels(truth, len(x), p.shape[1], "predictions: truth")
    names = class_names(classes, p.shape[1], "predictions")
    most = positive(most, "predictions: most")
    said = p.argmax(axis=1)
    wrong, right = np.flatnonzero(said != t), np.flatnonzero(said == t)
    wrong = wrong[np.argsort(-p[wrong, said[wrong]], kind="stable")]
    shown = wrong[: max(most // 2, most - len(right))]
    rest = min(len(right), most - len(shown))
    evenly = right[np.arange(rest) * len(right) // max(rest, 1)]
    heading = f"{len(right):,} of {len(x):,} right ({_accuracy(len(right), len(x))})"
    blocks = []
    if len(shown):
        which = f"{len(shown)} of {len(wrong):,}" if len(shown) < len(wrong) else f"all {len(wrong):,}"
        blocks.append((f"Wrong: {which}, those it was surest of first", shown))
    if rest:
        which = f"{rest} of {len(right):,}, taken evenly from the set" if rest < len(right) else f"all {len(right):,}"
        blocks.append((f"Right: {which}", evenly))
    return _grid(blocks, x, t, said, p, names, ": ".join(part for part in (plain(title), heading) if part))


def _grid(
    blocks: list[tuple[str, np.ndarray]],
    x: np.ndarray,
    t: np.ndarray,
    said: np.ndarray,
    p: np.ndarray,
    names: list[str],
    title: str,
) -> Figure:
    """One set of axes whose units are inches, which is much quicker than axes for each image."""
    from matplotlib.patches import Rectangle

    labels = {i: _labels(names, p[i], said[i], t[i]) for _, which in blocks for i in which}
    columns = 8 if max(len(line) for both in labels.values() for line in both) <= 13 else 6
    step, head, top, side = 9.4 / columns, 0.34, 0.42, 0.1
    picture = step - 0.22
    lines = [(-(-len(which) // columns), picture + (0.3 if (said == t)[which[0]] else 0.45)) for _, which in blocks]
    width = columns * step + 2 * side
    height = top + sum(head + n * line for n, line in lines)
    made = figure(width, height, layout=None)
    axes = made.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(side + 0.1, 0.24, title, fontsize=12, va="center", parse_math=False, gid="title")
    y = top
    for (heading, which), (rows, line) in zip(blocks, lines, strict=True):
        axes.text(side + 0.1, y + 0.16, heading, fontsize=10, va="center", weight="bold", color=INK, parse_math=False)
        y += head
        for k, i in enumerate(which):
            left, above = side + k % columns * step + (step - picture) / 2, y + k // columns * line
            good = said[i] == t[i]
            color = BLUE if good else VERMILION
            box = (left, left + picture, above + picture, above)
            axes.imshow(x[i], cmap="gray", vmin=0, vmax=1, extent=box, interpolation="nearest", aspect="auto")
            frame = Rectangle(
                (left, above), picture, picture, fill=False, edgecolor=color, linewidth=1.2 if good else 3,
                gid="right" if good else "wrong",
            )  # fmt: skip
            axes.add_patch(frame)
            below: dict[str, Any] = {"fontsize": 8, "ha": "center", "va": "top", "parse_math": False}
            middle, (answer, was) = left + picture / 2, labels[i]
            axes.text(middle, above + picture + 0.05, answer, color=color, weight="bold", **below)
            axes.text(middle, above + picture + 0.2, was, color=INK, **below)
        y += rows * line
    axes.set(xlim=(0, width), ylim=(height, 0))
    return made


def _labels(names: list[str], p: np.ndarray, said: int, true: int) -> tuple[str, str]:
    """What stands below an image: the answer, and where that is wrong the truth, with their probabilities."""
    mark, answer = "✓" if said == true else "✗", plain(names[said], _NAME)
    was = "" if said == true else f"is {plain(names[true], _NAME)}: {percent(p[true])}"
    return f"{mark} {answer}: {percent(p[said])}", was


def as_probabilities(outputs: Any, what: str = "as_probabilities") -> np.ndarray:
    """A network's outputs [N,K] as probabilities: through a softmax, unless the rows are probabilities already."""
    y = checks.host_array(outputs, what)
    if y.ndim != 2 or y.shape[1] < 2:
        raise ShapeError(f"{what}: expected a network that tells classes apart. Received: outputs {y.shape[1:]}")
    y = y.astype(np.float64)
    if (y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3):
        return y
    e = np.exp(y - y.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _probabilities(given: Any, n: int) -> np.ndarray:
    p = checks.host_array(given, "predictions: probabilities")
    if p.ndim != 2 or len(p) != n or p.shape[1] < 2:
        raise ShapeError(f"predictions: expected probabilities ({n}, classes). Received: {described(p)}")
    checks.finite(p, "predictions: probabilities")
    off = np.abs(p.sum(axis=1, dtype=np.float64) - 1) > 1e-3
    if (p < 0).any() or off.any():
        i = checks.first((p < 0).any(axis=1) | off)
        raise DataError(
            "predictions: expected probabilities, rows of numbers >= 0 whose sum is 1; give logits through a softmax "
            f"first. Received: {described(p[i].tolist())} at index {i}"
        )
    return p.astype(np.float64)


def _accuracy(right: int, n: int) -> str:
    return f"{100 * right / n:.2f} %"


# ---------------------------------------------------------------------- confusion


def confusion(truth: Any, predicted: Any, classes: Sequence[Any] | None = None, *, title: str = "") -> Figure:
    """The confusion matrix: how many of each class, a row each, were taken for which, a column each.

    Right answers are blue, by the share of the class; mistakes are vermilion, by their share beside the largest one, so
    that few among many are seen. Beside it each class's recall, the share of its images that was recognised. `truth`
    and `predicted` are labels [N]; `predicted` may be probabilities [N,K]. Counts are written up to 30 classes;
    ConfigError above 100.
    """
    t, said, count = _pair(truth, predicted, classes)
    names = class_names(classes, count, "confusion")
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (t, said), 1)
    of_class = counts.sum(axis=1)
    share = counts / np.maximum(of_class, 1)[:, None]
    mistakes = ~np.eye(count, dtype=bool)
    largest = max(float(share[mistakes].max()), 1e-9)
    numbered = count <= _NUMBERED
    size = max(4.6, 0.52 * count) if numbered else max(8.2, 0.11 * count)
    heading = f"{np.trace(counts):,} of {len(t):,} right ({_accuracy(int(np.trace(counts)), len(t))})"
    made = figure(size + 3.7, size + 1.0, ": ".join(part for part in (plain(title), heading) if part))
    matrix = made.subplots()
    bars = matrix.inset_axes((1.03, 0, 1.3 / size, 1), sharey=matrix)  # so that its rows are the matrix's
    matrix.imshow(np.ma.masked_array(share, mistakes), cmap=_shades(BLUE), vmin=0, vmax=1, interpolation="nearest")
    red = matrix.imshow(
        np.ma.masked_array(share, ~mistakes | (counts == 0)), cmap=_shades(VERMILION), vmin=0, vmax=largest,
        interpolation="nearest",
    )  # fmt: skip
    if numbered:
        _write_counts(matrix, counts, share, largest)
    small = 9 if numbered else min(9, 0.76 * 72 * size / count)  # points, of the height of a row
    ticks = [plain(name, 18) for name in names]
    turned = any(len(name) > 2 for name in ticks) or not numbered
    matrix.set_xticks(range(count), ticks, fontsize=small, parse_math=False, rotation=90 if turned else 0)
    matrix.set_yticks(range(count), ticks, fontsize=small, parse_math=False)
    matrix.set_xlabel("predicted")
    matrix.set_ylabel("true")
    matrix.spines[:].set_color(PALE)
    matrix.tick_params(length=0)
    recall = np.where(of_class > 0, np.diag(share), np.nan)
    bars.barh(range(count), np.nan_to_num(recall), color=BLUE, height=0.75)
    for k in range(count) if numbered else ():
        said_of_it = "no images" if of_class[k] == 0 else f"{100 * recall[k]:.1f} %"
        bars.text(1.04, k, said_of_it, va="center", fontsize=9)
    bars.set_xlim(0, 1)
    bars.set_xticks([0, 1], ["0", "100 %"])
    bars.set_xlabel("recall")
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(axis="y", length=0, labelleft=False)
    beside = matrix.inset_axes((1.03 + (2.15 if numbered else 1.55) / size, 0.2, 0.16 / size, 0.6))
    shades = made.colorbar(red, cax=beside)
    shades.set_label("mistakes: share of the true class")
    shades.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    return made


def _write_counts(axes: Axes, counts: np.ndarray, share: np.ndarray, largest: float) -> None:
    for i, j in zip(*np.nonzero(counts), strict=True):
        dark = share[i, j] > (0.65 if i == j else 0.75 * largest)
        axes.text(
            j, i, f"{counts[i, j]:,}", ha="center", va="center", color="white" if dark else INK,
            fontsize=9 if counts.max() < 10_000 else 7, gid=f"{i},{j}",
        )  # fmt: skip


def _shades(color: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(color, ["white", color])


def _pair(truth: Any, predicted: Any, classes: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray, int]:
    """(truth, predicted) as labels, and how many classes there are."""
    t, said = (checks.host_array(a, f"confusion: {what}") for a, what in ((truth, "truth"), (predicted, "predicted")))
    named = 0 if classes is None else len(classes)
    wide = [a.shape[1] for a in (t, said) if a.ndim == 2]
    if said.ndim == 2 and said.dtype.kind == "f":
        checks.finite(said, "confusion: predicted")
        said = said.argmax(axis=1)
    if t.ndim == 2:
        t = checks.labels(t, len(t), t.shape[1], "confusion: truth")
    for a, what in ((t, "truth"), (said, "predicted")):
        if a.ndim != 1 or a.dtype.kind not in "ui":
            raise ShapeError(f"confusion: {what}: expected integer labels (N,). Received: {described(a)}")
    if len(t) != len(said) or not len(t):
        raise ShapeError(
            f"confusion: expected as many predicted as true labels, and some. Received: {len(said)} and {len(t)}"
        )
    count = max([named, *wide]) or int(max(t.max(), said.max())) + 1
    count = max(count, 2)
    if count > _MOST_CLASSES:
        raise ConfigError(f"confusion: expected at most {_MOST_CLASSES} classes. Received: {count}")
    return (
        checks.in_range(t, count, "confusion: truth"),
        checks.in_range(said, count, "confusion: predicted"),
        count,
    )
