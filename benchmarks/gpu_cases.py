"""What `gpu.py` runs in a process of its own: one case, xconv beside PyTorch on the same GPU, interleaved.

All contestants of a case train the same network from the same weights on the same batches, which lie on the device
before the clock starts. A turn is timed from one synchronisation of the device to the next, around many steps.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol

import numpy as np

import xconv
from xconv import data as datasets
from xconv import zoo
from xconv.measure.contestants import BOOK, Network, batches, recipe_of, seen
from xconv.measure.pytorch import torch_net, torch_optimizer

VGG = "vgg16-bn-cifar10"
WARM_STEPS = 12  # before each turn of the first round: compilation, recording, cuDNN's choice, pools
ROUNDS, LEAST_STEPS, MOST_STEPS = 5, 10, 400
RECORDED, EAGER = "xconv recorded", "xconv eager"
TORCH, COMPILED = "PyTorch eager", "PyTorch compiled"


@dataclass(frozen=True)
class Case:
    """One network at one batch size and precision, and who competes. `seconds` is its share of the time."""

    model: str
    batch_size: int
    precision: str
    names: tuple[str, ...] = (RECORDED, EAGER, TORCH)
    seconds: float = 26.0

    @property
    def name(self) -> str:
        """As --case takes it."""
        return f"{self.model}-{self.batch_size}-{self.precision}{'-compiled' * (COMPILED in self.names)}"


AGAINST_COMPILED = (RECORDED, TORCH, COMPILED)
CASES = [
    Case(BOOK, 100, "tf32"),
    *(Case(VGG, size, precision) for size in (64, 256, 1024) for precision in ("tf32", "bf16")),
    Case(BOOK, 100, "tf32", AGAINST_COMPILED, seconds=55.0),
    Case(VGG, 64, "bf16", AGAINST_COMPILED, seconds=75.0),
]


class Trains(Protocol):
    """A contestant."""

    def step(self) -> None:
        """One training step, asked for."""

    def wait(self) -> None:
        """Until the device has done all."""

    def loss(self) -> float:
        """Of the first batch, now."""

    def about(self) -> dict[str, Any]:
        """What else is to be told of it."""

    def close(self) -> None:
        """Give the memory back."""


class Xconv:
    """xconv on CuPy, its steps recorded or not."""

    def __init__(self, case: Case, batch_size: int, record: bool | None) -> None:
        self.backend = xconv.get_backend("cupy")
        self.backend.precision = case.precision
        self.net = net = Network(case.model, recipe_of(case.model)).build(self.backend)
        net.compile(net.optimizer, record=record)
        images, t = batches(batch_size, net)
        self.first = seen(images[0], net), t[0]
        x = seen(images, net)
        placed = [(self.backend.asarray(x[i]), self.backend.asarray(t[i])) for i in range(len(x))]
        turn = cycle(placed)
        self.step = lambda: net.train_step(*next(turn))
        self.wait = self.backend.synchronize

    def loss(self) -> float:
        return self.net.loss(*self.first)

    def about(self) -> dict[str, Any]:
        return {"steps_are": self.net.recording}

    def close(self) -> None:
        del self.step, self.net
        gc.collect()
        self.backend.release()


class Torch:
    """PyTorch as one who knows it writes it: channels_last, fused optimizer, autocast for bfloat16, TF32 allowed."""

    def __init__(self, case: Case, batch_size: int, compiled: bool) -> None:
        import torch

        self.torch = torch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.precision != "float32"
        torch.backends.cudnn.benchmark = True
        recipe = recipe_of(case.model)
        source = Network(case.model, recipe).build("numpy")
        self.net = net = torch_net(torch, source).to("cuda", memory_format=torch.channels_last)
        optimizer = torch_optimizer(torch, net, recipe, fused=recipe.optimizer == "adam")  # on a GPU Adam's alone
        run = torch.compile(net, mode="reduce-overhead") if compiled else net
        loss_of = torch.nn.CrossEntropyLoss()
        images, labels = batches(batch_size, source)
        placed = [
            (torch.from_numpy(x).to("cuda", memory_format=torch.channels_last), torch.from_numpy(t).to("cuda"))
            for x, t in zip(images, labels, strict=True)
        ]
        self.first, turn = placed[0], cycle(placed)

        def loss(x: Any, t: Any, run: Any = run) -> Any:
            with torch.autocast("cuda", torch.bfloat16, enabled=case.precision == "bf16"):
                return loss_of(run(x), t)

        def step() -> None:
            x, t = next(turn)
            optimizer.zero_grad()
            loss(x, t).backward()
            optimizer.step()

        self.step, self.wait, self.loss_of = step, torch.cuda.synchronize, loss

    def loss(self) -> float:
        self.net.eval()
        with self.torch.inference_mode():
            value = float(self.loss_of(*self.first, run=self.net))
        self.net.train()
        return value

    def about(self) -> dict[str, Any]:
        return {"peak_allocated_mb": self.torch.cuda.max_memory_allocated() / 1e6}

    def close(self) -> None:
        del self.step, self.net, self.loss_of, self.first
        gc.collect()
        self.torch.cuda.empty_cache()


MAKERS: dict[str, Callable[[Case, int], Trains]] = {
    RECORDED: lambda case, n: Xconv(case, n, record=None),
    EAGER: lambda case, n: Xconv(case, n, record=False),
    TORCH: lambda case, n: Torch(case, n, compiled=False),
    COMPILED: lambda case, n: Torch(case, n, compiled=True),
}


def device_used(release: bool) -> int:
    """Bytes of the device that are taken, pools, graphs and libraries included; `release` what is idle first."""
    import torch

    if release:
        gc.collect()
        torch.cuda.empty_cache()
        xconv.get_backend("cupy").release()
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def made(case: Case, makers: Mapping[str, Any], used: Callable[[bool], int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(contestants, rows): each built, warmed up and weighed; a row with "error" for one that failed."""
    ready: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for name in case.names:
        try:
            if name != COMPILED:  # a twin, so that libraries and kernels are loaded before memory is counted
                twin = makers[name](case, 2)
                for _ in range(WARM_STEPS):
                    twin.step()
                twin.wait()
                twin.close()
                del twin
            before = used(True)
            start = time.perf_counter()
            contestant = makers[name](case, case.batch_size)
            first = contestant.loss()
            for _ in range(WARM_STEPS):
                contestant.step()
            contestant.wait()
        except Exception as error:
            rows[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
            continue
        ready[name] = contestant
        rows[name] = {
            "device_mb": (used(False) - before) / 1e6,
            "ready_seconds": time.perf_counter() - start,
            "first_loss": first,
            "seconds": [],
            **contestant.about(),
        }
    return ready, rows


def measure(
    case: Case,
    seconds: float,
    makers: Mapping[str, Any] = MAKERS,
    used: Callable[[bool], int] = device_used,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """The case in about so many seconds, as JSON has it. In each round each contestant takes one turn."""
    start = clock()
    ready, rows = made(case, makers, used)
    left = max(2.0, seconds - (clock() - start))
    turn = left / (ROUNDS * max(1, len(ready)))
    order = list(ready)
    for number in range(ROUNDS):
        for name in order[number % max(1, len(order)) :] + order[: number % max(1, len(order))]:
            rows[name]["seconds"].append(one_turn(ready[name], turn, rows[name], clock))
    for name, contestant in ready.items():
        rows[name] |= {"last_loss": contestant.loss(), **contestant.about()}
        rows[name]["images_per_second"] = case.batch_size / statistics.median(rows[name]["seconds"])
    return {
        "case": case.name,
        "model": case.model,
        "batch_size": case.batch_size,
        "precision": case.precision,
        "contestants": rows,
        "over": {name: ratios(rows, name) for name in (RECORDED, EAGER) if "error" not in rows.get(name, {"error": 1})},
    }


def one_turn(contestant: Trains, seconds: float, row: dict[str, Any], clock: Callable[[], float]) -> float:
    """Seconds of a step: their mean over a turn of about so many seconds."""
    contestant.wait()
    start = clock()
    for _ in range(LEAST_STEPS):
        contestant.step()
    contestant.wait()
    guess = max(1e-6, (clock() - start) / LEAST_STEPS)
    steps = max(LEAST_STEPS, min(MOST_STEPS, int(seconds / guess) - LEAST_STEPS))
    row["steps"] = row.get("steps", 0) + steps
    start = clock()
    for _ in range(steps):
        contestant.step()
    contestant.wait()
    return (clock() - start) / steps


def ratios(rows: Mapping[str, Any], ours: str) -> dict[str, Any]:
    """How many times as fast as each peer, by the rounds' median; and its memory over that peer's."""
    found = {}
    for name, row in rows.items():
        if name == ours or "error" in row:
            continue
        by_round = [a / b for a, b in zip(row["seconds"], rows[ours]["seconds"], strict=True)]
        found[name] = {
            "speed": statistics.median(by_round),
            "least": min(by_round),
            "most": max(by_round),
            "memory": rows[ours]["device_mb"] / row["device_mb"] if row["device_mb"] > 0 else None,
        }
    return found


# ---------------------------------------------------------------------- whole runs


def mnist() -> tuple[np.ndarray, np.ndarray, str]:
    """(images uint8[60000, 1, 28, 28], labels, what they are): noise of that size where the full MNIST is not here."""
    try:
        found = datasets.load("mnist")
        return found.x_train.reshape(-1, 1, 28, 28), found.t_train, "mnist"
    except xconv.XconvError:
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (60000, 1, 28, 28)).astype(np.uint8), rng.integers(0, 10, 60000), "noise"


def whole_runs(backend: str = "cupy", epochs: int = 10, images: int | None = None) -> dict[str, Any]:
    """SimpleConvNet on the full MNIST twice with one seed: seconds of training, and whether the bits are the same."""
    pixels, t, what = mnist()
    x, t = pixels[:images].astype(np.float32) / 255, t[:images]
    runs, digests = [], []
    for _ in range(2):
        net = Network(BOOK, zoo.recipe(BOOK)).build(backend)
        start = time.perf_counter()
        told = net.fit(x, t, 100, epochs, verbose=0)
        seconds = time.perf_counter() - start
        runs.append({"seconds": seconds, "ready_seconds": told.compile_seconds, "loss": told.history["loss"][-1]})
        digests.append(hashlib.sha256(b"".join(w.tobytes() for w in net.get_weights())).hexdigest())
    best = min(run["seconds"] - run["ready_seconds"] for run in runs)
    return {
        "data": what,
        "images": len(x),
        "epochs": epochs,
        "runs": runs,
        "training_seconds": best,
        "equal_to_the_bit": digests[0] == digests[1],
    }
