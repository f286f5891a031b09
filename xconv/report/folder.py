"""What a run's folder holds, read and checked: each file is used whole, or said to be missing."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xconv.errors import FileError, described
from xconv.models import load
from xconv.models.summary import facts

MODEL, HISTORY, RUN, PAGE = "model.safetensors", "history.csv", "run.json", "report.html"
PICTURES = ("curves.png", "predictions.png", "confusion.png", "filters.png", "features.png")
_OBJECTS = ("data", "recipe", "optimizer", "backend", "versions", "throughput", "results", "not_drawn")
MOST = {RUN: 1 << 20, HISTORY: 1 << 24}  # bytes; more is no run of ours
_MOST_OF_A_PICTURE = 1 << 25
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A PNG file and its size in pixels."""

    content: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Run:
    """A folder's run. `missing` says of each file that is not there, or cannot be shown, why."""

    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)  # of run.json
    epochs: list[dict[str, float]] = field(default_factory=list)  # of history.csv
    layers: Mapping[str, Any] | None = None  # as `models.summary.facts`
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def read(folder: str | os.PathLike[str], *, custom_layers: Mapping[str, Any] | None = None) -> Run:
    """The run in a folder. `custom_layers` as in `xconv.load`, for a model with layers of one's own.

    FileError for a folder that is not there or holds no run, and for a run.json or history.csv that is damaged.
    """
    path = Path(folder)
    if not path.is_dir():
        received = "a file" if path.exists() else "no such folder"
        raise FileError(f"{path}: expected the folder that 'xconv train --out' wrote. Received: {received}")
    if not any((path / name).is_file() for name in (RUN, HISTORY, MODEL)):
        inside = sorted(entry.name for entry in path.iterdir())
        raise FileError(
            f"{path}: expected a run, with {RUN}, {HISTORY}, {MODEL} and pictures, as 'xconv train --out' writes it. "
            f"Received: a folder with {', '.join(inside[:5]) + (', ...' if len(inside) > 5 else '') or 'nothing in it'}"
        )
    missing: dict[str, str] = {}

    def wanted(name: str, reader: Callable[[Path], Any], otherwise: Any) -> Any:
        if (path / name).is_file():
            return reader(path / name)
        missing[name] = "it is not in the folder"
        return otherwise

    told = wanted(RUN, read_about, {})
    epochs = wanted(HISTORY, _read_history, [])
    layers = None
    try:
        layers = wanted(
            MODEL, lambda file: facts(load(file, backend="numpy", custom_layers=custom_layers, compile=False)), None
        )
    except FileError as error:  # such as layers of the user's own: the rest can be shown without
        missing[MODEL] = _reason(error, path / MODEL)
    pictures = {}
    for name in PICTURES:
        try:
            picture = wanted(name, _read_picture, None)
        except FileError as error:
            missing[name] = _reason(error, path / name)
            continue
        if picture is not None:
            pictures[name] = picture
    reasons = told.get("not_drawn", {})
    missing = {name: str(reasons.get(name, why)) for name, why in missing.items()}
    return Run(path, told, epochs, layers, pictures, missing)


def _reason(error: FileError, path: Path) -> str:
    """Without where the folder lies, which a page that is sent to others must not tell."""
    return str(error).removeprefix(f"{path}: ").replace(str(path), path.name)


def _bytes(path: Path, most: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most:
            raise FileError(f"{path}: expected at most {most:,} bytes. Received: {size:,}")
        return path.read_bytes()
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: expected a file that can be read. Received: {error.strerror or error}") from error


def _text(path: Path) -> str:
    try:
        return _bytes(path, MOST[path.name]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected UTF-8 text. Received: {error}") from None


def read_about(path: Path) -> dict[str, Any]:
    """What a run.json tells, without entries that are null; FileError where it is damaged, or above a megabyte."""
    text = _text(path)
    cure = "; 'xconv train --out' writes it anew, and a report can be made without it"
    try:
        told = json.loads(text)
        json.dumps(told, ensure_ascii=False).encode("utf-8")  # an escape such as \ud800 is no character
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: expected JSON{cure}. Received: {error}") from None
    if not isinstance(told, dict):
        raise FileError(f"{path}: expected a JSON object{cure}. Received: {described(told)}")
    for name, value in no_objects(told):
        raise FileError(f"{path}: {name}: expected an object{cure}. Received: {described(value)}")
    return {name: value for name, value in told.items() if value is not None}


def no_objects(told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of the entries of a run.json that are none of the objects that a page is made of."""
    yield from ((name, told[name]) for name in _OBJECTS if not isinstance(told.get(name), Mapping | None))
    results = told.get("results")
    if isinstance(results, Mapping):
        yield from ((f"results: {part}", value) for part, value in results.items() if not isinstance(value, Mapping))


def _read_history(path: Path) -> list[dict[str, float]]:
    rows = []
    lines = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        if "epoch" not in (lines.fieldnames or ()):
            raise FileError(f"{path}: expected a first line with 'epoch'. Received: {described(lines.fieldnames)}")
        for line in lines:
            if None in line or None in line.values():
                raise FileError(
                    f"{path}: line {lines.line_num}: expected {len(lines.fieldnames or ())} cells. Received: others"
                )
            rows.append({name: float(cell) if cell else math.nan for name, cell in line.items()})
    except (ValueError, csv.Error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: line {lines.line_num}: expected numbers. Received: {error}") from None
    return rows


def _read_picture(path: Path) -> Picture:
    content = _bytes(path, _MOST_OF_A_PICTURE)
    if len(content) < 33 or not content.startswith(_PNG) or content[12:16] != b"IHDR":
        raise FileError(f"{path}: expected a PNG picture. Received: another kind of file")
    width, height = struct.unpack(">II", content[16:24])
    return Picture(content, width, height)
