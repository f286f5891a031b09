"""What accuracy() on 60,000 images and 10,000 predict calls add to a fresh process, for each usable backend.

    python benchmarks/memory.py [--json] [--out DIR]

Resident memory and its peak are read from Linux's /proc. The images exist before the first reading and are touched.
Kernels are compiled anew after it, so what the compiler takes is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from machine import about, about_lines, table, write_json

from xconv.measure.memory import STATUS, forget_peak
from xconv.measure.memory import resident_mb as resident

IMAGES = 60_000
CALLS = 10_000
CALL_SIZE = 10  # images in one predict call


def measure(backend: str, kind: str) -> dict[str, Any]:
    """In a process of its own. `kind` is the pixels' dtype for accuracy(), or "predict"."""
    import xconv

    rng = np.random.default_rng(0)
    model = xconv.SimpleConvNet(weight_init_std="he", backend=backend)
    if kind == "predict":
        x = rng.random((CALL_SIZE, 1, 28, 28), np.float32)
        held = []
        for call in range(CALLS + 1):
            if call in (CALLS // 100, CALLS // 10, CALLS):
                held.append(round(resident("VmRSS"), 1))
            model.predict(x)
        return {"rss_mb_after_1_10_100_percent": held, "growth_mb": round(held[-1] - held[0], 1)}
    x = rng.integers(0, 2, (IMAGES, 1, 28, 28), np.uint8)
    if kind != "uint8":
        x = np.divide(x, 255, dtype=kind)
    t = rng.integers(0, 10, IMAGES)
    forget_peak()
    before = resident("VmRSS")
    model.accuracy(x, t)
    return {
        "added_mb_at_peak": round(resident("VmHWM") - before, 1),
        "added_mb_after": round(resident("VmRSS") - before, 1),
        "before_mb": round(before, 1),
    }


def main() -> None:
    """Start a fresh process for each measurement and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write memory.json into this folder")
    parser.add_argument("--one", nargs=2, metavar=("BACKEND", "KIND"), help="one measurement, in this process")
    args = parser.parse_args()
    if not STATUS.exists():
        print("memory.py reads /proc, which only Linux has", file=sys.stderr)
        sys.exit(2)
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    import xconv

    machine = about()
    results: dict[str, dict[str, Any]] = {}
    for row in reversed(xconv.backends()):
        if not row.usable:
            print(f"{row.name} is not measured: {row.reason}. To use it: {row.fix}", file=sys.stderr)
            continue
        results[row.name] = {}
        for kind in ("uint8", "float32", "predict"):
            command = [sys.executable, __file__, "--one", row.name, kind]
            with TemporaryDirectory() as empty:
                settings = {**os.environ, "NUMBA_CACHE_DIR": empty}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=settings)
            results[row.name][kind] = json.loads(done.stdout.splitlines()[-1])
    whole = {**machine, "images": IMAGES, "calls": CALLS, "call_size": CALL_SIZE, "backends": results}
    if args.json:
        print(json.dumps(whole))
    else:
        rows = [
            [
                name,
                *(f"{row[kind]['added_mb_at_peak']:.1f}" for kind in ("uint8", "float32")),
                " ".join(f"{mb:.1f}" for mb in row["predict"]["rss_mb_after_1_10_100_percent"]),
                f"{row['predict']['growth_mb']:.1f}",
            ]
            for name, row in results.items()
        ]
        head = [
            "backend",
            f"accuracy({IMAGES:,} uint8) adds, MB",
            "the same, float32",
            f"MB held after {CALLS // 100:,}, {CALLS // 10:,}, {CALLS:,} predict calls",
            "growth, MB",
        ]
        print(f"{about_lines(machine)}\n\n{table(head, rows)}")
    if args.out is not None:
        write_json(args.out / "memory.json", whole)


if __name__ == "__main__":
    main()
