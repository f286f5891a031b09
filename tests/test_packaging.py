"""What is installed: every package, the kernels' sources, the sample images, and nothing under a foreign name."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

import xconv

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def packages_in_the_tree() -> set[str]:
    """Every folder with an __init__.py, and that of the sample images, under the name it is installed by."""
    found = {"xconv.data.mnist_sample"}
    for folder, top in ((ROOT / "xconv", "xconv"), (ROOT / "kernels", "xconv.kernels")):
        for path in folder.rglob("__init__.py"):
            found.add(".".join((top, *path.parent.relative_to(folder).parts)))
    return found


def files_in_the_tree(folder: str, *endings: str) -> set[str]:
    return {str(p.relative_to(ROOT)) for ending in endings for p in (ROOT / folder).rglob(f"*{ending}")}


def test_every_package_is_listed():
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages_in_the_tree())
    assert SETUPTOOLS["package-dir"] == {"xconv.kernels": "kernels"}


def test_the_version_is_written_the_same_twice():
    assert xconv.__version__ == PROJECT["project"]["version"]


def test_names_in_the_project_file():
    project = PROJECT["project"]
    assert project["scripts"] == {"xconv": "xconv.cli:main"}
    assert project["license"] == "MIT"
    for name in (project["readme"], *project["license-files"]):
        assert (ROOT / name).read_text(encoding="utf-8").strip()
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    from xconv.cli import main

    assert callable(main)


def test_the_readme_links_to_files_that_are_there():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_kernels_refuse_a_foreign_name():
    """There is a published package called `kernels`: a checkout's folder must not be taken for it."""
    code = "import sys; sys.path.insert(0, '.'); import kernels"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: this folder is the package xconv.kernels; import it by that name. Received: kernels"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from a copy of the tree with the setuptools that is installed."""
    try:
        version = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        pytest.skip("building a wheel without a network needs setuptools >= 77 here, and there is none")
    if int(version.partition(".")[0]) < 77:
        pytest.skip(f"building a wheel without a network needs setuptools >= 77 here, and this is {version}")
    if importlib.util.find_spec("pip") is None:
        pytest.skip("building a wheel needs pip here, and there is none")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    # A copy, without what an earlier build may have left: the tree stays as it is.
    for folder in ("xconv", "kernels"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = tree / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(out), str(tree)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_every_file_and_no_more(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = files_in_the_tree("xconv", ".py", ".gz") | {"xconv/py.typed"}
    expected |= {f"xconv/{name}" for name in files_in_the_tree("kernels", ".py", ".cu", ".cuh")}
    assert names == expected
    assert {name.partition("/")[0] for name in names} == {"xconv"}
    for kind in (r"xconv/kernels/cpu/\w+\.py", r"xconv/kernels/cuda/\w+\.cu", r"xconv/data/mnist_sample/.*\.gz"):
        assert any(re.fullmatch(kind, name) for name in names), kind


def test_what_the_wheel_says_of_itself(wheel):
    info = f"xconv-{xconv.__version__}.dist-info"
    about = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert about["Name"] == "xconv"
    assert about["Version"] == xconv.__version__
    assert about["License-Expression"] == "MIT"
    assert "# xconv" in about.get_payload()
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "xconv = xconv.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert wheel.read(f"{info}/WHEEL").decode().count("py3-none-any") == 1


def test_the_wheel_works_unpacked_far_from_the_tree(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import xconv; from xconv.kernels import cuda; import xconv.kernels.cpu.columns\n"
        "assert xconv.__file__.startswith(sys.argv[1]), xconv.__file__\n"
        "assert cuda.__file__.startswith(sys.argv[1]), cuda.__file__\n"
        "assert 'extern \"C\"' in cuda.source('columns')\n"
        "x, t, *_ = xconv.data.load('mnist-sample').arrays()\n"
        "print(len(x), xconv.SimpleConvNet(backend='numpy').predict(x[:3]).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "10000 (3, 10)"


def test_use_leaves_nothing_that_pip_does_not_know(tmp_path):
    """A file that an uninstall leaves behind leaves a folder `xconv` without code, in front of any other install."""
    pytest.importorskip("numba")
    site = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "xconv", site / "xconv", ignore=ignore)
    shutil.copytree(ROOT / "kernels", site / "xconv" / "kernels", ignore=ignore)
    before = {path for path in site.rglob("*") if path.is_file()}
    code = (
        "import numpy as np, xconv\n"
        "assert xconv.__file__.startswith(sys.argv[1]), xconv.__file__\n"
        "x, t = np.zeros((4, 1, 8, 8)), np.arange(4)\n"
        "net = xconv.SimpleConvNet((1, 8, 8), {'filter_size': 3}, backend='numba')\n"
        "net.gradient(x, t), net.predict(x)"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1])\n" + code, str(site)],
        cwd=tmp_path,
        env={**os.environ, "XCONV_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    new = {path for path in site.rglob("*") if path.is_file()} - before
    assert {path.suffix for path in new} <= {".pyc"}  # pip removes those of its .py files
    assert list((tmp_path / "cache").rglob("*.nbc"))
