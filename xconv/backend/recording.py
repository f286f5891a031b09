"""Recording: a function of fixed arrays is kept as the work that it gives the device, and replayed without Python."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class NotRecorded(Exception):
    """Why a function cannot be recorded."""


class Recording(ABC):
    """One function, recorded once it has warmed up: it computes with the same arrays each time, in place.

    While it is recorded nothing runs, so it may meet the host nowhere: no transfer, no number read from the device, no
    memory that the calls before did not need. What Python computes in it, a number from a setting, is recorded as it
    is. `result` is what the function gave, written anew by each replay.
    """

    result: Any = None
    recorded: bool = False  # whether calls replay

    @abstractmethod
    def __call__(self, function: Callable[[], Any]) -> None:
        """What `function` does, once: by itself the first times, then recorded, then replayed.

        NotRecorded, where recording it fails, comes before anything of it has run.
        """

    @property
    @abstractmethod
    def warm(self) -> bool:
        """Whether the next call records, if none has yet."""


class Recorder(ABC):
    """What makes recordings whose replays follow one another."""

    @abstractmethod
    def recording(self) -> Recording:
        """A new one, with memory of its own."""
