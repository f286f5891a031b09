"""What summary says: shapes as Keras prints them, exact counts, who reads whom; and that it allocates nothing."""

from __future__ import annotations

import numpy as np
import pytest

from xconv import Model, Sequential, SimpleConvNet, zoo
from xconv.errors import ConfigError, ShapeError
from xconv.layers import Add, BatchNormalization, Concatenate, Conv2D, Dense, Flatten, Input, MaxPooling2D, ReLU
from xconv.models import summary

VGG = [(2, 64, 32), (2, 128, 16), (3, 256, 8), (3, 512, 4), (3, 512, 2)]  # convolutions, filters, size


def said(model, **settings) -> str:
    lines: list[str] = []
    model.summary(print_fn=lines.append, **settings)
    (text,) = lines
    return text


def rows(model) -> list[tuple]:
    return [(row["name"], row["output_shape"], row["params"]) for row in summary.facts(model)["layers"]]


def counts(model) -> tuple[int, int, int]:
    about = summary.facts(model)
    return about["total_params"], about["trainable_params"], about["non_trainable_params"]


# ---------------------------------------------------------------------- the zoo, against published counts


def test_keras_mnist():
    model = zoo.keras_mnist(backend="numpy")
    assert rows(model) == [
        ("input1", [None, 28, 28, 1], 0),
        ("conv1", [None, 26, 26, 32], 320),
        ("pool1", [None, 13, 13, 32], 0),
        ("conv2", [None, 11, 11, 64], 18_496),
        ("pool2", [None, 5, 5, 64], 0),
        ("conv3", [None, 3, 3, 64], 36_928),
        ("flatten", [None, 576], 0),
        ("dense1", [None, 64], 36_928),
        ("dense2", [None, 10], 650),
    ]
    assert counts(model) == (93_322, 93_322, 0)
    assert sum(layer["params"] for layer in summary.facts(model)["layers"] if "conv" in layer["name"]) == 55_744
    convolutional = Sequential(model.layers[:5], input_shape=(28, 28, 1), backend="numpy")
    assert counts(convolutional) == (55_744, 55_744, 0)


def test_mnist_dropout():
    assert counts(zoo.mnist_dropout(backend="numpy")) == (56_714, 56_714, 0)


def test_deep_convnet():
    assert counts(zoo.deep_convnet(backend="numpy")) == (123_552, 123_552, 0)


def test_vgg16():
    model = zoo.vgg16(backend="numpy")
    assert counts(model) == (138_357_544, 138_357_544, 0)
    assert rows(model)[-6:] == [
        ("flatten", [None, 25_088], 0),
        ("fc1", [None, 4096], 102_764_544),
        ("dropout1", [None, 4096], 0),
        ("fc2", [None, 4096], 16_781_312),
        ("dropout2", [None, 4096], 0),
        ("predictions", [None, 1000], 4_097_000),
    ]
    for shape, pooling, expected in (
        ((224, 224, 3), None, [None, 7, 7, 512]),
        ((64, 100, 3), None, [None, 2, 3, 512]),
        ((32, 32, 3), "avg", [None, 512]),
    ):
        bare = zoo.vgg16(shape, include_top=False, pooling=pooling, backend="numpy")
        assert counts(bare) == (14_714_688, 14_714_688, 0)
        assert rows(bare)[-1][1] == expected
    with pytest.raises(ConfigError, match=r"vgg16: pooling must be None, 'avg' or 'max', .* Received: 'max', include"):
        zoo.vgg16(pooling="max", backend="numpy")
    with pytest.raises(ShapeError, match=r"vgg16: five poolings need images of at least 32x32. Received: .16, 64, 3"):
        zoo.vgg16((16, 64, 3), include_top=False, backend="numpy")


def test_resnet20():
    model = zoo.resnet20_cifar10(backend="numpy")
    assert counts(model) == (271_104, 269_722, 1_382)  # the paper's 0.27 million
    shapes = {name: shape for name, shape, _ in rows(model)}
    assert shapes["stage1_3_relu"] == [None, 32, 32, 16]
    assert shapes["stage2_3_relu"] == [None, 16, 16, 32]
    assert shapes["stage3_3_relu"] == [None, 8, 8, 64]
    convolutions = [layer for layer in model.layers if isinstance(layer, Conv2D)]
    assert len(convolutions) + 1 == 20
    assert counts(zoo.resnet20_cifar10(blocks=9, backend="numpy"))[1] == 853_018  # 56 layers, the paper's 0.85 million


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_any_network_for_other_images_and_classes(name):
    height, width, channels = zoo.entry(name).input_shape
    usual = zoo.entry(name).make(backend="numpy").input_shape
    assert usual in ((height, width, channels), (channels, height, width))
    size = {"deep-convnet": 20, "vgg16": 32, "vgg16-bn-cifar10": 64}.get(name, 40)
    model = zoo.entry(name).build(zoo.recipe(name), backend="numpy", input_shape=(size, size, 4), classes=7)
    assert model.classes == 7
    assert sorted(model.input_shape) == [4, size, size]


def test_vgg16_with_batch_norm():
    model = zoo.vgg16_bn_cifar10(backend="numpy")
    assert counts(model) == (33_655_114, 33_646_666, 8_448)
    expected, channels = [], 3
    for convolutions, filters, size in VGG:
        for _ in range(convolutions):
            shape = [None, size, size, filters]
            expected += [(shape, 9 * channels * filters + filters), (shape, 4 * filters), (shape, 0)]
            channels = filters
        expected.append(([None, size // 2, size // 2, filters], 0))
    expected += [([None, 512], 0), ([None, 4096], 2_101_248), ([None, 4096], 16_781_312), ([None, 10], 40_970)]
    assert [row[1:] for row in rows(model)[1:]] == expected
    assert model._store is None
    assert "Total params: 33,655,114 (128.38 MB)" in said(model)
    assert model._store is None and model.count_params() == 33_655_114


def test_simple_convnet():
    model = SimpleConvNet(backend="numpy")
    assert counts(model) == (30 * 25 + 30 + 30 * 144 * 100 + 100 + 1010,) * 2 + (0,)
    assert rows(model)[1] == ("conv1", [None, 30, 24, 24], 780)  # channels first, as its images are


# ---------------------------------------------------------------------- the table


def test_the_table_of_a_row_of_layers():
    model = Sequential(
        [Conv2D(4, 3, activation="relu"), BatchNormalization(), Flatten(), Dense(2)],
        input_shape=(6, 5, 1),
        name="small",
        backend="numpy",
    )
    lines = said(model, batch_size=8).splitlines()
    assert lines[:9] == [
        'Model "small"',
        "-" * len(lines[1]),
        "Layer (kind)                              Output shape     Params",
        "-" * len(lines[1]),
        "input1 (Input)                            (None, 6, 5, 1)       0",
        "conv2d1 (Conv2D)                          (None, 4, 3, 4)      40",
        "batchnormalization1 (BatchNormalization)  (None, 4, 3, 4)      16",
        "flatten1 (Flatten)                        (None, 48)            0",
        "dense1 (Dense)                            (None, 2)            98",
    ]
    assert lines[10:13] == ["Total params: 154 (0.00 MB)", "Trainable params: 146", "Non-trainable params: 8"]
    assert lines[13].startswith("A training step of 8: ") and lines[13].endswith(", numpy")
    assert len(lines) == 14
    model.compile("adam", "mse")
    assert said(model).splitlines()[13].endswith(", Adam, numpy")


def test_it_prints(capsys):
    model = Sequential([Dense(2)], input_shape=(3,), backend="numpy")
    model.summary()
    assert capsys.readouterr().out == said(model) + "\n"


def branches() -> Model:
    x, side = Input((8, 8, 2), name="image"), Input((4,), name="side")
    conv = Conv2D(2, 3, padding="same", activation="relu", name="conv")
    y = MaxPooling2D(2, name="pool")(Add(name="sum")([conv(x), conv(conv(x))]))
    both = Concatenate(name="both")([Flatten(name="flat")(y), side])
    return Model([x, side], [Dense(3, name="one")(both), Dense(1, name="two")(both)], name="b", backend="numpy")


def test_branches_tell_what_they_read():
    lines = said(branches()).splitlines()
    assert [line.split(")  ")[-1].split() for line in lines[4:12]] == [
        ["0"],
        ["0"],
        ["38", "image"],
        ["0", "conv,", "conv"],
        ["0", "sum"],
        ["0", "pool"],
        ["0", "flat,", "side"],
        ["111", "both"],
    ]
    assert lines[2].endswith("Params  Reads")


def test_a_shared_layer_counts_once():
    model = branches()
    assert counts(model) == (2 * 2 * 9 + 2 + 36 * 3 + 3 + 36 + 1,) * 2 + (0,)
    assert [row[0] for row in rows(model)] == ["image", "side", "conv", "sum", "pool", "flat", "both", "one", "two"]
    assert model.count_params() == counts(model)[0] == sum(w.size for w in model.get_weights())


def test_frozen_layers_are_not_trainable():
    layers = [Conv2D(4, 3, name="conv"), BatchNormalization(name="bn"), ReLU(), Flatten(), Dense(2, name="top")]
    model = Sequential(layers, input_shape=(5, 5, 1), backend="numpy")
    assert counts(model) == (40 + 16 + 74, 40 + 8 + 74, 8)
    model.freeze("conv", "bn")
    assert counts(model) == (130, 74, 56)
    model.unfreeze("bn")
    assert counts(model) == (130, 82, 48)
    model.trainable = False
    assert counts(model) == (130, 0, 130)
    assert [row[2] for row in rows(model)] == [0, 40, 16, 0, 0, 74]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_megabytes_go_by_the_dtype(dtype):
    model = Sequential([Dense(1024, use_bias=False)], input_shape=(1024,), dtype=dtype, backend="numpy")
    assert f"({4 if dtype == 'float32' else 8}.00 MB)" in said(model)


def test_nothing_is_allocated(backend):
    """Nor drawn: a network too large for any memory."""
    layers = [Dense(1_000_000), Dense(1_000_000), Dense(1_000_000)]
    model = Sequential(layers, input_shape=(1_000_000,), backend=backend)
    model.compile("adam", "mse")
    assert "Total params: 3,000,003,000,000" in said(model)
    assert model._store is None and model.count_params() == 3_000_003_000_000


def test_an_image_model_in_both_formats():
    for data_format, shape, seen in (
        ("channels_last", (9, 7, 3), [None, 7, 5, 2]),
        ("channels_first", (3, 9, 7), None),
    ):
        model = Sequential([Conv2D(2, 3)], input_shape=shape, data_format=data_format, backend="numpy")
        assert rows(model)[1][1] == (seen or [None, 2, 7, 5])


def test_a_model_without_shape_says_what_is_missing():
    with pytest.raises(ConfigError, match="give the first layer input_shape"):
        said(Sequential([Dense(2)], backend="numpy"))
    with pytest.raises(ConfigError, match="no layers yet"):
        said(Sequential(backend="numpy"))


def test_the_peak_grows_with_the_batch():
    model = zoo.keras_mnist(backend="numpy")
    peaks = [summary.facts(model, size)["peak_bytes"] for size in (1, 32, 64)]
    assert peaks == sorted(peaks) and peaks[2] > 1.4 * peaks[1]
    assert np.prod([26, 26, 32]) * 4 * 32 < peaks[1] < 2**30


def test_verbose_2_tells_how_each_layer_is_computed():
    layers = [
        Conv2D(16, 3, input_shape=(8, 8, 16), name="first"),
        BatchNormalization(name="norm"),
        ReLU(name="relu"),
        Conv2D(4, 3, activation="relu", name="second"),
        MaxPooling2D(2, name="pool"),
        Conv2D(4, 1, name="third"),
    ]
    seen = {}
    for backend, fuse in (("numba", True), ("numba", False), ("numpy", True)):
        lines: list[str] = []
        net = Sequential(layers, backend=backend, fuse=fuse)
        net.summary(verbose=2, print_fn=lines.append)
        assert "Computed by" in lines[0]
        net.summary(print_fn=lines.append)
        assert "Computed by" not in lines[1]
        seen[backend, fuse] = {row["name"]: row["algorithm"] for row in summary.facts(net)["layers"]}
        for name, algorithm in seen[backend, fuse].items():
            row = next(line for line in lines[0].splitlines() if line.startswith(f"{name} ("))
            assert row.endswith(algorithm)
    rows = seen["numba", True]
    told = rows["second"].split(", predicting ")  # which depends on the processor's vectors
    assert told in (["direct"], ["direct", "rows F(4,3)"])
    assert rows | {"second": told[0]} == {
        "input1": "",
        "first": "winograd F(4x4)",
        "norm": "",
        "relu": "with norm",
        "second": "direct",
        "pool": "with second",
        "third": "columns",
    }
    assert seen["numba", False]["first"] == seen["numba", False]["second"] == "columns"
    assert seen["numba", False]["relu"] == seen["numba", False]["pool"] == ""
    assert seen["numpy", True]["first"] == "im2col"
    with pytest.raises(ConfigError, match="verbose must be 1 or 2"):
        net.summary(verbose=3)
