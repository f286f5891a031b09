"""`xconv summary`, `xconv evaluate`, `xconv predict`: what a network is, how good it is, what it says of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, UnidentifiedImageError

from xconv import data as datasets
from xconv import zoo
from xconv.cli.console import notice, plural, print_json, print_table
from xconv.cli.options import COUNT, backend_option, json_option
from xconv.cli.prepare import arrays_for, named_or_file
from xconv.errors import FileError, ShapeError
from xconv.models import Model
from xconv.models.summary import facts

_MOST_PIXELS = 1 << 28  # a larger picture is more likely an attack, or a mistake, than an input


@click.command()
@click.argument("network", metavar="NAME|FILE")
@click.option("--batch-size", type=COUNT, help="For the memory of a training step.  [default: the recipe's, or 32]")
@click.option("--verbose", is_flag=True, help="Also the algorithm that the backend takes for each convolution.")
@backend_option
@json_option
def summary(network: str, batch_size: int | None, verbose: bool, backend: str, as_json: bool) -> None:
    """Show the layers of a network, by name or from a file: output shapes, parameters, memory of a training step."""
    net = named_or_file(network, backend)
    if batch_size is None:
        batch_size = zoo.recipe(network).batch_size if network in zoo.ZOO else 32
    if as_json:
        print_json({**facts(net, batch_size), "model": network})
    else:
        net.summary(batch_size=batch_size, verbose=2 if verbose else 1, print_fn=click.echo)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Choice(datasets.NAMES), default="mnist-sample", show_default=True, help="The images."
)
@backend_option
@json_option
def evaluate(file: Path, data: str, backend: str, as_json: bool) -> None:
    """Loss and accuracy of a network from FILE on the test images of a data set."""
    net = named_or_file(str(file), backend, trained=True)
    _, _, x, t = arrays_for(net, data, datasets.load(data))
    logs = net.evaluated(x, t)
    if as_json:
        print_json({"file": str(file), "data": data, "backend": net.backend.name, "images": len(x), **logs})
        return
    rows = [[name, f"{value:.4f}"] for name, value in logs.items()]
    print_table(f"{net.name} on {data}, {plural(len(x), 'test image')}, {net.backend.name}", ["", "value"], rows)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--invert", is_flag=True, help="For dark drawings on white: MNIST's digits are white on black.")
@click.option("--top", type=COUNT, default=3, show_default=True, help="How many classes to show for each image.")
@backend_option
@json_option
def predict(file: Path, images: tuple[Path, ...], invert: bool, top: int, backend: str, as_json: bool) -> None:
    """What the network from FILE takes each IMAGE for, with probabilities.

    Images are squeezed to the network's size, brought to its channels, and to numbers from 0 to 1; what is transparent
    becomes white.
    """
    net = named_or_file(str(file), backend, trained=True)
    x = np.stack([picture(path, net, invert) for path in images])
    if not invert and _channels(net) == 1:
        bright = [path for path, image in zip(images, x, strict=True) if image.mean() > 0.5]
        if bright:
            which = f"{bright[0]} is" if len(bright) == 1 else f"{len(bright)} images, such as {bright[0]}, are"
            notice(f"{which} mostly bright; MNIST's digits are white on black: --invert turns such images round")
    probabilities = _probabilities(net, x)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    found: list[dict[str, Any]] = [
        {
            "image": str(path),
            "classes": [{"class": int(k), "probability": float(row[k])} for k in order],
        }
        for path, row, order in zip(images, probabilities, best, strict=True)
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        [entry["image"], *(f"{k['class']}: {100 * k['probability']:.2f} %" for k in entry["classes"])]
        for entry in found
    ]
    header = ["image", *("best" if i == 0 else f"{i + 1}." for i in range(best.shape[1]))]
    print_table(f"{net.name} from {file}, {net.backend.name}", header, rows)


def picture(path: Path, net: Model, invert: bool = False) -> np.ndarray:
    """The image in a file as one example for the network."""
    if len(net.input_shape) != 3:
        raise ShapeError(f"{net.name}: expected a network that takes images. Received: inputs {net.input_shape}")
    last = net.data_format == "channels_last"
    height, width = net.input_shape[:2] if last else net.input_shape[1:]
    channels = _channels(net)
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise ShapeError(f"{net.name}: expected 1, 3 or 4 channels. Received: {channels}")
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise FileError(f"{path}: expected an image of moderate size. Received: {image.width}x{image.height}")
            shown: Image.Image = image
            if image.has_transparency_data and channels != 4:
                shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            scaled = shown.convert(modes[channels]).resize((width, height), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise FileError(f"{path}: expected an image, such as a PNG. Received: another kind of file") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, FileError):
            raise
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise FileError(f"{path}: expected an image that can be read. Received: {reason}") from error
    x = np.asarray(scaled, np.float32).reshape(height, width, channels) / 255
    x = 1 - x if invert else x
    return x if last else np.ascontiguousarray(x.transpose(2, 0, 1))


def _channels(net: Model) -> int:
    return net.input_shape[-1 if net.data_format == "channels_last" else 0]


def _probabilities(net: Model, x: np.ndarray) -> np.ndarray:
    """The network's output, through a softmax where it gives logits: rows that are no probabilities already."""
    y = net.predict(x).astype(np.float64)
    if y.ndim != 2 or y.shape[1] < 2:
        raise ShapeError(f"{net.name}: expected a network that tells classes apart. Received: outputs {y.shape[1:]}")
    if (y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3):
        return y
    e = np.exp(y - y.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
