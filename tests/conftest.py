"""Fixtures that every test may use: each backend by turns, where one that is not there is a skip with its reason."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

from tests import reports, standin
from xconv import data
from xconv.backend import Backend, get_backend
from xconv.cli import main
from xconv.errors import BackendError

pytest.register_assert_rewrite("tests.checks", "tests.cli", "tests.mistakes")  # their asserts, too, show what differs
settings.register_profile("xconv", deadline=None, derandomize=True, max_examples=60, print_blob=True)
settings.load_profile("xconv")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs; Ctrl-C is tested, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = ("numpy", "numba", "cupy")
REQUIRED = {name for name in os.environ.get("XCONV_TEST_BACKENDS", "").split(",") if name}


def load(name: str) -> Backend:
    """The backend, "cupy" being a real device or else the stand-in; skips with the reason, or fails if required."""
    try:
        if name == "cupy":
            real = standin.real()
            if real is None and standin.MISSING:
                raise BackendError(standin.MISSING)
            return real or standin.install()
        return get_backend(name)
    except (BackendError, ImportError) as error:
        if name in REQUIRED:
            pytest.fail(f"XCONV_TEST_BACKENDS names {name!r}, which does not load: {error}")
        pytest.skip(f"backend {name}: {error}")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend by turns."""
    return load(request.param)


@pytest.fixture(params=["standin", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest) -> Backend:
    """The CuPy backend on its stand-in, and on a device where there is one."""
    if request.param == "gpu":
        found = standin.real_or_reason()
        return pytest.skip(found) if isinstance(found, str) else found
    if standin.MISSING:
        pytest.skip(standin.MISSING)
    return standin.install()


@pytest.fixture
def script(monkeypatch):
    """script(name): a module of the benchmarks folder."""
    folder = Path(__file__).parent.parent / "benchmarks"
    if not folder.is_dir():
        pytest.skip("the benchmarks folder is not beside the tests")
    monkeypatch.syspath_prepend(str(folder))
    return import_module


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Each dtype by turns."""
    return request.param


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """run(*args) -> (exit code, stdout, stderr), in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XCONV_BACKEND", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(args, prog_name="xconv", standalone_mode=False)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def few(monkeypatch):
    """600 images to train and 200 to test, under the sample's name."""
    sample = data.load()
    small = replace(
        sample,
        x_train=sample.x_train[:600],
        t_train=sample.t_train[:600],
        x_test=sample.x_test[:200],
        t_test=sample.t_test[:200],
    )
    monkeypatch.setattr("xconv.data.load", lambda name: small)
    return small


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of a run, and its model."""
    return reports.keep(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def folder(kept, tmp_path):
    """A copy of that folder, to be spoiled."""
    shutil.copytree(kept[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine: (its address, what it answers by path, the paths asked for); the cache is empty."""
    monkeypatch.delenv("XCONV_DATA_DIR", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "cache"))
    answers: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client hangs up, as it should, on a file without end
                self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", answers, asked
    http.shutdown()
    http.server_close()
    thread.join()
