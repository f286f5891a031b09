"""What training shows: bars that fit the terminal, lines for logs, and few looks at the device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import xconv
from xconv.callbacks import EpochLines, Logs, ProgressBar
from xconv.callbacks.progress import READ_EVERY, in_words, shown
from xconv.errors import ConfigError

ONE = {"loss": 0.123456, "accuracy": 0.987654, "val_loss": 0.25, "val_accuracy": 0.96, "learning_rate": 1e-4}
TWO = {
    "loss": 0.5, "a_loss": 0.3, "a_accuracy": 0.9, "b_loss": 0.2, "b_accuracy": 0.8,
    "val_loss": 0.6, "val_a_loss": 0.4, "val_a_accuracy": 0.8, "val_b_loss": 0.2, "val_b_accuracy": 0.7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("logs", "room", "text"),
    [
        ({"loss": 0.5}, 99, "loss 0.5000"),
        (ONE, 99, "loss 0.1235  accuracy 0.9877  val_loss 0.2500  val_accuracy 0.9600  learning_rate 0.0001"),
        (ONE, 86, "loss 0.1235  acc 0.9877  val_loss 0.2500  val_acc 0.9600  learning_rate 0.0001"),
        (ONE, 75, "loss 0.1235  acc 0.9877  val_loss 0.2500  val_acc 0.9600"),
        (ONE, 45, "loss 0.1235  acc 0.9877  val_acc 0.9600"),
        (ONE, 25, "loss 0.1235  acc 0.9877"),
        (ONE, 0, "loss 0.1235"),
        (TWO, 28, "loss 0.5000  val_loss 0.6000"),
        (TWO, 45, "loss 0.5000  a_acc 0.9000  val_loss 0.6000"),
        (TWO, 80, "loss 0.5000  a_acc 0.9000  b_acc 0.8000  val_loss 0.6000  val_a_acc 0.8000"),
        ({"loss": float("nan"), "mse": 1e-9, "mae": 0.0, "big": 123456.0}, 99,
         "loss nan  mse 1.00e-09  mae 0.0000  big 1.23e+05"),
    ],
)  # fmt: skip
def test_in_words(logs, room, text):
    assert in_words(logs, room) == text
    assert room < len("loss 0.1235") or len(text) <= room


def test_a_line_an_epoch(capsys):
    lines = EpochLines()
    lines.set_params({"epochs": 12})
    lines.set_model(at_rate(12345.6))
    lines.on_epoch_end(0, ONE)
    lines.on_epoch_end(11, {"loss": 2.0})
    assert capsys.readouterr() == (
        "",
        "epoch 1/12: loss 0.1235  accuracy 0.9877  val_loss 0.2500  val_accuracy 0.9600  learning_rate 0.0001"
        "  12,346 images/s\nepoch 12/12: loss 2.0000  12,346 images/s\n",
    )


def at_rate(rate):
    return SimpleNamespace(history=SimpleNamespace(rates=[rate]))


def a_bar(samples=1000, batch_size=10, epochs=1) -> ProgressBar:
    bar = ProgressBar()
    steps = -(-samples // batch_size)
    bar.set_params({"epochs": epochs, "steps": steps, "samples": samples, "batch_size": batch_size, "metrics": []})
    return bar


def test_a_bar_looks_at_the_device_now_and_then(capsys):
    reads = []
    bar = a_bar(samples=995)  # the last batch has five
    bar.on_epoch_begin(0)
    start = time.perf_counter()
    for batch in range(100):
        bar.on_train_batch_end(batch, Logs(lambda: reads.append(1) or {"loss": 0.5}))
        time.sleep(0.003)
    assert 1 <= len(reads) <= (time.perf_counter() - start) / READ_EVERY
    assert bar.bar.n == 995
    bar.set_model(at_rate(2000.0))
    bar.on_epoch_end(0, {"loss": 0.25, "a{b}": 1.0})
    bar.on_train_end()
    err = capsys.readouterr().err
    assert err.endswith("| 2.00k images/s  loss 0.2500  a{b} 1.0000\n") and "loss 0.5000" in err


def test_a_bar_whose_training_never_began_or_broke_off(capsys):
    a_bar().on_train_end()
    assert capsys.readouterr().err == ""
    bar = a_bar()
    bar.on_epoch_begin(0)
    bar.on_train_end()
    assert bar.bar.disable and capsys.readouterr().err.endswith("\n")  # closed: what comes next has its own line


def test_verbose(monkeypatch):
    assert shown(0) is None and shown(False) is None
    assert isinstance(shown(1), ProgressBar) and isinstance(shown(True), ProgressBar)
    assert isinstance(shown(2), EpochLines)
    for watched, kind in ((True, ProgressBar), (False, EpochLines)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched)
        assert isinstance(shown("auto"), kind)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert isinstance(shown("auto"), ProgressBar)
    for wrong in (3, "loud", None, -1):
        with pytest.raises(ConfigError, match=r"verbose must be 0, 1, 2 or 'auto'\. Received: "):
            shown(wrong)


PROGRAM = """
import sys, time
from tests.test_progress import ONE, TWO, a_bar, at_rate
from xconv.callbacks import Logs
for logs in (ONE, TWO):
    bar = a_bar(epochs=100, samples=1000, batch_size=500)
    bar.set_model(at_rate(12345.6))
    for epoch in (98, 99):
        bar.on_epoch_begin(epoch)
        for batch in range(2):
            time.sleep(0.11)
            bar.on_train_batch_end(batch, Logs(lambda: {k: v for k, v in logs.items() if "val" not in k}))
        bar.on_epoch_end(epoch, logs)
    bar.on_train_end()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_bars_fit_the_terminal(columns):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    root = str(Path(xconv.__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=root, env=env, stderr=theirs)
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
    assert process.wait(60) == 0, shown.decode()
    bars = [line.rstrip() for line in re.split(r"[\r\n]+", shown.decode()) if "epoch" in line]
    assert len(bars) > 10 and max(map(len, bars)) <= columns
    # What stays on the screen: the last that was drawn of an epoch, the one before the next begins.
    stays = [line for line, after in zip(bars, [*bars[1:], "epoch  99/100 |  "], strict=True) if "99/100 |  " in after]
    said = [re.sub(r".*█\| ", "", line) for line in stays if line.startswith("epoch 100/100")]
    expected = {
        40: ["loss 0.1235", "loss 0.5000"],
        80: [
            "12.3k images/s  loss 0.1235  acc 0.9877  val_acc 0.9600",
            "12.3k images/s  loss 0.5000  a_acc 0.9000  val_loss 0.6000",
        ],
        120: [
            "12.3k images/s  loss 0.1235  acc 0.9877  val_loss 0.2500  val_acc 0.9600  learning_rate 0.0001",
            "12.3k images/s  loss 0.5000  a_acc 0.9000  b_acc 0.8000  val_loss 0.6000  val_a_acc 0.8000",
        ],
    }
    assert said == expected[columns]
