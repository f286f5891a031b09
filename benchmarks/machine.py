"""What every benchmark must say about where it ran, and how its results are written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from xconv.files import output_folder, replacing
from xconv.measure.machine import about, about_lines, blas, blas_line
from xconv.measure.tables import table

__all__ = ["about", "about_lines", "blas", "blas_line", "table", "without_core_type", "write_json"]


def without_core_type() -> None:
    """Start this program anew without OPENBLAS_CORETYPE: it forces other BLAS kernels than users have."""
    forced = os.environ.pop("OPENBLAS_CORETYPE", None)
    if forced is not None:
        print(f"OPENBLAS_CORETYPE={forced} was set; started anew without it", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def write_json(path: Path, result: Any) -> None:
    """`result` as indented JSON, whole or not at all."""
    with output_folder(path.parent), replacing(path) as part:
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
