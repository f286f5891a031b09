"""What a message about a file says beyond that it cannot be used: what it is, where it went wrong, and a cure."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest

from xconv import checkpoint
from xconv.errors import FileError
from xconv.files import output_folder

LFS = "a pointer of Git LFS; fetch the file itself with 'git lfs pull'"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "a pickle, which xconv does not read, since it can run code"),
        (b"PK\x03\x04" + bytes(30), "a zip archive, as .npz, .pt and .keras are"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file"),
        (b"\x93NUMPY\x01\0v\0{'descr'" + bytes(30), "an .npy file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0", "a JPEG picture"),
        (b"GIF89a" + bytes(30), "a GIF picture"),
        (b"\x1f\x8b\x08\0" + bytes(30), "a gzip archive"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            LFS,
        ),
        (b"<!DOCTYPE html><html></html>", "what looks like a web page; fetch the file itself"),
    ],
    ids=["pickle", "zip", "HDF5", "npy", "PNG", "JPEG", "GIF", "gzip", "Git LFS", "web page"],
)
def test_a_file_of_another_kind_is_named(tmp_path, start, kind):
    path = tmp_path / "m"
    path.write_bytes(start)
    with pytest.raises(FileError) as caught:
        checkpoint.load(path)
    assert str(caught.value) == f"{path}: expected a whole safetensors file. Received: {kind}"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b[:-1] + b"\x7f"])
def test_a_damaged_file_has_a_cure(tmp_path, damage):
    path = tmp_path / "m"
    checkpoint.save(path, {"a": np.zeros(9)}, {})
    path.write_bytes(damage(path.read_bytes()))
    cure = r"(it is another kind of file, or )?it was cut or altered: restore it from a copy"
    with pytest.raises(FileError, match=rf"Received: .*; {cure}$"):
        checkpoint.load(path)


def test_a_text_is_another_kind_of_file(tmp_path):
    path = tmp_path / "notes.safetensors"
    path.write_text("a few words, and nothing of a network")
    with pytest.raises(FileError, match="it is another kind of file, or it was cut or altered"):
        checkpoint.load(path)


def test_a_folder_with_a_model_names_it(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, {"a": np.zeros(9)}, {})
    with pytest.raises(FileError, match=rf"Received: a folder; give {re.escape(str(path))}$"):
        checkpoint.load(tmp_path)


def test_a_header_whose_length_begins_as_a_pickle_is_ours(tmp_path):
    """The first byte is the length's lowest: 0x80 begins a pickle, too."""
    for n in range(300):
        path = tmp_path / f"{n}"
        checkpoint.save(path, {"a": np.zeros(1)}, {"n": "n" * n})
        content = path.read_bytes()
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    path.write_bytes(content[:-1])
    with pytest.raises(FileError, match="it was cut or altered"):
        checkpoint.load(path)


@pytest.mark.parametrize("place", ["none", "none/within"])
def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch, place):
    def refuse(self, *_, **__):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")  # as in /proc

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileError) as caught, output_folder(tmp_path / place):
        pytest.fail("there is no such folder")
    assert str(caught.value) == (
        f"{tmp_path / place}: expected a folder that can be written to. "
        f"Received: a place in {tmp_path}, where no folder can be made (No such file or directory)"
    )
