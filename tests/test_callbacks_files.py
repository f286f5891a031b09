"""Callbacks that write files, on a model that is none: which files, what in them, full disks, killed runs."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import xconv
from tests.pretended import Pretended, run
from xconv import checkpoint
from xconv.callbacks import CSVLogger, LambdaCallback, ModelCheckpoint
from xconv.errors import ConfigError, FileError

NAN = float("nan")


def weight(path: Path) -> float:
    return float(checkpoint.load(path)[0]["w"][0])


# ---------------------------------------------------------------------- ModelCheckpoint


def test_every_epoch_has_its_file(tmp_path):
    run(ModelCheckpoint(tmp_path / "new" / "{epoch:02d}-{val_loss:.2f}.safetensors"), [0.5, 0.256, 0.75])
    names = ["01-0.50.safetensors", "02-0.26.safetensors", "03-0.75.safetensors"]
    assert sorted(os.listdir(tmp_path / "new")) == names
    assert [weight(tmp_path / "new" / name) for name in names] == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "values", "kept"),
    [
        ({}, [0.5, 0.4, 0.6, 0.4], 1),
        ({"monitor": "val_accuracy"}, [0.5, 0.4, 0.6, 0.6], 2),
        ({"monitor": "val_accuracy", "mode": "min"}, [0.5, 0.4, 0.6], 1),
        ({"initial_value_threshold": 0.45}, [0.5, 0.44, 0.6], 1),
        ({}, [NAN, 0.4, NAN], 1),
    ],
)
def test_the_best_is_kept(tmp_path, settings, values, kept):
    path, model = tmp_path / "best.safetensors", Pretended()
    saver = ModelCheckpoint(path, save_best_only=True, save_weights_only=True, **settings)
    run(saver, values, settings.get("monitor", "val_loss"), model=model)
    assert weight(path) == kept and set(model.calls) == {"save_weights"}
    calls = len(model.calls)
    run(saver, [saver.best] * 2, settings.get("monitor", "val_loss"), model=model)  # a second fit must beat the first
    assert len(model.calls) == calls


def test_nothing_beats_the_threshold(tmp_path):
    run(ModelCheckpoint(tmp_path / "a", save_best_only=True, initial_value_threshold=0.1), [0.5, 0.4])
    assert os.listdir(tmp_path) == []


def test_every_so_many_batches(tmp_path):
    model = Pretended()
    run(ModelCheckpoint(tmp_path / "{epoch}-{batch}-{loss:.1f}", save_freq=2), [1, 1], model=model, batches=3)
    assert sorted(os.listdir(tmp_path)) == ["1-2-0.5", "2-1-0.5", "2-3-0.5"]
    assert model.calls == ["save"] * 3


def test_a_checkpoint_says_so(tmp_path, capsys):
    run(ModelCheckpoint(tmp_path / "a", save_best_only=True, verbose=1), [0.5, 0.6])
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"epoch 1: val_loss went from inf to 0.50000; saved {tmp_path / 'a'}"
    assert second == "epoch 2: val_loss 0.60000 is no better than 0.50000; nothing saved"


def test_a_full_disk_costs_a_warning_and_no_training(tmp_path, monkeypatch):
    path, model = tmp_path / "best.safetensors", Pretended()
    saver = ModelCheckpoint(path, save_best_only=True)
    full = [False, True, True, False, False]
    original = checkpoint.save_file

    def save_file(*args):
        if full[int(model.weight[0])]:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.warns(UserWarning, match=r"epoch 2: .*best\.safetensors was not saved: .*No space left") as told:
        assert run(saver, [0.5, 0.4, 0.3, 0.35, 0.36], model=model)[0] == 5
    assert len(told) == 1
    # 0.4 and 0.3 were lost: the best that could be kept is epoch 4's, which is better than the file of epoch 1
    assert weight(path) == 3 and saver.best == 0.35
    assert os.listdir(tmp_path) == ["best.safetensors"]
    with pytest.warns(UserWarning, match="not saved"):  # a new run tells again
        run(saver, [0.9, 0.1], model=model)
    with pytest.raises(FileError, match=r"epoch 2: .*not saved: .*No space left"):
        run(ModelCheckpoint(path, strict=True), [0.5, 0.4], model=model)
    assert weight(path) == 0


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"not saved") as told:
        assert run(ModelCheckpoint(tmp_path / "file" / "a"), [1, 1, 1])[0] == 3
    assert len(told) == 1
    with pytest.raises(FileError, match="not saved"):
        run(ModelCheckpoint(tmp_path / "file" / "a", strict=True), [1])


# ---------------------------------------------------------------------- CSVLogger


def test_csv(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("an older log\n")
    later = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.pop("loss") if epoch == 1 else None)
    run([later, CSVLogger(path)], [0.5, 1 / 3, 0.25])
    assert path.read_bytes() == b"epoch,loss,val_loss\n0,0.5,0.5\n1,NA,0.3333333333333333\n2,0.5,0.25\n"


def test_csv_is_on_disk_when_an_epoch_ends(tmp_path):
    lines = []
    look = LambdaCallback(on_epoch_end=lambda epoch, logs: lines.append((tmp_path / "a").read_text().count("\n")))
    run([CSVLogger(tmp_path / "a", separator=";"), look], [1, 2, 3])
    assert lines == [2, 3, 4]
    rows = list(csv.DictReader((tmp_path / "a").read_text().splitlines(), delimiter=";"))
    assert [float(row["val_loss"]) for row in rows] == [1, 2, 3]


def test_csv_appends_in_the_columns_that_are_there(tmp_path):
    path = tmp_path / "log.csv"
    run(CSVLogger(path, append=True), [0.5])
    run(CSVLogger(path, append=True), [0.25])
    assert path.read_text() == "epoch,loss,val_loss\n0,0.5,0.5\n0,0.5,0.25\n"
    path.write_text("val_loss,epoch,old\n9,0,1\n8,1")  # by another program, its last line not ended
    with pytest.warns(UserWarning, match="no column for loss, which the first line lacks") as told:
        run(CSVLogger(path, append=True), [0.5, 0.25])
    assert len(told) == 1
    assert path.read_text() == "val_loss,epoch,old\n9,0,1\n8,1\n0.5,0,NA\n0.25,1,NA\n"


def test_csv_that_cannot_be(tmp_path):
    for append in (False, True):
        with pytest.raises(FileError, match="cannot be written"):
            run(CSVLogger(tmp_path / "no" / "log.csv", append=append), [1])
    (tmp_path / "image").write_bytes(b"\x89PNG\xff\n\x00")
    with pytest.raises(ConfigError, match="expected a first line with the column 'epoch'"):
        run(CSVLogger(tmp_path / "image", append=True), [1])
    assert (tmp_path / "image").read_bytes() == b"\x89PNG\xff\n\x00"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_csv_on_a_full_disk():
    with pytest.warns(UserWarning, match=r"row of epoch 0 was not written: .*No space left.*Training goes on") as told:
        assert run(CSVLogger("/dev/full"), [1, 2, 3])[0] == 3
    assert len(told) == 1


PROGRAM = """
import sys, warnings
from xconv.callbacks import CSVLogger
log = CSVLogger("log.csv")
log.on_train_begin()
{}
for epoch in range({}):
    log.on_epoch_end(epoch, {{"loss": 1 / 3, "accuracy": 2 / 3}})
    print(flush=True)
"""
ENV = {**os.environ, "PYTHONPATH": str(Path(xconv.__file__).parents[1])}


def test_csv_of_a_run_that_is_killed_has_whole_lines(tmp_path):
    command = [sys.executable, "-c", PROGRAM.format("", 10_000_000)]
    with subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        ended = process.stdout.read().count(b"\n") + 1
    lines = (tmp_path / "log.csv").read_text().splitlines(keepends=True)
    assert ended <= len(lines) - 1 <= ended + 1  # every epoch that ended, and perhaps the one it was killed in
    assert all(line.endswith("\n") and line.count(",") == 2 for line in lines)
    assert lines[-1] == f"{len(lines) - 2},0.6666666666666666,0.3333333333333333\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_csv_has_no_half_line_when_space_ends_within_one(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150)); warnings.simplefilter('ignore')"
    subprocess.run([sys.executable, "-c", PROGRAM.format(limit, 9)], cwd=tmp_path, env=ENV, check=True, stdout=-3)
    text = (tmp_path / "log.csv").read_text()
    assert 100 < len(text) <= 150 and text.endswith("0.6666666666666666,0.3333333333333333\n")
