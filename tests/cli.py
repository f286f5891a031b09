"""What the tests of the command share: how it is run elsewhere, and what it gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xconv

PICTURES = ["confusion.png", "curves.png", "features.png", "filters.png", "predictions.png"]
FILES = sorted([*PICTURES, "history.csv", "model.safetensors", "run.json"])
# Where this xconv came from, installed or not, so that a subprocess elsewhere finds the same one.
ENV = {**os.environ, "PYTHONPATH": str(Path(xconv.__file__).parents[1]), "COLUMNS": "80"}
ENV.pop("XCONV_BACKEND", None)
COMMAND = [sys.executable, "-m", "xconv"]


def shell(*args: str, cwd: Path, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *args], cwd=cwd, env=ENV, capture_output=True, text=True, check=False, **settings)


QUICK = ("train", "--backend", "numpy", "--epochs", "1")


def one_json_line(out: str):
    assert out.count("\n") == 1 and out.endswith("\n")
    return json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
