"""Measuring: xconv beside PyTorch in one interleaved run, and what a network costs as its work grows.

What `xconv bench --peer` and `--sweep` run. Each contestant lives in a process of its own; only ratios of turns of the
same round are worth anything on a machine that others use too.
"""

from xconv.measure.comparison import compare, demands
from xconv.measure.contestants import Contestant, Entrant, Network, ours
from xconv.measure.sweeps import AXES, sweep
from xconv.measure.tables import report, save, table

__all__ = [
    "AXES",
    "Contestant",
    "Entrant",
    "Network",
    "compare",
    "demands",
    "ours",
    "report",
    "save",
    "sweep",
    "table",
]
