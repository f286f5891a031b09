"""Run as `python -m tests.cudnn_offline FOLDER`: what cuDNN plans for an H200 that is not there, as JSON on stdout.

The real cuDNN, its heuristics and its engines; of the device only a description. It runs in a process of its own, since
cuDNN needs a libcuda: where there is no driver, FOLDER gets one whose every function says that there is no device.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

# As cuDNN 9.28 writes a device down, and older ones read it. The numbers are NVIDIA's for the H200 (SXM).
H200 = {
    "deviceName": "NVIDIA H200", "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0, "pciDeviceId": 0,
    "isTccDriver": 0, "multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32, "supportCoopLaunch": 1,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024,
    "oversizedSharedMemoryPerBlock": 0, "maxRegistersPerSM": 65536, "regsPerBlock": 65536, "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "maxBlockSize": [1024, 1024, 64],
    "maxGridSize": [2147483647, 65535, 65535], "totalGlobalMem": 150_000_000_000, "smClockRateKHz": 1980000,
    "memClockRateKHz": 3201000, "memoryBusWidth": 6144, "l2CacheSize": 62914560,
}  # fmt: skip
BATCHES = {"simple-convnet": [100], "vgg16-bn-cifar10": [64, 256, 1024]}
PRECISIONS = ["float32", "tf32", "bf16"]
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def stand_in_driver(folder: Path) -> None:
    """A libcuda with every function that cuDNN's libraries name, found first by all that is loaded after it."""
    found: set[str] = set()
    for library in Path(sysconfig.get_path("purelib")).glob("nvidia/cudnn/lib/libcudnn_engines*.so*"):
        found |= {name.decode() for name in re.findall(rb"\0(cu[A-Z][A-Za-z0-9_]+)(?=\0)", library.read_bytes())}
    source = "".join(f"int {name}() {{ return {NO_DEVICE}; }}\n" for name in sorted(found))
    path = folder / "libcuda.so.1"
    command = ["g++", "-shared", "-fPIC", "-xc", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(path), "-"]
    subprocess.run(command, input=source, text=True, check=True)
    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


class Offline:
    """As xconv.backend.cudnn.Cudnn, but for that device."""

    def __init__(self, cudnn: Any) -> None:
        self._cudnn = cudnn
        self._where = {"device_property": cudnn.create_device_properties(json.dumps(H200)), "sm_version": 90}
        self.plans: dict[Any, Any] = {}

    def plan(self, operation: str, conv: Any, limit: int) -> Any:
        from xconv.backend.cudnn_plans import build

        key = operation, conv, limit
        if key not in self.plans:
            self.plans[key] = build(self._cudnn, operation, conv, limit, **self._where)
        return self.plans[key]


def convolutions() -> list[tuple[str, str, tuple[Any, ...]]]:
    """(network, layer, the arguments of conv_algorithm without the batch) of every convolution in the zoo."""
    from xconv import zoo
    from xconv.layers.fused import convolution
    from xconv.plan import Plan

    found = []
    for name, entry in zoo.ZOO.items():
        model = entry.make(backend="numpy")
        plan = Plan(model.graph, model.backend, fuse=False)
        for run in plan.runs:
            if (about := convolution(run.layer)) is not None:
                conv, image = about[0], plan.graph.shapes[run.sources[0]]
                weights = conv.param_specs(image)["w"].shape
                window = conv.strides, conv.pads(image), conv.dilation_rate
                found.append((name, str(conv.name), (image, weights, *window)))
    return found


# Beside the zoo: groups, depthwise, dilation, strides, uneven pads, one pixel. x without the batch, w, and the window.
OTHERS = {
    "groups": ((64, 32, 32), (128, 32, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "depthwise": ((64, 32, 32), (64, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "dilation": ((64, 32, 32), (128, 64, 3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "stride": ((64, 32, 32), (128, 64, 3, 3), (2, 2), (0, 1, 0, 1), (1, 1)),
    "odd": ((3, 9, 6), (4, 3, 2, 3), (2, 1), (1, 0, 2, 1), (1, 1)),
    "one pixel": ((6, 3, 3), (12, 6, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
}


def main(folder: Path) -> dict[str, Any]:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        stand_in_driver(folder)
    import cudnn

    from xconv.backend.cudnn_plans import OPERATIONS
    from xconv.backend.cupy_backend import CupyBackend

    backend, library = CupyBackend.__new__(CupyBackend), Offline(cudnn)
    backend._cudnn, backend._routes, backend.workspace = library, {}, CupyBackend.workspace  # no CuPy is needed so far
    networks = [(*rest, n) for rest in convolutions() for n in BATCHES.get(rest[0], [128])]
    asked = [*networks, *(("others", name, shapes, 8) for name, shapes in OTHERS.items())]
    rows, start = [], time.perf_counter()
    for precision in PRECISIONS:
        backend._precision = precision
        for network, layer, (image, *shapes), n in asked:
            name = backend.conv_algorithm((n, *image), *shapes, groups=image[0] // shapes[0][1])
            route = backend._route((n, *image), *shapes, 4)
            about = (len(route.parts), route.workspace(*OPERATIONS)) if route else (0, 0)
            rows.append([network, layer, precision, n, name, *about])
    seconds = time.perf_counter() - start
    about = {"frontend": cudnn.__version__, "cudnn": cudnn.backend_version_string(), "seconds": round(seconds, 1)}
    return {**about, "plans": len(library.plans), "workspace": backend.workspace, "rows": rows}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
