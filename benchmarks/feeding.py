"""What it costs to feed a network: memory of training from a 2 GB file, and step times by where batches come from.

    python benchmarks/feeding.py [--model NAME ...] [--backend NAME] [--rounds N] [--skip-file] [--json] [--out DIR]

The file, float32 images in an np.memmap, is written to --folder (the system's temporary one) and deleted afterwards. A
fresh process trains a small network on all of it in random order, evaluates it and predicts from it; its resident
memory, the mapping's pages among it, is read from Linux's /proc.

Step times: each way has a network of its own, and one after the other trains for a moment in each round, in an order
that turns; ratios are formed from turns of the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import about, about_lines, table, write_json

import xconv
from xconv import data, streams, zoo
from xconv.measure.memory import STATUS, forget_peak
from xconv.measure.memory import resident_mb as resident

FILE = 2_000_000_000  # bytes
SIDE = 64  # pixels of the file's images
LIMIT = 800  # MB of 10^6 bytes
BATCH = 128
MODELS = ("simple-convnet", "resnet20-cifar10")
BASE = "arrays"


# ---------------------------------------------------------------------- memory


def write(path: Path, size: int) -> int:
    """Random images of about `size` bytes; how many."""
    row = SIDE * SIDE * 3 * 4
    n, rng = size // row, np.random.default_rng(0)
    with path.open("wb") as file:
        for first in range(0, n, 1000):
            file.write(rng.random((min(1000, n - first), SIDE, SIDE, 3), np.float32).tobytes())
    return n


def train_from_file(path: Path, n: int, backend: str) -> dict[str, Any]:
    """In a process of its own."""
    x = np.memmap(path, np.float32, "r", shape=(n, SIDE, SIDE, 3))
    t = np.arange(n) % 10
    model = xconv.Sequential(
        [
            xconv.layers.Conv2D(8, 5, strides=4, activation="relu"),
            xconv.layers.GlobalAveragePooling2D(),
            xconv.layers.Dense(10, activation="softmax"),
        ],
        input_shape=x.shape[1:],
        backend=backend,
    )
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.warm_up()
    forget_peak()
    told: dict[str, Any] = {"images": n, "file_mb": round(path.stat().st_size / 1e6), "before_mb": resident("VmRSS")}
    history = model.fit(x, t, BATCH, verbose=0)
    told["fit_peak_mb"], told["images_per_second"] = resident("VmHWM"), history.images_per_second
    model.evaluate(x, t)
    model.predict(x)
    told["peak_mb"] = resident("VmHWM")
    return {name: round(value, 1) for name, value in told.items()}


def memory(folder: Path, backend: str) -> dict[str, Any]:
    """What a process takes that trains on the whole file."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        path = Path(inside) / "images.f32"
        n = write(path, FILE)
        command = [sys.executable, __file__, "--one", str(path), str(n), backend]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


# ---------------------------------------------------------------------- time


def ways(name: str, folder: Path) -> dict[str, Callable[[Any, int, int], dict[str, Any]]]:
    """Arguments of `fit` by name, of the network, its batch size and the number of steps."""
    change = data.Augmentation(flip=True, crop=2 if name.startswith("simple") else 4)
    turning = data.Augmentation(rotate=10, shift=0.1, zoom=0.1)

    def images(net: Any, batch: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        rng, n = np.random.default_rng(1), batch * steps
        return rng.integers(0, 256, (n, *net.input_shape), np.uint8), rng.integers(0, 10, n)

    def arrays(net: Any, batch: int, steps: int) -> dict[str, Any]:
        x, t = images(net, batch, steps)
        return {"x": np.divide(x, 255, dtype=np.float32), "y": t, "batch_size": batch}

    def pixels(net: Any, batch: int, steps: int) -> dict[str, Any]:
        x, t = images(net, batch, steps)
        return {"x": data.Pixels(x), "y": t, "batch_size": batch}

    def mapped(net: Any, batch: int, steps: int) -> dict[str, Any]:
        given = arrays(net, batch, steps)
        file = np.memmap(folder / f"{name}.f32", np.float32, "w+", shape=given["x"].shape)
        file[...] = given["x"]
        file.flush()
        return {**given, "x": np.memmap(folder / f"{name}.f32", np.float32, "r", shape=given["x"].shape)}

    def generator(net: Any, batch: int, steps: int) -> dict[str, Any]:
        given = arrays(net, batch, steps)
        x, t = given["x"], given["y"]

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            epoch = 0
            while True:
                epoch += 1
                order = streams.permutation(0, epoch, len(x))
                for first in range(0, len(x), batch):
                    chosen = order[first : first + batch]
                    yield x[chosen], t[chosen]

        return {"x": batches(), "steps_per_epoch": steps}

    return {
        BASE: arrays,
        "bytes": pixels,
        "np.memmap": mapped,
        "generator": generator,
        "bytes, flip and crop": lambda *a: {**pixels(*a), "augmentation": change},
        "bytes, turned, shifted, zoomed": lambda *a: {**pixels(*a), "augmentation": turning},
    }


def times(name: str, backend: str, rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Seconds of a training step by the way its batches come, in each round."""
    recipe, nets, given = zoo.recipe(name), {}, {}
    warnings.simplefilter("ignore", xconv.errors.DeadNetworkWarning)  # there is nothing to learn here
    for way, make in ways(name, folder).items():
        nets[way] = zoo.entry(name).build(recipe, backend=backend)
        nets[way].warm_up()
        if way == BASE:  # how long a step takes says how many make a turn
            tried = nets[way].fit(**make(nets[way], recipe.batch_size, 4), epochs=2, verbose=0)
            steps = max(4, min(200, round(seconds / (tried.seconds[-1] / 4))))
        given[way] = make(nets[way], recipe.batch_size, steps)
    found: dict[str, list[float]] = {way: [] for way in nets}
    order = list(nets)
    for turn in range(rounds + 1):  # the first warms up
        for way in order[turn % len(order) :] + order[: turn % len(order)]:
            history = nets[way].fit(**given[way], initial_epoch=turn, epochs=turn + 1, verbose=0)
            if turn:
                found[way].append(history.train_seconds / history.steps)
    return {"batch": recipe.batch_size, "steps": steps, "rounds": rounds, "seconds": found}


def against(seconds: dict[str, list[float]], way: str, base: str) -> list[float]:
    """Ratios of the turns of each round."""
    return [a / b for a, b in zip(seconds[way], seconds[base], strict=True)]


def rows(found: dict[str, Any]) -> list[list[str]]:
    """A row for each way: median milliseconds of a step, and ratios to arrays and to the same bytes unchanged."""
    lines = []
    for way, seconds in found["seconds"].items():
        line = [way, f"{statistics.median(seconds) * 1e3:.2f}"]
        for base in (BASE, "bytes"):
            ratios = against(found["seconds"], way, base)
            low, _, high = statistics.quantiles(ratios, n=4)
            line.append(f"{statistics.median(ratios):.3f}" + ("" if way == base else f" ({low:.3f} to {high:.3f})"))
        lines.append(line)
    return lines


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", action="append", choices=list(zoo.ZOO), help="of the zoo; may be given again")
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for 2 GB, for a while")
    parser.add_argument("--skip-file", action="store_true", help="only step times")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write feeding.json into this folder")
    parser.add_argument("--one", nargs=3, metavar=("FILE", "IMAGES", "BACKEND"), help="memory, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train_from_file(Path(args.one[0]), int(args.one[1]), args.one[2])))
        return
    if args.rounds < 2:
        parser.error("--rounds must be at least 2")
    result: dict[str, Any] = {"machine": about(), "backend": args.backend, "limit_mb": LIMIT}
    if not args.skip_file and not STATUS.exists():
        print("memory is read from /proc, which only Linux has; only step times follow", file=sys.stderr)
    elif not args.skip_file:
        print("writing 2 GB, and training from them ...", file=sys.stderr)
        result["file"] = memory(args.folder, args.backend)
    result["steps"] = {}
    for name in args.model or MODELS:
        print(f"{name} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=args.folder) as inside:
            result["steps"][name] = times(name, args.backend, args.rounds, args.seconds, Path(inside))
    if args.out:
        write_json(args.out / "feeding.json", result)
    if args.json:
        print(json.dumps(result))
        return
    print(about_lines(result["machine"]))
    if "file" in result:
        file = result["file"]
        print(
            f"\n{file['images']:,.0f} images in a file of {file['file_mb']:,.0f} MB: at most {file['peak_mb']:.0f} MB "
            f"resident ({file['fit_peak_mb']:.0f} in fit, {file['before_mb']:.0f} before it), of {LIMIT} allowed; "
            f"{file['images_per_second']:,.0f} images/s"
        )
    for name, found in result["steps"].items():
        print(f"\n{name}, {args.backend}, batches of {found['batch']}, medians of {found['rounds']} rounds\n")
        print(table(["batches from", "ms a step", "to arrays (quartiles)", "to bytes (quartiles)"], rows(found)))


if __name__ == "__main__":
    main()
