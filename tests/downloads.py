"""Data sets in the cache whose files are whole, and cannot be read at the moment."""

from __future__ import annotations

import errno

import pytest

from xconv import data
from xconv.errors import FileError, OutOfMemoryError

FAULTS = pytest.mark.parametrize(
    ("fault", "error", "said"),
    [(MemoryError(), OutOfMemoryError, "more memory"), (OSError(errno.EIO, "I/O error"), FileError, "I/O error")],
)


def cannot_be_read_now(monkeypatch, name, reader, place, asked, fault, error, said):
    """The fault is told with the place, and nothing is `asked` of the web, then or afterwards."""
    data.load(name)
    before = len(asked)

    def fail(*_):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(reader, fail)
        with pytest.raises(error, match=said) as caught:
            data.load(name)
    assert caught.value.__cause__ is fault and str(place) in str(caught.value)
    data.load(name)
    assert len(asked) == before
