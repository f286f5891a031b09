"""xconv beside PyTorch, and beside the book's algorithm: one command, one interleaved run, the same threads.

    python benchmarks/peers.py [--model NAME] [--compile] [--rounds N] [--batch-size N] [--json] [--out DIR]

Each contestant lives in a process of its own, so that no thread pool disturbs another's, and sleeps on a pipe while
others run. In each round each takes one turn of training steps and one of predictions; only ratios of turns of the same
round are worth anything on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import about, about_lines, blas, blas_line, table, without_core_type, write_json

WARM_STEPS = 3  # at the start of each turn, not timed: threads wake, caches fill
LEAST_STEPS = 5
TASKS = ("train", "infer")
PAUSE = 0.5  # seconds before a disturbed turn is repeated
DISTURBED = 0.1  # a turn is disturbed when other programs took more than this share of the machine
NO_TORCH = 'no PyTorch here, so it is not compared: pip install "xconv[bench]"'
TORCH = ("PyTorch eager NCHW float32", "PyTorch eager channels_last float32", "PyTorch compiled float32")
NUMBA = "xconv numba float32"
# (question, targets of training and of inference, slower contestants of which the best counts, faster contestant)
DEMANDS: dict[str, tuple[tuple[str, float | None, float | None, tuple[str, ...], str], ...]] = {
    "simple-convnet": (
        ("NumPy float32 over the book float32", 1.2, None, ("book float32",), "xconv numpy float32"),
        ("NumPy float64 over the book float64", 1.5, None, ("book float64",), "xconv numpy float64"),
        ("Numba float32 over NumPy float32", 4.0, None, ("xconv numpy float32",), NUMBA),
        ("Numba float32 over PyTorch's best", 3.0, 1.5, TORCH, NUMBA),
    ),
    "keras-mnist": (("Numba float32 over PyTorch's best", 1.5, 1.0, TORCH, NUMBA),),
    "mnist-dropout": (("Numba float32 over PyTorch's best", 1.5, 1.0, TORCH, NUMBA),),
    "vgg16-bn-cifar10": (("Numba float32 over PyTorch's best", 1.2, 1.0, TORCH, NUMBA),),
}


def serve(pipe: Connection, name: str, batch_size: int, threads: int, model: str, compiled: bool) -> None:
    """A contestant's process: make it, then answer each (task, seconds) with `_turn`."""
    from contestants import entrants

    try:
        contestant = entrants(batch_size, threads, model, compiled)[name]()
        _turn(contestant.train, 0.0)
        after = contestant.loss()
        _turn(contestant.infer, 0.0)
    except Exception as error:
        pipe.send({"error": f"{type(error).__name__}: {error}".split("\n", 1)[0]})
        return
    pipe.send({"pools": blas(), **contestant.about, "first_loss": after})
    while True:
        task, seconds = pipe.recv()
        if task == "end":
            pipe.send(contestant.loss())
            return
        pipe.send(_turn(getattr(contestant, task), seconds))


def _turn(step: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """(median seconds of a step, processor seconds that the whole turn took)."""
    used = time.process_time()
    for _ in range(WARM_STEPS):
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_STEPS or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times), time.process_time() - used


def busy_seconds() -> float | None:
    """Processor seconds used by everyone since the machine started; None where the system (not Linux) hides them."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _idle, _wait, *rest = (int(word) for word in file.readline().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


class Referee:
    """Asks for turns, and has a turn repeated that other programs disturbed, while `patience` (seconds) lasts."""

    def __init__(self, patience: float) -> None:
        self.patience, self.turns, self.disturbed = patience, 0, 0

    def turn(self, pipe: Connection, task: str, seconds: float) -> float:
        """Median seconds of a step."""
        while True:
            start, before = time.perf_counter(), busy_seconds()
            pipe.send((task, seconds))
            median, used = pipe.recv()
            took, after = time.perf_counter() - start, busy_seconds()
            share = 0.0 if before is None or after is None else (after - before - used) / took / (os.cpu_count() or 1)
            if share <= DISTURBED or self.patience <= 0:
                self.turns += 1
                self.disturbed += share > DISTURBED
                return median
            time.sleep(PAUSE)
            self.patience -= took + PAUSE


def compete(
    names: list[str],
    rounds: int,
    seconds: float,
    batch_size: int,
    threads: int,
    referee: Referee,
    model: str,
    compiled: bool,
) -> dict[str, Any]:
    """{contestant: {about, last_loss, train: [seconds of a step, by round], infer: [...]}}, or {error} if it failed."""
    for variable in ("OPENBLAS", "MKL", "OMP", "XCONV"):
        os.environ[f"{variable}_NUM_THREADS"] = str(threads)
    spawn = multiprocessing.get_context("spawn")
    results: dict[str, Any] = {}
    pipes: dict[str, Connection] = {}
    processes = []
    for name in names:  # one after the other: they would only disturb one another
        pipe, far = spawn.Pipe()
        process = spawn.Process(target=serve, args=(far, name, batch_size, threads, model, compiled), daemon=True)
        process.start()
        far.close()
        processes.append(process)
        try:
            told = pipe.recv()
        except EOFError:
            told = {"error": "its process ended without a word"}
        if "error" in told:
            results[name] = told
            print(f"{name} cannot compete: {told['error']}", file=sys.stderr)
            continue
        pipes[name] = pipe
        results[name] = {"about": told, **{task: [] for task in TASKS}}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        order = list(pipes)
        shift = number % max(len(order), 1)  # nobody always follows the same neighbour out of a cold start
        for name in order[shift:] + order[:shift]:
            for task in TASKS:
                results[name][task].append(referee.turn(pipes[name], task, seconds))
    for name, pipe in pipes.items():
        pipe.send(("end", 0.0))
        results[name]["last_loss"] = pipe.recv()
    for process in processes:
        process.join()
    return results


def ratio(results: dict[str, Any], task: str, slower: tuple[str, ...], faster: str) -> dict[str, float] | None:
    """How many times as fast, by round: the median with least and most, and by the best turn of each."""
    slower = tuple(name for name in slower if task in results.get(name, {}))
    if task not in results.get(faster, {}) or not slower:
        return None
    # The better of several peers is chosen by its median over the whole run, not anew in each round.
    peer = min(slower, key=lambda name: statistics.median(results[name][task]))
    by_round = [a / b for a, b in zip(results[peer][task], results[faster][task], strict=True)]
    return {
        "median": statistics.median(by_round),
        "least": min(by_round),
        "most": max(by_round),
        "best_turns": min(results[peer][task]) / min(results[faster][task]),
    }


def ratios(results: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """Each demand with what was measured."""
    return [
        {"what": what, "task": task, "target": dict(zip(TASKS, targets, strict=True))[task], "measured": measured}
        for task in TASKS
        for what, *targets, slower, faster in DEMANDS[model]
        if (measured := ratio(results, task, slower, faster)) is not None
    ]


def report(whole: dict[str, Any]) -> str:
    """Everything for reading."""
    results, batch_size = whole["contestants"], whole["batch_size"]
    ran = {name: row for name, row in results.items() if "error" not in row}
    rows = []
    for name, row in ran.items():
        cells = [name]
        for task in TASKS:
            middle = statistics.median(row[task])
            cells += [
                f"{middle * 1e3:.2f}",
                f"{min(row[task]) * 1e3:.2f}..{max(row[task]) * 1e3:.2f}",
                f"{batch_size / middle:,.0f}",
            ]
        rows.append([*cells, f"{row['about']['first_loss']:.5f}"])
    head = [whole["model"], *(word for task in TASKS for word in (f"{task} ms", "by round", "images/s"))]
    head.append(f"loss, step {WARM_STEPS + LEAST_STEPS}")
    lines = [about_lines(whole), f"batch {batch_size}, {whole['rounds']} rounds", ""]
    lines += [table(head, rows), ""]
    targets = [
        [
            f"{row['task']}: {row['what']}",
            f">= {row['target']}" if row["target"] else "-",
            f"{row['measured']['median']:.2f}",
            f"{row['measured']['least']:.2f}..{row['measured']['most']:.2f}",
            f"{row['measured']['best_turns']:.2f}",
        ]
        for row in whole["ratios"]
    ]
    lines += [table(["times as fast", "target", "measured", "by round", "best turns"], targets), ""]
    if whole["disturbed_turns"]:
        lines.append(f"{whole['disturbed_turns']} of {whole['turns']} turns were disturbed by other programs.\n")
    for name, row in ran.items():
        products = row["about"].get("blas") or blas_line(row["about"]["pools"])
        lines.append(f"{name}: {row['about']['threads']} threads; {products}")
    return "\n".join(lines)


def chart(path: Path, machine: dict[str, Any], results: dict[str, Any], model: str, batch_size: int) -> None:
    """Throughput of each contestant as horizontal bars, with the range over the rounds."""
    from charts import throughput

    ran = {name: row for name, row in results.items() if "error" not in row}
    panels = {"training": "train", "inference": "infer"}
    throughput(
        path,
        f"{model}, batch {batch_size}, {machine['cpu']}, {machine['threads']} threads",
        {
            title: {name: [batch_size / seconds for seconds in row[task]] for name, row in ran.items()}
            for title, task in panels.items()
        },
    )


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant (default: 11)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn (default: 0.3)")
    parser.add_argument("--patience", type=float, default=60, help="seconds for repeated turns (default: 60)")
    parser.add_argument("--model", choices=DEMANDS, default="simple-convnet", help="(default: simple-convnet)")
    parser.add_argument("--compile", action="store_true", help="torch.compile competes, too; needs a C++ compiler")
    parser.add_argument("--batch-size", type=int, help="images in a batch (default: the network's published one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write peers.json and peers.png (peers-MODEL for others) here")
    args = parser.parse_args()
    if args.rounds < 1 or (args.batch_size or 1) < 1:
        parser.error("--rounds and --batch-size must be at least 1")
    without_core_type()
    from contestants import entrants

    from xconv import zoo

    machine = about()
    batch_size = args.batch_size or zoo.recipe(args.model).batch_size
    names = list(entrants(batch_size, machine["threads"], args.model, args.compile))
    if find_spec("torch") is None:
        print(NO_TORCH, file=sys.stderr)
        names = [name for name in names if not name.startswith("PyTorch")]
    referee = Referee(args.patience)
    results = compete(
        names, args.rounds, args.seconds, batch_size, machine["threads"], referee, args.model, args.compile
    )
    whole = {
        **machine,
        "model": args.model,
        "batch_size": batch_size,
        "rounds": args.rounds,
        "turns": referee.turns,
        "disturbed_turns": referee.disturbed,
        "contestants": results,
        "ratios": ratios(results, args.model),
    }
    print(json.dumps(whole) if args.json else report(whole))
    if args.out is not None:
        stem = "peers" if args.model == "simple-convnet" else f"peers-{args.model}"
        write_json(args.out / f"{stem}.json", whole)
        chart(args.out / f"{stem}.png", machine, results, args.model, batch_size)


if __name__ == "__main__":
    main()
