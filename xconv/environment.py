"""What this process has used of its machine."""

from __future__ import annotations

import sys


def peak_rss_mb() -> float | None:
    """The most physical memory this process has held at once, in MB of 10^6 bytes; None where nothing tells."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    # Second best: after an exec this still holds the peak of the program that was there before.
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
