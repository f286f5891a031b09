"""The README's programs run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_programs():
    assert len(PROGRAMS) == 6


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.strip().splitlines()[-1][:40])
def test_a_program_runs(program, tmp_path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        # Seeded: the book's loop draws its batches from NumPy's global stream.
        [sys.executable, "-W", "error", "-c", f"import numpy\nnumpy.random.seed(0)\n{program}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^\[?0\.\d+", done.stdout, re.MULTILINE)  # the accuracies that they print
    if "accuracy" in program.rsplit("\n", 2)[-2]:
        assert float(found[-1].strip("[")) > 0.9, done.stdout
