"""One picture from a file: turned as its camera says, brought to a size and to a number of channels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xconv.errors import ConfigError, FileError, OutOfMemoryError, described
from xconv.shapes import pair

if TYPE_CHECKING:  # Pillow is loaded by those who read pictures
    from PIL import Image

FITS = ("crop", "squeeze")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
MOST_PIXELS = 89_478_485  # Pillow's bound too: a quarter of a gigabyte of colours; more is an attack, or a mistake
_SMALLER = f"expected a picture of at most {MOST_PIXELS:,} pixels"


def read_picture(
    path: str | os.PathLike[str], image_size: int | tuple[int, int], channels: int = 3, fit: str = "crop"
) -> np.ndarray:
    """The picture in a file, of any kind that Pillow reads, as bytes: uint8[H, W, channels].

    `image_size` is (H, W). What does not have its proportions is cut off on both sides (`fit="crop"`) or squeezed
    (`fit="squeeze"`); the rest is resized bilinearly, with antialiasing. The EXIF orientation is followed, what is
    transparent becomes white unless `channels` is 4, colours become grey by ITU-R 601 where it is 1, 16 bits become
    the upper 8, and of several frames the first is taken.

    FileError, naming the file, where it is missing, no picture, cut, larger than 89 million pixels, or of pixels whose
    white nobody knows: floating-point, 32-bit or signed ones; ConfigError for a size, number of channels or fit that
    cannot be; OutOfMemoryError where the picture does not fit into memory.
    """
    height, width = check_wish(image_size, channels, fit, "read_picture")
    load_readers()
    return decoded(Path(path), height, width, channels, fit)


def check_wish(image_size: int | tuple[int, int], channels: int, fit: str, what: str) -> tuple[int, int]:
    """(H, W), checked together with the other wishes."""
    height, width = pair(image_size, f"{what}: image_size", least=1)
    if not isinstance(channels, int) or channels not in MODES:
        raise ConfigError(f"{what}: channels must be 1, 3 or 4. Received: {described(channels)}")
    if fit not in FITS:
        raise ConfigError(f"{what}: fit must be 'crop' or 'squeeze'. Received: {described(fit)}")
    return height, width


def load_readers() -> None:
    """All of Pillow's readers, once and before there are threads: two must not."""
    from PIL import Image

    Image.init()


def decoded(path: Path, height: int, width: int, channels: int, fit: str) -> np.ndarray:
    """As `read_picture`, for wishes that are checked; many threads may call it at once.

    Pillow's warning of large pictures, which are an error here, goes its way: filters are the whole process's.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if not path.is_file():  # a pipe would be waited for without end
            received = "a folder" if path.is_dir() else "something else" if path.exists() else "no such file"
            raise FileError(f"{path}: expected a picture, such as a PNG. Received: {received}")
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise FileError(f"{path}: {_SMALLER}. Received: {image.width}x{image.height}")
            _check_bits(image, path)
            shown = _eight_bits(_upright(image))
            if shown.has_transparency_data and channels != 4:
                shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
            shown = shown.convert(MODES[channels])
            bilinear = Image.Resampling.BILINEAR
            size = (width, height)
            scaled = ImageOps.fit(shown, size, bilinear) if fit == "crop" else shown.resize(size, bilinear)
    except FileError:
        raise
    except MemoryError as error:  # no fault of the file
        raise OutOfMemoryError(f"{path}: this picture takes more memory than there is") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # its bound is ours
        raise FileError(f"{path}: {_SMALLER}. Received: {error}") from error
    except UnidentifiedImageError as error:
        raise FileError(f"{path}: expected a picture, such as a PNG. Received: another kind of file") from error
    except Exception as error:  # Pillow's readers raise nearly anything: SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: expected a picture that can be read. Received: {reason}") from error
    return np.asarray(scaled).reshape(height, width, channels)


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # EXIF that cannot be read turns nothing, as in browsers; damaged pixels raise anew below
        return image


def _check_bits(image: Image.Image, path: Path) -> None:
    """FileError for pixels of no known range: "I" is signed, but for PNG and PNM, whose 16 bits Pillow keeps in it."""
    unknown = "floating-point pixels" if image.mode == "F" else "signed or 32-bit pixels" if image.mode == "I" else ""
    if unknown and (image.mode, image.format) not in (("I", "PNG"), ("I", "PPM")):
        raise FileError(f"{path}: expected a picture of 8 or 16 bits. Received: {unknown}, of no known range")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pictures of 16 bits by their upper eight, where Pillow's own conversion clips; it opens them as I;16 or I."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
