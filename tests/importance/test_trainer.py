import gc
import importlib
import inspect
import re
import weakref

import keras
import numpy as np
import pytest
import scipy.sparse
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.src import backends
from keras_swift.src.importance import feed, prepare
from keras_swift.src.importance.gates import PublishedGate


def fit(model, digits, *, size=500, trainer=None, **arguments):
    x, y = digits
    settings = {"seed": 0, "tau_threshold": 0, **(trainer or {})}
    return ks.ImportanceTraining(model, **settings).fit(
        x[:size], y[:size], **{"verbose": 0, **arguments}
    )


def test_fit_has_the_arguments_of_keras():
    ours = inspect.signature(ks.ImportanceTraining.fit).parameters.values()
    theirs = inspect.signature(keras.Model.fit).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [
        (p.name, p.default, p.kind) for p in theirs
    ]


def test_history_is_keras_with_four_numbers_an_epoch(digits):
    model = classifier()
    history = fit(model, digits, epochs=2, validation_split=0.2)
    assert history is model.history
    assert set(history.history) == {
        "accuracy", "loss", "val_accuracy", "val_loss", "tau", "gain", "importance", "presample",
    }  # fmt: skip
    assert history.history["importance"] == [1.0, 1.0]
    assert history.history["presample"] == [3.0, 3.0]
    assert all(tau > 0.5 for tau in history.history["tau"])


def test_it_trains(digits):
    history = fit(classifier(0.5), digits, size=1500, epochs=8, validation_split=0.2).history
    assert history["loss"][-1] < 0.2 < history["loss"][0]
    assert history["val_accuracy"][-1] > 0.9


@pytest.mark.parametrize(
    "settings",
    [{}, {"presample": 3.0}, {"tau_threshold": 0}],
)
def test_a_seed_gives_one_result(digits, settings):
    def run():
        model = classifier(0.5)
        return model, fit(model, digits, trainer={"tau_threshold": None, **settings}, epochs=3)

    (first, history), (second, again) = run(), run()
    assert history.history == again.history
    assert_same_weights(first, second)


def test_shut_gate_gives_the_weights_of_plain_fit(digits):
    x, y = digits[0][:100], digits[1][:100]
    ours, theirs = classifier(), classifier()
    fit(ours, digits, size=100, trainer={"tau_threshold": 1e9}, epochs=2, shuffle=False)
    theirs.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


# A `train_step` of the model's own, on JAX.
@pytest.mark.filterwarnings("ignore:On JAX, scores cannot be taken:UserWarning")
@pytest.mark.parametrize("batch_size", [8, 12])
def test_steps_know_the_size_of_their_batch_where_it_is_fixed(digits, batch_size):
    seen = set()

    class Watched(keras.Sequential):
        def train_step(self, *arguments):
            seen.add(arguments[-1][0].shape[0])
            return super().train_step(*arguments)

    model = Watched([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit(model, digits, size=64, batch_size=batch_size, trainer={"tau_threshold": None}, epochs=2)
    fit(model, digits, size=64, batch_size=batch_size)
    # As with `fit`: recurrent layers on TensorFlow are faster for it.
    # Of a `train_step` of the model's own two steps are tried, to see that weights arrive.
    unknown = keras.backend.backend() == "tensorflow"
    assert seen == ({8} if batch_size == 8 else {12, None if unknown else 4})


def test_rate_zero_changes_nothing(digits):
    model, untouched = classifier(0.0), classifier(0.0)
    fit(model, digits, epochs=2)
    assert_same_weights(model, untouched)


class Lengths(keras.utils.PyDataset):
    """Batches of these lengths, targets of a wide spread."""

    def __init__(self, lengths):
        super().__init__()
        self.ends = np.cumsum([0, *lengths])
        self.x = np.random.default_rng(0).normal(size=(self.ends[-1], 3)).astype("float32")
        self.y = np.random.default_rng(1).standard_t(3, (self.ends[-1], 1)).astype("float32")

    @property
    def num_batches(self):
        return len(self.ends) - 1

    def __getitem__(self, index):
        rows = slice(*self.ends[index : index + 2])
        return self.x[rows], self.y[rows]


def network_of_one(loss="mse"):
    """A linear model that does not learn."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    return model


class TestReportedNumbersAreUniform:
    """With importance always on and rate 0, `fit` reports what `evaluate` does."""

    @staticmethod
    def trained(digits, **arguments):
        model = classifier(0.3, **arguments)
        model.fit(digits[0][:1000], digits[1][:1000], epochs=6, verbose=0)
        model.optimizer.learning_rate = 0.0
        return model

    @staticmethod
    def assert_agree(history, expected):
        for name, value in expected.items():
            measured = np.array(history[name])
            error = measured.std(ddof=1) / np.sqrt(len(measured))
            assert abs(measured.mean() - value) < 3 * error, (name, measured.mean(), value, error)

    @pytest.mark.any_backend
    def test_loss_and_plain_metrics(self, digits):
        x, y = digits[0][:1000], digits[1][:1000]
        metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")]
        model = self.trained(digits, metrics=metrics)
        history = fit(model, digits, size=1000, epochs=12).history
        expected = model.evaluate(x, y, verbose=0, return_dict=True)
        assert set(expected) == {"loss", "accuracy", "top"}
        self.assert_agree(history, expected)
        # The harder batches that were drawn would say something else.
        data = ks.ImportanceDataset(model, x, y, tau_threshold=0, seed=1)
        drawn = np.mean(
            [
                model.predict_on_batch(part).argmax(1) == labels
                for part, labels, _ in list(data)[:20]
            ]
        )
        assert drawn < expected["accuracy"] - 0.05

    @pytest.mark.parametrize("lengths", [(1, 9, 9, 9), (2, 1) * 3])
    @pytest.mark.any_backend
    def test_batches_of_any_lengths(self, lengths):
        """Also on average over many epochs: what is rounded in one batch is made up for."""
        model = network_of_one()
        expected = model.evaluate(Lengths(lengths), verbose=0, return_dict=True)
        trainer = ks.ImportanceTraining(model, presample=2.0, tau_threshold=0, seed=0)
        history = trainer.fit(Lengths(lengths), epochs=60, verbose=0).history
        self.assert_agree(history, expected)

    @pytest.mark.parametrize("lengths", [(9, 9, 1), (1, 9, 9), (2, 1, 1)])
    @pytest.mark.any_backend
    def test_batches_of_any_lengths_where_all_examples_are_alike(self, lengths):
        """The presample is the whole of the data, three times an epoch: exact."""
        model = network_of_one(lambda y_true, y_pred: 1.0 + 0.0 * (y_true - y_pred))
        trainer = ks.ImportanceTraining(
            model, 3.0, 0, score=lambda y_true, y_pred: 1.0 + 0.0 * y_pred[:, 0], seed=0
        )
        sums = []

        class Reading(keras.callbacks.Callback):
            def on_batch_drawn(self, batch):
                sums.append(batch.importance.sum())

        data = Lengths(lengths)
        history = trainer.fit(data, epochs=2, verbose=0, callbacks=[Reading()]).history
        np.testing.assert_allclose(history["loss"], 1.0, rtol=1e-5)
        np.testing.assert_allclose(sums, np.mean(lengths), rtol=1e-5)

    @pytest.mark.any_backend
    def test_user_weights_go_to_weighted_metrics_alone(self, digits):
        x, y = digits[0][:1000], digits[1][:1000]
        weights = np.where(y % 2 == 0, 3.0, 0.2).astype("float32")
        model = self.trained(digits, metrics=["accuracy"], weighted_metrics=["accuracy"])
        history = fit(model, digits, size=1000, epochs=12, sample_weight=weights).history
        expected = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
        assert abs(expected["accuracy"] - expected["weighted_accuracy"]) > 1e-3
        self.assert_agree(history, expected)

    @pytest.mark.parametrize("length", [pytest.param(4, marks=pytest.mark.slow), 8])
    @pytest.mark.any_backend
    def test_masked_sequences(self, length):
        # A batch of 8: as long as the sequences, or not.
        generator = np.random.default_rng(0)
        x = generator.integers(1, 9, (400, length))
        x *= np.arange(length) < generator.integers(1, length + 1, (400, 1))
        y = np.where(generator.random((400, length)) < 0.8, x % 3, (x + 1) % 3)
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((length,)),
                keras.layers.Embedding(9, 6, mask_zero=True),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        settings = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
        model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", **settings)
        model.fit(x, y, epochs=4, verbose=0)
        model.optimizer.learning_rate = 0.0
        trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
        history = trainer.fit(x, y, batch_size=8, epochs=12, verbose=0).history
        # In one batch, because Keras divides each batch by its own unmasked steps;
        # by `fit`, because on JAX its metrics lose the mask and `evaluate`'s do not.
        expected = model.fit(x, y, batch_size=400, verbose=0).history
        expected = {name: values[0] for name, values in expected.items()}
        # A ratio of the presample's sums, so there is a bias of order 1/B.
        for name, value in expected.items():
            measured = np.array(history[name])
            error = measured.std(ddof=1) / np.sqrt(len(measured))
            assert abs(measured.mean() - value) < 3 * error + 0.01, (name, measured.mean(), value)

    @pytest.mark.any_backend
    def test_validation_is_left_to_keras(self, digits):
        x, y = digits[0][:1000], digits[1][:1000]
        weights = np.where(y == 3, 5.0, 1.0).astype("float32")
        model = self.trained(digits, metrics=["accuracy"], weighted_metrics=["accuracy"])
        history = fit(model, digits, size=1000, validation_data=(x, y, weights)).history
        expected = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
        for name, value in expected.items():
            assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-5)

    @pytest.mark.any_backend
    def test_class_weight_weights_the_objective(self, digits):
        x, y = digits[0][:1000], digits[1][:1000]
        class_weight = {3: 6.0, 4: 0.0}
        model = self.trained(digits, metrics=["accuracy"])
        history = fit(model, digits, size=1000, epochs=12, class_weight=class_weight).history
        weights = np.array([class_weight.get(label, 1.0) for label in y])
        expected = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
        self.assert_agree(history, expected)


class Failing(keras.callbacks.Callback):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise self.error


@pytest.mark.parametrize("error", [None, RuntimeError("mine"), KeyboardInterrupt()])
def test_the_model_is_left_as_plain_fit_leaves_it(digits, error):
    x, y = digits[0][:200], digits[1][:200]
    callbacks = [] if error is None else [Failing(error)]
    ours, theirs = classifier(), classifier()
    settings = ours.get_compile_config()
    if error is None:
        fit(ours, digits, size=200, callbacks=callbacks)
        theirs.fit(x, y, verbose=0)
    else:
        with pytest.raises(type(error)):
            fit(ours, digits, size=200, callbacks=callbacks)
        with pytest.raises(type(error)):
            theirs.fit(x, y, verbose=0, callbacks=[Failing(error)])
        assert callbacks == callbacks[:1]
    assert set(vars(ours)) == set(vars(theirs))
    assert type(ours).train_step.__get__(ours) == ours.train_step
    assert set(vars(ours._compile_metrics)) == set(vars(theirs._compile_metrics))
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations)
    assert ours.get_compile_config() == settings
    assert [m.name for m in ours.metrics] == [m.name for m in theirs.metrics]
    history = ours.fit(x, y, verbose=0).history
    assert set(history) == {"accuracy", "loss"}
    assert np.isfinite(history["loss"][0])
    # Plain metrics are plain again.
    evaluated = ours.evaluate(x, y, verbose=0, return_dict=True)
    hits = ours.predict(x, verbose=0).argmax(1) == y
    assert evaluated["accuracy"] == pytest.approx(hits.mean())


def test_optimizer_state_goes_on(digits):
    model = classifier()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(digits[0][:64], digits[1][:64], verbose=0)
    fit(model, digits, size=96)
    assert int(model.optimizer.iterations) == 5


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs eagerly")
def test_nothing_compiles_again_after_the_first_step_of_each_kind(digits):
    traced = []

    class Counting(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(10, activation="softmax")

        def call(self, x):
            traced.append(tuple(x.shape))
            return self.dense(x)

    model = Counting()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
    x, y = digits[0][:320], digits[1][:320]
    trainer.fit(x, y, verbose=0)
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    traced.clear()
    trainer.fit(x, y, epochs=3, verbose=0)
    # A new fit builds and compiles its scoring function; training goes on
    # with the step it has.
    assert traced.count((32, 64)) + traced.count((None, 64)) <= 1, traced
    traced.clear()
    model.fit(x, y, verbose=0)
    assert traced == []


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="nothing is traced")
@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 0}])
def test_a_frozen_backbone_of_ones_own_is_traced_once_for_a_shape(digits, settings):
    traced = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traced.append(tuple(x.shape))
            return x

    backbone = keras.Sequential([keras.Input((64,)), Counting(), keras.layers.Dense(16)])
    model = keras.Sequential([keras.Input((64,)), backbone, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    trainer = ks.ImportanceTraining(model, seed=0, **settings)
    x, y = digits[0][:320], digits[1][:320]
    for trainable in (False, True, False):
        backbone.trainable = trainable
        model.compile("sgd", loss)
        traced.clear()
        trainer.fit(x, y, epochs=2, verbose=0)
        # A step, and the scores of a presample and of the batch that is looked at first.
        known = [shape for shape in traced if shape[0] not in (None, 61)]
        assert 1 <= len(known) and len(known) <= 2 * len(set(known)), traced
        traced.clear()
        trainer.fit(x, y, epochs=3, verbose=0)
        assert set(traced) <= {(1, 64), (8, 64)}, traced


def test_a_new_compile_is_seen(digits):
    model = classifier(0.0)
    trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
    x, y = digits[0][:128], digits[1][:128]
    mean = trainer.fit(x, y, verbose=0).history["loss"][0]
    # The same metrics and optimizer, so that no shape gives the change away.
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="sum")
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
    assert trainer.fit(x, y, verbose=0).history["loss"][0] > 20 * mean


def test_users_own_train_step_is_run(digits):
    class Own(keras.Sequential):
        steps = 0

        def train_step(self, *arguments):
            type(self).steps += 1
            return super().train_step(*arguments)

    model = Own([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = fit(model, digits, size=100).history
    assert Own.steps >= 1
    assert set(history) >= {"accuracy", "loss"}


def test_callbacks_see_the_users_model_and_our_numbers(digits):
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.update(logs)
            seen["model"] = self.model

        def on_train_end(self, logs=None):
            seen["end"] = dict(logs)

    model = classifier()
    callbacks = [Look()]
    fit(model, digits, size=100, callbacks=callbacks)
    assert seen["model"] is model
    assert {"tau", "gain", "importance", "presample", "loss"} <= set(seen)
    assert "tau" in seen["end"]
    assert len(callbacks) == 1


def no_callbacks(model):
    return []


def with_own_history(model):
    return [keras.callbacks.History()]


def whole_list(model):
    return keras.callbacks.CallbackList(
        [], add_history=True, add_progbar=True, verbose=2, epochs=1, steps=4, model=model
    )


@pytest.mark.parametrize("callbacks", [no_callbacks, with_own_history, whole_list])
def test_the_progress_bar_shows_the_gain_with_three_digits_and_logs_have_all(
    digits, capsys, tmp_path, callbacks
):
    model = classifier(run_eagerly=True)
    callbacks = callbacks(model)
    if isinstance(callbacks, list):
        callbacks.append(keras.callbacks.CSVLogger(tmp_path / "log.csv"))
    history = ks.ImportanceTraining(model, seed=0).fit(
        digits[0][:128], digits[1][:128], verbose=2, callbacks=callbacks
    )
    shown = capsys.readouterr().out
    assert "loss: " in shown and re.findall(r"gain: (\S+)", shown) == ["1.00"]
    assert not any(name in shown for name in ("tau", "importance", "presample"))
    assert history.history["presample"] == [1.0] and history.history["importance"] == [0.0]
    if isinstance(callbacks, list):
        assert "presample" in (tmp_path / "log.csv").read_text()
        assert isinstance(callbacks[0], keras.callbacks.CSVLogger) or history is callbacks[0]


def test_a_callback_list_is_given_back_as_it_came(digits):
    model = classifier()
    callbacks = keras.callbacks.CallbackList([], add_history=True, model=model)
    before = list(callbacks.callbacks)
    assert fit(model, digits, size=100, callbacks=callbacks).history["importance"] == [1.0]
    assert callbacks.callbacks == before


# Keras' own, where a pass ends.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("gate", [0.0, 1e9])
@pytest.mark.parametrize("steps", [2, 5, 9])
def test_epochs_of_some_steps_end_where_those_of_fit_do(digits, steps, gate):
    class Counted(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(0)

        def on_train_batch_end(self, batch, logs=None):
            seen[-1] += 1

    settings = {"batch_size": 20, "steps_per_epoch": steps, "epochs": 4, "verbose": 0}
    x, y = digits[0][:100], digits[1][:100]
    counts = []
    for trainer in (None, {"tau_threshold": gate, "seed": 0}):
        seen, model = [], classifier()
        train = model.fit if trainer is None else ks.ImportanceTraining(model, **trainer).fit
        train(x, y, callbacks=[Counted()], **settings)
        counts.append(seen)
    assert counts[0] == counts[1]
    assert sum(seen) == int(model.optimizer.iterations)


def without_a_length(batches, like):
    """A source that Keras takes and that does not tell its length: `tf.data`, or a `DataLoader`."""
    if keras.backend.backend() != "tensorflow":
        data = importlib.import_module("torch.utils.data")

        class Source(data.IterableDataset):
            __iter__ = staticmethod(batches)

        return data.DataLoader(Source(), batch_size=None)
    tensorflow = importlib.import_module("tensorflow")
    like = [tensorflow.TensorSpec((None, *a.shape[1:]), a.dtype) for a in like]
    return tensorflow.data.Dataset.from_generator(batches, output_signature=tuple(like))


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("gate", [0.0, 1e9, None])
@pytest.mark.parametrize(
    ("size", "steps", "together"),
    [
        *((6, 4, 2), (6, 6, 2), (6, 8, 1), (7, 8, 2)),
        *(pytest.param(*c, marks=pytest.mark.slow) for c in ((6, 2, 1), (6, 4, 1), (6, 8, 2))),
    ],
)
def test_a_pass_of_unknown_length_ends_an_epoch_too(digits, size, steps, together, gate):
    if together > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras has it not on PyTorch")
    x, y = digits[0][: 20 * size], digits[1][: 20 * size]

    def batches():
        for start in range(0, 20 * size, 20):
            yield x[start : start + 20], y[start : start + 20]

    source = without_a_length(batches, (x, y))

    class Counted(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(0)

        def on_train_batch_end(self, batch, logs=None):
            seen[-1] += together

    counts, models = [], []
    for trainer in (None, {"tau_threshold": gate, "seed": 0}):
        seen, model = [], classifier(0.1, steps_per_execution=together)
        train = model.fit if trainer is None else ks.ImportanceTraining(model, **trainer).fit
        settings = {"steps_per_epoch": steps, "epochs": 4, "shuffle": False, "verbose": 0}
        train(source, callbacks=[Counted()], **settings)
        counts.append(seen)
        models.append(model)
    if steps in (2, 6):
        # Where the steps end with the pass, `fit` finds the end in the next epoch, which has none.
        assert counts == [{2: [2, 2, 2, 0], 6: [6, 0, 6, 0]}[steps], [steps] * 4]
        return
    # Keras does without what an execution has too few batches for, or trains on it: as `fit`.
    assert counts[0] == counts[1]
    assert counts[0] == {4: [4, 2, 4, 2], 8: [6] * 4}[steps] or size == 7
    if gate:
        for theirs, ours in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("source", ["arrays", "stream"])
def test_class_weights_of_pixels_are_refused_before_training(source):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[4 * index : 4 * index + 4], y[4 * index : 4 * index + 4]

    x, y = np.ones((8, 3, 3, 1), "float32"), np.ones((8, 3, 3), "int32")
    layer = keras.layers.Conv2D(2, 1, activation="softmax")
    model = keras.Sequential([keras.Input((3, 3, 1)), layer])
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = (x, y) if source == "arrays" else (Batches(),)
    with pytest.raises(ValueError, match="`class_weight` is for one label for each example"):
        ks.ImportanceTraining(model).fit(*data, class_weight={1: 2.0}, verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras makes them dense on JAX")
@pytest.mark.parametrize("gate", [0.0, 1e9])
@pytest.mark.parametrize("source", ["matrix", "matrices", "tensors"])
def test_sparse_inputs_are_trained_on_as_they_come(digits, source, gate):
    x, y = scipy.sparse.csr_matrix(digits[0][:64]), digits[1][:64]
    tensorflow = importlib.import_module("tensorflow")
    seen = set()

    class Look(keras.layers.Dense):
        def call(self, inputs, training=False):
            if training:
                seen.add(type(inputs).__name__)
            return super().call(inputs)

    def batches():
        while True:
            rows = x[:16].toarray() if source == "tensors" else x[:16]
            yield (tensorflow.sparse.from_dense(rows) if source == "tensors" else rows), y[:16]

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,), sparse=True), Look(10, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    trainer = ks.ImportanceTraining(model, presample=2.0, tau_threshold=gate, seed=0)
    # What builds the model has a type of its own.
    seen.clear()
    data = {"x": x, "y": y} if source == "matrix" else {"x": batches(), "steps_per_epoch": 4}
    history = trainer.fit(**data, verbose=0).history
    assert history["importance"] == [float(gate == 0.0)]
    assert "SparseTensor" in seen and not {"EagerTensor", "Tensor", "SymbolicTensor"} & seen


def test_epochs_have_all_their_steps_where_keras_fetches_ahead(digits, monkeypatch):
    backend = type(backends.active())
    monkeypatch.setattr(backend, "fetches_ahead", lambda self, model: True)
    model = classifier()
    fit(model, digits, size=100, batch_size=20, steps_per_epoch=9, epochs=3)
    assert int(model.optimizer.iterations) == 27


def test_steps_without_batch_size_share_out_the_data(digits):
    model = classifier()
    history = fit(
        model,
        digits,
        size=100,
        steps_per_epoch=10,
        trainer={"tau_threshold": 1e9, "presample": 2.0},
    )
    assert int(model.optimizer.iterations) == 10
    assert history.history["presample"] == [1.0]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has it not on PyTorch")
def test_steps_per_execution_draws_before_each_execution(digits):
    def run():
        model = classifier(0.3, steps_per_execution=4)
        return model, fit(model, digits, size=330, epochs=3).history

    (first, history), (second, again) = run(), run()
    assert history == again
    assert_same_weights(first, second)
    # ceil(330 / 32) = 11 is no multiple of 4.
    assert int(first.optimizer.iterations) == 33
    assert history["loss"][-1] < history["loss"][0]


def test_initial_epoch(digits):
    assert fit(classifier(), digits, size=96, initial_epoch=2, epochs=5).epoch == [2, 3, 4]


def test_subclassed_unbuilt_model_without_training_argument(digits):
    class Bare(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(10, activation="softmax")

        def call(self, x):
            return self.dense(x)

    model = Bare()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert fit(model, digits, size=100).history["importance"] == [1.0]


def test_backend_tensors(digits):
    x, y = (keras.ops.convert_to_tensor(part[:100]) for part in digits)
    model = classifier()
    ks.ImportanceTraining(model, seed=0).fit(x, y, verbose=0)
    assert int(model.optimizer.iterations) == 4


def not_compiled():
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"presample": 1.0},
            "`presample` must be greater than 1 and finite.*Received: presample=1.0",
        ),
        ({"presample": float("inf")}, "presample=inf"),
        ({"presample": float("nan")}, "presample=nan"),
        ({"presample": "3"}, "presample='3'"),
        ({"tau_threshold": -0.5}, "`tau_threshold` must be 0 or more.*tau_threshold=-0.5"),
        ({"floor": 1.0}, r"`floor` must be in \[0, 1\).*Received: floor=1.0"),
        ({"floor": -0.1}, "floor=-0.1"),
        ({"score": "entropy"}, "`score` must be one of 'gradient_norm', 'loss'.*score='entropy'"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.ImportanceTraining(classifier(), **arguments)


def test_a_model_that_is_not_compiled_is_named():
    with pytest.raises(ValueError, match="`model` must be compiled.*model.compile"):
        ks.ImportanceTraining(not_compiled())
    with pytest.raises(TypeError, match="`model` must be a `keras.Model`. Received: builtins.int"):
        ks.ImportanceTraining(3)


def test_a_model_without_a_loss_is_named(digits):
    model = not_compiled()
    model.compile("sgd")
    with pytest.raises(ValueError, match="compiled without a loss.*Give `score=`"):
        ks.ImportanceDataset(model, digits[0][:64], digits[1][:64])


class Never(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise AssertionError("training has started")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": None}, ValueError, "`y` must be given"),
        ({"x": np.zeros((0, 64)), "y": np.zeros(0)}, ValueError, "at least one example"),
        ({"y": np.zeros(7)}, ValueError, r"len\(x\)=100, len\(y\)=7"),
        ({"y": np.full(100, 10)}, ValueError, r"from 0 to 9.*100 labels outside.*index 0 \(10\)"),
        ({"y": np.r_[np.zeros(99), -1]}, ValueError, r"1 labels outside, the first at index 99"),
        ({"x": iter([1])}, ValueError, "`y` must not be given with a stream"),
        ({"x": iter([1]), "y": None}, ValueError, "A batch must be .*Received: int"),
        ({"x": np.zeros((100, 63))}, ValueError, r"x of shape \('n', 63\).*They gave"),
        ({"x": object(), "y": None}, TypeError, "`x` must be an array"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a positive integer"),
        ({"steps_per_epoch": 0.5}, TypeError, "`steps_per_epoch` must be a positive"),
        ({"validation_split": 2.0}, ValueError, "`validation_split` must be"),
        (
            {"class_weight": {0: 1.0}, "sample_weight": np.ones(100)},
            ValueError,
            "cannot be given together",
        ),
    ],
)
def test_bad_data_stop_before_training(digits, change, error, message):
    data = {"x": digits[0][:100], "y": digits[1][:100], **change}
    with pytest.raises(error, match=message):
        ks.ImportanceTraining(classifier()).fit(**data, verbose=0, callbacks=[Never()])


def test_nan_in_the_inputs_is_named_and_left_to_the_callbacks(digits):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = digits[0][:96].copy()
    x[1, 6] = np.nan
    message = "`x` must be finite. Received: NaN or infinity in 1 of the .*the first at position"
    with pytest.warns(UserWarning, match=message) as caught:
        trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
        history = trainer.fit(x, digits[1][:96], epochs=2, verbose=0)
    # Once, and training goes on as `fit` would.
    assert sum("must be finite" in str(warning.message) for warning in caught) == 1
    assert np.isnan(history.history["loss"]).all()
    assert int(model.optimizer.iterations) == 6


@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 0}, {"tau_threshold": 1e9}])
@pytest.mark.filterwarnings("ignore:Scores must be finite:UserWarning")
def test_callbacks_that_end_a_diverged_run_get_their_turn(digits, settings):
    x, y = digits[0][:320], digits[1][:320]
    model = classifier(1e30)
    history = ks.ImportanceTraining(model, seed=0, **settings).fit(
        x, y, epochs=3, callbacks=[keras.callbacks.TerminateOnNaN()], verbose=0
    )
    assert len(history.epoch) == 1 and int(model.optimizer.iterations) < 10


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda y, p: p, r"one number for each example.*shape \(32, 10\) for 32 examples"),
        (lambda y, p: keras.ops.mean(p), r"shape \(\) for 32 examples"),
        (lambda y, p: -keras.ops.max(p, axis=1), "32 of 32 scores below zero"),
    ],
)
def test_a_wrong_score_stops_before_training(digits, score, message):
    with pytest.raises(ValueError, match=message):
        fit(classifier(), digits, trainer={"score": score}, callbacks=[Never()])


def test_diverged_training_is_told_of_once_with_the_step_and_the_cure(digits):
    model = classifier(1e30)
    message = r"Scores must be finite. Received: \d+ of 96 scores .* step \d+.*lower the learning"
    with pytest.warns(UserWarning, match=message) as caught:
        fit(model, digits, epochs=2)
    assert sum("must be finite" in str(warning.message) for warning in caught) == 1


def test_a_metric_without_weights_is_warned_of_and_kept(digits):
    def mean_output(y_true, y_pred):
        return keras.ops.mean(y_pred)

    with pytest.warns(UserWarning, match="'mean_output' takes no weights for single examples"):
        history = fit(classifier(metrics=[mean_output]), digits).history
    assert history["mean_output"][0] == pytest.approx(0.1)


# Keras' own, on JAX.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_metrics_over_entries_are_kept(digits):
    x, y = digits[0][:100], (digits[0][:100, :4] > 0.2).astype("float32")
    # An output that is 0.5 but for rounding would be on either side of the metric's threshold.
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(4, activation="sigmoid")])
    metrics = [keras.metrics.BinaryIoU()]
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=metrics)
    with pytest.warns(UserWarning, match=f"'{metrics[0].name}' takes no weights"):
        history = ks.ImportanceTraining(model, seed=0).fit(x, y, verbose=0).history
    # The first epoch is uniform: every example once.
    # Keras counts up the names of metrics of one kind.
    name = metrics[0].name
    expected = model.evaluate(x, y, verbose=0, return_dict=True)[name]
    assert history[name] == [pytest.approx(expected, abs=1e-6)]


# Keras' own, on JAX.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_iou_which_would_truncate_its_weights_is_left_alone(digits):
    model = classifier(0.0, metrics=[keras.metrics.MeanIoU(10, sparse_y_pred=False, name="iou")])
    with pytest.warns(UserWarning, match="'iou' takes no weights"):
        fit(model, digits)


def test_auc_over_pixels_is_that_of_all_the_data(digits):
    x = digits[0][:400].reshape(-1, 8, 8, 1)
    y = (x > 0.4).astype("float32") * (np.arange(8) < 5)[:, None, None]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
    )
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=["auc"])
    history = ks.ImportanceTraining(model, tau_threshold=0, seed=0).fit(x, y, epochs=12, verbose=0)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    TestReportedNumbersAreUniform.assert_agree(history.history, expected)


@pytest.mark.parametrize("kind", ["add_loss", "activity_regularizer"])
def test_losses_without_weights_are_warned_of(digits, kind):
    class Adding(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(x))
            return x

    regularizer = "l2" if kind == "activity_regularizer" else None
    layers = [keras.layers.Dense(10, "softmax", activity_regularizer=regularizer)]
    model = keras.Sequential(
        [keras.Input((64,)), *([Adding()] if kind == "add_loss" else []), *layers]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="adds losses of its own"):
        fit(model, digits)


def test_weight_regularisation_is_not_warned_of(digits):
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(10, "softmax", kernel_regularizer="l2")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert fit(model, digits).history["importance"] == [1.0]


def test_lists_of_inputs_and_targets(digits):
    first, second = keras.Input((64,)), keras.Input((64,))
    hidden = keras.layers.Concatenate()([first, second])
    model = keras.Model(
        [first, second], [keras.layers.Dense(4)(hidden), keras.layers.Dense(4)(hidden)]
    )
    model.compile("sgd", ["mse", "mae"], metrics=[["mse"], ["mae"]])
    x, target = digits[0][:100], digits[0][:100, :4]
    ks.ImportanceTraining(model, tau_threshold=0, seed=0).fit(
        [x, 2 * x], [target, 3 * target + 1], verbose=0
    )
    assert int(model.optimizer.iterations) == 4


def test_a_second_fit_scores_with_the_function_it_has(digits):
    model = classifier()
    trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
    x, y = digits[0][:128], digits[1][:128]
    trainer.fit(x, y, verbose=0)
    traces = trainer._scorer.traces
    trainer.fit(x, y, verbose=0)
    if keras.backend.backend() != "torch":
        assert trainer._scorer.traces == traces


def test_a_train_step_that_drops_the_weights_is_named(digits):
    class Dropping(keras.Sequential):
        def train_step(self, *arguments):
            x, y = arguments[-1]
            return super().train_step(*arguments)

    model = Dropping([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"`train_step` must take batches.*takes `\(x, y\)`"):
        fit(model, digits)


@pytest.mark.parametrize(
    ("inputs", "layer", "message"),
    [
        (
            {"batch_shape": (32, 8, 8)},
            lambda: keras.layers.LSTM(4, stateful=True, name="memory"),
            r"stateful layers \['memory'\]",
        ),
        (
            {"batch_shape": (32, 8, 8)},
            lambda: keras.layers.Lambda(lambda x: keras.ops.reshape(x, (32, 64))),
            "fixed batch size",
        ),
    ],
)
def test_models_tied_to_a_batch_are_named(inputs, layer, message):
    model = keras.Sequential([keras.Input(**inputs), layer(), keras.layers.Dense(10)])
    model.compile("sgd", "mse")
    x, y = np.zeros((64, 8, 8), "float32"), np.zeros((64, 10), "float32")
    with pytest.raises(ValueError, match=message):
        ks.ImportanceDataset(model, x, y)
    # PyTorch's own `fit` fails with a stateful layer.
    if isinstance(model.layers[0], keras.layers.LSTM) and keras.backend.backend() != "torch":
        with pytest.warns(UserWarning, match=message + ".*uniform batches"):
            history = ks.ImportanceTraining(model).fit(x, y, batch_size=32, verbose=0)
        assert history.history["importance"] == [0.0]


def test_callable_scores_are_used(digits):
    model = classifier()

    def of_threes(y_true, y_pred):
        return keras.ops.cast(keras.ops.equal(y_true, 3), "float32")

    drawn = []

    class Reading(keras.callbacks.Callback):
        def on_batch_drawn(self, batch):
            drawn.extend(batch.y)

    fit(model, digits, trainer={"score": of_threes, "floor": 0.0}, callbacks=[Reading()])
    assert set(drawn) == {3}


def test_callbacks_that_ask_get_every_draw(digits):
    x, y = digits[0][:100], digits[1][:100]
    seen = []

    class Reading(keras.callbacks.Callback):
        def on_batch_drawn(self, batch):
            seen.append(batch)

    model = classifier(0.0)
    ks.ImportanceTraining(model, tau_threshold=0, floor=0.0, seed=0).fit(
        x, y, epochs=2, verbose=0, callbacks=[Reading()]
    )
    assert len(seen) == 8
    losses = {}
    for batch in seen:
        np.testing.assert_array_equal(batch.x, x[batch.indices])
        np.testing.assert_array_equal(batch.y, y[batch.indices])
        # With rate 0 an example's score stays, and weights are inverse to it.
        for index, score in zip(batch.indices, batch.scores, strict=True):
            assert losses.setdefault(int(index), score) == pytest.approx(score, rel=1e-5)
        product = batch.importance * batch.scores
        np.testing.assert_allclose(product, product[0], rtol=1e-5)
        assert (batch.by_importance, batch.presample_size) == (True, 96)


def test_draws_of_a_shut_gate_have_scores_where_it_looked(digits):
    seen = []

    class Reading(keras.callbacks.Callback):
        def on_batch_drawn(self, batch):
            seen.append(batch)

    fit(classifier(), digits, trainer={"tau_threshold": 1e9}, callbacks=[[Reading()]])
    scored = [position for position, batch in enumerate(seen) if batch.scores is not None]
    # 16 steps an epoch of 500 examples; the first is scored, then one in 16.
    assert (len(seen), scored) == (16, [0])
    assert sorted(np.concatenate([batch.indices for batch in seen])) == list(range(500))


def test_a_shut_gate_looks_more_seldom_as_the_run_gets_longer(digits, monkeypatch):
    updates, seen = [], []
    update = PublishedGate.update

    def listening(self, tau, steps=1):
        updates.append(steps)
        update(self, tau, steps)

    monkeypatch.setattr(PublishedGate, "update", listening)
    data = ks.ImportanceDataset(
        classifier(),
        *(part[:500] for part in digits),
        tau_threshold=1e9,
        seed=0,
        steps_per_epoch=700,
        on_draw=seen.append,
    )
    list(data)
    scored = [step for step, batch in enumerate(seen) if batch.scores is not None]
    intervals = np.diff(scored)
    assert len(seen) == 700
    assert list(intervals) == [max(16, min(64, step // 8)) for step in scored[1:]]
    assert (intervals[0], intervals[-1]) == (16, 64)
    # Each stands for the steps since the one before.
    assert updates == [1, *intervals]


@pytest.mark.parametrize("hook", [False, True])
def test_nothing_of_a_fit_stays_in_memory(digits, monkeypatch, hook):
    kept = []

    class Kept(feed.Feed):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            kept.append(weakref.ref(self))

    class Hook(keras.callbacks.Callback):
        def on_batch_drawn(self, batch):
            pass

    monkeypatch.setattr(prepare, "Feed", Kept)
    model = classifier()
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(*(part[:96] for part in digits), callbacks=[Hook()] if hook else [], verbose=0)
    gc.collect()
    assert [kept_feed() for kept_feed in kept] == [None]
    kept.append(weakref.ref(model))
    del model, trainer
    keras.utils.clear_session()
    gc.collect()
    assert kept[1]() is None


@pytest.mark.parametrize("fails_at", [1, 3])
def test_data_that_fail_cost_the_model_nothing(digits, fails_at):
    x, y = digits

    def batches():
        for step in range(fails_at):
            yield x[32 * step : 32 * step + 32], y[32 * step : 32 * step + 32]
        raise OSError("the disk is gone")

    model, untouched = classifier(), classifier()
    trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.fit(batches(), steps_per_epoch=5, verbose=0)
    # One step was made of the first three batches, none of the first one.
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    if fails_at == 1:
        assert_same_weights(model, untouched)
    assert np.isfinite(trainer.fit(x[:100], y[:100], verbose=0).history["loss"]).all()
