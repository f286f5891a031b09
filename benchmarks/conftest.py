"""For `pytest benchmarks/bench_kernels.py benchmarks/bench_training.py`: a backend a test, and where it all ran."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from machine import about, about_lines, blas, blas_line

import xconv
from xconv.backend import NAMES


def pytest_report_header() -> list[str]:
    """Machine, versions, and for each backend its threads and the BLAS kernels in use."""
    lines = about_lines(about()).split("\n")
    for row in xconv.backends():
        if row.usable:
            told = xconv.get_backend(row.name).describe()
            lines.append(f"{row.name}: {told.get('threads', '-')} threads, {told.get('blas', 'no BLAS of the CPU')}")
        else:
            lines.append(f"{row.name}: not usable: {row.reason}. To use it: {row.fix}")
    if "OPENBLAS_CORETYPE" in os.environ:
        lines.append(
            f"OPENBLAS_CORETYPE={os.environ['OPENBLAS_CORETYPE']} is set: not the BLAS kernels that users have"
        )
    return lines


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The saved JSON says what the header says, and not what the host is called."""
    for name in ("node", "release"):
        machine_info.pop(name, None)
    machine_info.update(about(), blas=blas_line(blas()))
    json.dumps(machine_info)  # a value that cannot be saved must fail here, not after all the work


@pytest.fixture(params=sorted(NAMES, key=("numpy", "numba", "cupy").index))
def backend(request: pytest.FixtureRequest) -> xconv.Backend:
    """Every backend in turn; one that is not usable is a skip with its reason."""
    row = next(row for row in xconv.backends() if row.name == request.param)
    if not row.usable:
        pytest.skip(f"backend {row.name} is not usable: {row.reason}. To use it: {row.fix}")
    return xconv.get_backend(request.param)


@pytest.fixture
def timed(backend: xconv.Backend, request: pytest.FixtureRequest) -> Any:
    """timed(work, images): run once so that nothing is compiled under the clock, then time until the device is done.

    Grouped by operation and dtype. `benchmark` is asked for late: pytest-benchmark warns of one that is left unused.
    """
    benchmark = request.getfixturevalue("benchmark")
    operation = request.node.originalname.removeprefix("test_")
    benchmark.group = f"{operation} {request.node.callspec.params.get('dtype', 'float32')}"
    benchmark.extra_info.update(backend.describe())

    def run(work: Any, images: int = 0) -> None:
        def whole() -> None:
            with backend.running():
                work()
            backend.synchronize()

        whole()
        benchmark.pedantic(whole, rounds=30, warmup_rounds=3)
        if images and benchmark.stats is not None:  # None with --benchmark-disable
            benchmark.extra_info["images_per_second"] = round(images / benchmark.stats.stats.median, 1)

    return run
