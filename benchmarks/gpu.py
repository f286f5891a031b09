"""Everything that only a GPU can show, in one command of under 8 minutes.

    python benchmarks/gpu.py [--out DIR] [--json] [--minutes M] [--only NAME ...]

First the equivalence suite (`pytest -m gpu`), then SimpleConvNet on the full MNIST twice, then each case: xconv
recorded and eager beside PyTorch eager (channels_last, autocast) in the same run, and
torch.compile(mode="reduce-overhead") in two of them. Each is a process of its own with a share of the time; gpu.json is
written anew after each, and gpu.png at the end. What fails is told there and stops nothing: then the exit code is 1.
Without a GPU: one line with the reason, and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_cases import CASES, measure, whole_runs
from machine import about, about_lines, table, write_json

import xconv

ROOT = Path(__file__).parent.parent
MINUTES = 7.5
SUITE, RUNS = "equivalence suite", "full MNIST"
SUITE_SECONDS, RUNS_SECONDS = 150.0, 45.0  # at most
GRACE = 8.0  # to start a process and to stop it

Outcome = dict[str, Any]  # what a job found; with "error" where it failed
Job = tuple[str, float, Callable[[float], Outcome]]  # its name, its seconds at most, the work


def missing() -> str | None:
    """Why this machine cannot run it, or None."""
    (row,) = xconv.backends(["cupy"])
    if not row.usable:
        return f"backend cupy is not usable: {row.reason}. To use it: {row.fix}"
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed. To install it with CUDA: pip install torch"
    return None if torch.cuda.is_available() else "this PyTorch sees no GPU: it needs a build with CUDA"


def suite(seconds: float) -> Outcome:
    """`pytest -m gpu`; its last line."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    told: Outcome = {"said": lines[-1]}
    if done.returncode:
        told["error"] = "\n".join(lines[-30:])
    return told


def alone(name: str, seconds: float) -> Outcome:
    """`gpu.py --child NAME` in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--child", name, "--seconds", f"{seconds - GRACE:.1f}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        return {"error": " ".join(done.stderr.split())[-600:] or f"exit code {done.returncode}"}
    found: Outcome = json.loads(done.stdout.strip().splitlines()[-1])
    failed = [f"{who}: {row['error']}" for who, row in found.get("contestants", {}).items() if "error" in row]
    if failed:
        found["error"] = "; ".join(failed)
    if found.get("equal_to_the_bit") is False:
        found["error"] = "two runs with one seed gave other bits"
    return found


def child(name: str, seconds: float) -> Outcome:
    """The work of such a process."""
    if name == RUNS:
        return whole_runs()
    return measure(next(case for case in CASES if case.name == name), seconds)


def jobs(only: Sequence[str] = ()) -> list[Job]:
    """All there is to do, in order."""
    found: list[Job] = [
        (SUITE, SUITE_SECONDS, suite),
        (RUNS, RUNS_SECONDS, lambda seconds: alone(RUNS, seconds)),
        *((case.name, case.seconds, lambda seconds, case=case: alone(case.name, seconds)) for case in CASES),
    ]
    return [job for job in found if not only or job[0] in only]


def work_off(
    todo: Sequence[Job],
    minutes: float,
    save: Callable[[Mapping[str, Outcome]], None],
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Outcome]:
    """Do each job within its share and the whole within `minutes`; save after each. A failure stops nothing.

    Time that a job leaves is the next ones'; one for which too little is left is told as not measured.
    """
    start, found = clock(), {}
    for number, (name, most, work) in enumerate(todo):
        left = 60 * minutes - (clock() - start)
        asked = sum(seconds for _, seconds, _ in todo[number:])
        seconds = min(most, left) if asked <= left else min(most, most * left / asked + GRACE)
        if min(seconds, left) < 2 * GRACE:
            found[name] = {"error": f"not measured: {max(0.0, left):.0f} s of {60 * minutes:.0f} were left"}
        else:
            say(f"[{number + 1}/{len(todo)}] {name}: up to {seconds:.0f} s, {left:.0f} s left")
            began = clock()
            try:
                found[name] = work(min(seconds, left))
            except subprocess.TimeoutExpired:
                found[name] = {"error": f"stopped after {clock() - began:.0f} s, its share of the time"}
            except Exception as error:
                found[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:600]}
            found[name]["took_seconds"] = round(clock() - began, 1)
        if "error" in found[name]:
            say(f"    {name}: {found[name]['error']}")
        save(found)
    return found


def report(found: Mapping[str, Outcome]) -> str:
    """Tables for reading."""
    rows = []
    for name, outcome in found.items():
        contestants = {who: row for who, row in outcome.get("contestants", {}).items() if "error" not in row}
        for who, row in contestants.items():
            over = outcome["over"].get(who, {})
            peers = ", ".join(f"{ratio['speed']:.2f}x {peer}" for peer, ratio in over.items())
            us = 1e6 * outcome["batch_size"] / row["images_per_second"]
            figures = [f"{value:,.0f}" for value in (us, row["images_per_second"], row["device_mb"])]
            rows.append([name, who, *figures, peers])
    lines = [table(["case", "who", "us a step", "images/s", "device MB", "as fast as"], rows)] if rows else []
    if "training_seconds" in found.get(RUNS, {}):
        runs = found[RUNS]
        lines.append(
            f"{runs['images']} images of {runs['data']}, {runs['epochs']} epochs: {runs['training_seconds']:.2f} s of "
            f"training; two runs equal to the bit: {'yes' if runs['equal_to_the_bit'] else 'no'}"
        )
    if SUITE in found:
        lines.append(f"{SUITE}: {found[SUITE].get('said', 'did not end')}")
    lines += [f"{name}: FAILED: {outcome['error']}" for name, outcome in found.items() if "error" in outcome]
    return "\n\n".join(lines)


def main() -> None:
    """Check, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = [name for name, _, _ in jobs()]
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"the time for all (default: {MINUTES})")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="some of: " + ", ".join(names))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write gpu.json and gpu.png into this folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=20.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.seconds)))
        return
    if not args.minutes > 0:
        parser.error("--minutes must be above 0")
    if (reason := missing()) is not None:
        print(f"gpu: {reason}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(args.minutes, args.only or (), args.out, args.json))


def run(minutes: float, only: Sequence[str], out: Path | None, as_json: bool) -> int:
    """All of it; the exit code."""
    import torch

    facts = {
        **about(),
        "device": torch.cuda.get_device_name(),
        "xconv": xconv.get_backend("cupy").describe(),
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "minutes": minutes,
    }

    def save(found: Mapping[str, Outcome]) -> None:
        if out is not None:
            write_json(out / "gpu.json", {**facts, "results": found})

    found = work_off(jobs(only), minutes, save, lambda text: print(text, file=sys.stderr, flush=True))
    if out is not None:
        import gpu_chart

        gpu_chart.draw(out / "gpu.png", {**facts, "results": found})
    heading = f"{facts['device']}; {about_lines(facts)}"
    print(json.dumps({**facts, "results": found}) if as_json else f"{heading}\n\n{report(found)}")
    return int(any("error" in outcome for outcome in found.values()))


if __name__ == "__main__":
    main()
