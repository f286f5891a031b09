"""CIFAR-10's binary version: files of one's own, under XCONV_DATA_DIR and downloaded, and hostile ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.downloads import FAULTS, cannot_be_read_now
from xconv import data, datasets
from xconv.data import cifar
from xconv.errors import ConfigError, FileError

ROOT = os.environ.get("XCONV_DATA_DIR", "")
NAMES = [name for name, _ in cifar._ORIGIN.files]
FEW = 3  # images in a file of the stand-in


def content(file: int, images: int = FEW) -> bytes:
    """Records whose every byte is known: label (file + i) % 10, and (7 file + 31 i + 5 c + 3 row + column) % 256."""
    out = bytearray()
    for i in range(images):
        out.append((file + i) % 10)
        for c in range(3):
            for row in range(32):
                for column in range(32):
                    out.append((7 * file + 31 * i + 5 * c + 3 * row + column) % 256)
    return bytes(out)


CONTENT = {name: content(number) for number, name in enumerate(NAMES)}


# ---------------------------------------------------------------------- the real set


@pytest.mark.skipif(
    not ROOT or not Path(ROOT, cifar.FOLDER).is_dir(), reason=f"needs XCONV_DATA_DIR with {cifar.FOLDER} in it"
)
def test_the_real_set():
    found = data.load("cifar10")
    assert found.x_train.shape == (50_000, 3, 32, 32) and found.x_test.shape == (10_000, 3, 32, 32)
    assert np.bincount(found.t_train).tolist() == [5000] * 10 and np.bincount(found.t_test).tolist() == [1000] * 10
    # as its page shows them, and Keras and PyTorch number them
    assert [found.classes[k] for k in found.t_train[:5]] == ["frog", "truck", "truck", "deer", "automobile"]
    assert [found.classes[k] for k in found.t_test[:5]] == ["cat", "ship", "ship", "airplane", "frog"]
    # the means of the training images that everyone subtracts: 0.4914, 0.4822, 0.4465
    means = [float(found.x_train[:, c].mean() / 255) for c in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


# ---------------------------------------------------------------------- files of one's own


def test_records_are_read_plane_by_plane(tmp_path):
    paths = []
    for number in (4, 2):
        paths.append(tmp_path / f"{number}.bin")
        paths[-1].write_bytes(content(number))
    x, t = data.read_cifar10(*paths)
    assert x.shape == (6, 3, 32, 32) and x.dtype == np.uint8 and t.dtype == np.int64
    assert t.tolist() == [4, 5, 6, 2, 3, 4]
    assert x[5, 2, 30, 9] == (7 * 2 + 31 * 2 + 5 * 2 + 3 * 30 + 9) % 256
    assert x[0, 0, 0, 1] == 29 and x[0, 0, 1, 0] == 31 and x[0, 1, 0, 0] == 33
    x[0] = 0  # they are the caller's own
    assert data.read_cifar10(str(paths[0]))[1].tolist() == [4, 5, 6]


def test_more_records_than_are_read_at_a_time(tmp_path):
    n = 2 * cifar._PIECE + 5
    records = np.random.default_rng(0).integers(0, 256, (n, cifar.RECORD), dtype=np.uint8)
    records[:, 0] %= 10
    (tmp_path / "many.bin").write_bytes(records.tobytes())
    x, t = data.read_cifar10(tmp_path / "many.bin")
    assert np.array_equal(t, records[:, 0]) and np.array_equal(x.reshape(n, -1), records[:, 1:])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda b: b[:-1],
            r"whole records of 3,073 bytes\. Received: 9,218 bytes, 2 times that and 3,072 more;",
        ),
        (lambda b: b + b"x", r"Received: 9,220 bytes, 3 times that and 1 more;"),
        (lambda b: b"", "Received: an empty file"),
        (lambda b: b[:3073] + b"\x0a" + b[3074:], r"labels from 0 to 9\. Received: 10 in record 1, at byte 3,073"),
        (lambda b: b"\xff" + b[1:], "Received: 255 in record 0"),
        (gzip.compress, "a gzip archive: unpack it first"),
        (lambda b: b"\x80\x02}q\x00(U\x0bbatch_label", "pickle, as in CIFAR-10's Python version"),
        (lambda b: b"<html>gone</html>", "a web page"),
    ],
    ids=["cut", "longer", "empty", "label 10", "label 255", "gzip", "pickle", "html"],
)
def test_files_that_are_none_are_refused(tmp_path, damage, said):
    good, bad = tmp_path / "good.bin", tmp_path / "bad.bin"
    good.write_bytes(CONTENT[NAMES[0]])
    bad.write_bytes(damage(CONTENT[NAMES[0]]))
    with pytest.raises(FileError, match=said) as caught:
        data.read_cifar10(good, bad)
    assert str(caught.value).startswith(f"{bad}: expected ")


def test_what_is_no_file_is_told_as_what_it_is(tmp_path):
    with pytest.raises(FileError, match=r"binary version\. Received: a folder"):
        data.read_cifar10(tmp_path)
    with pytest.raises(FileError, match="Received: no such file"):
        data.read_cifar10(tmp_path / "nowhere.bin")
    os.mkfifo(tmp_path / "pipe.bin")
    with pytest.raises(FileError, match="Received: something else"):
        data.read_cifar10(tmp_path / "pipe.bin")
    with pytest.raises(ConfigError, match="at least one file"):
        data.read_cifar10()


def test_a_file_that_grows_or_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT[NAMES[0]])
    for claimed, said in ((FEW + 1, r"expected 12,292 bytes\. Received: 9,219"), (FEW - 1, "Received: more than that")):
        monkeypatch.setattr(cifar, "_records", lambda *_, n=claimed: n)
        with pytest.raises(FileError, match=said):
            data.read_cifar10(path)


# ---------------------------------------------------------------------- small stand-ins for the known set


def archived(members: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """A gzipped tar archive of files, and of other members before them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for other in others:
            tar.addfile(other)
        for name, body in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(body)
            tar.addfile(about, io.BytesIO(body))
    return packed.getvalue()


def published(members: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    return archived({f"{cifar.FOLDER}/{name}": body for name, body in members.items()}, *others)


ARCHIVE = published({"batches.meta.txt": b"airplane\n", **CONTENT, "readme.html": b"<html></html>"})


def use(monkeypatch, archive: bytes, **changes):
    """The small set in place of the real one, with `archive`'s own hash."""
    files = tuple((name, hashlib.sha256(body).hexdigest()) for name, body in CONTENT.items())
    about = (len(archive), hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(cifar, "_ORIGIN", replace(cifar._ORIGIN, archive=about, files=files, images=FEW, **changes))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """$XCONV_DATA_DIR's folder of the small set."""
    use(monkeypatch, ARCHIVE, mirrors=())
    monkeypatch.setenv("XCONV_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(cifar, "download", lambda *_: pytest.fail("downloaded"))
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    for name, body in CONTENT.items():
        (folder / name).write_bytes(body)
    return folder


def check(found: data.DataSet) -> None:
    assert found.x_train.shape == (15, 3, 32, 32) and found.x_test.shape == (3, 3, 32, 32)
    assert found.t_train.tolist() == [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6] and found.t_test.tolist() == [
        5,
        6,
        7,
    ]
    assert found.x_test[2, 1, 4, 6] == (7 * 5 + 31 * 2 + 5 + 3 * 4 + 6) % 256
    assert found.name == "cifar10" and found.classes[9] == "truck" and len(found.classes) == 10


def test_data_dir(here):
    found = data.load("cifar10")
    check(found)
    assert found.source == str(here)
    with pytest.raises(ValueError, match="read-only"):
        found.x_train[0] = 0


@pytest.mark.parametrize("name", [NAMES[0], NAMES[4], NAMES[5]])
def test_a_missing_file_is_named_with_what_to_do(here, name):
    (here / name).unlink()
    with pytest.raises(FileError) as caught:
        data.load("cifar10")
    assert str(caught.value) == (
        f"{here / name}: expected this file, since XCONV_DATA_DIR is set. Received: no such file. Unpack "
        f"cifar-10-binary.tar.gz into {here.parent}, or unset XCONV_DATA_DIR to have it downloaded"
    )


def test_the_python_version_is_told_as_that(here):
    here.rename(here.with_name("cifar-10-batches-py"))
    with pytest.raises(FileError, match=r"data_batch_1\.bin: .* The Python version, which is there, is pickles"):
        data.load("cifar10")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: b[:-1], r"3 records of 3,073 bytes\. Received: 9,218 bytes"),
        (lambda b: b[:3073], r"3 records of 3,073 bytes\. Received: 3,073 bytes, 1 times that"),
        (lambda b: b + b[:3073], r"Received: 12,292 bytes, 4 times that"),
        (lambda b: b[:100] + b"\0" + b[101:], "expected content of SHA-256"),
        (lambda b: b"\x0b" + b[1:], "Received: 11 in record 0"),
        (lambda b: b"", "Received: an empty file"),
    ],
    ids=["cut", "fewer", "more", "altered", "label", "empty"],
)
@pytest.mark.parametrize("name", [NAMES[2], NAMES[5]])
def test_each_file_is_checked_each_time(here, name, damage, said):
    check(data.load("cifar10"))
    (here / name).write_bytes(damage(CONTENT[name]))
    cure = "; the file was cut or altered: replace it, or unset XCONV_DATA_DIR to have it downloaded$"
    with pytest.raises(FileError, match=f"{name}: .*{said}.*{cure}"):
        data.load("cifar10")


def test_files_that_changed_places_are_refused(here):
    (here / NAMES[0]).write_bytes(CONTENT[NAMES[1]])
    with pytest.raises(FileError, match=r"data_batch_1\.bin: expected content of SHA-256"):
        data.load("cifar10")


def test_a_folder_in_place_of_a_file(here):
    (here / NAMES[3]).unlink()
    (here / NAMES[3]).mkdir()
    with pytest.raises(FileError, match=r"data_batch_4\.bin: expected a file .* Received: a folder"):
        data.load("cifar10")


def test_as_keras_gives_it(here):
    (x_train, y_train), (x_test, y_test) = datasets.cifar10.load_data()
    assert x_train.shape == (15, 32, 32, 3) and y_train.shape == (15, 1) and y_test.shape == (3, 1)
    assert x_test[2, 4, 6, 1] == (7 * 5 + 31 * 2 + 5 + 3 * 4 + 6) % 256
    assert y_test[:, 0].tolist() == [5, 6, 7] and x_train.flags.c_contiguous
    x_train[...] = y_train[...] = 7  # the caller's own


# ---------------------------------------------------------------------- downloads


@pytest.fixture
def web(server, tmp_path, monkeypatch):
    """The small set's archive behind two mirrors, /a/ and /b/, with an empty cache."""
    address, answers, asked = server
    use(monkeypatch, ARCHIVE, mirrors=(f"{address}/a/", f"{address}/b/"))
    answers[f"/a/{cifar.ARCHIVE}"] = answers[f"/b/{cifar.ARCHIVE}"] = ARCHIVE
    return tmp_path / "cache", answers, asked


def kept(cache: Path) -> list[str]:
    """All files in the cache."""
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


ALL = sorted(f"{cifar.FOLDER}/{name}" for name in NAMES)


def test_download_once_then_from_the_cache(web, capfd):
    cache, _, asked = web
    check(data.load("cifar10"))
    assert asked == [f"/a/{cifar.ARCHIVE}"] and kept(cache) == ALL
    found = data.load("cifar10")
    check(found)
    assert len(asked) == 1 and found.source == str(cache / cifar.FOLDER)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "bad",
    [None, b"", b"<html></html>", ARCHIVE[:-9], ARCHIVE[:500] + b"x" + ARCHIVE[501:], bytes(1 << 22)],
    ids=["404", "empty", "html", "truncated", "altered", "endless"],
)
def test_a_bad_mirror_is_passed_over_for_the_next(web, bad):
    cache, answers, asked = web
    if bad is None:
        del answers[f"/a/{cifar.ARCHIVE}"]
    else:
        answers[f"/a/{cifar.ARCHIVE}"] = bad
    check(data.load("cifar10"))
    assert asked == [f"/a/{cifar.ARCHIVE}", f"/b/{cifar.ARCHIVE}"] and kept(cache) == ALL


def test_a_damaged_file_in_the_cache_is_brought_again(web):
    cache, _, asked = web
    data.load("cifar10")
    (cache / cifar.FOLDER / NAMES[1]).write_bytes(b"rotten")
    check(data.load("cifar10"))
    assert len(asked) == 2 and kept(cache) == ALL


@FAULTS
def test_whole_files_that_cannot_be_read_now_are_not_brought_again(web, monkeypatch, fault, error, said):
    cache, _, asked = web
    cannot_be_read_now(monkeypatch, "cifar10", "xconv.data.cifar._read_one", cache, asked, fault, error, said)


def test_when_all_fail_the_error_says_what_to_do_and_nothing_is_kept(web):
    cache, answers, _ = web
    answers.clear()
    with pytest.raises(FileError) as caught:
        data.load("cifar10")
    message = str(caught.value)
    assert "\n" not in message and message.count("404") == 2 and "damaged" not in message
    assert f"Set XCONV_DATA_DIR to a folder that holds {cifar.FOLDER}/data_batch_1.bin and the other five" in message
    assert kept(cache) == []


def test_when_all_fail_and_the_cache_is_damaged_the_error_says_so(web):
    cache, answers, _ = web
    data.load("cifar10")
    (cache / cifar.FOLDER / NAMES[5]).write_bytes(b"rotten")
    answers.clear()
    with pytest.raises(FileError, match=r"What is in the cache, .*, is damaged"):
        data.load("cifar10")
    assert kept(cache) == ALL


def test_a_cache_that_cannot_be_written(web, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(FileError, match="expected a folder to keep downloads in"):
        data.load("cifar10")


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, target
    return about


WITHOUT_ONE = {name: body for name, body in CONTENT.items() if name != NAMES[3]}
OUTSIDE = {f"../{NAMES[3]}": b"x", f"../../{NAMES[3]}": b"x", f"/tmp/{NAMES[3]}": b"x", "../../evil": b"x"}


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (published(WITHOUT_ONE), r"data_batch_4\.bin: .* Received: no such file"),
        (archived({**{f"{cifar.FOLDER}/{n}": b for n, b in WITHOUT_ONE.items()}, **OUTSIDE}), "no such file"),
        (published(WITHOUT_ONE, link(f"{cifar.FOLDER}/{NAMES[3]}", tarfile.SYMTYPE, "/etc/passwd")), "no such file"),
        (published(WITHOUT_ONE, link(f"{cifar.FOLDER}/{NAMES[3]}", tarfile.LNKTYPE, NAMES[0])), "no such file"),
        (published(WITHOUT_ONE, link(f"{cifar.FOLDER}/{NAMES[3]}", tarfile.FIFOTYPE, "")), "no such file"),
        (
            published({**CONTENT, NAMES[3]: bytes(1 << 20)}),
            "expected data_batch_4.bin of 9,219 bytes. Received: one of",
        ),
        (published({**CONTENT, NAMES[3]: CONTENT[NAMES[0]]}), "data_batch_4.bin: expected content of SHA-256"),
        (b"no archive at all", "expected a gzipped tar archive"),
        (ARCHIVE[: len(ARCHIVE) // 2], "expected a gzipped tar archive|no such file"),
        (gzip.compress(gzip.decompress(ARCHIVE)[:5000]), "expected a gzipped tar archive|no such file"),
    ],
    ids=["missing", "outside", "symlink", "hard link", "pipe", "larger", "another", "none", "cut", "cut inside"],
)
def test_a_hostile_archive_writes_nothing_anywhere(web, tmp_path, monkeypatch, archive, said):
    """Even where its hash is the expected one."""
    cache, answers, _ = web
    use(monkeypatch, archive, mirrors=cifar._ORIGIN.mirrors[:1])
    answers[f"/a/{cifar.ARCHIVE}"] = archive
    with pytest.raises(FileError, match=said):
        data.load("cifar10")
    assert kept(cache) == [] and [path.name for path in tmp_path.iterdir()] == ["cache"]
