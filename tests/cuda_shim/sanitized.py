"""Checks of CUDA kernels under AddressSanitizer and UndefinedBehaviorSanitizer, on arrays exactly as large as needed.

A program of its own, since the sanitizer must be in a process from its start: `run(...)`, or by hand
`python -m tests.cuda_shim.sanitized FILE KERNEL OLD NEW` for one kernel of a file with OLD replaced by NEW.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.cuda_shim import COMPILER


@cache
def runtime() -> str:
    """Path of AddressSanitizer's library, or "" where the compiler came without it."""
    found = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return found.stdout.strip() if Path(found.stdout.strip()).is_absolute() else ""


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """This module as a program."""
    env = os.environ | {
        "XCONV_SANITIZE": "1",
        "LD_PRELOAD": runtime(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    command = [sys.executable, "-m", "tests.cuda_shim.sanitized", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def main(args: list[str]) -> None:
    from xconv.kernels import cuda

    from tests import cuda_shim

    checks = cuda_shim.all_checks()
    file, *broken = args
    # float32's kernels alone: float64's are the same templates, and take as long to compile.
    source = re.sub(r"^\w*KERNELS\(.*f64(_u8|_i32)?\)\n", "", cuda.source(file), flags=re.MULTILINE)
    if not broken:
        module = cuda_shim.Module(source)
        for name in (name for name in checks if checks[name][0] == file):
            checks[name][1](module, source, "f4", name)
            print(name, "is clean", flush=True)
        return
    name, old, new = broken
    assert old in source
    try:
        checks[name][1](cuda_shim.Module(source.replace(old, new)), source, "f4", name)
    except AssertionError as error:
        print("only its result is wrong:", error)


if __name__ == "__main__":
    main(sys.argv[1:])
