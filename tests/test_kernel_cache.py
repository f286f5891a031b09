"""A kernel cache that is missing, garbage, cut or not writable costs time and one warning, never an error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

ROOT = Path(__file__).parent.parent

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


def run(cache: Path, before: str = "", variable: str = "XCONV_CACHE_DIR", root: Path = ROOT) -> tuple[int, int]:
    """(kernels that came from the cache, warnings) of a fresh process that uses `cache`."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM],
        env={**env, variable: str(cache), "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    hits, warned = done.stdout.split()
    return int(hits), int(warned)


def kernels(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.suffix in (".nbi", ".nbc"))


def copied(tree: Path) -> Path:
    """A checkout of its own, without what others have compiled."""
    for name in ("xconv", "kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "mnist_sample"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


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


@pytest.mark.parametrize("variable", ["XCONV_CACHE_DIR", "NUMBA_CACHE_DIR"])
def test_the_cache_is_where_the_user_says(tmp_path: Path, variable: str) -> None:
    tree, cache = copied(tmp_path / "tree"), tmp_path / "cache"
    assert run(cache, variable=variable, root=tree) == (0, 0)
    assert len(kernels(cache)) == 4  # an index and a body for each of two
    assert kernels(tree) == []
    (folder,) = cache.iterdir()
    assert os.name != "posix" or folder.stat().st_mode & 0o777 == 0o700


def test_numbas_own_variable_wins(tmp_path: Path) -> None:
    ours, numbas = tmp_path / "ours", tmp_path / "numbas"
    assert run(ours, f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(numbas)!r}\n") == (0, 0)
    assert kernels(numbas) and not ours.exists()


def test_without_a_setting_it_is_where_downloads_are(tmp_path: Path) -> None:
    before = f"""
import os, platformdirs
del os.environ["XCONV_CACHE_DIR"]
platformdirs.user_cache_dir = lambda name: os.path.join({str(tmp_path)!r}, name)
from xconv.data import cache_dir
from xconv.kernels.cpu.jit import folder
assert folder().parent == cache_dir(), cache_dir()
"""
    assert run(tmp_path / "unused", before) == (0, 0)
    assert kernels(tmp_path / "xconv") and not (tmp_path / "unused").exists()


def test_other_peoples_kernels_stay_where_numba_puts_them(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("import numba\n@numba.njit(cache=True)\ndef one(): return 1\n")
    use = f"""
import sys, numba, xconv.kernels.cpu.elementwise
sys.path.insert(0, {str(tmp_path)!r})
import theirs; theirs.one()
assert not numba.config.CACHE_DIR
"""
    assert run(tmp_path / "cache", use) == (0, 0)
    assert [path.name.partition(".")[0] for path in kernels(tmp_path / "__pycache__")] == ["theirs", "theirs"]
    assert not [path for path in kernels(tmp_path / "cache") if "theirs" in path.name]


def test_checkouts_have_a_folder_each_and_a_changed_source_is_compiled_anew(tmp_path: Path) -> None:
    one, two, cache = copied(tmp_path / "one"), copied(tmp_path / "two"), tmp_path / "cache"
    assert run(cache, root=one) == run(cache, root=two) == (0, 0)
    assert len(list(cache.iterdir())) == 2
    assert run(cache, root=one) == (1, 0)
    with (one / "kernels" / "cpu" / "columns.py").open("a") as file:  # another file than relu's, which may be inlined
        file.write("# changed\n")
    assert run(cache, root=one) == (0, 0)
    assert run(cache, root=one) == run(cache, root=two) == (1, 0)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_no_folder_to_write_to(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = tmp_path / "file" if place == "a file" else tmp_path / "file" / "cache"
    assert run(cache) == (0, 1)


def test_no_home(tmp_path: Path) -> None:
    nowhere = """
import os, platformdirs
del os.environ["XCONV_CACHE_DIR"]
platformdirs.user_cache_dir = lambda name: "~/.cache/" + name
"""
    assert run(tmp_path, nowhere) == (0, 1)
    assert not (ROOT / "~").exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner here")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    assert run(tmp_path) == (0, 0)
    before = [(path, path.read_bytes()) for path in kernels(tmp_path)]
    assert before
    stranger = """
import os, stat, pathlib
class Foreign:
    st_uid, st_mode = os.getuid() + 1, stat.S_IFDIR
own = pathlib.Path.stat
pathlib.Path.stat = lambda path, **kw: Foreign() if path.name.startswith("kernels-") else own(path, **kw)
"""
    assert run(tmp_path, stranger) == (0, 1)
    assert [(path, path.read_bytes()) for path in kernels(tmp_path)] == before


def test_a_numba_that_keeps_kernels_otherwise(tmp_path: Path) -> None:
    changed = "import numba.core.caching as c; del c.CompileResultCacheImpl\n"
    assert run(tmp_path, changed) == (0, 1)
    assert kernels(tmp_path) == []


def test_folder_becomes_unwritable(tmp_path: Path) -> None:
    refuse = """
import numba.core.caching as c
def refuse(*args): raise OSError("no space left on device")
c.IndexDataCacheFile.save = refuse
"""
    assert run(tmp_path, refuse) == (0, 1)
