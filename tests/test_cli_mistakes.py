"""A mistake made with the command is one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import xconv
from tests.cli import QUICK, shell
from xconv.errors import BackendError


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "--backend", "tpu"], "'tpu' is not one of 'auto', 'numpy', 'numba', 'cupy'"),
        (["train", "--model", "vgg"], "simple-convnet"),
        (["train", "--data", "cifar"], "'mnist-sample', 'mnist', 'fashion-mnist'"),
        (["train", "--optimizer", "lion"], "'sgd', 'momentum', 'nesterov', 'adagrad', 'rmsprop', 'adam', 'adamw'"),
        (["train", "--recipe", "mine"], "'default', 'book'"),
        (["train", "--epochs", "0"], "x>=1"),
        (["train", "--epochs", "two"], "'two' is not a valid integer"),
        (["train", "--batch-size", "0"], "x>=1"),
        (["train", "--lr", "-1"], "Adam: lr must be a number >= 0 or a Schedule. Received: -1"),
        (["train", "--lr", "nan"], "Received: nan"),
        (["train", "--lr", "inf"], "Received: inf"),
        (["train", "--lr", "fast"], "'fast' is not a valid float"),
        (["train", "--seed", "-1"], "seed must be an integer from 0"),
        (["train", "--out", "file"], "a file is in the way"),
        (["train", "--out", "file/run"], "a file is in the way"),
        (["train", "--out"], "requires an argument"),
        (["train", "--epoch", "1"], "No such option"),
        (["train", "now"], "unexpected extra argument"),
        (["bench", "--steps", "0"], "x>=1"),
        (["bench", "--batch-size", "-1"], "x>=1"),
        (["bench", "--backend", "numpy", "--batch-size", "999999999999999"], "out of memory"),
        (["tain"], "No such command 'tain'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(run, args, words):
    Path("file").write_text("in the way")
    code, out, err = run(*args)
    assert code == 2 and out == ""
    last = err.splitlines()[-1]
    assert last.startswith("xconv: ") and words in last and "Traceback" not in err
    if "out of memory" not in words:
        assert err.count("\n") == 1
    assert os.listdir() == ["file"]


def test_a_mistake_as_the_shell_sees_it(tmp_path):
    done = shell("train", "--epochs", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_backend_that_is_not_there(run, monkeypatch):
    def absent(name):
        raise BackendError(f"backend {name!r} cannot run here: no driver", reason="no driver", fix="apt install driver")

    monkeypatch.setattr("xconv.cli.prepare.get_backend", absent)
    for command in ("train", "bench"):
        code, out, err = run(command, "--backend", "cupy")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "'cupy' cannot run here: no driver" in err and "apt install driver" in err


def test_cupy_where_it_cannot_run(run, monkeypatch):
    monkeypatch.delitem(xconv.backend._made, "cupy", raising=False)  # another test's stand-in
    cupy = next(info for info in xconv.backends() if info.name == "cupy")
    if cupy.usable:
        pytest.skip("CuPy runs here")
    code, out, err = run("train", "--backend", "cupy", "--out", "run")
    assert (code, out, err.count("\n")) == (2, "", 1) and not os.path.exists("run")
    assert str(cupy.reason) in err


def test_data_that_is_not_there(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XCONV_DATA_DIR", str(tmp_path / "nothing"))
    code, out, err = run("train", "--data", "fashion-mnist", "--out", "a/b/c")
    assert (code, out, err.count("\n")) == (2, "", 1) and "XCONV_DATA_DIR" in err
    assert os.listdir() == []  # the folders made for the results are gone


def test_an_out_folder_that_refuses(run, few, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr("xconv.cli.train.prepare", lambda *_, **__: pytest.fail("began before the folder was checked"))
    code, out, err = run(*QUICK, "--out", "run")
    assert (code, out, err.count("\n")) == (2, "", 1) and "Received: Permission denied" in err
    assert os.listdir() == []
