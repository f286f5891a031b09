"""SimpleConvNet on one GPU: xconv's CuPy backend beside PyTorch, both eager, interleaved in one run.

    python benchmarks/gpu.py [--rounds N] [--steps N] [--batch-size N] [--json] [--out DIR]

Float32 storage everywhere. PyTorch runs twice: strict float32, and as it comes, which is TF32 in its convolutions and
float32 in its matrix products. xconv computes in float32; the JSON has its own words on that. Training batches lie on
the device; a prediction goes from host to host. A turn is timed from one synchronisation of the device to the next,
around at least 100 steps. Without a GPU: one line with the reason, exit 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from machine import about, about_lines, table, write_json

import xconv
from xconv.measure.contestants import BOOK, Network, Xconv, batches, recipe_of
from xconv.measure.pytorch import torch_net, torch_optimizer

WARM_STEPS = 20  # compilation, cuDNN's and the memory pools' first steps
TASKS = ("train", "infer")


class TorchGPU:
    """PyTorch eager on the GPU; `tf32` says whether its convolutions may use TF32."""

    def __init__(self, torch: Any, batch_size: int, tf32: bool) -> None:
        source = Network(BOOK, recipe_of(BOOK)).build("numpy")
        net = torch_net(torch, source).to("cuda")
        optimizer = torch_optimizer(torch, net, recipe_of(BOOK), fused=False)
        loss_of = torch.nn.CrossEntropyLoss()
        xs, ts = (torch.from_numpy(a) for a in batches(batch_size, source))
        turn = cycle(range(len(xs)))
        placed = [(x.to("cuda"), t.to("cuda")) for x, t in zip(xs, ts, strict=True)]

        def train() -> None:
            x, t = placed[next(turn)]
            optimizer.zero_grad()
            loss_of(net(x), t).backward()
            optimizer.step()

        @torch.inference_mode()
        def infer() -> None:
            net(xs[next(turn)].to("cuda")).cpu()

        def prepare() -> None:
            torch.backends.cudnn.allow_tf32 = tf32
            torch.backends.cuda.matmul.allow_tf32 = False

        self.train, self.infer, self.prepare, self.synchronize = train, infer, prepare, torch.cuda.synchronize


class XconvGPU(Xconv):
    """xconv on CuPy; a step does not wait for the device, as PyTorch's does not."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size, "cupy", "float32", wait=False)
        self.prepare = lambda: None
        self.synchronize = xconv.get_backend("cupy").synchronize


def missing() -> str | None:
    """Why this machine cannot run the comparison, or None."""
    row = next(row for row in xconv.backends() if row.name == "cupy")
    if not row.usable:
        return f"backend cupy is not usable: {row.reason}. To use it: {row.fix}"
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed. To install it with CUDA: pip install torch"
    return None if torch.cuda.is_available() else "this PyTorch sees no GPU: it needs a build with CUDA"


def seconds_of(step: Callable[[], Any], steps: int, synchronize: Callable[[], None]) -> float:
    """Mean seconds of a step over a turn, on the host's clock between two synchronisations."""
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Check, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant (default: 9)")
    parser.add_argument("--steps", type=int, default=200, help="steps in a turn, at least 100 (default: 200)")
    parser.add_argument("--batch-size", type=int, default=100, help="images in a batch (default: 100)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write gpu.json into this folder")
    args = parser.parse_args()
    if args.steps < 100 or args.rounds < 1 or args.batch_size < 1:
        parser.error("--steps must be at least 100, --rounds and --batch-size at least 1")
    if (reason := missing()) is not None:
        print(f"gpu: {reason}", file=sys.stderr)
        sys.exit(2)
    import torch

    ours = "xconv cupy float32"
    peers = {"PyTorch eager float32": False, "PyTorch eager TF32 convolutions": True}
    contestants: dict[str, Any] = {ours: XconvGPU(args.batch_size)}
    contestants |= {name: TorchGPU(torch, args.batch_size, tf32) for name, tf32 in peers.items()}
    times: dict[str, dict[str, list[float]]] = {name: {task: [] for task in TASKS} for name in contestants}
    for number in range(args.rounds + 1):
        for name, contestant in contestants.items():
            contestant.prepare()
            for task in TASKS:
                step = getattr(contestant, task)
                for _ in range(WARM_STEPS):
                    step()
                seconds = seconds_of(step, args.steps, contestant.synchronize)
                if number:  # the first round warms clocks and caches
                    times[name][task].append(seconds)
    whole = {
        **about(),
        "device": torch.cuda.get_device_name(),
        "xconv": xconv.get_backend("cupy").describe(),
        "torch": {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "steps": args.steps,
        "seconds_of_a_step": times,
        "ratios": {
            task: {
                peer: statistics.median(a / b for a, b in zip(times[peer][task], times[ours][task], strict=True))
                for peer in peers
            }
            for task in TASKS
        },
    }
    if args.json:
        print(json.dumps(whole))
    else:
        rows = []
        for name, by_task in times.items():
            middles = [statistics.median(by_task[task]) for task in TASKS]
            ratios = [f"{whole['ratios'][task][name]:.2f}" if name in peers else "1.00" for task in TASKS]
            rows.append([name, *(f"{1e6 * m:.0f}" for m in middles), *ratios])
        head = ["SimpleConvNet", *(f"{task}, us a step" for task in TASKS), *(f"{task}, over xconv" for task in TASKS)]
        print(f"{whole['device']}; {about_lines(whole)}\nbatch {args.batch_size}\n\n{table(head, rows)}")
    if args.out is not None:
        write_json(args.out / "gpu.json", whole)


if __name__ == "__main__":
    main()
