"""What a training run leaves on disk: models, and a table of its epochs."""

from __future__ import annotations

import csv
import io
import os
import string
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xconv.callbacks.base import Callback
from xconv.callbacks.monitored import Monitored, number, say
from xconv.errors import ConfigError, FileError, described
from xconv.files import FOREIGN
from xconv.shapes import positive


class ModelCheckpoint(Monitored):
    """Saves the model after each epoch, or after every `save_freq` batches, to `filepath`.

    `filepath` may hold {epoch:02d}, counted from 1, {batch}, and names in the logs such as {val_loss:.2f}; missing
    folders are made. With `save_best_only` it saves when `monitor` is better than in the file written last; a second
    `fit` goes on from there, and `initial_value_threshold` is where the first one starts. `save_weights_only` calls
    model.save_weights in place of model.save.

    Where a file cannot be written, the one before stays whole, training goes on with one warning, and the next epoch
    tries again; `strict` raises FileError.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        strict: bool = False,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath = _checked_path(filepath)
        self.verbose, self.strict = verbose, strict
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        if save_freq != "epoch":
            save_freq = positive(save_freq, "ModelCheckpoint: save_freq, where it is not 'epoch',")
        self.save_freq = save_freq
        if initial_value_threshold is not None:
            self.best = number(initial_value_threshold, "ModelCheckpoint: initial_value_threshold")
        self._unsaved = 0  # batches since the last saving; they add up over epochs
        self._warned = False

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._warned = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if self.save_freq == "epoch":
            return
        self._unsaved += 1
        if self._unsaved >= int(self.save_freq):
            self._unsaved = 0
            self._save(logs or {}, epoch=self._epoch + 1, batch=batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self.save_freq == "epoch" and not (self.save_best_only and self.left_out(logs)):
            self._save(logs or {}, epoch=epoch + 1)

    def _save(self, logs: Mapping[str, float], **counts: int) -> None:
        when = f"epoch {counts['epoch']}"
        current = self.monitored(logs) if self.save_best_only else self.best
        if self.save_best_only and not self.better(current, self.best):
            if self.verbose:
                say(f"{when}: {self.monitor} {current:.5f} is no better than {self.best:.5f}; nothing saved")
            return
        path = self._path({**logs, **counts})
        write = self.model.save_weights if self.save_weights_only else self.model.save
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write(path)
        except OSError as error:  # FileError is one
            failed = f"ModelCheckpoint: {when}: {path} was not saved: {error}"
            if self.strict:
                raise FileError(failed) from error
            if not self._warned:
                warnings.warn(f"{failed}. Training goes on; later failures are not told", stacklevel=2)
            self._warned = True
            return
        if self.verbose:
            better = f"{self.monitor} went from {self.best:.5f} to {current:.5f}; " if self.save_best_only else ""
            say(f"{when}: {better}saved {path}")
        self.best = current

    def _path(self, values: Mapping[str, float]) -> str:
        try:
            return self.filepath.format(**values)
        except KeyError as error:
            raise ConfigError(
                f"ModelCheckpoint: filepath: expected names among {', '.join(values)}. "
                f"Received: {error.args[0]!r} in {self.filepath!r}"
            ) from None


class _Any(dict[str, Any]):
    """Any name has a value: counts are integers, all else is a float."""

    def __missing__(self, name: str) -> float:
        return 1 if name in ("epoch", "batch") else 1.5


def _checked_path(filepath: Any) -> str:
    """As text; ConfigError for another library's suffix, and for braces that cannot be filled."""
    try:
        path = os.fspath(filepath)
        filled = string.Formatter().vformat(path, (), _Any())
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ConfigError(
            "ModelCheckpoint: expected filepath to be a path such as 'best.safetensors' or "
            f"'{{epoch:02d}}-{{val_loss:.2f}}.safetensors'. Received: {described(filepath)} ({error})"
        ) from None
    if filled.lower().endswith(tuple(FOREIGN)):  # what model.save refuses, before anything is trained
        end = path.lower().rfind(".weights.h5")
        better = path[:end] if end >= 0 else path[: path.rfind(".")]
        raise ConfigError(
            f"ModelCheckpoint: xconv writes safetensors files: expected filepath {better + '.safetensors'!r}. "
            f"Received: {path!r}"
        )
    return path


class CSVLogger(Callback):
    """One row an epoch, from 0, in the file `filename`, on disk when the epoch ends.

    The first epoch fixes the columns: "epoch" and the names in the logs in alphabetical order, as in Keras; what comes
    later has no column, and what is missing is "NA". `append` adds to a file that is there, in its columns. Each row is
    written in one piece at the end of the file, so that a run that is killed leaves whole rows. Where a row cannot be
    written, training goes on with one warning.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
            raise ConfigError(f"CSVLogger: separator must be one character. Received: {described(separator)}")
        self.filename, self.separator, self.append = Path(filename), separator, append
        self.columns: list[str] = []
        self._warned = False

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.columns, self._warned = [], False
        try:
            if not self.append:
                self.filename.write_bytes(b"")
                return
            text = self.filename.read_text("utf-8", "replace") if self.filename.exists() else ""
            if text:
                self._adopt(text.splitlines()[0])
            self._append(b"\n" if text and not text.endswith("\n") else b"")
        except OSError as error:
            raise FileError(f"CSVLogger: {self.filename}: cannot be written: {error}") from error

    def _adopt(self, header: str) -> None:
        """Go on in the columns of the file's first line."""
        self.columns = next(csv.reader([header], delimiter=self.separator))
        if "epoch" not in self.columns:
            raise ConfigError(
                f"CSVLogger: {self.filename}: expected a first line with the column 'epoch' and separator "
                f"{self.separator!r}. Received: {described(header)}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row: dict[str, Any] = {"epoch": epoch, **(logs or {})}
        lines = [[row.get(name, "NA") for name in self.columns]]
        if not self.columns:
            columns = ["epoch", *sorted(logs or {})]
            lines = [columns, [row[name] for name in columns]]
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.separator, lineterminator="\n").writerows(lines)
        try:
            self._append(text.getvalue().encode())
            self.columns = self.columns or lines[0]
            lost = [name for name in row if name not in self.columns]
            problem = f"no column for {', '.join(lost)}, which the first line lacks" if lost else ""
        except OSError as error:
            problem = f"the row of epoch {epoch} was not written: {error}"
        if problem and not self._warned:
            self._warned = True
            warnings.warn(f"CSVLogger: {self.filename}: {problem}. Training goes on", stacklevel=2)

    def _append(self, piece: bytes) -> None:
        """All of it or nothing, as far as a full disk allows."""
        with self.filename.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            written = file.write(piece)
            if written != len(piece):
                file.truncate(end)
                raise OSError(f"only {written} of {len(piece)} bytes could be written")
