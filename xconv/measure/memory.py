"""What training steps add to a process, at their peak, over the built model. Linux only: /proc tells it."""

from __future__ import annotations

import ctypes
import gc
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from xconv.measure.contestants import Entrant, Steps
from xconv.measure.referee import Say, in_short, start

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TINY = 2  # images in the steps that load kernels, libraries and threads before anything is measured
STEPS = 3


def resident_mb(field: str) -> float:
    """MB: "VmRSS" is what the process holds now, "VmHWM" the most it has held since `forget_peak`."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def forget_peak() -> None:
    """The peak starts again from now (the kernel's own switch for it)."""
    CLEAR.write_text("5")


def measure(pipe: Connection, entrant: Entrant) -> None:
    """In a process of its own: a small twin takes a few steps, then the contestant itself is made and measured.

    Its parameters and batches are there before the first reading; gradients, the optimizer's state, activations and
    scratch are not. Sends {"mb"} or {"error"}.
    """
    try:
        twin = entrant(TINY)
        assert isinstance(twin, Steps)
        for _ in range(STEPS):
            twin.train()
        alone = twin.alone
        del twin
        contestant = entrant(**alone)
        assert isinstance(contestant, Steps)
        if not contestant.on_host:
            pipe.send({"mb": None})
            return
        contestant.forget_training()
        gc.collect()
        with suppress(OSError, AttributeError):  # what the C library keeps after `free` goes back to the system
            ctypes.CDLL(None).malloc_trim(0)
        forget_peak()
        before = resident_mb("VmRSS")
        for _ in range(STEPS):
            contestant.train()
        pipe.send({"mb": round(resident_mb("VmHWM") - before, 1)})
    except Exception as error:
        pipe.send({"error": in_short(error)})


def added_mb(entrant: Entrant, threads: int, say: Say, times: int = 1) -> float | None:
    """MB that training steps add, the least of `times` fresh processes; None where that cannot be told.

    The least, because what a C library takes beside what it is asked for differs from run to run.
    """
    found: list[float] = []
    for _ in range(times if CLEAR.exists() else 0):
        with ExitStack() as stack:
            told = start(stack, measure, entrant, entrant.threads or threads)[1]
        if "error" in told:
            say(f"memory could not be measured: {told['error']}")
            break
        found += [] if told["mb"] is None else [told["mb"]]
    return min(found, default=None)
