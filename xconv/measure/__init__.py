"""Measuring: xconv beside PyTorch in one interleaved run, its cost as work grows, and whether its backends agree.

What `xconv bench --peer`, `--sweep` and `xconv compare` run. Beside PyTorch each contestant lives in a process of its
own; only ratios of turns of the same round are worth anything on a machine that others use too.
"""

from xconv.measure.agreement import agree
from xconv.measure.comparison import compare, demands
from xconv.measure.contestants import Contestant, Entrant, Network, ours
from xconv.measure.sweeps import AXES, sweep
from xconv.measure.tables import report, save, table

__all__ = [
    "AXES",
    "Contestant",
    "Entrant",
    "Network",
    "agree",
    "compare",
    "demands",
    "ours",
    "report",
    "save",
    "sweep",
    "table",
]
