"""The IDX format of MNIST, read strictly: nothing in a file's header is believed before it is checked.

A file is: two zero bytes, a type code, the rank, one big-endian int32 size an axis, then the numbers in C order, also
big-endian (http://yann.lecun.com/exdb/mnist/, "the IDX file format"). It may be gzipped; that is told by the first
bytes, not by the name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from xconv.data.download import UnreadableError
from xconv.errors import FileError, OutOfMemoryError

CODES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_RANK = 8
_GZIP_MAGIC = b"\x1f\x8b"
_MOST_DEFLATE_EXPANDS = 1032  # bytes out for a byte in, at the very most (zlib's own technical notes)
_PIECE = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # which web pages may begin with


def read_idx(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int | None, ...] | None = None,
    dtype: str = "uint8",
    sha256: str | None = None,
    cure: str = "replace it",
) -> np.ndarray:
    """The array in an IDX file, plain or gzipped, in native byte order.

    `shape` is what the header must declare, None standing for any size; `sha256` is the hex digest of the decompressed
    file, and `cure` what the message about a damaged file advises. FileError, naming the file, what was expected and
    what came, where the file is missing, is not IDX, holds another shape or type, is shorter or longer than its header
    says, or has another hash. Memory stays within the array's size, and a header that declares more than the file can
    hold is refused before anything is allocated. OutOfMemoryError where the array does not fit into memory.
    """
    path = Path(path)
    damaged = f"the file was cut or altered{cure and ': '}{cure}"
    try:
        if not path.is_file():
            raise FileError(
                f"{path}: expected an IDX file. Received: {'a folder' if path.is_dir() else 'no such file'}"
            )
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            bound = path.stat().st_size * (_MOST_DEFLATE_EXPANDS if packed else 1)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
            return _read(stream, path, bound, shape, np.dtype(dtype), sha256, damaged)
    except FileError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileError(f"{path}: expected a whole IDX file. Received: {error}; {damaged}") from error
    except OSError as error:
        raise UnreadableError(f"{path}: expected a whole IDX file. Received: {error}") from error
    except MemoryError as error:
        raise OutOfMemoryError(f"{path}: its content takes more memory than there is") from error


def _read(
    stream: io.BufferedIOBase,
    path: Path,
    bound: int,
    shape: tuple[int | None, ...] | None,
    dtype: np.dtype,
    sha256: str | None,
    damaged: str,
) -> np.ndarray:
    """The array in `stream`, which cannot hold more than `bound` bytes."""
    header, declared, stored = _header(stream, path)
    if stored.newbyteorder("=") != dtype:
        raise FileError(f"{path}: expected numbers of type {dtype}. Received: {stored.newbyteorder('=')}")
    if shape is not None and not _fits(declared, shape):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise FileError(f"{path}: expected an array of shape ({wanted}). Received: a header that declares {declared}")
    expected = math.prod(declared) * stored.itemsize
    if len(header) + expected > bound:
        raise FileError(
            f"{path}: expected {expected} bytes after the header, which declares shape {declared}. "
            f"Received: a file that cannot hold more than {max(bound - len(header), 0)}; {damaged}"
        )
    # np.empty only reserves: pages are touched as bytes arrive, so a header that lies costs no more than the content.
    array = np.empty(declared, stored)
    view = array.reshape(-1).view(np.uint8).data
    digest = hashlib.sha256(header)
    got = 0
    while got < expected:
        n = stream.readinto(view[got : got + _PIECE])
        if not n:
            raise FileError(f"{path}: expected {expected} bytes after the header. Received: only {got}; {damaged}")
        digest.update(view[got : got + n])
        got += n
    if stream.read(1):
        raise FileError(f"{path}: expected {expected} bytes after the header. Received: more than that; {damaged}")
    if sha256 is not None and digest.hexdigest() != sha256:
        raise FileError(f"{path}: expected content of SHA-256 {sha256}. Received: {digest.hexdigest()}; {damaged}")
    return array.astype(dtype, copy=False)


def _header(stream: io.BufferedIOBase, path: Path) -> tuple[bytes, tuple[int, ...], np.dtype]:
    """The header's bytes, and the shape and type it declares."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in CODES or not 1 <= start[3] <= MAX_RANK:
        page = start.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"<"
        raise FileError(
            f"{path}: expected an IDX file: 00 00, a type code ({', '.join(f'{c:02x}' for c in CODES)}), "
            f"a rank from 1 to {MAX_RANK}. Received: {start.hex(' ') or 'an empty file'}"
            f"{'; this looks like a web page: fetch the file itself' if page else ''}"
        )
    rank = start[3]
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise FileError(f"{path}: expected a header of {4 + 4 * rank} bytes. Received: {4 + len(sizes)} bytes")
    declared = struct.unpack(f">{rank}i", sizes)
    if min(declared) < 0:
        raise FileError(f"{path}: expected sizes of 0 or more. Received: a header that declares {declared}")
    return start + sizes, declared, np.dtype(CODES[start[2]])


def _fits(declared: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(declared) == len(shape) and all(b is None or a == b for a, b in zip(declared, shape, strict=True))
