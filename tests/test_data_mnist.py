"""The data sets: the sample in the package, files under XCONV_DATA_DIR, and downloads from mirrors."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from test_data_idx import idx

from tests.downloads import FAULTS, cannot_be_read_now
from xconv import data
from xconv.data import mnist
from xconv.errors import ConfigError, FileError

ROOT = os.environ.get("XCONV_DATA_DIR", "")
FILES = mnist._FILES


def full_data(name: str):
    there = ROOT and os.path.isdir(os.path.join(ROOT, name))
    return pytest.mark.skipif(not there, reason=f"needs XCONV_DATA_DIR with the full {name} in it")


# ---------------------------------------------------------------------- the sample


def test_sample():
    sample = data.load("mnist-sample")
    assert sample.x_train.shape == sample.x_test.shape == (10_000, 1, 28, 28)
    assert sample.x_train.dtype == np.uint8 and sample.t_train.dtype == np.int64
    assert sample.t_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert sample.t_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # digits 0 to 9 in the real test set, as its authors counted them
    assert np.bincount(sample.t_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert sample.classes == tuple("0123456789") and sample.image_shape == (1, 28, 28)


@full_data("mnist")
def test_sample_is_the_start_of_the_full_set():
    sample, full = data.load("mnist-sample"), data.load("mnist")
    assert full.x_train.shape == (60_000, 1, 28, 28)
    for name in ("x", "t"):
        np.testing.assert_array_equal(getattr(sample, f"{name}_train"), getattr(full, f"{name}_train")[:10_000])
        np.testing.assert_array_equal(getattr(sample, f"{name}_test"), getattr(full, f"{name}_test"))


@full_data("fashion-mnist")
def test_fashion():
    fashion = data.load("fashion-mnist")
    assert fashion.x_train.shape == (60_000, 1, 28, 28) and fashion.classes[9] == "Ankle boot"
    assert np.bincount(fashion.t_train).tolist() == [6000] * 10
    assert fashion.t_train[0] == 9


def test_sample_files_are_small_and_reproducible():
    files = sorted(mnist.SAMPLE.glob("*.gz"))
    assert [file.stem for file in files] == sorted(FILES)
    assert sum(file.stat().st_size for file in files) < 3.4e6
    assert all(file.read_bytes()[4:8] == bytes(4) for file in files)  # no time stamp


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_go_from_0_to_1(dtype):
    x_train, _, x_test, t_test = data.load().arrays(dtype)
    assert x_train.dtype == x_test.dtype == dtype and t_test.dtype == np.int64
    assert x_train.min() == 0.0 and x_train.max() == 1.0
    assert data.pixels(np.array([51], np.uint8), dtype)[0] == np.dtype(dtype).type(0.2)


def test_a_data_set_cannot_be_changed_by_accident():
    sample = data.load()
    with pytest.raises(ValueError, match="read-only"):
        sample.x_train[0] = 0
    with pytest.raises(FrozenInstanceError):
        sample.name = "other"
    sample.arrays()[0][0] = 0  # a fresh array is the caller's own


@pytest.mark.parametrize("name", ["MNIST", "", "../mnist", None, 3])
def test_unknown_name(name):
    with pytest.raises(ConfigError, match=r"'mnist-sample', 'mnist', 'fashion-mnist', 'cifar10'\. Received: "):
        data.load(name)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:5000] + b"x" + b[5001:], lambda b: b""])
def test_a_damaged_sample_is_refused(tmp_path, monkeypatch, damage):
    shutil.copytree(mnist.SAMPLE, tmp_path / "s")
    monkeypatch.setattr(mnist, "SAMPLE", tmp_path / "s")
    file = tmp_path / "s" / f"{FILES[2]}.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(FileError, match=FILES[2]) as caught:
        data.load()
    cure = "; the file was cut or altered: install xconv anew, with pip install --force-reinstall xconv"
    assert str(caught.value).endswith(cure) or not file.stat().st_size


def test_a_data_set_is_shown_on_one_line():
    assert repr(data.load()) == (
        "DataSet('mnist-sample': 10000 training and 10000 test images of 1x28x28 bytes, 10 classes)"
    )


# ---------------------------------------------------------------------- small stand-ins for the full sets

SMALL = (np.arange(5 * 784, dtype=np.uint8).reshape(5, 28, 28), np.array([3, 1, 4, 1, 5], np.uint8))
CONTENT = dict(zip(FILES, map(idx, SMALL + SMALL), strict=True))


@pytest.fixture
def small(monkeypatch):
    """The set "mnist" with four small files, their real hashes and no mirror."""
    files = tuple(
        (file, array.shape, hashlib.sha256(CONTENT[file]).hexdigest())
        for file, array in zip(FILES, SMALL + SMALL, strict=True)
    )
    source = replace(mnist._ORIGINS["mnist"], files=files, mirrors=())
    monkeypatch.setitem(mnist._ORIGINS, "mnist", source)
    return source


def test_data_dir_holds_plain_or_gzip(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XCONV_DATA_DIR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for i, (file, content) in enumerate(CONTENT.items()):
        path = tmp_path / "mnist" / (file if i % 2 else f"{file}.gz")
        path.write_bytes(content if i % 2 else gzip.compress(content))
    got = data.load("mnist")
    np.testing.assert_array_equal(got.x_train[:, 0], SMALL[0])
    assert got.t_test.tolist() == [3, 1, 4, 1, 5] and got.source == str(tmp_path / "mnist")


def test_data_dir_without_the_file_is_an_error_and_never_a_download(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XCONV_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(mnist, "download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(
        FileError, match=r"train-images-idx3-ubyte\[\.gz\].*XCONV_DATA_DIR is set.*unset XCONV_DATA_DIR"
    ):
        data.load("mnist")


def test_data_dir_with_other_content_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XCONV_DATA_DIR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for file, content in CONTENT.items():
        (tmp_path / "mnist" / file).write_bytes(content[:-1] + b"\xff")
    cure = "; the file was cut or altered: replace it, or unset XCONV_DATA_DIR to have it downloaded$"
    with pytest.raises(FileError, match=f"expected content of SHA-256.*{cure}"):
        data.load("mnist")


# ---------------------------------------------------------------------- downloads


@pytest.fixture
def mirrors(small, server, tmp_path, monkeypatch):
    """The small set behind two mirrors, /a/ and /b/, with an empty cache."""
    address, answers, asked = server
    monkeypatch.setitem(mnist._ORIGINS, "mnist", replace(small, mirrors=(f"{address}/a/", f"{address}/b/")))
    for file, content in CONTENT.items():
        answers[f"/a/{file}.gz"] = answers[f"/b/{file}.gz"] = gzip.compress(content)
    return tmp_path / "cache" / "mnist", answers, asked


def cached(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ALL = sorted(f"{file}.gz" for file in FILES)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_download_once_then_from_the_cache(mirrors, capsys, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    folder, _, asked = mirrors
    got = data.load("mnist")
    np.testing.assert_array_equal(got.x_test[:, 0], SMALL[0])
    assert asked == [f"/a/{file}.gz" for file in FILES] and cached(folder) == ALL
    assert "train-images" in screen.getvalue()  # the progress bar
    assert capsys.readouterr().out == ""
    data.load("mnist")
    assert len(asked) == 4


@pytest.mark.parametrize(
    "bad",
    [
        None,
        b"",
        b"<html>not here any more</html>",
        gzip.compress(CONTENT[FILES[0]])[:-20],
        gzip.compress(CONTENT[FILES[0]][:-1] + b"\xff"),
        gzip.compress(CONTENT[FILES[2]] + b"more"),
        bytes(1 << 22),
    ],
    ids=["404", "empty", "html", "truncated", "altered", "longer", "endless"],
)
def test_a_bad_mirror_is_passed_over_for_the_next(mirrors, bad):
    folder, answers, asked = mirrors
    if bad is None:
        del answers[f"/a/{FILES[0]}.gz"]
    else:
        answers[f"/a/{FILES[0]}.gz"] = bad
    np.testing.assert_array_equal(data.load("mnist").x_train[:, 0], SMALL[0])
    assert asked[:2] == [f"/a/{FILES[0]}.gz", f"/b/{FILES[0]}.gz"] and cached(folder) == ALL


def test_a_damaged_file_in_the_cache_is_brought_again(mirrors):
    folder, _, asked = mirrors
    data.load("mnist")
    (folder / f"{FILES[1]}.gz").write_bytes(b"rotten")
    assert data.load("mnist").t_train.tolist() == [3, 1, 4, 1, 5]
    assert asked[4:] == [f"/a/{FILES[1]}.gz"]


@FAULTS
def test_whole_files_that_cannot_be_read_now_are_not_brought_again(mirrors, monkeypatch, fault, error, said):
    folder, _, asked = mirrors
    cannot_be_read_now(monkeypatch, "mnist", "xconv.data.idx._read", folder, asked, fault, error, said)


def test_when_all_fail_the_error_says_what_to_do_and_nothing_is_kept(mirrors):
    folder, answers, _ = mirrors
    answers.clear()
    with pytest.raises(FileError) as caught:
        data.load("mnist")
    message = str(caught.value)
    assert "\n" not in message and message.count("404") == 2
    assert "XCONV_DATA_DIR" in message and "mnist-sample" in message and "/a/" in message and "/b/" in message
    assert cached(folder) == [] and "damaged" not in message


def test_when_all_fail_and_the_cache_is_damaged_the_error_says_so(mirrors):
    folder, answers, _ = mirrors
    data.load("mnist")
    rotten = folder / f"{FILES[1]}.gz"
    rotten.write_bytes(b"rotten")
    answers[f"/a/{FILES[1]}.gz"] = gzip.compress(CONTENT[FILES[1]])[:-3]
    del answers[f"/b/{FILES[1]}.gz"]
    with pytest.raises(FileError) as caught:
        data.load("mnist")
    message = str(caught.value)
    assert f"no mirror gave it. The one in the cache, {rotten}, is damaged. Set XCONV_DATA_DIR" in message
    assert "the file was cut or altered; http" in message  # of the first mirror's, which nobody could replace
    assert cached(folder) == ALL


def test_offline(mirrors, monkeypatch, capfd):
    folder, _, _ = mirrors
    # port 9 of this machine: nobody listens there
    source = replace(mnist._ORIGINS["mnist"], mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setitem(mnist._ORIGINS, "mnist", source)
    with pytest.raises(FileError, match=r"Set XCONV_DATA_DIR.*refused"):
        data.load("mnist")
    assert cached(folder) == []
    assert capfd.readouterr() == ("", "")  # no bar where nobody looks


def test_an_interrupted_download_leaves_nothing(mirrors, monkeypatch):
    folder, _, _ = mirrors

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("xconv.data.download._Bar.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist")
    assert cached(folder) == []


def test_a_cache_that_cannot_be_written(mirrors, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(FileError, match="expected a folder to keep downloads in"):
        data.load("mnist")
