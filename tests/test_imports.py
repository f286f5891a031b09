"""The order of the packages: a module imports only from rows above its own, and nobody asks which backend it has."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = (
    "errors",
    "shapes streams checks files environment kernels",
    "backend",
    "initializers parameters regularizers schedules utils",
    "layers losses optimizers",
    "graph metrics",
    "plan",
    "data checkpoint callbacks",
    "models datasets",
    "book",
    "zoo",
    "plots testing",
    "report",
    "measure",
    "cli",
    "__main__",
)
ROW = {name: number for number, row in enumerate(ROWS) for name in row.split()}
HEAVY = ("cupy", "numba", "matplotlib", "torch", "tensorflow")


def modules() -> dict[str, Path]:
    """Every module of xconv by its name, the kernels among them."""
    found = {}
    for folder, top in ((ROOT / "xconv", "xconv"), (ROOT / "kernels", "xconv.kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((top, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imported(name: str, path: Path) -> set[str]:
    """Full names of all that the module imports, wherever in it the import stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def part(name: str) -> str | None:
    """The row's word: "layers" of xconv.layers.conv; None outside xconv."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] if top == "xconv" else None


MODULES = modules()


def test_every_part_has_a_row():
    assert {part(name) for name in MODULES} - {""} == set(ROW)
    assert sum(len(row.split()) for row in ROWS) == len(ROW)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "xconv"])
def test_imports_come_from_rows_above(name):
    own = part(name)
    for other in imported(name, MODULES[name]):
        if other == "xconv.__version__":  # a string, there before anything else of xconv is asked for it
            continue
        used = part(other)
        if used is None or used == own:
            continue
        assert used in ROW, f"{name} imports {other}, which has no row"
        assert ROW[used] < ROW[own], f"{name} imports {other}, of a row not above"


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) == "kernels"])
def test_kernels_import_nothing_of_xconv(name):
    others = {other for other in imported(name, MODULES[name]) if part(other) not in (None, "kernels")}
    assert not others


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) != "backend"])
def test_nobody_asks_which_backend_it_is(name):
    """No comparison with a backend's name, and no test for a backend's class."""
    names = {"numpy", "numba", "cupy"}
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        where = f"{name}, line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Compare | ast.match_case):
            strings = {s.value for s in ast.walk(node) if isinstance(s, ast.Constant) and isinstance(s.value, str)}
            if isinstance(node, ast.match_case):
                strings = {s.value for s in ast.walk(node.pattern) if isinstance(s, ast.Constant)}
            assert not strings & names, where
            operands = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            for operand in operands:
                assert not re.search(r"backend\.name$", ast.unparse(operand)), where
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = ast.unparse(node.args[1])
            assert not re.search(r"\b(Numpy|Numba|Cupy)?Backend\b", asked) or asked == "Backend", where


def test_importing_xconv_is_light():
    """Neither a backend that nobody asked for nor what only plots or compares is loaded."""
    code = f"import sys, xconv, xconv.cli, xconv.book; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not done.stderr


def test_the_numpy_backend_needs_no_numba():
    code = (
        "import sys; sys.modules['numba'] = sys.modules['cupy'] = None\n"
        "import numpy as np, xconv\n"
        "net = xconv.SimpleConvNet(backend='numpy')\n"
        "print(net.predict(np.zeros((1, 1, 28, 28))).shape, net.loss(np.zeros((1, 1, 28, 28)), [3]) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 10) True"
