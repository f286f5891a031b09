"""Finding a backend: the one that is named or an error, never another; "auto" says what it chose and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import xconv
from tests import standin
from tests.conftest import load
from xconv import backend as registry
from xconv import get_backend
from xconv.backend import Backend, backend_of, prove
from xconv.backend.numpy_backend import NumpyBackend
from xconv.errors import BackendError, ConfigError


@pytest.fixture
def nothing_made(monkeypatch):
    """As in a new process: no backend made, none chosen."""
    monkeypatch.setattr(registry, "_made", {})
    monkeypatch.setattr(registry, "_chosen", None)
    monkeypatch.delenv("XCONV_BACKEND", raising=False)


def without(monkeypatch, *packages):
    """`import` of these fails as if they were not installed."""
    for name in list(sys.modules):
        if name.startswith(("xconv.backend.numba_backend", "xconv.kernels.cpu", "xconv.backend.cupy_backend")):
            monkeypatch.delitem(sys.modules, name)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("xconv.backend.cuda.driver_version", lambda: 13020)  # where there is none, that is told first


class Broken(NumpyBackend):
    """Its im2col is off by one entry."""

    name = "broken"

    def im2col(self, *args, **kwargs):
        return np.roll(super().im2col(*args, **kwargs), 1)


def test_a_name_gives_the_one_instance(backend):
    assert get_backend(backend) is backend
    assert get_backend(backend.name) is get_backend(backend.name)
    assert type(get_backend(backend.name)) is type(backend)
    assert isinstance(backend, Backend) and isinstance(backend.describe()["device"], str)
    assert backend.describe()["backend"] == backend.name


def test_every_place_takes_a_name_or_a_backend(backend, monkeypatch):
    if backend.name == "cupy" and standin.real() is None:
        monkeypatch.setitem(registry._made, "cupy", backend)
    for model in (
        xconv.SimpleConvNet(backend=backend.name),
        xconv.SimpleConvNet(backend=backend),
        xconv.SimpleConvNet(backend="numpy").to(backend.name),
    ):
        assert model.backend is backend
        model.predict(np.zeros((1, 1, 28, 28)))  # layers are bound once they run
        assert all(node.layer.backend is backend for node in model.graph.nodes)
        assert isinstance(model.params["W1"], backend.array_type)


def test_the_environment_names_a_backend(monkeypatch):
    monkeypatch.setenv("XCONV_BACKEND", "numpy")
    assert get_backend().name == get_backend(None).name == xconv.SimpleConvNet().backend.name == "numpy"
    monkeypatch.setenv("XCONV_BACKEND", "")  # as if it were not set
    monkeypatch.setattr(registry, "_chosen", get_backend("numpy"))
    assert get_backend() is registry._chosen


@pytest.mark.usefixtures("nothing_made")
def test_auto_chooses_the_best_and_says_why_once(monkeypatch, capsys):
    load("numba")
    without(monkeypatch, "cupy")
    chosen = get_backend("auto")
    assert chosen.name == "numba"
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "'auto' chose numba on" in said.err and "no cupy: CuPy is not installed" in said.err
    assert get_backend() is get_backend("auto") is chosen
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("nothing_made")
def test_auto_comes_down_to_numpy(monkeypatch, capsys):
    without(monkeypatch, "cupy", "numba")
    assert get_backend("auto").name == "numpy"
    said = capsys.readouterr().err
    assert "(no cupy: CuPy is not installed; no numba: numba is not installed)" in said


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(
    ("name", "reason", "fix"),
    [
        ("numba", "numba is not installed", "pip install numba"),
        ("cupy", "CuPy is not installed", 'pip install "xconv[cudnn13]"'),
    ],
)
def test_a_backend_that_is_not_installed_is_refused(monkeypatch, capsys, name, reason, fix):
    without(monkeypatch, "cupy", "numba")
    for ask in (
        lambda: get_backend(name),
        lambda: xconv.SimpleConvNet(backend=name),
        lambda: xconv.SimpleConvNet(backend="numpy").to(name),
        lambda: monkeypatch.setenv("XCONV_BACKEND", name) or get_backend(),
    ):
        with pytest.raises(BackendError) as caught:
            ask()
        assert str(caught.value).startswith(f"backend {name!r} cannot run here: {reason}; {fix}")
        assert caught.value.reason == reason and caught.value.fix.startswith(fix)
    row = next(row for row in xconv.backends() if row.name == name)
    assert not row.usable and row.reason == reason and row.fix.startswith(fix) and row.device is None
    assert capsys.readouterr().err == ""  # nobody chose anything


@pytest.mark.usefixtures("nothing_made")
def test_a_library_that_does_not_load_is_told_with_its_own_words(monkeypatch):
    without(monkeypatch)

    class Refuses:
        def find_spec(self, name, path=None, target=None):
            if name == "numba":
                raise ImportError("Numba needs NumPy 2.3 or less.\nGot NumPy 9.9.")

    monkeypatch.setattr(sys, "meta_path", [Refuses(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    with pytest.raises(BackendError) as caught:
        get_backend("numba")
    assert caught.value.reason == "numba does not work: ImportError: Numba needs NumPy 2.3 or less. Got NumPy 9.9."
    assert caught.value.fix == "pip install --upgrade --force-reinstall numba"


@pytest.mark.usefixtures("nothing_made")
def test_a_backend_that_computes_wrongly_is_not_usable(monkeypatch):
    with pytest.raises(BackendError, match=r"should be \[8, 12, 20, 24\]\. Received: "):
        prove(Broken())
    monkeypatch.setattr(registry, "_CLASSES", {"numba": (__name__, "Broken"), "numpy": registry._CLASSES["numpy"]})
    monkeypatch.setattr(registry, "NAMES", ("numba", "numpy"))
    with pytest.raises(BackendError, match="computes wrongly"):
        get_backend("numba")
    wrong, right = xconv.backends()
    assert not wrong.usable and "computes wrongly" in wrong.reason and "--force-reinstall" in wrong.fix
    assert right.usable
    assert get_backend("auto").name == "numpy"


def test_the_list_is_complete_and_best_first(monkeypatch):
    monkeypatch.delitem(registry._made, "cupy", raising=False)  # another test's stand-in
    rows = xconv.backends()
    assert [row.name for row in rows] == ["cupy", "numba", "numpy"]
    for row in rows:
        if row.usable:
            assert row.device and row.version and row.reason is row.fix is None
        else:
            assert row.reason and row.fix and row.device is None
    assert rows[-1].usable and rows[-1].version == f"numpy {np.__version__}"


def test_a_wrong_setting_is_named():
    code = (
        "import xconv\n"
        "row = xconv.backends()[1]\n"
        "print(row.usable, row.reason)\n"
        "try: xconv.get_backend('numba')\n"
        "except xconv.XconvError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "XCONV_NUM_THREADS": "all"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = "XCONV_NUM_THREADS must be an integer >= 1, or unset to use every processor. Received: 'all'"
    assert done.stdout.splitlines() == [f"False {words}", words]


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize("setting", ["abc", "0", "-1", "2.5"])
def test_auto_does_not_pass_over_a_wrong_setting(monkeypatch, capsys, setting):
    load("numba")
    registry._made.clear()
    without(monkeypatch, "cupy")
    monkeypatch.setenv("XCONV_NUM_THREADS", setting)
    for ask in (get_backend, lambda: get_backend("auto"), lambda: get_backend("numba"), xconv.SimpleConvNet):
        with pytest.raises(ConfigError, match=f"XCONV_NUM_THREADS must be .* Received: '{re.escape(setting)}'$"):
            ask()
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("XCONV_NUM_THREADS")
    assert get_backend("auto").name == "numba"  # once put right


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(("setting", "threads"), [("", 3), ("1", 1), ("3", 3), ("4", 3), ("64", 3)])
def test_threads_that_would_share_a_processor_are_not_made(monkeypatch, setting, threads):
    load("numba")
    registry._made.clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setenv("XCONV_NUM_THREADS", setting)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [get_backend("numba").describe()["threads"] for _ in range(2)] == [threads, threads]
    told = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(told) == (setting in ("4", "64"))  # once in a process
    assert not told or told[0].startswith(
        f"XCONV_NUM_THREADS is {setting}, more than the processors this process may use; 3 is taken "
    )


@pytest.mark.usefixtures("nothing_made")
def test_a_warning_that_is_an_error_is_not_a_broken_library(monkeypatch):
    load("numba")
    registry._made.clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setenv("XCONV_NUM_THREADS", "2")
    with pytest.raises(RuntimeWarning, match="; 1 is taken instead"):
        get_backend("numba")


def test_the_owner_of_an_array(backend, monkeypatch):
    monkeypatch.delenv("XCONV_BACKEND", raising=False)
    array = backend.asarray(np.zeros(3))
    assert backend_of(array, backend) is backend
    if isinstance(array, np.ndarray):
        monkeypatch.setenv("XCONV_BACKEND", backend.name)
        assert backend_of(array) is backend
        return
    assert backend_of(array).name == backend.name
    with pytest.raises(BackendError, match=r"expected an array of backend 'numpy'; convert it.*Received: "):
        backend_of(array, "numpy")
    with pytest.raises(BackendError, match=r"expected an array of backend 'cupy'; .*Received: numpy\.ndarray"):
        backend_of(np.zeros(3), backend)


def test_importing_and_listing_makes_no_choice():
    code = "import xconv, xconv.backend as b; xconv.backends(); print(b._chosen)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("None\n", "")
