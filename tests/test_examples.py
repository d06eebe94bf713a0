"""The seed of the examples and benchmarks: it must not hold uniform training back."""

import importlib.util
import pathlib
import sys

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(params=["examples/common.py"])
def set_seed(request, monkeypatch):
    path = ROOT / request.param
    spec = importlib.util.spec_from_file_location(f"seeded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module.set_seed


def orders(set_seed, epochs):
    """The targets in the order in which `fit` meets them, a row for each epoch."""
    set_seed(0)
    x, y = np.zeros((16, 1), "float32"), np.arange(16, dtype="float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    # On zeros without a bias the output is 0: the loss of a step is its target.
    model.compile(keras.optimizers.SGD(0.0), "mean_absolute_error")
    means = []
    follow = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: means.append(float(logs["loss"]))
    )
    model.fit(x, y, batch_size=1, epochs=epochs, verbose=0, callbacks=[follow])
    # `logs` hold the running mean of the epoch.
    sums = np.reshape(means, (epochs, 16)) * np.arange(1, 17)
    return np.rint(np.diff(sums, axis=1, prepend=0.0))


def test_fit_shuffles_anew_in_every_epoch_under_the_seed(set_seed):
    # Whatever seed came before.
    keras.utils.set_random_seed(0)
    first, second = orders(set_seed, 2)
    np.testing.assert_array_equal(np.sort(first), np.arange(16))
    np.testing.assert_array_equal(np.sort(second), np.arange(16))
    assert (first != second).any()


def test_the_seed_gives_the_same_initial_weights(set_seed):
    kernels = []
    for seed in (0, 0, 1):
        set_seed(seed)
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        kernels.append(keras.ops.convert_to_numpy(layer.kernel))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


@pytest.mark.any_backend
def test_every_line_is_dealt_once_an_epoch_and_padded_to_a_length_near_its_own(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    lines = importlib.import_module("bucketed_lines")
    words = [np.arange(2, 2 + length) for length in np.random.default_rng(0).integers(3, 64, 500)]
    data = lines.Lines(words, 16, seed=0)
    orders = []
    for _ in range(2):
        found = []
        for x, y in (data[index] for index in range(len(data))):
            np.testing.assert_array_equal(x[:, 1:], np.where(y[:, :-1] > 0, x[:, 1:], 0))
            lengths = (y > 0).sum(axis=1)
            assert x.shape[1] in lines.LENGTHS and x.shape[1] < lengths.max() + 16
            found += lengths.tolist()
        np.testing.assert_array_equal(np.sort(found), np.sort([len(line) - 1 for line in words]))
        orders.append(found)
        data.on_epoch_end()
    assert orders[0] != orders[1]
