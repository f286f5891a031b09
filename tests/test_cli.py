"""The command as its users meet it: results on stdout, all else on stderr, one line and exit code 2 for a mistake."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import xconv
from xconv import checkpoint, data
from xconv.cli import console, main
from xconv.cli.watch import Brake, Stopped
from xconv.errors import BackendError

TRAIN_KEYS = [
    "backend", "device", "model", "data", "epochs", "steps", "train_loss", "test_loss", "train_accuracy",
    "test_accuracy", "train_seconds", "compile_seconds", "images_per_second", "peak_rss_mb", "out",
]  # fmt: skip
BENCH_KEYS = [
    "model", "backend", "batch_size", "dtype", "threads", "blas", "train_ms", "infer_ms", "train_images_per_second",
    "infer_images_per_second", "peak_rss_mb",
]  # fmt: skip
COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"]
FILES = ["curves.png", "history.csv", "model.safetensors"]
# Where this xconv came from, installed or not, so that a subprocess elsewhere finds the same one.
ENV = {**os.environ, "PYTHONPATH": str(Path(xconv.__file__).parents[1]), "COLUMNS": "80"}
ENV.pop("XCONV_BACKEND", None)
COMMAND = [sys.executable, "-m", "xconv"]


def shell(*args: str, cwd: Path, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *args], cwd=cwd, env=ENV, capture_output=True, text=True, check=False, **settings)


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
    monkeypatch.setattr("xconv.cli.train.datasets.load", lambda name: small)
    return small


QUICK = ("train", "--backend", "numpy", "--epochs", "1")


def one_json_line(out: str):
    assert out.count("\n") == 1 and out.endswith("\n")
    return json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


# ---------------------------------------------------------------------- train


def test_train_on_the_sample(tmp_path):
    done = shell("train", "--epochs", "1", "--out", "run/one", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = one_json_line(done.stdout)
    assert list(result) == TRAIN_KEYS
    assert result["backend"] in ("numpy", "numba", "cupy")
    assert (result["model"], result["data"], result["epochs"]) == ("simple-convnet", "mnist-sample", 1)
    assert result["steps"] == 100 and result["out"] == "run/one"
    assert 0.9 < result["test_accuracy"] < 1 and 0.9 < result["train_accuracy"] < 1
    assert 0 < result["test_loss"] < 0.4 and 0 < result["train_loss"] < 0.4
    assert result["images_per_second"] == pytest.approx(10_000 / result["train_seconds"])
    assert result["compile_seconds"] >= 0 and result["peak_rss_mb"] > 50

    folder = tmp_path / "run" / "one"
    assert sorted(os.listdir(folder)) == FILES
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    (row,) = csv.DictReader((folder / "history.csv").read_text().splitlines())
    assert list(row) == COLUMNS
    assert float(row["val_accuracy"]) == result["test_accuracy"]
    net = xconv.SimpleConvNet(backend="numpy")
    net.load_weights(folder / "model.safetensors")
    _, _, x, t = data.load().arrays()
    assert net.accuracy(x, t) == pytest.approx(result["test_accuracy"], abs=2e-4)

    assert "preparing kernels" in done.stderr and "ready after" in done.stderr
    assert re.search(r"epoch 1/1: loss 0\.\d{4}, accuracy 0\.\d{4}; test .* images/s", done.stderr)
    assert "\r" not in done.stderr  # no bar where nobody looks


def test_table(run, few):
    code, out, err = run(*QUICK, "--out", "here")
    assert code == 0 and "simple-convnet on mnist-sample, numpy" in out
    assert re.search(r"accuracy +0\.\d{4} +0\.\d{4}", out)
    assert "1 epoch, 6 steps in" in out and "compilation" in out
    assert "written to here: curves.png, history.csv, model.safetensors" in out
    assert "{" not in out and all(len(line) <= 80 for line in out.splitlines())
    assert all(len(line) <= 120 for line in err.splitlines())


def test_options_reach_the_training(run, few):
    code, out, err = run(*QUICK, "--batch-size", "100", "--optimizer", "SGD", "--seed", "3", "--json")
    assert code == 0 and "batches of 100, SGD 0.01" in err  # its own rate, since the recipe's is Adam's
    other = one_json_line(run(*QUICK, "--optimizer", "sgd", "--lr", "0.02", "--seed", "3", "--json")[1])
    assert other["test_loss"] != one_json_line(out)["test_loss"]
    assert "AdaGrad 0.06" in run(*QUICK, "--recipe", "book")[2]


def test_backend_from_the_environment(run, few, monkeypatch):
    monkeypatch.setenv("XCONV_BACKEND", "numpy")
    assert one_json_line(run("train", "--epochs", "1", "--json")[1])["backend"] == "numpy"


def test_one_seed_gives_one_file(run, few):
    for name in "ab":
        assert run(*QUICK, "--out", name)[0] == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


def test_a_second_run_replaces_the_first_and_leaves_other_files(run, few):
    assert run(*QUICK, "--out", "run")[0] == 0
    before = Path("run/model.safetensors").read_bytes()
    Path("run/notes.txt").write_text("mine")
    assert run(*QUICK, "--out", "run", "--seed", "1")[0] == 0
    assert Path("run/model.safetensors").read_bytes() != before
    assert sorted(os.listdir("run")) == sorted([*FILES, "notes.txt"])


def test_without_matplotlib_there_are_no_curves(run, few, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = run(*QUICK, "--out", "run")
    assert code == 0 and os.path.isfile("run/model.safetensors") and not os.path.exists("run/curves.png")
    assert err.count("matplotlib") == 1 and "pip install 'xconv[plot]'" in err
    assert "written to run: history.csv, model.safetensors" in out


def test_a_dead_network_is_told_once(run, few):
    code, _, err = run("train", "--backend", "numpy", "--recipe", "book", "--lr", "50", "--epochs", "3")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "warning" in line]
    assert line.startswith("xconv: warning: the network is dead: ") and "Cure: " in line


def test_a_loss_that_explodes(run, few):
    code, out, err = run(*QUICK, "--optimizer", "sgd", "--lr", "1e30", "--out", "run")
    assert code == 2 and out == "" and not os.path.exists("run")
    assert "learning rate" in err.splitlines()[-1] and "Nothing was written" in err.splitlines()[-1]


def test_a_disk_that_is_full_at_the_end(run, few, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xconv.files.os.replace", full)
    code, out, err = run(*QUICK, "--out", "run")
    assert code == 2 and out == "" and not os.path.exists("run")
    assert "model.safetensors: could not be written" in err.splitlines()[-1]


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "--backend", "tpu"], "'tpu' is not one of 'auto', 'numpy', 'numba', 'cupy'"),
        (["train", "--model", "vgg"], "simple-convnet"),
        (["train", "--data", "cifar"], "'mnist-sample', 'mnist', 'fashion-mnist'"),
        (["train", "--optimizer", "lion"], "'sgd', 'momentum', 'nesterov', 'adagrad', 'rmsprop', 'adam'"),
        (["train", "--recipe", "mine"], "'default', 'book'"),
        (["train", "--epochs", "0"], "x>=1"),
        (["train", "--epochs", "two"], "'two' is not a valid integer"),
        (["train", "--batch-size", "0"], "x>=1"),
        (["train", "--lr", "-1"], "Adam: lr must be a number >= 0. Received: -1"),
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


# ---------------------------------------------------------------------- Ctrl-C, SIGTERM


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_training(tmp_path, signum, code):
    process = subprocess.Popen(
        [*COMMAND, "train", "--backend", "numba", "--epochs", "500", "--out", "run", "--json"],
        cwd=tmp_path,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "epoch 1/500" in line:
            time.sleep(0.2)
            process.send_signal(signum)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, "".join(lines) + err
    assert out == "" and "Traceback" not in err
    assert re.fullmatch(
        r"xconv: interrupted in epoch \d+ after step \d+; what there is was written to run", err.splitlines()[-1]
    )
    assert sorted(os.listdir(tmp_path / "run")) == FILES
    tensors, metadata = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert len(tensors) == 6 and metadata["architecture"]["model"] == "SimpleConvNet"
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) >= 2


def test_interrupted_in_the_first_epoch(run, few, monkeypatch):
    original = Brake.on_step_end

    def step(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    monkeypatch.setattr(Brake, "on_step_end", step)
    before = signal.getsignal(signal.SIGTERM)
    code, out, err = run(*QUICK, "--out", "run")
    assert (code, out) == (143, "") and "interrupted in epoch 1 after step 1" in err
    assert sorted(os.listdir("run")) == ["history.csv", "model.safetensors"]  # no epoch to draw
    assert Path("run/history.csv").read_text().startswith("epoch,loss,accuracy")
    assert signal.getsignal(signal.SIGTERM) is before
    code, out, err = run(*QUICK)
    assert code == 143 and err.splitlines()[-1].endswith("nothing was written, since there was no --out")


def test_interrupted_before_training(run, monkeypatch):
    monkeypatch.setattr("xconv.cli.train.datasets.load", lambda _: os.kill(os.getpid(), signal.SIGINT))
    code, out, err = run(*QUICK, "--out", "run")
    assert (code, out) == (130, "") and "before training began; nothing was written" in err
    assert not os.path.exists("run")


def test_asked_twice_it_stops_at_once():
    with Brake() as brake:
        brake.on_train_begin(1, 1)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_elsewhere(run, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("xconv.cli.backends.find_backends", interrupt)
    code, out, err = run("backends")
    assert (code, out) == (130, "") and err.splitlines()[-1] == "xconv: interrupted"


# ---------------------------------------------------------------------- bench, backends, and the rest


def test_bench(run):
    code, out, err = run("bench", "--backend", "numpy", "--steps", "2", "--json")
    result = one_json_line(out)
    assert code == 0 and list(result) == BENCH_KEYS
    assert (result["model"], result["backend"], result["batch_size"]) == ("simple-convnet", "numpy", 100)
    assert result["dtype"] == "float32" and result["threads"] >= 1 and result["blas"]
    for kind in ("train", "infer"):
        assert result[f"{kind}_images_per_second"] == pytest.approx(1e5 / result[f"{kind}_ms"])
    code, out, err = run("bench", "--backend", "numpy", "--steps", "2", "--batch-size", "8")
    assert code == 0 and "images/s" in out and "batch 8, float32" in out and "preparing" in err


def test_backends(run):
    code, out, err = run("backends", "--json")
    rows = one_json_line(out)
    assert code == 0 and err == ""
    assert {row["name"] for row in rows} == {"numpy", "numba", "cupy"}
    assert all(list(row) == ["name", "usable", "device", "version", "reason", "fix"] for row in rows)
    assert next(row for row in rows if row["name"] == "numpy")["usable"] is True
    code, out, _ = run("backends")
    assert code == 0 and re.search(r"numpy +yes +\S", out)
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("  to mend it: "))
    for row in rows:
        assert row["usable"] or (row["reason"] in out and f"to mend it: {row['fix']}" in out)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["train", "--help"], ["bench", "-h"], ["backends", "-h"]])
def test_help(run, args):
    code, out, err = run(*args)
    assert (code, err) == (0, "") and out.startswith("Usage: xconv")
    assert max(map(len, out.splitlines())) <= 100


def test_version(run):
    assert run("--version") == (0, f"xconv {xconv.__version__}\n", "")


def test_json_has_no_nan(capsys):
    console.print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": None})
    assert capsys.readouterr().out == '{"a": null, "b": [null, 1.5], "c": null}\n'


def test_stdout_may_be_a_pipe_that_closes(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "backends"], cwd=tmp_path, env=ENV, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_stdout_may_be_full(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "backends"], cwd=tmp_path, env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and done.stderr == "xconv: [Errno 28] No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_there_is_a_bar_that_fits_80_columns(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "train", "--epochs", "1"], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out = process.communicate(timeout=60)[0]
    bars = [line.strip() for line in re.split(r"[\r\n]+", shown.decode()) if "epoch 1/1" in line]
    assert process.returncode == 0 and len(bars) > 2
    assert re.search(r"epoch 1/1 \|.+\| [\d.]+k? images/s  loss 0\.\d+  acc 0\.\d+  test 0\.\d+$", bars[-1])
    assert max(map(len, bars)) <= 80
    assert b"images/s" in out and b"\r" not in out


def test_peak_memory_is_this_process_and_in_megabytes():
    code = (
        "import numpy as np; from xconv.environment import peak_rss_mb\n"
        "before = peak_rss_mb(); np.ones(25_000_000); print(before, peak_rss_mb())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert 20 < before < 200 and 190 < after - before < 260
