"""The model file: exact, whole or absent, and refused when a bit of it changed."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from xconv import checkpoint
from xconv.errors import ConfigError, DTypeError, FileError

TENSORS = {"conv1.w": np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3), "dense.b": np.array([0.5, -1.0])}
METADATA = {"architecture": {"z": [1, 2.5, None, True], "a": "é"}, "note": "x"}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, TENSORS, METADATA)
    return path


def same(tensors) -> bool:
    return list(tensors) == list(TENSORS) and all(
        np.array_equal(tensors[n], a) and tensors[n].dtype == a.dtype for n, a in TENSORS.items()
    )


def refused(path: Path, match: str) -> None:
    with pytest.raises(FileError, match=match) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(path) in message and "expected" in message and "Received: " in message


# ---------------------------------------------------------------------- round trips


def test_round_trip(path):
    tensors, metadata = checkpoint.load(path)
    assert same(tensors) and metadata == METADATA
    assert list(metadata["architecture"]) == ["z", "a"]  # order is kept
    tensors["dense.b"][0] = 7  # the caller's own memory


@pytest.mark.parametrize("dtype", checkpoint._DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_dtypes_and_shapes(tmp_path, dtype, shape):
    array = np.ones(shape, dtype)
    checkpoint.save(tmp_path / "m", {"a": array}, {})
    got = checkpoint.load(tmp_path / "m")[0]["a"]
    assert got.shape == shape and got.dtype == dtype
    np.testing.assert_array_equal(got, array)


def test_any_memory_layout_is_saved_by_value_and_left_alone(tmp_path):
    base = np.arange(24, dtype=np.float64).reshape(4, 6)
    views = {
        "t": base.T,
        "reversed": base[::-1, ::2],
        "big": base.astype(">f8"),
        "readonly": np.broadcast_to(base[0], (3, 6)),
    }
    checkpoint.save(tmp_path / "m", views, {})
    got, _ = checkpoint.load(tmp_path / "m")
    for name, view in views.items():
        np.testing.assert_array_equal(got[name], view)
        assert got[name].dtype.isnative
    np.testing.assert_array_equal(base, np.arange(24).reshape(4, 6))


def test_special_numbers_keep_their_bits(tmp_path):
    bits = np.array([0x7FC00001, 0x80000000, 0x7F800000, 0x00000001], np.uint32)
    checkpoint.save(tmp_path / "m", {"a": bits.view(np.float32)}, {})
    assert checkpoint.load(tmp_path / "m")[0]["a"].view(np.uint32).tolist() == bits.tolist()


def test_no_tensors_and_no_metadata(tmp_path):
    checkpoint.save(tmp_path / "m", {}, {})
    assert checkpoint.load(tmp_path / "m") == ({}, {})


def test_equal_models_give_equal_files(path, tmp_path):
    code = "import sys; from test_checkpoint import *; checkpoint.save(sys.argv[1], TENSORS, METADATA)"
    # In another process, whose hash maps have another order.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "again"], check=True, env=env)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_other_safetensors_readers_can_read_it(path):
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == sorted(TENSORS)
        header = json.loads(file.metadata()["xconv"])
    assert header["format"] == "1" and header["metadata"] == METADATA


# ---------------------------------------------------------------------- what may not be saved


@pytest.mark.parametrize("bad", [np.array([None]), np.array([1j]), np.array(["a"]), np.array([1, 2], "M8[s]")])
def test_tensors_must_be_numbers(tmp_path, bad):
    with pytest.raises(DTypeError, match="tensor 'a': expected a dtype"):
        checkpoint.save(tmp_path / "m", {"a": bad}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [{"a": float("nan")}, {"a": float("inf")}, {"a": np.zeros(2)}, {"a": {1, 2}}])
def test_metadata_must_be_strict_json(tmp_path, bad):
    with pytest.raises(ConfigError, match="metadata"):
        checkpoint.save(tmp_path / "m", {}, bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "__metadata__", 3])
def test_names(tmp_path, name):
    with pytest.raises(ConfigError, match="name"):
        checkpoint.save(tmp_path / "m", {name: np.zeros(1)}, {})


# ---------------------------------------------------------------------- damage


def test_every_prefix_is_refused(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, "expected")


def test_every_flipped_bit_is_refused(path):
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(FileError):
            checkpoint.load(path)


def test_random_damage_never_gives_other_weights(path):
    rng, whole = random.Random(1), path.read_bytes()
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            tensors, metadata = checkpoint.load(path)
        except FileError:
            continue
        assert same(tensors) and metadata == METADATA


def test_trailing_bytes(path):
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "whole safetensors file")


def test_a_header_that_declares_the_moon(path):
    for length in (1 << 62, 99_000_000, 0):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        refused(path, "whole safetensors file")


def test_a_flipped_weight_names_its_tensor(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    refused(path, "tensor '.*': expected sha256")


def resealed(path, **changes) -> None:
    """Write TENSORS under a header whose own hash is right, with other content."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["xconv"])
    header = {key: value for key, value in {**header, **changes}.items() if key != "sha256"}
    save_file(TENSORS, path, {"xconv": checkpoint._sealed(header)})


def test_a_header_for_other_tensors(path):
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["xconv"])["tensors"]
    resealed(path, tensors={"conv1.w": about["conv1.w"]})
    refused(path, r"expected the tensors \['conv1.w'\]")
    resealed(path, tensors={**about, "dense.b": {**about["dense.b"], "dtype": "int64"}})
    refused(path, "expected dtype int64. Received: float64")
    resealed(path, tensors={**about, "dense.b": {**about["dense.b"], "shape": [2, 1]}})
    refused(path, r"expected shape \[2, 1\]")
    resealed(path, tensors=7)
    refused(path, "expected")


def test_a_newer_format_is_refused_naming_both(path):
    resealed(path, format="2")
    refused(path, "expected format 1,.*upgrade.*Received: format 2")
    resealed(path, format="old")
    refused(path, "format 1")


def test_files_of_others(path):
    save_file({"a": np.zeros(2)}, path)
    refused(path, "expected a file written by xconv")
    save_file({"a": np.zeros(2)}, path, {"xconv": "{"})
    refused(path, "expected a header in JSON")
    save_file({"a": np.zeros(2)}, path, {"xconv": "[" * 100_000})
    refused(path, "expected a header in JSON")
    save_file({"a": np.zeros(2)}, path, {"xconv": "3"})
    refused(path, "expected a header in JSON")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refused(path, "whole safetensors file")


def test_a_pickle_is_never_run(path, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path.write_bytes(pickle.dumps(Evil()))
    refused(path, "expected")
    assert not (tmp_path / "owned").exists()


def test_missing_folder_and_pipe(tmp_path):
    refused(tmp_path / "none", "no such file")
    refused(tmp_path, "a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "something that is no file")


# ---------------------------------------------------------------------- faults while writing


def only(path: Path) -> bool:
    return [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("call", ["checkpoint.save_file", "files.os.replace", "files.os.fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch, call):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"xconv.{call}", fail)
    with pytest.raises(FileError, match=r"model.safetensors: could not be written: .*No space left"):
        checkpoint.save(path, {"a": np.zeros(3)}, {})
    monkeypatch.undo()
    assert same(checkpoint.load(path)[0]) and only(path)


def test_ctrl_c_while_writing(path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("xconv.files.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"a": np.zeros(3)}, {})
    monkeypatch.undo()
    assert same(checkpoint.load(path)[0]) and only(path)


KILLED = """
import os, signal, sys
import numpy as np
from xconv import checkpoint
target, count = sys.argv[1], int(sys.argv[2])
calls = 0
def deadly(real):
    def call(*args):
        global calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call
checkpoint.save_file = deadly(checkpoint.save_file)
os.fsync = deadly(os.fsync)
os.replace = deadly(os.replace)
checkpoint.save(target, {"new": np.ones(1000)}, {})
sys.exit(calls)
"""


def run_killed(path: Path, count: int) -> int:
    return subprocess.run([sys.executable, "-c", KILLED, str(path), str(count)], check=False).returncode


def test_sigkill_at_every_write_flush_and_rename(path):
    for count in (1, 2, 3, 4):
        checkpoint.save(path, TENSORS, METADATA)
        assert run_killed(path, count) == -signal.SIGKILL
        tensors, _ = checkpoint.load(path)
        assert same(tensors) if count < 4 else list(tensors) == ["new"]
    assert run_killed(path, 5) == 4  # there are no more than four


def test_what_a_killed_writer_left_is_cleared_once_it_is_old(path):
    run_killed(path, 3)
    (stray,) = path.parent.glob(".*.tmp")
    checkpoint.save(path, TENSORS, METADATA)
    assert stray.exists()  # another process may be writing it
    os.utime(stray, (time.time() - 7200,) * 2)
    mine = path.with_name(".other.txt.tmp")
    mine.touch()
    os.utime(mine, (0, 0))
    checkpoint.save(path, TENSORS, METADATA)
    assert not stray.exists() and mine.exists()


FULL = """
import resource, sys
import numpy as np
from xconv import checkpoint
from xconv.errors import FileError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save(sys.argv[1], {"a": np.ones(100_000)}, {})
except FileError as error:
    sys.exit(17)
"""


def test_a_disk_that_takes_no_more(path):
    assert subprocess.run([sys.executable, "-c", FULL, str(path)], check=False).returncode == 17
    assert same(checkpoint.load(path)[0]) and only(path)


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place, match in [
        (tmp_path / "file" / "m", "expected a folder"),
        (tmp_path / "none" / "m", "no such folder"),
        (tmp_path, "Received: a folder"),
    ]:
        with pytest.raises(FileError, match=match):
            checkpoint.save(place, TENSORS, {})
    monkeypatch.setattr("xconv.files.os.access", lambda *_: False)  # chmod stops everyone but root
    with pytest.raises(FileError, match="can be written to"):
        checkpoint.save(tmp_path / "m", TENSORS, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_is_written_through(path, tmp_path):
    (tmp_path / "real").mkdir()
    target = path.rename(tmp_path / "real" / "m")
    path.symlink_to(target)
    checkpoint.save(path, {"a": np.zeros(1)}, {})
    assert path.is_symlink() and list(checkpoint.load(target)[0]) == ["a"]


def test_umask_decides_who_may_read(path):
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
