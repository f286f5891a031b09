"""The real cuDNN plans every convolution of the zoo, for a device of which there is only a description."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests import cuda_shim

LAYOUT = {"float32": "NCHW", "tf32": "NHWC", "bf16": "NHWC"}
NETWORKS = {"simple-convnet": 1, "keras-mnist": 3, "mnist-dropout": 2, "vgg16-bn-cifar10": 13, "others": 6}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    missing = cuda_shim.MISSING
    if importlib.util.find_spec("cudnn") is None:
        missing = "cuDNN is not installed: pip install nvidia-cudnn-cu13 'nvidia-cudnn-frontend>=1.18,<1.29'"
    if missing:
        if os.environ.get("XCONV_REQUIRE_CUDNN") == "1":
            pytest.fail(f"XCONV_REQUIRE_CUDNN=1, and {missing}")
        pytest.skip(missing)
    command = [sys.executable, "-m", "tests.cudnn_offline", str(tmp_path_factory.mktemp("libcuda"))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("precision", LAYOUT)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_convolution_has_plans_both_ways(told, network, precision):
    rows = [row for row in told["rows"] if row[0] == network and row[2] == precision]
    assert len({layer for _, layer, *_ in rows}) == NETWORKS[network]
    for _, layer, _, n, name, parts, workspace in rows:
        assert name == f"cuDNN {precision}, {LAYOUT[precision]}", (layer, n)
        assert parts >= 1 and workspace <= told["workspace"] // 2, (layer, n)


def test_large_batches_go_in_parts(told):
    parts = {(row[1], row[3]): row[5] for row in told["rows"] if row[0] == "vgg16-bn-cifar10" and row[2] == "tf32"}
    assert parts["conv1_2", 64] == 1 < parts["conv1_2", 1024]
