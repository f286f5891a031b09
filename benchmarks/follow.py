"""A network of the zoo beside PyTorch from the same weights and batches: how long do both take the same way?

    python benchmarks/follow.py [--model vgg16-bn-cifar10] [--data cifar10] [--backend numba] [--steps 50] [--out DIR]

Three steps in float64, where both must agree but for the order of sums: the loss of each, and after them the largest
difference of a parameter over the largest entry of its layer. Then `--steps` in float32: the mean loss of both, and of
PyTorch in its other memory format, which shows how far rounding alone carries such a network. Optimizer and batch size
are the recipe's; Adam's epsilon is given to PyTorch as its form of the rule needs it, so that both compute one formula.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import about, about_lines, table, without_core_type, write_json

import xconv
from xconv import zoo
from xconv.backend.threads import default_threads
from xconv.measure.agreement import Batches
from xconv.measure.contestants import seen
from xconv.measure.pytorch import check_installed, torch_net, torch_optimizer
from xconv.models import Model

EXACT_STEPS = 3  # in float64
Given = list[tuple[np.ndarray, np.ndarray]]  # images [B,C,H,W], pixels from 0 to 1, and labels


def ours(model: str, backend: str, dtype: str, batches: Given) -> tuple[list[float], Model]:
    """The loss of each step, and the network after them."""
    net = zoo.entry(model).build(zoo.recipe(model), backend=backend, dtype=dtype)
    losses = []
    for x, t in batches:
        placed = net.backend.asarray(seen(x, net)), net.backend.asarray(t)
        losses.append(float(net.backend.to_numpy(net.train_step(*placed)[0])[0]))
    return losses, net


def theirs(model: str, dtype: str, batches: Given, channels_last: bool) -> tuple[list[float], Any]:
    """The same of PyTorch."""
    import torch

    torch.set_num_threads(default_threads())
    recipe = zoo.recipe(model)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = torch_net(torch, zoo.entry(model).build(recipe, backend="numpy", dtype=dtype)).to(memory_format=layout)
    optimizer = torch_optimizer(torch, net.train(), recipe, fused=False)
    losses = []
    for step, (x, t) in enumerate(batches, 1):
        if recipe.optimizer == "adam":  # ours corrects sqrt(v) + eps for the start, PyTorch's sqrt(v) alone
            optimizer.param_groups[0]["eps"] = 1e-7 / (1 - 0.999**step) ** 0.5
        optimizer.zero_grad()
        images = torch.from_numpy(x).contiguous(memory_format=layout)
        loss = torch.nn.functional.cross_entropy(net(images), torch.from_numpy(t))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, net


def farthest(net: Model, other: Any) -> float:
    """The largest difference of a trained parameter over the largest entry of its layer.

    Not of its tensor: a convolution's bias before batch normalisation has a true gradient of zero, and holds noise.
    """
    import torch

    found = 0.0
    for mine, peer in zip(torch_net(torch, net).modules(), other.modules(), strict=True):
        pairs = list(zip(mine.parameters(recurse=False), peer.parameters(recurse=False), strict=True))
        if pairs:
            largest = max(float(a.detach().abs().max()) for a, _ in pairs)
            found = max(found, *(float((a - b).detach().abs().max()) / largest for a, b in pairs))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", choices=zoo.ZOO, default="vgg16-bn-cifar10")
    parser.add_argument("--data", help="a data set by name (default: the network's own)")
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--steps", type=int, default=50, help="in float32 (default: 50)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--out", type=Path, help="also write follow-MODEL.json into this folder")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps: expected at least 1. Received: {args.steps}")
    without_core_type()
    try:
        check_installed()
        data = xconv.data.load(args.data or zoo.entry(args.model).data or "")
        backend = xconv.get_backend(args.backend).name
    except xconv.XconvError as error:
        sys.exit(f"follow: {error}")
    size = zoo.recipe(args.model).batch_size

    def batches(steps: int, dtype: str) -> Given:
        """Those of the first steps of `fit`."""
        of_step = Batches(data.x_train, data.t_train, size, 0, dtype)
        return [of_step(step) for step in range(1, steps + 1)]

    exact = batches(EXACT_STEPS, "float64")
    (mine, net), (peer, other) = (
        ours(args.model, backend, "float64", exact),
        theirs(args.model, "float64", exact, False),
    )
    result: dict[str, Any] = {
        **about(),
        "model": args.model,
        "data": data.name,
        "backend": backend,
        "batch_size": size,
        "float64": {
            "xconv": mine,
            "pytorch": peer,
            "largest_difference_of_a_loss": max(abs(a - b) for a, b in zip(mine, peer, strict=True)),
            "largest_difference_of_a_parameter": farthest(net, other),
        },
    }
    print("float64 done", file=sys.stderr, flush=True)
    single = batches(args.steps, "float32")
    losses = {"xconv": ours(args.model, backend, "float32", single)[0]}
    for layout, last in (("NCHW", False), ("channels_last", True)):
        print(f"xconv done, PyTorch {layout} begins", file=sys.stderr, flush=True)
        losses[f"PyTorch {layout}"] = theirs(args.model, "float32", single, last)[0]
    result["float32"] = {"steps": args.steps, "losses": losses}
    if args.out is not None:
        write_json(args.out / f"follow-{args.model}.json", result)
    print(json.dumps(result) if args.json else report(result))


def report(result: dict[str, Any]) -> str:
    """Both comparisons as tables."""
    double, single = result["float64"], result["float32"]
    rows = [
        [str(step), f"{a:.12f}", f"{b:.12f}", f"{abs(a - b):.1e}"]
        for step, (a, b) in enumerate(zip(double["xconv"], double["pytorch"], strict=True), 1)
    ]
    means = {name: float(np.mean(values)) for name, values in single["losses"].items()}
    reference = means["PyTorch NCHW"]
    ends = [
        [name, f"{mean:.5f}", f"{100 * (mean / reference - 1):+.2f} %", f"{single['losses'][name][-1]:.4f}"]
        for name, mean in means.items()
    ]
    return (
        f"{result['model']} on {result['data']}, batch {result['batch_size']}, backend {result['backend']}\n\n"
        f"float64\n\n{table(['step', 'loss, xconv', 'loss, PyTorch', 'difference'], rows)}\n\n"
        f"parameters afterwards: {double['largest_difference_of_a_parameter']:.1e} of their layer's largest\n\n"
        f"float32, {single['steps']} steps\n\n"
        f"{table(['', 'mean loss', 'against PyTorch NCHW', 'last loss'], ends)}\n\n{about_lines(result)}"
    )


if __name__ == "__main__":
    main()
