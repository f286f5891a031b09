"""The command apart from training: bench, backends, help; results on stdout, all else on stderr, whatever stdout is."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import xconv
from tests.cli import COMMAND, ENV, one_json_line
from xconv.cli import console

BENCH_KEYS = [
    "model", "backend", "batch_size", "dtype", "threads", "blas", "train_ms", "infer_ms", "train_images_per_second",
    "infer_images_per_second", "peak_rss_mb",
]  # fmt: skip


def test_ctrl_c_elsewhere(run, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("xconv.cli.backends.find_backends", lambda names: interrupt())
    code, out, err = run("backends")
    assert (code, out) == (130, "") and err.splitlines()[-1] == "xconv: interrupted"


def test_bench(run):
    code, out, err = run("bench", "--backend", "numpy", "--steps", "2", "--json")
    result = one_json_line(out)
    assert code == 0 and list(result) == BENCH_KEYS
    assert (result["model"], result["backend"], result["batch_size"]) == ("simple-convnet", "numpy", 100)
    assert result["dtype"] == "float32" and result["threads"] >= 1 and result["blas"]
    for kind in ("train", "infer"):
        assert result[f"{kind}_images_per_second"] == pytest.approx(1e5 / result[f"{kind}_ms"])
    code, out, err = run("bench", "--backend", "numpy", "--steps", "2", "--batch-size", "8")
    assert code == 0 and "images/s" in out and "batch 8, float32" in out and "getting ready" in err


def test_backends(run):
    code, out, err = run("backends", "--json")
    rows = one_json_line(out)
    assert code == 0 and err == ""
    assert {row["name"] for row in rows} == {"numpy", "numba", "cupy"}
    keys = ["name", "usable", "device", "version", "workspace", "reason", "fix", "notes"]
    assert all(list(row) == keys for row in rows)
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
    assert re.search(r"epoch 1/1 \|.+\| [\d.]+k? images/s  loss 0\.\d+  acc 0\.\d+  val_acc 0\.\d+$", bars[-1])
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
