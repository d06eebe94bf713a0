"""Importance sampling by remembered scores: what is recorded, what is drawn, what it is worth."""

import importlib
import itertools
import json
import types

import keras
import numpy as np
import pytest
from small_models import assert_same_weights, classifier
from small_streams import Dealt, shuffled

import keras_swift as ks
from keras_swift.src import backends
from keras_swift.src.data import reader
from keras_swift.src.importance import pool, prepare
from keras_swift.src.importance.parts import ArrayParts
from keras_swift.src.importance.resampling import (
    RememberedScores,
    importance_weights,
    sampling_probability,
)
from keras_swift.src.scoring.scorer import Scorer


class Reading(keras.callbacks.Callback):
    """Keeps every batch, and the weights that its step begins with."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_batch_drawn(self, batch):
        self.batches.append(batch)


def trained(digits, rate, **arguments):
    """A classifier that knows the easy examples, with a rate to go on with."""
    model = classifier(0.3, **arguments)
    model.fit(digits[0][:1000], digits[1][:1000], epochs=4, verbose=0)
    model.optimizer.learning_rate = rate
    return model


def by_hand(model, x, y):
    """Score, loss, margin and probability of the labels, from `predict`."""
    p = model.predict(x, verbose=0).astype(np.float64)
    rows = np.arange(len(y))
    of_label = p[rows, y]
    others = p.copy()
    others[rows, y] = 0
    score = np.sqrt(((p - np.eye(p.shape[1])[y]) ** 2).sum(1))
    return score, -np.log(of_label), of_label - others.max(1), of_label


@pytest.mark.parametrize("compiled", [{}, {"jit_compile": True}, {"run_eagerly": True}])
def test_steps_record_what_their_outputs_say(digits, compiled):
    if compiled.get("jit_compile") and keras.backend.backend() == "torch":
        pytest.skip("needs a C++ compiler that works")
    x, y = digits[0][:210], digits[1][:210]
    model = classifier(0.0, **compiled)
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x, y, epochs=2, verbose=0)
    score, loss, margin, probability = by_hand(model, x, y)
    memory = trainer.memory
    np.testing.assert_allclose(memory.score, score, rtol=1e-4)
    np.testing.assert_allclose(memory.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(memory.margin, margin, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(memory.probability, probability, rtol=1e-4)
    np.testing.assert_array_equal(memory.wrong, margin <= 0)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="computed in the step elsewhere")
def test_numbers_stay_in_the_order_of_their_steps(monkeypatch):
    module = importlib.import_module("keras_swift.src.backends.torch")
    monkeypatch.setattr(module._TorchTap, "STEPS", 16)
    monkeypatch.setattr(module._TorchTap, "VALUES", 20)
    tap, calls, expected = backends.active().make_tap(1, 100), [], []

    def numbers(values, nothing):
        calls.append(len(values))
        return 1.0 * values[:, :1]

    # Three steps, one that is computed at once, one of another width, and many.
    for rows, width in [(2, 2), (1, 2), (2, 2), (7, 3), (2, 2), (2, 3), *[(1, 1)] * 18]:
        step = len(expected) + np.arange(float(rows * width)).reshape(rows, width)
        tensor = keras.ops.convert_to_tensor(step.astype("float32"))
        tap.defer((tensor, None), numbers)
        # As a source does that fills one array again and again.
        tensor.fill_(-1.0)
        expected += step[:, 0].tolist()
    assert tap.read()[:, 0].tolist() == expected
    assert calls == [5, 7, 2, 2, 16, 2]
    assert tap.read().shape == (0, 1)
    # A number for the whole batch beside the rows cannot be joined with those of other steps.
    seen = []
    for value in (1.0, 2.0):
        tensors = [keras.ops.convert_to_tensor(found) for found in (np.ones((2, 1)), value)]
        tap.defer(tuple(tensors), lambda rows, one: seen.append(float(one)) or rows * one)
    assert seen == [1.0, 2.0]
    tap.defer((keras.ops.convert_to_tensor(np.ones((2, 1))),), lambda rows: seen.append(3.0))
    tap.clear()
    assert tap.read().shape == (0, 1) and seen == [1.0, 2.0]


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="computed in the step elsewhere")
@pytest.mark.parametrize("limit", [2**20, 3000], ids=["by steps", "by values"])
@pytest.mark.parametrize("masked", [False, True])
def test_numbers_computed_for_several_steps_are_those_of_each_step(monkeypatch, limit, masked):
    module = importlib.import_module("keras_swift.src.backends.torch")
    generator = np.random.default_rng(0)
    x = generator.integers(1, 9, (250, 5)) * (np.arange(5) < generator.integers(1, 6, (250, 1)))
    y, weights = generator.integers(0, 3, (250, 5)), generator.uniform(0.5, 2.0, 250)

    def memory(steps, limit):
        monkeypatch.setattr(module._TorchTap, "STEPS", steps)
        monkeypatch.setattr(module._TorchTap, "VALUES", limit)
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(9, 4, mask_zero=masked), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((5,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5), loss)
        trainer = ks.ImportanceTraining(model, seed=0)
        # The last batch is a smaller one, and validation is between the epochs.
        settings = {"sample_weight": weights, "validation_data": (x[:9], y[:9]), "verbose": 0}
        trainer.fit(x, y, batch_size=16, epochs=3, **settings)
        return trainer.memory

    # With no value allowed, each step's numbers are computed in it.
    together, alone = memory(16, limit), memory(1, 0)
    for name in ("score", "loss", "margin", "probability"):
        found, expected = getattr(together, name), getattr(alone, name)
        assert np.isfinite(expected).all() and np.ptp(expected) > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_scores_are_those_of_the_step_itself(digits):
    """Of each example the score by the weights that its last step began with."""
    x, y = digits[0][:96], digits[1][:96]
    model, twin = classifier(0.3), classifier(0.3)
    reading = Reading()
    trainer = ks.ImportanceTraining(model, seed=0, scale_learning_rate=False)
    trainer.fit(x, y, epochs=3, callbacks=[reading], verbose=0)
    expected = np.full(96, np.nan)
    for batch in reading.batches:
        score, _, _, _ = by_hand(twin, batch.x, batch.y)
        expected[batch.indices] = score
        twin.train_on_batch(batch.x, batch.y, sample_weight=batch.weights)
    assert_close_weights(model, twin)
    np.testing.assert_allclose(trainer.memory.score, expected, rtol=2e-3, atol=1e-5)


def assert_close_weights(first, second):
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


CASES = {
    "sparse": ("sparse_categorical_crossentropy", "softmax", 4),
    "one hot": ("categorical_crossentropy", "softmax", 4),
    "logits": (lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True), None, 4),
    "focal": ("categorical_focal_crossentropy", "softmax", 4),
    "binary": ("binary_crossentropy", "sigmoid", 1),
    "many labels": (lambda: keras.losses.BinaryCrossentropy(from_logits=True), None, 3),
    "regression": ("mse", None, 2),
    "huber": ("huber", "tanh", 2),
}


@pytest.mark.parametrize("name", CASES)
def test_any_loss_that_scores_can_be_read_off(name):
    loss, activation, units = CASES[name]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 5)).astype("float32")
    labels = generator.integers(0, units if units > 1 else 2, 40)
    y = {
        "one hot": np.eye(4, dtype="float32")[labels],
        "focal": np.eye(4, dtype="float32")[labels],
        "binary": labels[:, None].astype("float32"),
        "many labels": generator.integers(0, 2, (40, 3)).astype("float32"),
        "regression": generator.normal(size=(40, 2)).astype("float32"),
        "huber": generator.normal(size=(40, 2)).astype("float32"),
    }.get(name, labels)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(units, activation=activation)])
    model.compile(keras.optimizers.SGD(0.0), loss() if callable(loss) else loss)
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x, y, batch_size=10, verbose=0)
    expected = Scorer(model)(x, y)
    np.testing.assert_allclose(trainer.memory.score, expected["gradient_norm"], rtol=1e-4)
    np.testing.assert_allclose(trainer.memory.loss, expected["loss"], rtol=1e-4)
    labelled = name not in ("regression", "huber")
    assert np.isfinite(trainer.memory.margin).all() == labelled
    if labelled:
        output = model.predict(x, verbose=0).astype(np.float64)
        if name == "logits":
            p = np.exp(output) / np.exp(output).sum(1, keepdims=True)
        elif name == "many labels":
            p = 1 / (1 + np.exp(-output))
        else:
            p = output
        if name in ("binary", "many labels"):
            of_label = (p * y + (1 - p) * (1 - y)).mean(1)
        else:
            of_label = p[np.arange(40), labels]
        np.testing.assert_allclose(trainer.memory.probability, of_label, rtol=1e-4)


def sequence_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Embedding(9, 6, mask_zero=True),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    return model


def test_masked_steps_do_not_count():
    generator = np.random.default_rng(0)
    x = generator.integers(1, 9, (60, 6)) * (np.arange(6) < generator.integers(1, 7, (60, 1)))
    y = generator.integers(0, 3, (60, 6))
    model = sequence_model()
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x, y, batch_size=20, epochs=2, verbose=0)
    mask = x != 0
    p = model.predict(x, verbose=0).astype(np.float64)
    of_label = np.take_along_axis(p, y[..., None], 2)[..., 0]
    expected = (of_label * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(trainer.memory.probability, expected, rtol=1e-4)
    np.testing.assert_allclose(
        trainer.memory.score, Scorer(model)(x, y)["gradient_norm"], rtol=1e-4
    )


def test_masked_batches_are_corrected_for_their_unmasked_share():
    """With rate 0, the loss of steps drawn by importance is that of the whole data."""
    generator = np.random.default_rng(0)
    x = generator.integers(1, 9, (400, 6)) * (np.arange(6) < generator.integers(1, 7, (400, 1)))
    y = np.where(x[:, :1] > 6, 0, 2) * np.ones((1, 6), int)
    model = sequence_model()
    trainer = ks.ImportanceTraining(model, seed=0, floor=0.2)
    history = trainer.fit(x, y, batch_size=20, epochs=30, verbose=0).history
    drawn = np.array(history["loss"])[np.array(history["importance"]) == 1]
    assert len(drawn) > 20
    expected = model.evaluate(x, y, batch_size=400, verbose=0)
    assert abs(drawn.mean() - expected) < 3 * drawn.std() / np.sqrt(len(drawn)) + 0.002


@pytest.mark.parametrize("weights", ["sample_weight", "class_weight"])
def test_the_users_weights_multiply_the_score_and_not_the_loss(digits, weights):
    x, y = digits[0][:96], digits[1][:96]
    of_example = np.where(y % 2 == 0, 3.0, 0.2).astype("float32")
    given = {
        "sample_weight": of_example,
        "class_weight": {label: 3.0 if label % 2 == 0 else 0.2 for label in range(10)},
    }[weights]
    model = classifier(0.0)
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x, y, epochs=2, verbose=0, **{weights: given})
    score, loss, _, _ = by_hand(model, x, y)
    np.testing.assert_allclose(trainer.memory.score, score * of_example, rtol=1e-4)
    np.testing.assert_allclose(trainer.memory.loss, loss, rtol=1e-4)


def test_several_outputs_are_recorded(digits):
    x, y = digits[0][:80], digits[1][:80]
    inputs = keras.Input((64,))
    outputs = {
        "digit": keras.layers.Dense(10, activation="softmax", name="digit")(inputs),
        "mean": keras.layers.Dense(1, name="mean")(inputs),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(0.0),
        {"digit": "sparse_categorical_crossentropy", "mean": "mse"},
        loss_weights={"digit": 1.0, "mean": 5.0},
    )
    targets = {"digit": y, "mean": x.mean(axis=1, keepdims=True)}
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x, targets, epochs=2, batch_size=16, verbose=0)
    expected = Scorer(model)(x, targets)
    np.testing.assert_allclose(trainer.memory.score, expected["gradient_norm"], rtol=1e-4)
    np.testing.assert_allclose(trainer.memory.loss, expected["loss"], rtol=1e-4)


@pytest.mark.parametrize("pools", [False, True])
def test_batches_made_together_are_those_made_one_by_one(digits, monkeypatch, pools):
    x, y = digits[0][:300], digits[1][:300]
    weights = np.linspace(0.5, 1.5, 300)
    every = ({"digit": x}, {"class": y, "mean": x.mean(axis=1)[:, None]}, weights)

    def rows(indices):
        return keras.tree.map_structure(lambda leaf: leaf[indices], every)

    def run():
        keras.utils.set_random_seed(0)
        inputs = {"digit": keras.Input((64,), name="digit")}
        outputs = {
            "class": keras.layers.Dense(10, activation="softmax")(inputs["digit"]),
            "mean": keras.layers.Dense(1)(inputs["digit"]),
        }
        model = keras.Model(inputs, outputs)
        losses = {"class": "sparse_categorical_crossentropy", "mean": "mse"}
        model.compile("adam", losses)
        reading, trainer = Reading(), ks.ImportanceTraining(model, seed=0)
        kept = {"epochs": 3, "verbose": 0, "callbacks": [reading]}
        if pools:
            trainer.fit(Dealt(shuffled(300), rows), **kept)
        else:
            trainer.fit(*every[:2], sample_weight=weights, **kept)
        return [vars(batch) for batch in reading.batches]

    together = run()
    assert together[-1]["by_importance"]
    monkeypatch.setattr(reader, "TOGETHER", 1)
    monkeypatch.setattr(pool.PooledParts, "together", 1)
    alone = run()
    np.testing.assert_equal(together, alone)


def test_the_first_epoch_is_uniform_and_later_ones_are_drawn_by_the_scores(digits):
    x, y = digits[0][:320], digits[1][:320]
    reading = Reading()
    model = trained(digits, 0.0)
    history = ks.ImportanceTraining(model, seed=0).fit(
        x, y, epochs=3, callbacks=[reading], verbose=0
    )
    assert history.history["importance"] == [0.0, 1.0, 1.0]
    assert history.history["presample"] == [1.0] * 3
    first, later = reading.batches[:10], reading.batches[10:]
    assert sorted(np.concatenate([batch.indices for batch in first])) == list(range(320))
    # With rate 0 the scores stay, so each part is drawn by the same probabilities.
    probability = sampling_probability(by_hand(model, x, y)[0], floor=0.5)
    for batch in later:
        expected = importance_weights(probability)[batch.indices]
        np.testing.assert_allclose(batch.importance, expected, rtol=1e-4)
        assert batch.importance.max() <= 2.0
    # The four parts of an epoch add up to what is expected; in independent draws a fifth are off.
    for epoch in (later[:10], later[10:]):
        drawn = np.concatenate([batch.indices for batch in epoch])
        assert np.abs(np.bincount(drawn, minlength=320) - 320 * probability).max() < 1


@pytest.mark.any_backend
def test_scores_that_come_in_during_a_pass_change_the_draws_of_the_next():
    # What is learned when it is drawn would else get too little weight: drawn early at a high
    # probability, it would hardly come again at the low one, when its weight is large.
    reader = types.SimpleNamespace(size=400, batch_size=20)
    parts = ArrayParts(reader, np.random.default_rng(0))
    now = np.where(np.arange(400) < 100, 4.0, 1.0)
    for epoch_steps in ([20, 20], [8, 12, 20]):
        for steps in epoch_steps:
            parts.begin_epoch(restarts=len(epoch_steps) == 2)
            while steps:
                if not parts.state().in_pass:
                    counts, before = np.zeros(400), RememberedScores(now.copy(), 0.5)
                assert parts.draw(min(5, steps), RememberedScores(now, 0.5), steps)
                drawn = parts.state()
                steps -= len(drawn.indices) // 20
                counts += np.bincount(drawn.indices, minlength=400)
                np.testing.assert_array_equal(drawn.weights, before.weights(drawn.indices))
                now[drawn.indices] *= 0.8
            if not parts.state().in_pass:
                assert counts.sum() == 400
                assert np.abs(counts - 400 * before.probability()).max() < 1


@pytest.mark.any_backend
def test_reported_numbers_are_those_of_the_whole_data(digits):
    x, y = digits[0][:1000], digits[1][:1000]
    model = classifier(0.3)
    model.fit(x, y, epochs=6, verbose=0)
    model.optimizer.learning_rate = 0.0
    history = ks.ImportanceTraining(model, seed=0).fit(x, y, epochs=20, verbose=0).history
    assert history["importance"][1:] == [1.0] * 19
    for name, value in model.evaluate(x, y, verbose=0, return_dict=True).items():
        measured = np.array(history[name][1:])
        error = measured.std(ddof=1) / np.sqrt(len(measured))
        assert abs(measured.mean() - value) < 3 * error, (name, measured.mean(), value, error)


@pytest.mark.any_backend
def test_gain_is_that_of_the_scores_while_they_are_not_stale(digits):
    x, y = digits[0][:1000], digits[1][:1000]
    model = classifier(0.3)
    model.fit(x, y, epochs=6, verbose=0)
    model.optimizer.learning_rate = 0.0
    history = ks.ImportanceTraining(model, seed=0).fit(x, y, epochs=8, verbose=0).history
    scores = by_hand(model, x, y)[0]
    weights = importance_weights(sampling_probability(scores, floor=0.5))
    expected = np.sum(scores**2) / np.sum(weights * scores**2)
    assert history["gain"][-1] == pytest.approx(expected, rel=0.03)
    spread = sampling_probability(scores)
    assert history["tau"][-1] == pytest.approx(np.sqrt(1000 * np.sum(spread**2)), rel=1e-3)


@pytest.mark.parametrize(
    ("make", "power"), [(keras.optimizers.SGD, 1.0), (keras.optimizers.Adam, 0.5)]
)
def test_steps_are_larger_by_the_gain_and_the_rate_stays_the_users(digits, make, power):
    x, y = digits[0][:320], digits[1][:320]
    reading, rates = Reading(), []

    class Rate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    model, twin = trained(digits, 0.1), classifier()
    twin.set_weights(model.get_weights())
    model.compile(make(0.01), "sparse_categorical_crossentropy")
    twin.compile(make(0.01), "sparse_categorical_crossentropy")
    ks.ImportanceTraining(model, seed=0).fit(x, y, epochs=3, callbacks=[reading, Rate()], verbose=0)
    scales = [batch.rate_scale for batch in reading.batches]
    assert scales[:10] == [1.0] * 10 and max(scales) > 1.1
    assert scales == [max(1.0, batch.gain) ** power for batch in reading.batches]
    if keras.backend.backend() != "jax":
        assert set(np.round(rates, 6)) == {0.01}
    for batch in reading.batches:
        twin.optimizer.learning_rate = 0.01 * batch.rate_scale
        twin.train_on_batch(batch.x, batch.y, sample_weight=batch.weights)
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


def test_a_seed_repeats_a_run_to_the_last_bit(digits):
    x, y = digits[0][:200], digits[1][:200]

    def run():
        model = classifier()
        history = ks.ImportanceTraining(model, seed=3).fit(x, y, epochs=3, verbose=0)
        return model, history.history

    (first, history), (second, again) = run(), run()
    assert history == again
    assert_same_weights(first, second)


def test_the_seed_of_keras_repeats_a_run_too(digits):
    x, y = digits[0][:200], digits[1][:200]

    def drawn(seed):
        keras.utils.set_random_seed(seed)
        model, reading = classifier(), Reading()
        keras.utils.set_random_seed(seed)
        ks.ImportanceTraining(model).fit(x, y, callbacks=[reading], verbose=0)
        return [batch.indices.tolist() for batch in reading.batches]

    assert drawn(5) == drawn(5) != drawn(6)


def test_a_further_fit_on_the_same_arrays_goes_on(digits):
    x, y = digits[0][:200], digits[1][:200]
    trainer = ks.ImportanceTraining(trained(digits, 0.05), seed=0)
    shares = [trainer.fit(x, y, verbose=0).history["importance"][0] for _ in range(3)]
    assert shares == [0.0, 1.0, 1.0]
    memory = trainer.memory
    assert trainer.fit(x[:100], y[:100], verbose=0).history["importance"] == [0.0]
    assert trainer.memory is not memory and len(trainer.memory) == 100


def test_even_scores_leave_batches_uniform(digits):
    x, y = digits[0][:160], digits[1][:160]

    def even(y_true, y_pred):
        return keras.ops.ones(y_pred.shape[0] or keras.ops.shape(y_pred)[0])

    history = ks.ImportanceTraining(classifier(), score=even, seed=0).fit(x, y, epochs=3, verbose=0)
    assert history.history["importance"] == [0.0] * 3
    assert history.history["gain"] == [1.0] * 3


@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("settings", [{}, {"steps_per_epoch": 4, "epochs": 15}])
def test_examples_that_are_all_the_same_are_trained_as_by_fit(settings):
    """Their scores differ by when they were recorded, and by nothing else."""
    x, y = np.ones((160, 4), "float32"), np.ones((160, 1), "float32")
    settings = {"batch_size": 16, "epochs": 6, "verbose": 0, **settings}
    losses = []
    for trains in (False, True):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((4,)), dense])
        model.compile(keras.optimizers.SGD(0.005), "mse")
        fit = ks.ImportanceTraining(model, seed=0).fit if trains else model.fit
        losses.append(fit(x, y, **settings).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_scores_that_prove_stale_shut_the_gate_and_true_ones_open_it_again(digits):
    """The score of an example is noise for two epochs, and then a property of it."""
    x, y = digits[0][:320], digits[1][:320]
    seen = []

    class Phase(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            phase.assign(float(epoch))

    phase = keras.Variable(0.0)
    shifts = keras.ops.convert_to_tensor(np.linspace(0.1, 9.0, 97, dtype="float32"))

    def score(y_true, y_pred):
        place = keras.ops.sum(y_pred * keras.ops.arange(10, dtype="float32"), axis=1)
        moved = keras.ops.floor(1e3 * (place + 0.123 * phase * keras.ops.sin(place * 1e4)))
        noise = keras.ops.take(shifts, keras.ops.cast(keras.ops.mod(moved, 97), "int32"))
        true = keras.ops.cast(keras.ops.equal(y_true, 3), "float32") * 9.0 + 0.1
        return keras.ops.where(phase < 4, noise, true)

    if keras.backend.backend() == "jax":
        pytest.skip("a traced step keeps the value that a variable of nobody's had")
    model = classifier(1e-6)
    # The true scores are much lower than the noise, as if everything were learned.
    trainer = ks.ImportanceTraining(model, score=score, seed=0, ease_off=False)
    history = trainer.fit(x, y, epochs=9, callbacks=[Phase()], verbose=0).history
    seen = history["importance"]
    assert seen[0] == 0.0 and seen[1] > 0
    assert min(seen[2:5]) < 0.5, seen
    assert seen[-1] == 1.0


def test_a_train_step_that_hides_its_outputs_is_trained_by_fresh_scores(digits, monkeypatch):
    monkeypatch.setattr(prepare, "COST_RATIO", 0.01)
    x, y = digits[0][:320], digits[1][:320]

    class Own(keras.Sequential):
        def train_step(self, *arguments):
            *state, data = arguments
            if keras.backend.backend() == "jax":
                return super().train_step(*arguments)
            own, self.compute_loss = self.compute_loss, type(self).compute_loss.__get__(self)
            try:
                return super().train_step(data)
            finally:
                self.compute_loss = own

    model = Own([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")

    def score(y_true, y_pred):
        return keras.ops.cast(keras.ops.equal(y_true, 3), "float32") + 0.01

    trainer = ks.ImportanceTraining(model, score=score, seed=0)
    with pytest.warns(UserWarning, match="`train_step`.*fresh scores of a presample.*"):
        history = trainer.fit(x, y, epochs=4, verbose=0).history
    assert history["presample"][-1] > 1.0


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has it not on PyTorch")
def test_steps_per_execution(digits):
    x, y = digits[0][:330], digits[1][:330]
    model = trained(digits, 0.0, steps_per_execution=4)
    trainer = ks.ImportanceTraining(model, seed=0)
    history = trainer.fit(x, y, epochs=3, verbose=0).history
    np.testing.assert_allclose(trainer.memory.score, by_hand(model, x, y)[0], rtol=1e-4)
    assert history["importance"] == [0.0, 1.0, 1.0]


def test_short_epochs_wait_for_the_scores_of_most_examples(digits):
    x, y = digits[0][:320], digits[1][:320]
    history = ks.ImportanceTraining(trained(digits, 0.01), seed=0).fit(
        x, y, steps_per_epoch=2, batch_size=32, epochs=8, verbose=0
    )
    assert history.history["importance"][:4] == [0.0] * 4
    assert history.history["importance"][-1] == 1.0


def test_a_number_of_epochs_that_is_never_reached_changes_nothing(digits):
    """Draws by importance begin as early whatever `epochs` is, for `EarlyStopping` to end."""
    stop = keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=2)
    history = ks.ImportanceTraining(trained(digits, 0.01), seed=0).fit(
        digits[0][:320], digits[1][:320], epochs=1000, callbacks=[stop], verbose=0
    )
    assert history.history["importance"] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 1e9}, {"tau_threshold": 0}])
def test_the_history_is_strict_json(digits, settings):
    model = classifier(run_eagerly=True)
    history = ks.ImportanceTraining(model, seed=0, **settings).fit(
        digits[0][:160], digits[1][:160], epochs=2, validation_split=0.2, verbose=0
    )
    again = json.loads(json.dumps(history.history, allow_nan=False))
    assert again == history.history


def test_another_source_is_remembered_anew(digits):
    x, y = digits[0][:96], digits[1][:96]
    trainer = ks.ImportanceTraining(classifier(), seed=0)
    trainer.fit(x, y, verbose=0)
    assert len(trainer.memory) == 96 and trainer.memory.ids is None
    batches = [(x[i : i + 32], y[i : i + 32]) for i in (0, 32)]
    trainer.fit(iter(batches), verbose=0)
    assert len(trainer.memory) == 64 and len(trainer.memory.ids) == 64


def test_a_fit_of_the_models_own_may_call_ours(digits):
    x, y = digits[0][:96], digits[1][:96]

    class Own(keras.Sequential):
        def fit(self, *arguments, **named):
            return ks.ImportanceTraining(self, seed=0).fit(*arguments, **named)

    model = Own([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, epochs=2, validation_split=0.25, verbose=0)
    assert history.history["gain"][1] > 0 and "tau" in history.history
    assert "val_accuracy" in history.history
    assert int(model.optimizer.iterations) == 6


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
def test_the_model_is_left_as_it_was(digits, error):
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise error

    x, y = digits[0][:200], digits[1][:200]
    ours, theirs = trained(digits, 0.01), trained(digits, 0.01)
    trainer = ks.ImportanceTraining(ours, seed=0)
    with pytest.raises(type(error)):
        trainer.fit(x, y, callbacks=[Failing()], verbose=0)
    with pytest.raises(type(error)):
        theirs.fit(x, y, callbacks=[Failing()], verbose=0)
    assert set(vars(ours)) == set(vars(theirs))
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations)
    assert set(ours.fit(x, y, verbose=0).history) == {"accuracy", "loss"}
    assert trainer.fit(x, y, epochs=2, verbose=0).history["importance"] == [0.0, 1.0]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="elsewhere any step can be read")
def test_a_train_step_of_the_models_own_is_named_on_jax(digits):
    class Own(keras.Sequential):
        def train_step(self, *arguments):
            return super().train_step(*arguments)

    model = Own([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    trainer = ks.ImportanceTraining(model, seed=0)
    with pytest.warns(UserWarning, match="Override `compute_loss` in its place"):
        trainer.fit(digits[0][:64], digits[1][:64], verbose=0)
    assert trainer.memory is None


def test_labels_on_a_disk_are_checked_as_they_come(digits, tmp_path):
    y = digits[1][:96].copy()
    y[70] = 12
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    with pytest.raises(ValueError, match=r"class numbers from 0 to 9.*the first at index \d+ \(12"):
        ks.ImportanceTraining(classifier(), seed=0).fit(digits[0][:96], mapped, verbose=0)


def test_as_many_steps_as_a_pass_has_are_a_pass(digits, monkeypatch):
    """Also where some batches of an epoch are drawn by importance, and others left."""

    def trained(steps):
        turns = itertools.cycle([True, True, False])
        worth = "keras_swift.src.importance.remembered.RememberedSampler._is_worth_it"
        monkeypatch.setattr(worth, lambda *given: next(turns))
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        settings = {"batch_size": 8, "epochs": 5, "steps_per_epoch": steps, "verbose": 0}
        trainer = ks.ImportanceTraining(model, seed=0, ease_off=False)
        return trainer.fit(digits[0][:80], digits[1][:80], **settings).history

    whole, counted = trained(None), trained(10)
    assert any(0 < share < 1 for share in whole["importance"][1:-1])
    assert counted == whole


@pytest.mark.any_backend
def test_examples_that_are_never_drawn_do_not_hide_the_gain(digits):
    x, y = digits[0][:320], digits[1][:320]
    weights = np.where(np.arange(320) % 2, 1.0, 0.0)
    trainer = ks.ImportanceTraining(classifier(0.1), seed=0, floor=0.0, ease_off=False)
    history = trainer.fit(x, y, sample_weight=weights, epochs=4, verbose=0).history
    assert (trainer.memory.score[::2] == 0).all()
    assert history["importance"][-1] == 1.0 and 1.05 < history["gain"][-1] < 4


@pytest.mark.any_backend
def test_scores_that_become_negative_are_named(digits):
    def score(y_true, y_pred):
        return 0.95 - keras.ops.max(y_pred, axis=-1)

    trainer = ks.ImportanceTraining(classifier(0.5), score=score, seed=0, ease_off=False)
    with pytest.raises(ValueError, match="`scores` must not be negative"):
        trainer.fit(digits[0][:320], digits[1][:320], epochs=20, verbose=0)
