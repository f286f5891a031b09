"""`xconv summary`, `xconv evaluate`, `xconv predict`: what a network is, how good it is, what it says of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from xconv import data as datasets
from xconv import zoo
from xconv.cli.console import notice, plural, print_json, print_table
from xconv.cli.options import COUNT, backend_option, data_option, json_option
from xconv.cli.prepare import (
    Trained,
    arrays_for,
    default_data,
    images_to_test,
    named_or_file,
    network_file,
    picture_shape,
    trained_on,
)
from xconv.data.picture import MODES
from xconv.errors import ShapeError
from xconv.models import Model
from xconv.models.summary import facts
from xconv.plots import as_probabilities


@click.command()
@click.argument("network", metavar="NAME|FILE|RUN")
@click.option("--batch-size", type=COUNT, help="For the memory of a training step.  [default: the recipe's, or 32]")
@click.option("--verbose", is_flag=True, help="Also the algorithm that the backend takes for each convolution.")
@backend_option
@json_option
def summary(network: str, batch_size: int | None, verbose: bool, backend: str, as_json: bool) -> None:
    """Show the layers of a network, by name, from a file or a run's folder: shapes, parameters, memory of a step."""
    net = named_or_file(network, backend)
    if batch_size is None:
        batch_size = zoo.recipe(network).batch_size if network in zoo.ZOO else 32
    if as_json:
        print_json({**facts(net, batch_size), "model": network})
    else:
        net.summary(batch_size=batch_size, verbose=2 if verbose else 1, print_fn=click.echo)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@data_option
@backend_option
@json_option
def evaluate(file: Path, data: str | None, backend: str, as_json: bool) -> None:
    """Loss and accuracy of a network from FILE, or the folder of a run, on the test images of a data set.

    Of pictures without test/ in their folder, those are what `xconv train` holds out. Without --data: what the network
    was trained on, as run.json beside FILE tells.
    """
    net = named_or_file(str(file), backend, trained=True)
    file = network_file(file)
    trained = trained_on(file, net.classes)
    data = data or default_data(net.name, trained)
    _, _, x, t = arrays_for(net, data, images_to_test(data, net, trained))
    logs = net.evaluate(x, t, return_dict=True)
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
    """What the network from FILE, or the folder of a run, takes each IMAGE for, with probabilities.

    Images are cut to the network's proportions, brought to its size and channels, and to numbers from 0 to 1; what is
    transparent becomes white. Classes are named where `xconv train` left their names beside FILE.
    """
    net = named_or_file(str(file), backend, trained=True)
    file = network_file(file)
    x = np.stack([picture(path, net, invert) for path in images])
    probabilities = as_probabilities(net.predict(x), net.name)
    trained = trained_on(file, probabilities.shape[1])
    if not invert and picture_shape(net)[2] == 1 and not trained.on_pictures:
        bright = [path for path, image in zip(images, x, strict=True) if image.mean() > 0.5]
        if bright:
            which = f"{bright[0]} is" if len(bright) == 1 else f"{len(bright)} images, such as {bright[0]}, are"
            notice(f"{which} mostly bright; MNIST's digits are white on black: --invert turns such images round")
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    found: list[dict[str, Any]] = [
        {
            "image": str(path),
            "classes": [{"class": int(k), **_name(trained, k), "probability": float(row[k])} for k in order],
        }
        for path, row, order in zip(images, probabilities, best, strict=True)
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        [entry["image"], *(f"{k.get('name', k['class'])}: {100 * k['probability']:.2f} %" for k in entry["classes"])]
        for entry in found
    ]
    header = ["image", *("best" if i == 0 else f"{i + 1}." for i in range(best.shape[1]))]
    print_table(f"{net.name} from {file}, {net.backend.name}", header, rows)


def picture(path: Path, net: Model, invert: bool = False) -> np.ndarray:
    """The picture in a file as one example for the network, as those that it was trained on from a folder."""
    height, width, channels = picture_shape(net)
    if channels not in MODES:
        raise ShapeError(f"{net.name}: expected 1, 3 or 4 channels. Received: {channels}")
    x = datasets.pixels(datasets.read_picture(path, (height, width), channels))
    x = 1 - x if invert else x
    return x if net.data_format == "channels_last" else np.ascontiguousarray(x.transpose(2, 0, 1))


def _name(trained: Trained, k: int) -> dict[str, str]:
    return {} if trained.classes is None else {"name": trained.classes[k]}
