"""Batches of arrays that are told by their indices, where the backend gathers the rows."""

import gc

import keras
import numpy as np
import pytest
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.src import backends
from keras_swift.src.data import reader
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.importance import feed, parts, prepare


@pytest.fixture
def made(monkeypatch):
    """The feeds that `fit` makes, which note whether batches are asked for by index."""
    found = []

    class Kept(feed.Feed):
        by_index = False

        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            found.append(self)

        def arrays_to_gather_from(self):
            arrays = super().arrays_to_gather_from()
            self.by_index = arrays is not None
            return arrays

    monkeypatch.setattr(prepare, "Feed", Kept)
    return found


class Hook(keras.callbacks.Callback):
    """Asks for the batches, which then have to hold their rows."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_batch_drawn(self, batch):
        self.batches.append(batch)


def of_two_inputs():
    keras.utils.set_random_seed(0)
    left, right = keras.Input((32,), name="left"), keras.Input((32,), name="right")
    joined = keras.layers.Concatenate()([left, keras.layers.Rescaling(1 / 16)(right)])
    hidden = keras.layers.Dense(32, activation="relu")(joined)
    outputs = [
        keras.layers.Dense(10, activation="softmax", name="digit")(hidden),
        keras.layers.Dense(1, name="mean")(hidden),
    ]
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile(keras.optimizers.SGD(0.3), ["sparse_categorical_crossentropy", "mse"])
    return model


@pytest.fixture
def for_two_inputs(digits):
    """Data of several types."""
    pixels, labels = digits[0][:500], digits[1][:500]
    x = {"left": pixels[:, :32].astype("float64"), "right": (pixels[:, 32:] * 16).astype("uint8")}
    return x, [labels, pixels.mean(axis=1)], 0.5 + np.arange(500) / 500


@pytest.mark.parametrize("batch_size", [pytest.param(25, marks=pytest.mark.slow), 32])
@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 1.05}])
def test_they_train_as_batches_that_hold_their_rows(for_two_inputs, made, settings, batch_size):
    x, y, weights = for_two_inputs

    def run(callbacks):
        model = of_two_inputs()
        trainer = ks.ImportanceTraining(model, seed=0, **settings)
        history = trainer.fit(
            x,
            y,
            batch_size=batch_size,
            epochs=8,
            sample_weight=[weights, weights],
            callbacks=callbacks,
            verbose=0,
        )
        return model, history.history

    hook = Hook()
    (ours, history), (theirs, its_history) = run([]), run([hook])
    by_index, by_rows = (batches.by_index for batches in made)
    assert by_index == (keras.backend.backend() == "tensorflow")
    assert not by_rows
    for batch in hook.batches:
        np.testing.assert_array_equal(batch.x["right"], x["right"][batch.indices])
    assert 0 < sum(batch.by_importance for batch in hook.batches) < len(hook.batches)
    np.testing.assert_equal(history, its_history)
    assert_same_weights(ours, theirs)


class Where(keras.callbacks.Callback):
    """Notes whether the data are tensors of the backend's in the course of a fit."""

    def __init__(self, made):
        super().__init__()
        self.made, self.found = made, set()

    def on_train_batch_begin(self, batch, logs=None):
        source = self.made[-1].reader.source
        leaves = keras.tree.flatten((source.x, source.y))
        self.found |= {keras.ops.is_tensor(leaf) for leaf in leaves}


@pytest.fixture
def accelerator(monkeypatch):
    """Says how much memory is free on an accelerator, which is the CPU."""
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow gathers in its pipeline")

    def has(free):
        monkeypatch.setattr(backends.active(), "free_memory", lambda model: free)

    return has


@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 1.05}])
def test_data_kept_on_an_accelerator_train_as_others(for_two_inputs, made, accelerator, settings):
    x, y, weights = for_two_inputs

    def run():
        model, where = of_two_inputs(), Where(made)
        trainer = ks.ImportanceTraining(model, seed=0, **settings)
        history = trainer.fit(
            x, y, 25, epochs=8, sample_weight=[weights, weights], callbacks=[where], verbose=0
        )
        return model, history.history, where.found

    accelerator(0)
    theirs, its_history, elsewhere = run()
    accelerator(10**9)
    ours, history, there = run()
    assert (elsewhere, there) == ({False}, {True})
    assert 0 < sum(history["importance"]) < 8
    np.testing.assert_equal(history, its_history)
    assert_same_weights(ours, theirs)
    # The copies end with the fit.
    assert made[-1].reader.source.x["left"].dtype == np.float64


@pytest.mark.parametrize("floatx", ["float32", "float16"])
def test_copies_give_rows_of_the_same_types(digits, floatx):
    x = {"float64": digits[0].astype("float64"), "uint8": (digits[0] * 16).astype("uint8")}
    source = ArraySource(x, digits[1])
    rows, before = np.array([5, 3, 5]), keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        expected = source.take(rows)
        source.keep_on_device(10**9)
        found = source.take(rows)
    finally:
        keras.config.set_floatx(before)
    for theirs, ours in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        if theirs is not None:
            assert keras.ops.is_tensor(ours)
            type_there = keras.backend.standardize_dtype(ours.dtype)
            # JAX has no int64.
            assert type_there == theirs.dtype.name or theirs.dtype == np.int64
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), theirs)
    assert found[0]["float64"].shape == (3, 64)


def test_data_on_an_accelerator_are_let_go_when_training_fails(digits, made, accelerator):
    accelerator(10**9)
    x, y = digits[0][:96], digits[1][:96]

    def fail(batch, logs):
        raise RuntimeError("mine")

    failing = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(RuntimeError, match="mine"):
        ks.ImportanceTraining(classifier(), seed=0).fit(x, y, callbacks=[failing], verbose=0)
    assert isinstance(made[0].reader.source.x, np.ndarray)


def test_data_stay_in_memory_where_they_do_not_fit_or_callbacks_get_them(digits, made, accelerator):
    x, y = digits[0][:64], digits[1][:64]
    size = 8 * (x.nbytes + y.nbytes)
    hook = Hook()
    for free, callbacks, expected in (
        (size, [], True),
        (size - 8, [], False),
        (size, [hook], False),
    ):
        accelerator(free)
        where = Where(made)
        ks.ImportanceTraining(classifier(), seed=0).fit(
            x, y, callbacks=[where, *callbacks], verbose=0
        )
        assert where.found == {expected}
    assert isinstance(hook.batches[0].x, np.ndarray)


def test_a_backup_of_other_batches_can_be_gone_on_from(digits, tmp_path):
    x, y = digits[0][:60], digits[1][:60]

    def fit(batch_size, *others):
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path), *others]
        trainer = ks.ImportanceTraining(classifier(), seed=0, tau_threshold=1e9)
        return trainer.fit(
            x, y, batch_size, epochs=4, steps_per_epoch=2, callbacks=callbacks, verbose=0
        )

    def die(epoch, logs):
        if epoch == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(10, keras.callbacks.LambdaCallback(on_epoch_begin=die))
    # 40 of the 60 were drawn: 20 are left, not a whole number of batches of 12.
    with pytest.warns(UserWarning, match="from the end of a pass"):
        assert fit(12).epoch == [2, 3]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strategies of TensorFlow")
def test_a_strategy_of_one_device_gets_rows(digits, made):
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = classifier()
    ks.ImportanceTraining(model, seed=0).fit(digits[0][:64], digits[1][:64], verbose=0)
    assert not made[0].by_index


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="copies are TensorFlow's")
def test_the_copy_of_the_arrays_ends_with_the_fit(digits, made):
    # A size that nothing else has.
    x, y = digits[0][:517], digits[1][:517]
    gc.collect()
    gc.disable()
    try:
        ks.ImportanceTraining(classifier(), seed=0).fit(x, y, verbose=0)
        alive = [type(thing) for thing in gc.get_objects() if shape_of(thing) == x.shape]
    finally:
        gc.enable()
    assert made[0].by_index
    assert alive == []


def shape_of(thing):
    """The shape of a tensor that holds values, `None` for everything else."""
    return tuple(thing.shape) if type(thing).__name__ == "EagerTensor" else None


class StopAfter(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch + 1 == self.steps


@pytest.mark.parametrize("steps", [3, 8, 11])
@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 1e9}])
def test_what_an_epoch_that_ends_early_leaves_comes_next(
    digits, made, monkeypatch, settings, steps
):
    x, y = digits[0][:500], digits[1][:500]

    def run():
        trainer = ks.ImportanceTraining(classifier(), seed=0, **settings)
        history = trainer.fit(x, y, callbacks=[StopAfter(steps)], verbose=0).history
        feed = made.pop()
        assert feed.epoch_summary()["presample"] == 1
        state = feed.state()
        feed.begin_epoch()
        return history, state, feed.next_batch().indices

    history, state, indices = run()
    monkeypatch.setattr(reader, "TOGETHER", 1)
    monkeypatch.setattr(parts, "TOGETHER", 1)
    its_history, its_state, its_indices = run()
    np.testing.assert_equal(history, its_history)
    if settings:
        assert state.fresh.step == its_state.fresh.step == steps
        assert state.fresh.unprobed == its_state.fresh.unprobed
    else:
        found, expected = state.remembered, its_state.remembered
        np.testing.assert_equal(vars(found.records.memory), vars(expected.records.memory))
        np.testing.assert_equal(vars(found.parts), vars(expected.parts))
    np.testing.assert_array_equal(indices, its_indices)


def test_arrays_on_a_disk_or_too_large_to_copy_stay_where_they_are(digits, made, tmp_path):
    x, y = digits[0][:64], digits[1][:64]
    source = ArraySource({"a": x}, y)
    size = x.nbytes + y.nbytes
    assert source.arrays(size)[0]["a"] is x
    assert source.arrays(size - 1) is None
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert ArraySource(mapped, y).arrays(size) is None
    assert ArraySource(np.asarray(mapped), y).arrays(size) is None
    ks.ImportanceTraining(classifier(), seed=0).fit(mapped, y, verbose=0)
    assert not made[0].by_index
