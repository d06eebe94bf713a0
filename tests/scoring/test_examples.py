"""Examples that do not fit a model are named before anything is trained."""

import keras
import numpy as np
import pytest
import scipy.sparse

import keras_swift as ks
from keras_swift.src.scoring.finite import rows_not_finite

X = np.random.default_rng(0).normal(size=(24, 8)).astype("float32")
Y = X[:, :4].argmax(1)
SAMPLER = ks.SwiftSampler([0.5], [1, 1, 0], [1.0], features=["loss"], transform="cdf")


def network(loss="sparse_categorical_crossentropy", units=4, activation="softmax", **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(units, activation)])
    model.compile(**{"optimizer": "sgd", "loss": loss, **compiled})
    return model


def changed(array, value, row=7):
    array = np.array(array, np.result_type(array, value))
    array[row] = value
    return array


RUNS = {
    "compute_features": lambda m, x, y: ks.compute_features(m, x, y, ["loss"], verbose=0),
    "find_suspects": lambda m, x, y: ks.find_suspects(m, x, y, verbose=0),
    "search": lambda m, x, y: ks.search(m, x, y, validation_data=(X, Y), verbose=0),
    "validation_data": lambda m, x, y: ks.search(m, X, Y, validation_data=(x, y), verbose=0),
    "SwiftTraining": lambda m, x, y: ks.SwiftTraining(
        m, SAMPLER, features={"loss": np.arange(24.0)}
    ).fit(x, y, verbose=0),
}


@pytest.fixture
def never_trained(monkeypatch):
    def started(*arguments, **keywords):
        raise AssertionError("training has started")

    for model in (keras.Model, keras.Sequential):
        monkeypatch.setattr(model, "fit", started)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, changed(Y, 99), r"`y` must hold class numbers from 0 to 3.*index 7 \(99\)"),
        (X, changed(Y, -1), r"`y` must hold class numbers from 0 to 3.*index 7 \(-1\)"),
        (X, changed(Y, np.nan), r"`y` must hold class numbers from 0 to 3.*index 7 \(nan\)"),
        (changed(X, np.nan), Y, "`x` must be finite.*1 of 24 examples, the first at index 7"),
        (changed(X, -np.inf), Y, "`x` must be finite.*1 of 24 examples, the first at index 7"),
    ],
)
def test_labels_and_inputs_are_checked_before_training(never_trained, run, x, y, message):
    with pytest.raises(ValueError, match=message) as raised:
        RUNS[run](network(), x, y)
    assert str(raised.value).startswith("In `validation_data`: ") == (run == "validation_data")


def test_weights_that_are_not_finite_are_named(never_trained):
    weights = changed(np.ones(24), np.inf, 3)
    with pytest.raises(ValueError, match="`sample_weight` must be finite.*index 3"):
        ks.find_suspects(network(), X, Y, sample_weight=weights, verbose=0)


def test_numbers_that_the_loss_leaves_out_may_be_nan():
    def of_known(y_true, y_pred):
        known = keras.ops.cast(keras.ops.isfinite(y_true), y_pred.dtype)
        errors = keras.ops.square(keras.ops.where(known > 0, y_true, 0.0) - y_pred) * known
        return keras.ops.mean(errors, axis=-1)

    y = X[:, :2].copy()
    y[7] = 0.5, np.nan
    model = network(of_known, 2, None)
    losses = ks.compute_features(model, X, y, ["loss"], verbose=0)["loss"]
    expected = np.square(y - keras.ops.convert_to_numpy(model(X)))
    np.testing.assert_allclose(losses, np.nansum(expected, axis=1) / 2, rtol=1e-5)


def test_labels_of_a_stream_are_checked_batch_by_batch():
    class Batches(keras.utils.PyDataset):
        num_batches = 3

        def __getitem__(self, index):
            rows = slice(8 * index, 8 * index + 8)
            return X[rows], changed(Y, 4, 20)[rows]

    training = ks.SwiftTraining(network(), SAMPLER, reference=network(), seed=0)
    with pytest.raises(ValueError, match=r"`y` must hold class numbers from 0 to 3.*\(4\)"):
        training.fit(Batches(), epochs=2, verbose=0)


@pytest.mark.parametrize("run", ["compute_features", "find_suspects", "search"])
def test_a_model_without_a_loss_is_named(never_trained, run):
    with pytest.raises(ValueError, match="`model` must be compiled with a loss.*Received: one"):
        RUNS[run](network(loss=None), X, Y)


@pytest.mark.parametrize("run", ["find_suspects", "search", "SwiftTraining"])
def test_a_model_without_an_optimizer_is_named(never_trained, run):
    with pytest.raises(ValueError, match="`model` must be compiled with an optimizer.*=None"):
        RUNS[run](network(optimizer=None), X, Y)


def test_swift_training_needs_something_to_minimise(never_trained):
    with pytest.raises(ValueError, match="`model` must be compiled with a loss"):
        RUNS["SwiftTraining"](network(loss=None), X, Y)


def test_features_do_not_depend_on_how_many_examples_fit_into_a_batch():
    found = [
        ks.compute_features(network(), X, Y, ["loss"], batch_size=size, verbose=0)["loss"]
        # Not padded to: no machine has the memory.
        for size in (5, 24, 10**9)
    ]
    # Matrices of other sizes are multiplied in another order.
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    np.testing.assert_array_equal(found[1], found[2])


def test_rows_that_are_not_finite_are_found_in_any_kind_of_array(monkeypatch):
    monkeypatch.setattr("keras_swift.src.scoring.finite._PART", 64)
    rows = np.zeros((9, 4), "float32")
    rows[2, 3], rows[8, 0] = np.nan, np.inf
    for array in (rows, scipy.sparse.csr_matrix(rows), [rows, np.ones((9, 2), "int8")]):
        assert np.flatnonzero(rows_not_finite(array, 9)).tolist() == [2, 8]
    assert not rows_not_finite({"a": np.array(list("abcdefghi")), "b": None}, 9).any()
