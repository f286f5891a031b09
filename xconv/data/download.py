"""Downloads: mirror after mirror, checked before they count, and put in the cache whole or not at all."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xconv.errors import FileError

_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
_CHUNK = 1 << 15


def cache_dir() -> Path:
    """Where downloads are kept: $XCONV_CACHE_DIR, or the system's folder for caches."""
    import pooch

    return Path(os.environ.get("XCONV_CACHE_DIR") or pooch.os_cache("xconv"))


def download(
    urls: Sequence[str], destination: Path, check: Callable[[Path], object], max_bytes: int, cure: str
) -> None:
    """Bring the first of `urls` that answers with a file of at most `max_bytes` that `check` accepts.

    `check(file)` raises FileError on a wrong file. `destination` appears only when all is well, by one rename. Progress
    goes to stderr where that is a terminal. FileError, with every mirror's failure and the `cure`, where none gave it.
    """
    import pooch

    failures = []
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".download-") as folder:
            part = Path(folder) / destination.name
            for url in urls:
                bar = _Bar(
                    max_bytes,
                    desc=destination.name,
                    unit="B",
                    unit_scale=True,
                    leave=False,
                    file=sys.stderr,
                    disable=None,
                )
                try:
                    fetch = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT)
                    fetch(url, str(part), None)
                    check(part)
                except (OSError, ValueError) as error:  # requests' own errors are OSError
                    failures.append(f"{url}: {_short(error, part)}")
                    continue
                finally:
                    bar.close()
                os.replace(part, destination)
                return
    except OSError as error:
        raise FileError(f"{destination}: expected a folder to keep downloads in. Received: {error}. {cure}") from error
    raise FileError(f"{destination.name}: no mirror gave it. {cure}. Tried: {'; '.join(failures)}")


class UnreadableError(FileError):
    """A file that is there, and may be whole, cannot be read: a download would not mend that."""


class _Bar(tqdm):
    """A progress bar on a terminal, and everywhere the end of a download that is too long; pooch has no limit."""

    def __init__(self, max_bytes: int, **settings: Any) -> None:
        self.max_bytes, self.received = max_bytes, 0.0
        super().__init__(**settings)

    def __bool__(self) -> bool:
        return True  # pooch asks whether there is a bar

    def update(self, n: float | None = 1) -> bool | None:
        self.received += n or 0
        if self.received > self.max_bytes + _CHUNK:  # pooch counts whole chunks
            raise FileError(f"expected at most {self.max_bytes} bytes. Received: more than that")
        return super().update(n)

    def reset(self, total: float | None = None) -> None:
        self.received = 0.0
        super().reset(total)


def _short(error: Exception, part: Path) -> str:
    """The cause alone, on one line: requests wraps it in three others."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return re.sub(r"^HTTPS?Connection\(.*?\): ", "", str(cause).replace(f"{part}: ", "").splitlines()[0])
