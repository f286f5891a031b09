"""What all pictures share: figures without pyplot, files, colours, images as pixels, and tiles in rows."""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np

from xconv import checks
from xconv.errors import ConfigError, DataError, ShapeError, described
from xconv.files import replacing
from xconv.shapes import data_format_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILION = "#0072b2", "#d55e00"  # told apart by all eyes (Okabe and Ito 2008), and in grey
INK, PALE = "#3c4043", "#9aa0a6"
DPI = 150
_LETTER = 0.09  # inches of a title's letter, a wide one
_FINE = 14  # the least pixels of a tile
P = ParamSpec("P")


def figure(width: float, height: float, title: str = "", layout: str | None = "constrained") -> Figure:
    """An empty figure of that many inches, its title in as many lines as it needs."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no global state
    except ImportError as error:
        broken = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise ImportError(f"pictures need matplotlib: pip install 'xconv[plot]'{broken}") from error
    made = Figure(figsize=(width, height), dpi=DPI, layout=layout)  # type: ignore[arg-type]
    if title:
        lines = textwrap.fill(plain(title), int(width / _LETTER))
        made.suptitle(lines, fontsize=11, parse_math=False)
    return made


def saving(draw: Callable[P, Figure]) -> Callable[Concatenate[str | os.PathLike[str], P], None]:
    """The function that writes what `draw` gives to a file: its arguments are a path and those of `draw`."""

    def save(path: str | os.PathLike[str], /, *args: P.args, **settings: P.kwargs) -> None:
        made = draw(*args, **settings)
        known = made.canvas.get_supported_filetypes()
        suffix = Path(path).suffix[1:].lower() or "png"
        if suffix not in known:
            raise ConfigError(
                f"{os.fspath(path)}: expected a picture's suffix, such as .png, .svg or .pdf. Received: '.{suffix}'"
            )
        with replacing(path) as part:
            made.savefig(part, format=suffix, dpi=DPI, bbox_inches="tight", pad_inches=0.12)

    save.__name__ = save.__qualname__ = f"save_{draw.__name__}"
    save.__module__ = draw.__module__
    first, _, rest = (draw.__doc__ or "").partition("\n")
    save.__doc__ = f"`{draw.__name__}` in the file `path`, which appears whole or not at all: {first}\n{rest}"
    signature = inspect.signature(draw)
    path = inspect.Parameter("path", inspect.Parameter.POSITIONAL_ONLY, annotation="str | os.PathLike[str]")
    parameters = [path, *signature.parameters.values()]
    save.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    return save


def plain(text: Any, longest: int | None = None) -> str:
    """A text on one line, cut to `longest` characters. (Texts are drawn with parse_math=False: a $ is a $.)"""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if longest is None or len(line) <= longest else line[: longest - 1].rstrip() + "…"


def percent(share: float) -> str:
    """Of a share from 0 to 1, without rounding to "never" or "always" what is not."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.{0 if 0.0995 <= share < 0.985 or share in (0, 1) else 1}f} %"


def pixels(images: Any, data_format: str, what: str) -> np.ndarray:
    """Images as matplotlib takes them, float [N,H,W,3] (or 4) or grey [N,H,W], from 0 to 1.

    They come as [N,H,W], or with channels, first or last as `data_format` says: 1, 3 or 4 of them. Whole numbers are
    bytes, from 0 to 255; other numbers are taken as they are where all lie in 0 to 1, and else stretched, all by the
    same scale, from the least to the most.
    """
    x = checks.host_array(images, what)
    last = data_format_name(data_format, what) == "channels_last"
    channels = None if x.ndim != 4 else x.shape[-1 if last else 1]
    if x.ndim not in (3, 4) or channels not in (None, 1, 3, 4):
        guess = ""
        if x.ndim == 4 and x.shape[1 if last else -1] in (1, 3, 4):
            guess = f'; give data_format="channels_{"first" if last else "last"}"'
        shape = "N, H, W, C" if last else "N, C, H, W"
        raise ShapeError(
            f"{what}: expected images ({shape}) of 1, 3 or 4 channels, or (N, H, W){guess}. Received: {described(x)}"
        )
    if 0 in x.shape:
        raise DataError(f"{what}: expected at least one image. Received: {described(x)}")
    checks.finite(x, what)
    if channels is not None:
        x = x if last else x.transpose(0, 2, 3, 1)
        x = x[..., 0] if channels == 1 else x
    low, high = float(x.min()), float(x.max())
    if x.dtype.kind in "ui":
        if low < 0 or high > 255:
            raise DataError(
                f"{what}: expected whole numbers from 0 to 255, or floats. Received: whole numbers from {low:g} "
                f"to {high:g}"
            )
        return x / 255
    x = x.astype(np.float64)
    if low >= 0 and high <= 1:
        return x
    return (x - low) / (high - low) if high > low else np.full_like(x, 0.5)


def mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles [N,H,W] in rows with a gap between them: one image, NaN where there is no tile.

    Of RGB tiles [N,H,W,3] one with a fourth channel, 0 where there is no tile. Tiles so large that no screen would show
    each pixel are reduced by averaging first.
    """
    n, height, width, *rgb = tiles.shape
    shrink = max(height, width) // 56
    if shrink > 1:
        down, across = min(shrink, height), min(shrink, width)  # of a map of 2x300, too, something is left
        h, w = height // down * down, width // across * across
        parts = tiles[:, :h, :w].reshape(n, h // down, down, w // across, across, *rgb)
        tiles = parts.mean(axis=(2, 4))
        n, height, width, *rgb = tiles.shape
    if (grown := -(-_FINE // max(height, width))) > 1:  # so that gaps are narrow beside them
        tiles = tiles.repeat(grown, axis=1).repeat(grown, axis=2)
        n, height, width, *rgb = tiles.shape
    gap = max(1, round(max(height, width) / _FINE))
    rows = -(-n // columns)
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *rgb), np.nan)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        whole[y : y + height, x : x + width] = tile
    if not rgb:
        return whole
    there = ~np.isnan(whole[..., :1])
    return np.concatenate([np.nan_to_num(whole), there], axis=-1)


def class_names(classes: Sequence[Any] | None, count: int, what: str) -> list[str]:
    """`count` names: those given, of which there may be more, else the numbers."""
    if classes is None:
        return [str(k) for k in range(count)]
    if isinstance(classes, str) or not isinstance(classes, Sequence) or len(classes) < count:
        raise ConfigError(
            f"{what}: expected classes to name {count} classes. Received: "
            + (f"{len(classes)} names" if isinstance(classes, list | tuple) else described(classes))
        )
    return [plain(name) for name in classes[:count]]
