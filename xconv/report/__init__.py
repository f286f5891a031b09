"""A training run in a folder, and the page that shows it.

`keep` writes the folder: the model, its history, run.json and the pictures. `write` binds what a folder holds into one
HTML file that needs no network. `xconv train --out` and `xconv report` are these two.
"""

from xconv.report.folder import HISTORY, MODEL, PAGE, PICTURES, RUN, Run, read, read_about
from xconv.report.keep import about, keep, keep_about, keep_pictures, keep_training
from xconv.report.page import html, write

__all__ = [
    "HISTORY",
    "MODEL",
    "PAGE",
    "PICTURES",
    "RUN",
    "Run",
    "about",
    "html",
    "keep",
    "keep_about",
    "keep_pictures",
    "keep_training",
    "read",
    "read_about",
    "write",
]
