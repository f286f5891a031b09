"""Full-length training runs over many seeds: published recipes and ours, test accuracy after each epoch.

    python benchmarks/recipes.py {book,he,keras-mnist,...} [--backend NAME] [--seeds 0-9] [--epochs N] [--out DIR]

`book` is AdaGrad 0.06 from weights of standard deviation 0.01, 10 epochs, seeds 0 to 9; `he` is He initialisation and
Adam 1e-3, 20 epochs with the accuracy after 10 and after 20, seeds 0 to 4; the others are networks of the zoo with
their recipes. Shuffles are keyed by seed and epoch, so the first 10 epochs of a run of 20 are the run of
10. Data as xconv.data.load finds it: $XCONV_DATA_DIR or a download.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

from machine import about, about_lines, table, without_core_type, write_json

import xconv
from xconv import zoo
from xconv.errors import DeadNetworkWarning

# name -> (network of the zoo, its recipe, seeds, epochs after which the accuracy is reported)
STUDIES = {
    "book": ("simple-convnet", "book", range(10), (10,)),
    "he": ("simple-convnet", "default", range(5), (10, 20)),
    "keras-mnist": ("keras-mnist", "default", range(3), (5,)),
    "mnist-dropout": ("mnist-dropout", "default", range(3), (20,)),
    "deep-convnet": ("deep-convnet", "default", range(3), (20,)),
    "vgg16-bn-cifar10": ("vgg16-bn-cifar10", "default", range(1), (20,)),
    "resnet20-cifar10": ("resnet20-cifar10", "default", range(1), (164,)),
}


class Said(xconv.callbacks.Callback):
    """One line on stderr for each epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        print(
            f"{self.name}, epoch {epoch + 1}: test accuracy {logs['val_accuracy']:.4f}, loss {logs['loss']:.4f}, "
            f"{self.model.history.rates[-1]:,.0f} images/s",
            file=sys.stderr,
            flush=True,
        )


def run(
    name: str, recipe: zoo.Recipe, seed: int, epochs: int, backend: str, data: xconv.data.DataSet
) -> dict[str, Any]:
    """Train from one seed; the test accuracy of every epoch, and whether the network died."""
    model = zoo.entry(name).build(recipe, backend=backend, seed=seed)
    x, t, test_x, test_t = data.pixels(model.data_format)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(
            x,
            t,
            recipe.batch_size,
            epochs,
            validation_data=(test_x, test_t),
            callbacks=[Said(f"seed {seed}")],
            augmentation=recipe.augmentation,
            verbose=0,
        )
    for warning in caught:
        if not issubclass(warning.category, DeadNetworkWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return {
        "seed": seed,
        "test_accuracy": [round(value, 6) for value in history.history["val_accuracy"]],
        "train_loss": [round(value, 6) for value in history.history["loss"]],
        "dead": any(issubclass(warning.category, DeadNetworkWarning) for warning in caught),
        "train_seconds": round(history.train_seconds, 2),
        "images_per_second": round(history.images_per_second, 1),
    }


def report(result: dict[str, Any]) -> str:
    """A markdown table: a row for each seed, their mean and their range."""
    ends = result["reported_epochs"]
    runs = result["runs"]
    rows = []
    for row in runs:
        cells = [f"{100 * row['test_accuracy'][epoch - 1]:.2f} %" for epoch in ends]
        rows.append([str(row["seed"]) + (" (died)" if row["dead"] else ""), *cells])
    by_end = [[100 * row["test_accuracy"][epoch - 1] for row in runs] for epoch in ends]
    rows.append(["mean", *(f"{statistics.mean(values):.3f} %" for values in by_end)])
    rows.append(["least..most", *(f"{min(values):.2f}..{max(values):.2f} %" for values in by_end)])
    speed = statistics.median(row["images_per_second"] for row in runs)
    title = f"{result['model']} on {result['data']}, recipe {result['recipe']}, backend {result['backend']}, float32"
    return (
        f"{title}\n\n{table(['seed', *(f'test accuracy after {epoch} epochs' for epoch in ends)], rows)}\n\n"
        f"{about_lines(result)}; {speed:,.0f} training images/s"
    )


def seeds_of(text: str) -> list[int]:
    """ "0-4" or "0,2,7" as integers."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]


def main() -> None:
    """Run the study, writing the JSON after every seed so that nothing is lost when it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--backend", default="auto", help="numpy, numba, cupy or auto (default)")
    parser.add_argument("--seeds", type=seeds_of, help='such as "0-4" or "0,2,7"')
    parser.add_argument("--epochs", type=int, help="instead of the study's own number")
    parser.add_argument("--data", help="a data set by name (default: the network's own, of MNIST the whole)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--out", type=Path, help="also write recipe-STUDY.json and recipe-STUDY.md into this folder")
    args = parser.parse_args()
    without_core_type()
    model, name, seeds, ends = STUDIES[args.study]
    if args.epochs is not None:
        ends = tuple(sorted({min(end, args.epochs) for end in (*ends, args.epochs)}))
    recipe = zoo.recipe(model, name)
    try:
        backend = xconv.get_backend(args.backend)
        data = xconv.data.load(args.data or (zoo.entry(model).data or "").removesuffix("-sample"))
    except xconv.XconvError as error:
        sys.exit(f"recipes: {error}")
    result: dict[str, Any] = {
        **about(),
        "model": model,
        "recipe": str(recipe),
        "data": data.name,
        "backend": backend.name,
        "blas": backend.describe().get("blas"),
        "reported_epochs": ends,
        "runs": [],
    }
    for seed in args.seeds or seeds:
        result["runs"].append(run(model, recipe, seed, max(ends), backend.name, data))
        if args.out is not None:
            write_json(args.out / f"recipe-{args.study}.json", result)
            (args.out / f"recipe-{args.study}.md").write_text(report(result) + "\n", encoding="utf-8")
    print(json.dumps(result) if args.json else report(result))


if __name__ == "__main__":
    main()
