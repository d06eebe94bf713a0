"""The record of a training against looking at the model after each epoch."""

import contextlib

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from small_models import classifier

from keras_swift.src import backends
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import ArrayExamples
from keras_swift.src.records.outputs import LabelScorer
from keras_swift.src.records.recorder import FORWARD_COST, RecordingCallback, record_cost, recording
from keras_swift.src.scoring.compiled import build
from keras_swift.src.swift.datasets import DrawnDataset, EpochCallback


class Looks(keras.callbacks.Callback):
    """Records by forward passes at the end of each epoch."""

    def __init__(self, model, source):
        super().__init__()
        scorer = LabelScorer(model, *source.take(np.zeros(1, np.int64))[:2])
        self.recorder = RecordingCallback(ArrayExamples(source), scorer, 16, 1)
        self.record = self.recorder.record

    def on_epoch_end(self, epoch, logs=None):
        self.recorder.record_all()


def both_records(model, x, y, sample_weight=None, epochs=2, callbacks=(), probability=None):
    """The record of the steps, and that of forward passes after each epoch of the same training."""
    source = ArraySource(x, y, sample_weight)
    build(model, *source.take(np.arange(2))[:2])
    recorder, looks = recording(model, source, 16, epochs), Looks(model, source)
    even = np.full(source.size, 1 / source.size)
    dataset = DrawnDataset(source, even if probability is None else probability, 16, seed=0)
    with recorder.listening(dataset):
        model.fit(
            dataset,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[recorder, looks, *callbacks],
        )
    return recorder, looks.record


def assert_same_record(steps, looks, rtol=1e-4):
    for name, column in FinishedRecord.of(looks).columns().items():
        ours = getattr(steps, name)
        if name == "share_wrong":
            np.testing.assert_array_equal(ours, column)
        else:
            np.testing.assert_allclose(ours, column, rtol=rtol, atol=rtol / 10, err_msg=name)


def sequence_task(n):
    generator = np.random.default_rng(0)
    x = generator.integers(1, 9, (n, 6)) * (np.arange(6) < generator.integers(1, 7, (n, 1)))
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Embedding(9, 6, mask_zero=True, embeddings_initializer="normal"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    return model, x, generator.integers(0, 3, (n, 6))


def two_output_task(n):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 4)).astype("float32")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = {
        "first": keras.layers.Dense(3, activation="softmax", name="first")(inputs),
        "second": keras.layers.Dense(1, name="second")(inputs),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(0.0),
        {
            "first": "sparse_categorical_crossentropy",
            "second": keras.losses.BinaryCrossentropy(from_logits=True),
        },
        loss_weights={"first": 1.0, "second": 3.0},
    )
    return model, x, {"first": np.arange(n) % 3, "second": np.arange(n) % 2}


def regression_task(n):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.L2(0.1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_regularizer=penalty)])
    model.compile(keras.optimizers.SGD(0.0), "mae")
    return model, x, generator.normal(size=(n, 2)).astype("float32")


def classifier_task(n, **compiled):
    digits = load_digits()
    x = (digits.data[:n] / 16).astype("float32")
    return classifier(0.0, **compiled), x, digits.target[:n]


TASKS = [classifier_task, sequence_task, two_output_task, regression_task]


@pytest.mark.parametrize("task", TASKS)
def test_steps_record_what_a_forward_pass_would(task):
    """With the rate 0 nothing changes between a step and the end of its epoch."""
    model, x, y = task(70)
    recorder, looks = both_records(model, x, y)
    assert_same_record(recorder.record, looks)
    assert recorder.cost == 0.0


@pytest.mark.parametrize(
    "task", [classifier_task, pytest.param(sequence_task, marks=pytest.mark.slow)]
)
def test_sample_weights_are_left_out(task):
    model, x, y = task(70)
    weight = np.random.default_rng(1).uniform(0, 2, y.shape).astype("float32")
    recorder, looks = both_records(model, x, y, weight)
    assert_same_record(recorder.record, looks)


@pytest.mark.parametrize(
    "compiled", [{"jit_compile": True}, pytest.param({"run_eagerly": True}, marks=pytest.mark.slow)]
)
def test_any_way_to_run_a_step_is_recorded(compiled):
    if compiled.get("jit_compile") and keras.backend.backend() == "torch":
        pytest.skip("needs a C++ compiler that works")
    recorder, looks = both_records(*classifier_task(70, **compiled))
    assert_same_record(recorder.record, looks)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has it not on PyTorch")
def test_several_steps_in_one_execution_are_recorded():
    # Five batches, the last one of 6.
    recorder, looks = both_records(*classifier_task(70, steps_per_execution=3))
    assert_same_record(recorder.record, looks)


def test_outputs_of_half_precision_are_recorded():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(10, activation="softmax", dtype="mixed_bfloat16")]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    _, x, y = classifier_task(70)
    recorder, looks = both_records(model, x, y)
    assert_same_record(recorder.record, looks, rtol=2e-2)


def test_each_epoch_is_matched_with_its_own_draws():
    model, x, y = classifier_task(70)
    looks = Looks(model, ArraySource(x, y))
    looks.recorder.record_all()
    once = FinishedRecord.of(looks.record)
    probability = np.arange(70) / np.arange(70).sum()
    recorder, _ = both_records(model, x, y, epochs=3, probability=probability)
    seen = np.isfinite(recorder.record.loss)
    assert not seen[0] and seen[40:].all()
    # Those drawn twice in an epoch have the same mean.
    np.testing.assert_allclose(recorder.record.mean_loss[seen], once.loss[seen], rtol=1e-4)
    np.testing.assert_allclose(recorder.record.margin[seen], once.margin[seen], rtol=1e-3)


def test_an_epoch_that_a_callback_ends_is_recorded_up_to_there():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.stop_training = True

    recorder, looks = both_records(*classifier_task(70), callbacks=[Stop()])
    seen = np.isfinite(recorder.record.loss)
    assert seen.sum() == 32
    np.testing.assert_allclose(recorder.record.loss[seen], looks.loss[seen], rtol=1e-4)


def test_values_are_those_of_the_step_itself():
    """In a first step of the whole data they are those of the initial weights."""
    keras.utils.set_random_seed(0)
    _, x, y = classifier_task(16)
    model = classifier(0.5)
    expected = -np.log(model.predict(x, verbose=0)[np.arange(16), y].astype("float64"))
    recorder, looks = both_records(model, x, y, epochs=1)
    np.testing.assert_allclose(recorder.record.loss, expected, rtol=1e-4)
    assert not np.allclose(looks.loss, expected, rtol=1e-2)


def test_recording_leaves_training_alone(digits):
    x, y = digits[0][:64], digits[1][:64]
    models = [classifier() for _ in range(2)]
    both_records(models[0], x, y)
    source = ArraySource(x, y)
    dataset = DrawnDataset(source, np.full(64, 1 / 64), 16, seed=0)
    callbacks = [EpochCallback(dataset)]
    models[1].fit(dataset, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    for first, second in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "error",
    [None, pytest.param(RuntimeError("mine"), marks=pytest.mark.slow), KeyboardInterrupt()],
)
@pytest.mark.parametrize("trained", [False, True])
def test_nothing_is_left_in_the_model(error, trained):
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if error is not None and batch == 2:
                raise error

    model, x, y = classifier_task(70)
    model.fit(x, y, epochs=int(trained), verbose=0)
    function, before = model.train_function, set(vars(model))
    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        both_records(model, x, y, callbacks=[Failing()])
    assert set(vars(model)) == before
    for name in ("train_step", "compute_loss", "compute_metrics", "make_train_function"):
        assert name not in vars(model)
    if trained:
        assert model.train_function is function
    # A step without the record: nothing is written any more.
    model.fit(x, y, verbose=0)


def own_step(calls):
    """A class whose `train_step` calls `compute_loss` as often."""

    class Own(keras.Sequential):
        def train_step(self, *arguments):
            if keras.backend.backend() == "jax":
                return super().train_step(*arguments)
            own = self.compute_loss

            def compute_loss(*args, **kwargs):
                for _ in range(calls):
                    loss = own(*args, **kwargs)
                return loss if calls else type(self).compute_loss(self, *args, **kwargs)

            self.compute_loss = compute_loss
            try:
                return super().train_step(*arguments)
            finally:
                self.compute_loss = own

    model = Own([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("calls", [0, 2])
def test_steps_that_cannot_be_read_are_looked_at_and_the_price_is_said(calls):
    _, x, y = classifier_task(70)
    model = own_step(calls)
    with pytest.warns(UserWarning, match=r"compute_loss.*forward passes over the data"):
        recorder, looks = both_records(model, x, y, epochs=3)
    assert_same_record(recorder.record, looks)
    assert recorder.cost == pytest.approx(3 * FORWARD_COST) == record_cost(model, 3)
    assert record_cost(classifier(), 3) == 0.0


@pytest.mark.parametrize(("epochs", "looks"), [(1, 1), (16, 16), (17, 9), (30, 15), (60, 15)])
def test_long_trainings_are_looked_at_now_and_then(monkeypatch, digits, epochs, looks):
    monkeypatch.setattr(type(backends.active()), "tap_obstacle", lambda self, model: "")
    x, y = digits[0][:8], digits[1][:8]
    recorder = recording(classifier(), ArraySource(x, y), 8, epochs)
    for epoch in range(epochs):
        recorder.on_epoch_end(epoch)
    assert recorder.cost == pytest.approx(looks * FORWARD_COST) == record_cost(classifier(), epochs)


def test_without_labels_there_are_losses_alone():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.eye(2, dtype="float32"), np.array([[1.0], [3.0]])
    recorder = recording(model, ArraySource(x, y), 2, 0)
    recorder.record_all()
    expected = (model.predict(x, verbose=0) - y)[:, 0] ** 2
    np.testing.assert_allclose(recorder.record.mean_loss, expected, rtol=1e-4)
    assert np.isnan(recorder.record.mean_margin).all()
    assert np.isnan(recorder.record.share_wrong).all()
