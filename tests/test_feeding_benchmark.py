"""benchmarks/feeding.py compares like with like: every way gives the same training, and the file is all read."""

from __future__ import annotations

import pytest

from xconv import SimpleConvNet


def test_every_way_without_augmentation_trains_the_same(script, tmp_path):
    feeding = script("feeding")
    found = {}
    for way, make in feeding.ways("simple-convnet", tmp_path).items():
        net = SimpleConvNet(conv_param={"filter_num": 2, "filter_size": 5}, hidden_size=4, backend="numpy")
        net.compile("sgd")
        history = net.fit(**make(net, 5, 3), epochs=2, verbose=0)
        found[way] = history.history["loss"]
        assert history.images == 2 * 15
    plain = [way for way in found if "," not in way]
    assert len(plain) == 4 and all(found[way] == found["arrays"] for way in plain)
    changed = [found[way] for way in found if way not in plain]
    assert len(changed) == 2 and changed[0] != found["arrays"] != changed[1] != changed[0]


def test_memory_of_training_from_a_file(script, tmp_path):
    feeding = script("feeding")
    if not feeding.STATUS.exists():
        pytest.skip("memory is read from /proc, which only Linux has")
    n = feeding.write(tmp_path / "x", 10_000_000)
    assert n == 203 and (tmp_path / "x").stat().st_size == n * 64 * 64 * 3 * 4
    told = feeding.train_from_file(tmp_path / "x", n, "numpy")
    assert told["images"] == n and 0 < told["before_mb"] <= told["fit_peak_mb"] <= told["peak_mb"]


def test_rows_of_the_table(script):
    feeding = script("feeding")
    found = {"seconds": {"arrays": [1.0, 2.0], "bytes": [2.0, 2.0], "np.memmap": [2.0, 4.0]}}
    assert feeding.rows(found)[2] == ["np.memmap", "3000.00", "2.000 (2.000 to 2.000)", "1.500 (0.750 to 2.250)"]
