"""CUDA C++ kernels, one complete translation unit a file; shared headers are the `.cuh` beside them."""

from pathlib import Path

FOLDER = Path(__file__).parent


def source(name: str) -> str:
    """Text of ``name + ".cu"``."""
    return (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
