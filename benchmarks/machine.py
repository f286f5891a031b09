"""What every benchmark must say about where it ran, and how its results are written."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from xconv.backend.numpy_backend import cpu_name
from xconv.backend.threads import default_threads

PACKAGES = ("xconv", "numpy", "numba", "torch", "cupy-cuda13x", "cupy-cuda12x")


def without_core_type() -> None:
    """Start this program anew without OPENBLAS_CORETYPE: it forces other BLAS kernels than users have."""
    forced = os.environ.pop("OPENBLAS_CORETYPE", None)
    if forced is not None:
        print(f"OPENBLAS_CORETYPE={forced} was set; started anew without it", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def blas() -> list[dict[str, Any]]:
    """The thread pools loaded in this process: BLAS with its version, kernels and threads, and OpenMP runtimes."""
    keys = ("user_api", "internal_api", "version", "architecture", "num_threads")
    return [{key: pool[key] for key in keys if pool.get(key) is not None} for pool in threadpool_info()]


def blas_line(pools: list[dict[str, Any]]) -> str:
    """The same in one line."""
    names = ("internal_api", "version", "architecture", "num_threads")
    return "; ".join(" ".join(str(pool[key]) for key in names if key in pool) for pool in pools) or "none loaded"


def about() -> dict[str, Any]:
    """CPU, threads, versions, date and how busy the machine is."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if "xconv" not in versions:
        import xconv

        versions["xconv"] = xconv.__version__
    return {
        "cpu": cpu_name(),
        "processors": os.cpu_count(),
        "threads": default_threads(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def about_lines(machine: dict[str, Any]) -> str:
    """The same for reading."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['processors']} processors, {machine['threads']} threads, "
        f"load {machine['load_average']} before the run\nPython {machine['python']}, {versions}; {machine['date']}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns: text to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [f":{'-' * (w - 1)}" if i == 0 else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def write_json(path: Path, result: Any) -> None:
    """`result` as indented JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
    print(f"wrote {path}", file=sys.stderr)
