"""The one file format: safetensors (https://github.com/huggingface/safetensors), whole or absent, checked to the bit.

The library checks a file's header but not its content: a flipped bit in a weight loads silently. So the header's
metadata holds one entry, "xconv", a JSON object with
    format      "1"
    metadata    what the caller gave, such as the network's architecture
    tensors     dtype, shape and SHA-256 of the bytes, by name
    sha256      of this object's own text without that last entry
One entry and not four, because the library writes several in random order, and equal models should give equal files.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xconv.errors import ConfigError, DTypeError, FileError, described
from xconv.files import replacing

FORMAT = "1"
DAMAGED = "it was cut or altered: restore it from a copy"
_KEY = "xconv"
_OTHERS = {  # how other files begin
    b"\x80": "a pickle, which xconv does not read, since it can run code",
    b"PK": "a zip archive, as .npz, .pt and .keras are",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an .npy file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x1f\x8b": "a gzip archive",
    b"version https://": "a pointer of Git LFS; fetch the file itself with 'git lfs pull'",
    b"<": "what looks like a web page; fetch the file itself",
}
_DTYPES = (
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)


def save(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and `metadata`, a JSON object without NaN or infinity, to `path`.

    FileError where it cannot be written; then what was there is untouched (see `files.replacing`). ConfigError for
    metadata that JSON cannot hold, DTypeError for tensors that are not real numbers.
    """
    arrays = {_name(name): _array(name, tensor) for name, tensor in tensors.items()}
    about = {name: _about(array) for name, array in arrays.items()}
    header = _sealed({"format": FORMAT, "metadata": _plain(metadata), "tensors": about})
    with replacing(path) as part:
        try:
            save_file(arrays, part, {_KEY: header})
        except SafetensorError as error:
            raise OSError(error) from error


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors, by name, and the metadata of a file that `save` wrote.

    FileError, naming the file, what was expected and what came, where it is missing, is not such a file, is truncated
    or altered in any bit, or has a newer format. Memory stays within the file's size.
    """
    path = Path(path)
    if not path.is_file():
        received = "a folder" if path.is_dir() else "something that is no file" if path.exists() else "no such file"
        within = list(path.glob("*.safetensors"))
        if len(within) == 1:
            received += f"; give {within[0]}"
        raise FileError(f"{path}: expected a model file. Received: {received}")
    try:
        with safe_open(path, framework="numpy") as file:
            about = _unsealed(path, (file.metadata() or {}).get(_KEY))
            names = sorted(file.keys())
            if names != sorted(about["tensors"]):
                raise FileError(
                    f"{path}: expected the tensors {described(sorted(about['tensors']))}. "
                    f"Received: {described(names)}; {DAMAGED}"
                )
            tensors = {name: _checked(path, name, file.get_tensor(name), about["tensors"][name]) for name in names}
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read. Received: {error}") from error
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(f"{path}: expected a whole safetensors file. Received: {_received(path, error)}") from error
    return {name: tensors[name] for name in about["tensors"]}, about["metadata"]


def _received(path: Path, error: Exception) -> str:
    """What a file is that the library cannot open: another kind, told by how it begins, or a damaged one of ours."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] != b"{":  # where ours have their header, after its length
        for magic, kind in _OTHERS.items():
            if start.startswith(magic):
                return kind
        return f"{error}; it is another kind of file, or {DAMAGED}"
    return f"{error}; {DAMAGED}"


# ---------------------------------------------------------------------- the header


def _name(name: str) -> str:
    if not isinstance(name, str) or not name or name == "__metadata__":
        raise ConfigError(f"a tensor's name must be a text, not empty, not '__metadata__'. Received: {described(name)}")
    return name


def _array(name: str, tensor: np.ndarray) -> np.ndarray:
    """`tensor` in C order and little-endian, as the file holds it."""
    array = np.asarray(tensor)
    if array.dtype.name not in _DTYPES:
        raise DTypeError(f"tensor {name!r}: expected a dtype among {', '.join(_DTYPES)}. Received: {described(tensor)}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _about(array: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}


def _plain(metadata: Mapping[str, Any]) -> Any:
    try:
        return json.loads(_text(dict(metadata)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"metadata must be an object that JSON can hold. Received: {error}") from error


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _sealed(header: dict[str, Any]) -> str:
    return _text({**header, "sha256": hashlib.sha256(_text(header).encode()).hexdigest()})


def _unsealed(path: Path, text: str | None) -> dict[str, Any]:
    """The header's object, once its format is known and its own hash holds."""
    if text is None:
        raise FileError(f"{path}: expected a file written by xconv. Received: a safetensors file without our header")
    try:
        header = json.loads(text)
        version = header["format"]
        body = {key: value for key, value in header.items() if key != "sha256"}
        whole = _sealed(body) == text
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(
            f"{path}: expected a header in JSON. Received: {described(text)} ({error}); {DAMAGED}"
        ) from error
    if isinstance(version, str) and version.isdecimal() and int(version) > int(FORMAT):
        raise FileError(
            f"{path}: expected format {FORMAT}, the newest this xconv reads; upgrade xconv. Received: format {version}"
        )
    if not whole or version != FORMAT:
        raise FileError(
            f"{path}: expected an unaltered header of format {FORMAT}. Received: one whose hash does not match; "
            f"{DAMAGED}"
        )
    return body


def _checked(path: Path, name: str, tensor: np.ndarray, expected: dict[str, Any]) -> np.ndarray:
    received = _about(np.asarray(tensor, order="C"))
    if received != expected:
        key = next(key for key in ("dtype", "shape", "sha256") if received[key] != expected[key])
        raise FileError(
            f"{path}: tensor {name!r}: expected {key} {expected[key]}. Received: {received[key]}; {DAMAGED}"
        )
    return tensor
