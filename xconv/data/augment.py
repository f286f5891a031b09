"""Augmentation: training pictures mirrored, moved, turned and cut anew in each epoch, drawn from Philox."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from xconv import checks, streams
from xconv.backend import Array, Backend
from xconv.errors import ConfigError, DTypeError, ShapeError, described
from xconv.shapes import Pair, data_format_name, positive

ONE = 1 << 16  # 1 in fixed point: of a pixel, a degree or a factor
LARGEST = 1 << 14  # pixels of a side: draws have 32 bits
BLOCK = 1 << 10  # pictures that are drawn for at once
_QUARTER = 90 * ONE
_FINE = 30  # bits behind the point of sine and cosine while they are worked out
_RADIANS = round(math.pi / 180 * 2 ** (_FINE - 16 + 32))  # 65536ths of a degree to radians, 32 bits finer


class Draws(NamedTuple):
    """What was drawn for each of N pictures: integers, int64[N] each."""

    mirrored: np.ndarray  # 1 or 0
    down: np.ndarray  # where the window of a padded picture lies, in pixels from the middle
    along: np.ndarray
    angle: np.ndarray  # anticlockwise, in 65536ths of a degree
    zoom: np.ndarray  # 65536ths of a pixel of the old picture to a pixel of the new one
    shift_down: np.ndarray  # by which the content moves, in 65536ths of a pixel
    shift_along: np.ndarray
    cut_row: np.ndarray  # the middle of what is cut out, in pixels
    cut_column: np.ndarray

    def maps(self, size: Pair, cutout: int = 0) -> np.ndarray:
        """As Backend.warp_affine takes them, int64[N,10], for pictures of `size` (height, width)."""
        h, w = size
        cos, sin = (value * self.zoom >> 16 for value in cos_sin(self.angle))
        # From a pixel of y to the middle of the picture, there turned, zoomed and moved, and back to a pixel of x.
        down = ONE * self.down - self.shift_down - (h - 1) * (ONE // 2)
        along = ONE * self.along - self.shift_along - (w - 1) * (ONE // 2)
        tx = (w - 1) * (ONE // 2) + _product(cos, along, -sin, down)
        ty = (h - 1) * (ONE // 2) + _product(sin, along, cos, down)
        ax, ay = np.where(self.mirrored, -cos, cos), np.where(self.mirrored, -sin, sin)
        tx, ty = tx + self.mirrored * cos * (w - 1), ty + self.mirrored * sin * (w - 1)
        top, left = self.cut_row - cutout // 2, self.cut_column - cutout // 2
        box = top, top + cutout, left, left + cutout
        return np.stack([ax, -sin, tx, ay, cos, ty, *box], axis=1)


@dataclass(frozen=True, repr=False)
class Augmentation:
    """Training pictures changed at random, anew in each epoch: what `fit(augmentation=...)` takes.

        Augmentation(flip=True, crop=4)                            # CIFAR-10, as He et al. 2015
        Augmentation(rotate=10, shift=0.1, zoom=0.1, fill="edge")  # digits

    Validation and prediction see pictures as they are, and a model that is saved knows nothing of this; Keras has
    layers, RandomFlip and so on, in its models instead. A picture keeps its size. What is drawn for one depends on the
    model's seed, the epoch and the picture's place in the epoch's order, not on backend or batch size: integers from
    Philox, in fixed point. Pictures of bytes, and of floats, come out the same to the bit on every backend
    (`Backend.warp_affine`). A run that is resumed draws what it would have drawn.

    In this order, whatever is asked for: turned and zoomed about the middle, shifted, cropped, mirrored, cut out. One
    bilinear step does it all, and whole pixels stay the very pixels.

    Args:
        flip: mirrored left to right in half of all cases.
        crop: a window of the old size out of the picture with so many pixels of padding on each side, all
            (2 crop + 1)^2 windows alike (He et al. 2015, section 4.2: 4 on CIFAR-10).
        rotate: turned by an angle from -rotate to rotate, in degrees, at most 180 (Keras's rotation_range).
        shift: moved by up to this part of the size, each way and along each axis by itself (Keras's height_shift_range
            and width_shift_range); a number, or (height, width).
        zoom: made larger or smaller: a pixel shows what from 1 - zoom to 1 + zoom pixels showed, < 1 (Keras's
            zoom_range, with one factor for both axes).
        cutout: side in pixels of a square that is filled; its middle is anywhere in the picture, so the square may
            stick out (DeVries and Taylor 2017).
        fill: what lies outside the picture and in what is cut out: a number, or one for each channel, in the picture's
            own units, which are 0 to 255 for bytes; "edge" takes the nearest pixel, and 0 for what is cut out.
    """

    flip: bool = False
    crop: int = 0
    rotate: float = 0.0
    shift: float | tuple[float, float] = 0.0
    zoom: float = 0.0
    cutout: int = 0
    fill: str | float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        what = "augmentation"
        if not isinstance(self.flip, bool | np.bool_):
            raise ConfigError(f"{what}: flip must be True or False. Received: {described(self.flip)}")
        for name, value in {
            "flip": bool(self.flip),
            "crop": positive(self.crop, f"{what}: crop", 0),
            "rotate": checks.number(self.rotate, f"{what}: rotate", 0.0, 180.0),
            "shift": _shift(self.shift, f"{what}: shift"),
            "zoom": checks.number(self.zoom, f"{what}: zoom", 0.0, 0.99),
            "cutout": positive(self.cutout, f"{what}: cutout", 0),
            "fill": _fill(self.fill, f"{what}: fill"),
        }.items():
            object.__setattr__(self, name, value)

    def __call__(
        self, backend: Backend, x: Array, *, seed: int, epoch: int, first: int, data_format: str = "channels_last"
    ) -> Array:
        """A batch x of uint8, float32 or float64 pictures on `backend`, changed -> a new array of shape and dtype of x.

        `epoch` counts from 1; `first` is the place of x[0] in the epoch's order.
        """
        last = data_format_name(data_format, "augmentation") == "channels_last"
        self.check(x.shape[1:], x.dtype, data_format)
        h, w, c = x.shape[1:] if last else (*x.shape[2:], x.shape[1])
        maps = self._maps(streams.check_seed(seed), epoch, first, len(x), (h, w))
        fill = np.full(c, 0.0 if self.fill == "edge" else self.fill, x.dtype)
        return backend.warp_affine(x, maps, fill, self.fill == "edge", last)

    def draws(self, seed: int, epoch: int, first: int, count: int, image_shape: Sequence[int]) -> Draws:
        """What is drawn for places first .. first + count of an epoch's order; `image_shape` begins (height, width).

        A number from 0 to m - 1 is a word of 32 bits times m over 2**32, rounded down: of all numbers none is more
        likely than another by more than m in 2**32.
        """
        h, w = image_shape[:2]
        words = streams.augment_words(streams.check_seed(seed), epoch, first, count).T.astype(np.uint64)

        def below(word: int, m: int) -> np.ndarray:
            return (words[word] * np.uint64(m) >> np.uint64(32)).astype(np.int64)

        def around(word: int, most: int) -> np.ndarray:
            return below(word, 2 * most + 1) - most

        rows, columns = self.shift if isinstance(self.shift, tuple) else (self.shift, self.shift)
        return Draws(
            mirrored=below(0, 2 if self.flip else 1),
            down=around(1, self.crop),
            along=around(2, self.crop),
            angle=around(3, round(self.rotate * ONE)),
            zoom=ONE + around(4, round(self.zoom * ONE)),
            shift_down=around(5, round(rows * h * ONE)),
            shift_along=around(6, round(columns * w * ONE)),
            cut_row=below(7, h),
            cut_column=below(8, w),
        )

    def _maps(self, seed: int, epoch: int, first: int, count: int, size: Pair) -> np.ndarray:
        """As Backend.warp_affine takes them, for places first .. first + count of an epoch's order."""
        if type(self) is not Augmentation:  # of a class of one's own two that are equal may still draw otherwise
            return self.draws(seed, epoch, first, count, size).maps(size, self.cutout)
        first = int(first)
        begin = first // BLOCK
        end = max(begin + 1, -(-(first + count) // BLOCK))
        blocks = [_block(self, seed, epoch, block, size) for block in range(begin, end)]
        return np.concatenate(blocks)[first - begin * BLOCK :][:count]

    def check(self, shape: Sequence[int], dtype: Any, data_format: str = "channels_last") -> None:
        """An error unless this can be done to pictures of that shape, the user's, without the batch axis."""
        axes = "height, width, channels" if data_format == "channels_last" else "channels, height, width"
        if len(shape) != 3:
            raise ShapeError(f"augmentation: expected pictures of shape ({axes}). Received: shape {tuple(shape)}")
        h, w, c = shape if data_format == "channels_last" else (*shape[1:], shape[0])
        if not (1 <= h <= LARGEST and 1 <= w <= LARGEST):
            raise ShapeError(
                f"augmentation: expected pictures ({axes}) of 1 to {LARGEST} pixels a side. "
                f"Received: shape {tuple(shape)}"
            )
        for name, most in (("cutout", min(h, w)), ("crop", min(h, w) - 1)):
            if getattr(self, name) > max(0, most):
                raise ConfigError(
                    f"augmentation: {name} must be at most {most} for pictures of {h}x{w} pixels, or nothing may be "
                    f"left of one. Received: {name}={getattr(self, name)}"
                )
        if np.dtype(dtype).name not in ("uint8", "float32", "float64"):
            raise DTypeError(
                f"augmentation: expected pictures of uint8, float32 or float64; give x.astype('float32'). "
                f"Received: {np.dtype(dtype)}"
            )
        fill = self.fill if isinstance(self.fill, tuple) else (self.fill,)
        if isinstance(self.fill, tuple) and len(fill) != c:
            raise ConfigError(
                f"augmentation: fill must be one number, or one for each of the {c} channels. Received: {self.fill}"
            )
        if np.dtype(dtype) == np.uint8 and self.fill != "edge" and any(value not in range(256) for value in fill):
            raise ConfigError(
                f"augmentation: fill must be whole numbers from 0 to 255 for pictures of bytes. Received: {self.fill}"
            )

    def config(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Augmentation:
        """From what `config` gave, also by way of a file; ConfigError where it is something else."""
        if not isinstance(config, Mapping):
            raise ConfigError(f"augmentation: expected a config. Received: {described(config)}")
        return checks.from_config({**config, "kind": cls.__name__}, {cls.__name__: cls}, "augmentation")

    def __repr__(self) -> str:
        """The settings that are not as they are by default."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return f"Augmentation({', '.join(f'{k}={v!r}' for k, v in asked.items() if v != defaults[k])})"


@lru_cache(maxsize=4)
def _block(augmentation: Augmentation, seed: int, epoch: int, block: int, size: Pair) -> np.ndarray:
    """The maps of `BLOCK` places: drawn for many batches at once, since a batch's numbers cost less than the calls."""
    return augmentation.draws(seed, epoch, block * BLOCK, BLOCK, size).maps(size, augmentation.cutout)


def cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of angles in 65536ths of a degree, in 65536ths, rounded: integers, whatever the library.

    Taylor's series within 45 degrees of a multiple of 90, which are exact, in 30 bits behind the point. The first term
    left out is below 2**-28.
    """
    quarters = (angle + _QUARTER // 2) // _QUARTER
    t = (angle - quarters * _QUARTER) * _RADIANS >> 32
    square, one = t * t >> _FINE, 1 << _FINE
    cos, sin = one + 0 * t, one + 0 * t
    for k in (8, 6, 4, 2):  # 1 - t^2/2 (1 - t^2/12 (1 - ...)) and t (1 - t^2/6 (1 - t^2/20 (1 - ...)))
        cos = one - (square * cos >> _FINE) // (k * (k - 1))
        sin = one - (square * sin >> _FINE) // (k * (k + 1))
    c, s = (value + (1 << _FINE - 17) >> _FINE - 16 for value in (cos, t * sin >> _FINE))
    quarters %= 4
    return np.choose(quarters, [c, -s, -c, s]), np.choose(quarters, [s, c, -s, -c])


def _product(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A x + b y in fixed point, rounded."""
    return a * x + b * y + ONE // 2 >> 16


def _shift(value: Any, what: str) -> float | tuple[float, float]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ConfigError(f"{what} must be a number, or (height, width). Received: {described(value)}")
        return checks.number(value[0], what, 0.0, 1.0), checks.number(value[1], what, 0.0, 1.0)
    return checks.number(value, what, 0.0, 1.0)


def _fill(value: Any, what: str) -> str | float | tuple[float, ...]:
    if isinstance(value, str):
        if value != "edge":
            raise ConfigError(f"{what} must be 'edge', a number, or one for each channel. Received: {described(value)}")
        return value
    if isinstance(value, Sequence | np.ndarray) and np.ndim(value) == 1:
        return tuple(checks.number(v, what) for v in value)
    return checks.number(value, what)
