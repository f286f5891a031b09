"""What every measurement must say about where it ran."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from threadpoolctl import threadpool_info

from xconv import __version__
from xconv.backend.numpy_backend import cpu_name
from xconv.backend.threads import default_threads

PACKAGES = ("numpy", "numba", "torch", "cupy-cuda13x", "cupy-cuda12x")


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
    versions = {"xconv": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
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
