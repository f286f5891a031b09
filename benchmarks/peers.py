"""xconv beside PyTorch, and beside the book's algorithm: one command, one interleaved run, the same threads.

    python benchmarks/peers.py [--model NAME] [--task step|fit|book] [--compile] [--rounds N] [--json] [--out DIR]

What `xconv bench --peer torch` does (see xconv/measure), with two more peers and with the project's targets: the book's
algorithm, and xconv in float64. In each round each contestant takes one turn of training steps and one of predictions;
only ratios of turns of the same round are worth anything on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from contestants import book
from machine import without_core_type

import xconv
from xconv import zoo
from xconv.cli.beside import ROUNDS, data_of
from xconv.measure import Entrant, Network, charts, compare, contestants, ours, pytorch, report, save
from xconv.measure.comparison import Demand
from xconv.measure.contestants import BOOK, Xconv, recipe_of
from xconv.measure.tables import stem_of

TORCH = tuple(
    f"PyTorch {way} {layout} float32" for way in ("eager", "compiled") for layout in ("NCHW", "channels_last")
)
NUMPY, NUMBA = "xconv numpy float32", "xconv numba float32"


def over_torch(train: float, infer: float) -> Demand:
    """What Numba is asked for beside PyTorch; no more memory, and in whole calls of fit what it is in steps."""
    return Demand(
        "Numba float32 over PyTorch's best",
        TORCH,
        NUMBA,
        {"train": train, "infer": infer, "fit": train, "book": 3.0, "memory": 1.0},
    )


DEMANDS = {
    BOOK: [
        Demand("NumPy float32 over the book float32", ("book float32",), NUMPY, {"train": 1.2}),
        Demand("NumPy float64 over the book float64", ("book float64",), "xconv numpy float64", {"train": 1.5}),
        Demand("Numba float32 over NumPy float32", (NUMPY,), NUMBA, {"train": 4.0}),
        over_torch(3.0, 1.5),
    ],
    "keras-mnist": [over_torch(1.5, 1.0)],
    "mnist-dropout": [over_torch(1.5, 1.0)],
    "vgg16-bn-cifar10": [over_torch(1.2, 1.0)],
}


def entrants(network: Network, batch_size: int, backends: list[str], **settings: object) -> dict[str, Entrant]:
    """The book's algorithm and xconv, for steps in both dtypes where the book can compete."""
    mine = contestants.entrants(network, batch_size, backends, **settings)  # type: ignore[arg-type]
    if network.model != BOOK or settings:
        return mine
    double = {
        f"xconv {name} float64": Entrant(Xconv, batch_size, {"backend": name, "dtype": "float64", "network": network})
        for name in backends
    }
    return {**book(batch_size), **double, **mine}


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    tasks = "training steps and predictions (default), epochs of fit, or the book's run"
    parser.add_argument("--task", choices=ROUNDS, default="step", help=tasks)
    parser.add_argument("--rounds", type=int, help="turns of each contestant (default: 11; epochs: 3, the book's 10)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn (default: 0.3)")
    parser.add_argument("--patience", type=float, default=60, help="seconds for repeated turns (default: 60)")
    parser.add_argument("--model", choices=DEMANDS, default=BOOK, help=f"(default: {BOOK})")
    parser.add_argument("--backend", default="auto", help="only this one of xconv's (default: all that are usable)")
    parser.add_argument("--compile", action="store_true", help="torch.compile competes, too; needs a C++ compiler")
    parser.add_argument("--batch-size", type=int, help="images in a batch (default: the network's published one)")
    parser.add_argument("--data", choices=xconv.data.NAMES, help="for epochs (default: mnist where $XCONV_DATA_DIR is)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write peers.json and peers.png here (others: peers-MODEL-TASK)")
    args = parser.parse_args()
    rounds = (11 if args.task == "step" else ROUNDS[args.task]) if args.rounds is None else args.rounds
    if rounds < 1 or (args.batch_size or 1) < 1:
        parser.error("--rounds and --batch-size must be at least 1")
    if args.task == "book" and args.model != BOOK:
        parser.error(f"--task book is {BOOK}'s run")
    without_core_type()
    network = Network(args.model, recipe_of(args.model, args.task))
    batch_size = args.batch_size or zoo.recipe(args.model).batch_size
    facts: dict[str, object] = {"model": args.model, "batch_size": batch_size}
    settings: dict[str, object] = {}
    try:
        if args.task != "step":
            data, facts["images"] = data_of(args.data, network, batch_size)
            facts["data"] = data.name
            settings = {"data": data, "evaluated": args.task == "book"}
        names = entrants(network, batch_size, ours(args.backend), **settings)
    except xconv.XconvError as error:
        sys.exit(f"peers: {error}")
    if find_spec("torch") is None:
        print(f"no PyTorch here, so it is not compared: {pytorch.CURE}", file=sys.stderr)
    else:
        names |= pytorch.entrants(network, batch_size, args.compile, **settings)  # type: ignore[arg-type]
    whole = compare(
        names,
        DEMANDS[args.model],
        task=args.task,
        rounds=rounds,
        seconds=args.seconds,
        patience=args.patience,
        say=say,
        **facts,
    )
    print(json.dumps(whole) if args.json else report(whole))
    if args.out is not None:
        save(args.out, stem_of(whole), whole, charts.comparison, say)


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
