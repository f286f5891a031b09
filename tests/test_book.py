"""Programs of the book's chapter 7 with only the imports changed, on every backend; the book's layers and names."""

from __future__ import annotations

import pickle
import textwrap
import warnings

import numpy as np
import pytest

from tests import reference
from tests.checks import close, draw
from xconv import book, data
from xconv.errors import BackendError, ConfigError, FileError, ShapeError

SMALL = {"conv_param": {"filter_num": 6, "filter_size": 5, "pad": 0, "stride": 1}, "hidden_size": 20}


@pytest.fixture(scope="module")
def mnist():
    return book.load_mnist(flatten=False, name="mnist-sample")


class AdaGrad:
    """The book's, section 6.1.5, as a reader has typed it."""

    def __init__(self, lr=0.01):
        self.lr = lr
        self.h = None

    def update(self, params, grads):
        if self.h is None:
            self.h = {}
            for key, val in params.items():
                self.h[key] = np.zeros_like(val)

        for key in params.keys():  # noqa: SIM118
            self.h[key] += grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key]) + 1e-7)


@pytest.mark.parametrize("rule", [AdaGrad, book.AdaGrad])
def test_a_readers_training_loop(backend, mnist, rule):
    (x_train, t_train), (x_test, t_test) = mnist
    x_train, t_train = x_train[:200], t_train[:200]

    network = book.SimpleConvNet(input_dim=(1, 28, 28), **SMALL, output_size=10, weight_init_std=0.01, backend=backend)
    optimizer = rule(lr=0.02)
    max_iters, train_size, batch_size = 50, x_train.shape[0], 20
    train_loss_list = []
    rng = np.random.default_rng(1)
    for _ in range(max_iters):
        batch_mask = rng.choice(train_size, batch_size)
        x_batch = x_train[batch_mask]
        t_batch = t_train[batch_mask]

        grads = network.gradient(x_batch, t_batch)
        optimizer.update(network.params, grads)

        loss = network.loss(x_batch, t_batch)
        train_loss_list.append(loss)

    assert np.mean(train_loss_list[-10:]) < 0.7 * np.mean(train_loss_list[:3])
    assert network.accuracy(x_train, t_train) > 0.5
    assert np.mean(np.argmax(network.predict(x_test[:100]), axis=1) == t_test[:100]) > 0.3


def test_a_readers_own_optimizer_gives_the_weights_of_ours(backend, mnist):
    (x, t), _ = mnist
    ended = []
    for rule in (AdaGrad(0.01), book.AdaGrad(0.01)):
        network = book.SimpleConvNet(**SMALL, backend=backend, dtype="float64")
        for i in range(0, 60, 20):
            rule.update(network.params, network.gradient(x[i : i + 20], t[i : i + 20]))
        ended.append(network.params.to_numpy())
    for name, w in ended[0].items():
        np.testing.assert_allclose(ended[1][name], w, rtol=1e-9, atol=1e-12)


def test_rebinding_a_parameter_changes_the_network(backend, mnist):
    (x, t), _ = mnist
    network = book.SimpleConvNet(**SMALL, backend=backend)
    before = network.loss(x[:20], t[:20])
    for name in network.params:
        network.params[name] = network.params[name] * 0.0
    assert network.loss(x[:20], t[:20]) == pytest.approx(np.log(10)) != before


class ReadersNet:
    """conv - relu - pool - affine - softmax out of the book's layers, as in section 7.5."""

    def __init__(self, params, backend):
        p, named = params, {"backend": backend}
        self.params = params
        self.layers = [
            book.Convolution(p["W1"], p["b1"], stride=1, pad=1, **named),
            book.Relu(**named),
            book.Pooling(pool_h=2, pool_w=2, stride=2, **named),
            book.Affine(p["W2"], p["b2"], **named),
        ]
        self.last_layer = book.SoftmaxWithLoss(**named)

    def gradient(self, x, t):
        for layer in self.layers:
            x = layer.forward(x)
        self.loss = self.last_layer.forward(x, t)
        dout = self.last_layer.backward(1)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        conv, _, _, affine = self.layers
        return {"W1": conv.dW, "b1": conv.db, "W2": affine.dW, "b2": affine.db}


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_readers_own_network(backend, one_hot):
    shapes = {"W1": (3, 1, 3, 3), "b1": (3,), "W2": (3 * 3 * 3, 4), "b2": (4,)}
    start = {k: draw(*s, seed=i) * 0.5 for i, (k, s) in enumerate(shapes.items())}
    params = {k: backend.asarray(w.copy()) for k, w in start.items()}
    x, t = draw(2, 1, 6, 6, seed=9), np.array([3, 1])
    net = ReadersNet(params, backend)
    grads = net.gradient(backend.asarray(x), np.eye(4)[t] if one_hot else t)

    def loss(name, value):
        p = {**start, name: value}
        conv = np.maximum(reference.conv2d(x, p["W1"], p["b1"], (1, 1), (1, 1, 1, 1)), 0)
        pooled, _ = reference.max_pool(conv, (2, 2), (2, 2), (0, 0, 0, 0))
        return reference.softmax_cross_entropy(pooled.reshape(2, -1) @ p["W2"] + p["b2"], t)[0]

    assert net.loss == pytest.approx(loss("W1", start["W1"]), rel=1e-12)
    for name, w in start.items():
        numerical = reference.numerical_gradient(lambda v, name=name: loss(name, v), w)
        np.testing.assert_allclose(backend.to_numpy(grads[name]), numerical, atol=1e-8)
    book.SGD(0.1).update(params, grads)  # the readers' arrays are changed in place
    moved = start["W1"] - 0.1 * backend.to_numpy(grads["W1"])
    np.testing.assert_allclose(backend.to_numpy(net.layers[0].W), moved, atol=1e-12)


def test_im2col_and_col2im(backend, dtype):
    x = draw(2, 3, 5, 6, dtype=dtype)
    col = book.im2col(backend.asarray(x), 3, 2, stride=2, pad=1)
    assert col.dtype == np.dtype(dtype), "the book's makes float64 of float32"
    close(backend, col, reference.im2col(x, (3, 2), (2, 2), (1, 1, 1, 1)), "copy")
    back = book.col2im(col, x.shape, 3, 2, stride=2, pad=1)
    window = (3, 2), (2, 2), (1, 1, 1, 1)
    close(backend, back, reference.col2im(reference.im2col(x, *window), x.shape, *window), "sum")
    with pytest.raises(ShapeError, match=r"Received"):
        book.col2im(col, (2, 3, 9, 9), 3, 2)


def test_load_mnist_as_in_the_book():
    (x, t), (x_test, t_test) = book.load_mnist(normalize=True, flatten=True, one_hot_label=True, name="mnist-sample")
    assert x.shape == (10000, 784) and x_test.shape == (10000, 784) and t.shape == t_test.shape == (10000, 10)
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() == 1 and (t.sum(axis=1) == 1).all()
    (x, t), _ = book.load_mnist(normalize=False, flatten=False, name="mnist-sample")
    assert x.shape == (10000, 1, 28, 28) and x.dtype == np.uint8 and t[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.array_equal(t, data.load("mnist-sample").t_train)


def test_trainer(backend, mnist):
    (x, t), (x_test, t_test) = mnist
    network = book.SimpleConvNet(**SMALL, weight_init_std="he", backend=backend, seed=1)
    trainer = book.Trainer(
        network, x[:100], t[:100], x_test[:50], t_test[:50], epochs=2, mini_batch_size=20,
        optimizer="Adam", optimizer_param={"lr": 0.005}, evaluate_sample_num_per_epoch=50, verbose=False,
    )  # fmt: skip
    trainer.train()
    assert (len(trainer.train_loss_list), len(trainer.train_acc_list), len(trainer.test_acc_list)) == (10, 2, 2)
    assert trainer.train_loss_list[-1] < trainer.train_loss_list[0]


def test_params_are_saved_without_pickle(backend, mnist, tmp_path):
    (x, _), _ = mnist
    network = book.SimpleConvNet(**SMALL, backend=backend, seed=1)
    with pytest.warns(UserWarning, match="neither writes nor reads pickles"):
        network.save_params(tmp_path / "params.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["params.safetensors"]
    other = book.SimpleConvNet(**SMALL, backend="numpy", seed=2)
    other.load_params(tmp_path / "params.safetensors")
    np.testing.assert_allclose(other.predict(x[:5]), network.predict(x[:5]), rtol=1e-4, atol=1e-6)


def test_the_books_own_pickle_is_not_read_and_the_message_says_how_to_convert_it(backend, mnist, tmp_path):
    (x, _), _ = mnist
    network, wanted = (book.SimpleConvNet(**SMALL, backend=backend, seed=seed) for seed in (1, 2))
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps(wanted.params.to_numpy()))  # as the book's save_params does
    before = network.params.to_numpy()
    with pytest.raises(FileError, match=r"Received: a pickle, which xconv does not read") as caught:
        network.load_params(path)
    for name, array in network.params.to_numpy().items():
        np.testing.assert_array_equal(array, before[name])
    program = textwrap.dedent(str(caught.value).partition("\n")[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the short program leaves closing to Python
        exec(program, {"network": network, "pickle": pickle})
    np.testing.assert_array_equal(network.predict(x[:5]), wanted.predict(x[:5]))
    other = book.SimpleConvNet(**SMALL, backend=backend, seed=3)
    with pytest.warns(UserWarning, match=r"using params\.safetensors instead"):
        other.load_params(path)
    np.testing.assert_array_equal(other.predict(x[:5]), wanted.predict(x[:5]))


def test_a_pickle_that_is_not_there(tmp_path):
    network = book.SimpleConvNet(**SMALL, backend="numpy")
    with (
        pytest.warns(UserWarning, match="neither"),
        pytest.raises(FileError, match=r"params\.safetensors.*no such file"),
    ):
        network.load_params(tmp_path / "params.pkl")


def test_numerical_gradient_of_the_network(backend):
    network = book.SimpleConvNet(
        (1, 6, 6), {"filter_num": 2, "filter_size": 3}, 3, 4, 0.5, backend=backend, dtype="float64"
    )
    x, t = draw(2, 1, 6, 6), np.array([0, 3])
    grads, numerical = network.gradient(x, t), network.numerical_gradient(x, t)
    for name, d in numerical.items():
        np.testing.assert_allclose(backend.to_numpy(grads[name]), d, atol=1e-7)


def test_arrays_of_another_backend_are_refused():
    class Elsewhere:
        pass

    with pytest.raises(BackendError, match="Received"):
        book.Affine(Elsewhere(), Elsewhere())


def test_deep_convnet_is_the_books(backend):
    network = book.DeepConvNet(backend=backend)
    filters = [(16, 1), (16, 16), (32, 16), (32, 32), (64, 32), (64, 64)]
    shapes = {f"W{i}": (f, c, 3, 3) for i, (f, c) in enumerate(filters, 1)} | {"W7": (64 * 4 * 4, 50), "W8": (50, 10)}
    shapes |= {f"b{i}": (shapes[f"W{i}"][0 if i < 7 else 1],) for i in range(1, 9)}
    assert {name: w.shape for name, w in network.params.items()} == shapes
    for i, inputs in enumerate([9, 16 * 9, 16 * 9, 32 * 9, 32 * 9, 64 * 9, 64 * 4 * 4, 50], 1):  # pre_node_nums
        assert network.backend.to_numpy(network.params[f"W{i}"]).std() == pytest.approx((2 / inputs) ** 0.5, rel=0.2)


def test_deep_convnets_gradient(backend):
    """Every entry of every parameter, of a network with few filters."""
    few = {f"conv_param_{i}": {"filter_num": 2} for i in range(1, 7)}
    network = book.DeepConvNet((1, 8, 8), **few, hidden_size=3, dropout_ratio=0.0, backend=backend, dtype="float64")
    x, t = draw(4, 1, 8, 8), np.array([1, 0, 3, 9])
    grads, expected = network.gradient(x, t), network.numerical_gradient(x, t)
    assert set(expected) == set(grads)
    largest = max(np.abs(g).max() for g in expected.values())
    for name, g in expected.items():
        assert np.abs(network.backend.to_numpy(grads[name]) - g).max() <= 1e-6 * largest, name


def test_deep_convnet_says_what_is_wrong():
    with pytest.raises(ConfigError, match=r"conv_param_3: expected keys among .*'filter_num'.* Received: .'filters'"):
        book.DeepConvNet(conv_param_3={"filters": 2})
    with pytest.raises(ConfigError, match=r"input_dim: expected \(channels, height, width\)"):
        book.DeepConvNet((28, 28))


def test_chapter_8s_flag():
    network, x = book.DeepConvNet((1, 8, 8), backend="numpy"), draw(2, 1, 8, 8)
    for y in (network.predict(x, False), network.predict(x, train_flg=False)):
        np.testing.assert_array_equal(y, network.predict(x))
    for given in ({"train_flg": True}, {"batch_size": True}):
        with pytest.raises(ConfigError, match="train_flg must be False: gradient and fit drop out by themselves"):
            network.predict(x, **given)
