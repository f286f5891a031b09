"""A kernel cache that is missing, garbage, cut or not writable costs time and one warning, never an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

PROGRAM = """
import warnings
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from xconv.kernels.cpu import elementwise
    x = np.array([-1.0, 2.0], np.float32)
    y = np.empty(2, np.float32)
    for _ in range(2):
        elementwise.relu(x, y)
    elementwise.relu_backward(x, y, np.empty(2, np.float32))
assert y.tolist() == [0.0, 2.0], y
print(sum(elementwise.relu.stats.cache_hits.values()))
print(len([w for w in caught if "not kept on disk" in str(w.message)]))
"""


def run(cache: Path, before: str = "") -> tuple[int, int]:
    """(kernels that came from the cache, warnings) of a fresh process that uses `cache`."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    hits, warned = done.stdout.split()
    return int(hits), int(warned)


def test_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert run(tmp_path) == (0, 0)
    assert run(tmp_path) == (1, 0)


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["garbage", "cut", "empty"])
def test_damaged_cache_is_rebuilt(tmp_path: Path, suffix: str, damage: str) -> None:
    run(tmp_path)
    files = list(tmp_path.rglob(f"*{suffix}"))
    assert files
    for path in files:
        whole = path.read_bytes()
        path.write_bytes({"garbage": b"\x80garbage" * 9, "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    hits, warned = run(tmp_path)
    assert hits == 0 and warned <= 1
    assert run(tmp_path) == (1, 0), "the cache was not rebuilt"


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    # Numba looks for a folder in several places; this takes them all away, as a read-only system does.
    nowhere = """
import numba.core.caching as c
getattr(c, "CacheImpl", getattr(c, "_CacheImpl", None))._locator_classes.clear()
"""
    assert run(tmp_path, nowhere) == (0, 1)


def test_folder_becomes_unwritable(tmp_path: Path) -> None:
    refuse = """
import numba.core.caching as c
def refuse(*args): raise OSError("no space left on device")
c.IndexDataCacheFile.save = refuse
"""
    assert run(tmp_path, refuse) == (0, 1)
