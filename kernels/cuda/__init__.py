"""CUDA C++ kernels. What files share is in the `.cuh` beside them, which `source` puts where it is included."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)


def source(name: str) -> str:
    """Text of ``name + ".cu"`` as one complete translation unit."""
    return _INCLUDE.sub(
        lambda include: (FOLDER / include[1]).read_text(encoding="utf-8"),
        (FOLDER / f"{name}.cu").read_text(encoding="utf-8"),
    )
