"""Importance sampling by remembered scores from a `PyDataset`, whose batches come as a whole."""

import types

import keras
import numpy as np
import pytest
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.importance import prepare
from keras_swift.src.importance.pool import PooledParts
from keras_swift.src.importance.remembered import RememberedSampler
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known_reader import KnownReader
from keras_swift.src.records.memory import ExampleMemory


class Rows(keras.utils.PyDataset):
    """Arrays in batches of these lengths; notes which of them it is asked for."""

    def __init__(self, *arrays, lengths=None, **settings):
        super().__init__(**settings)
        size = len(keras.tree.flatten(arrays)[0])
        lengths = lengths or [min(32, size - start) for start in range(0, size, 32)]
        self.arrays, self.ends, self.asked = arrays, np.cumsum([0, *lengths]), []

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, index):
        self.asked.append(index)
        rows = slice(*self.ends[index : index + 2])
        return tuple(
            keras.tree.map_structure(lambda leaf: leaf[rows], part) for part in self.arrays
        )


class Reordering(Rows):
    """Deals the examples out anew after each epoch."""

    def on_epoch_end(self):
        order = np.random.default_rng(len(self.asked)).permutation(len(self.arrays[0]))
        self.arrays = tuple(array[order] for array in self.arrays)


class Reading(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches = []

    def on_batch_drawn(self, batch):
        self.batches.append(batch)


def known(digits, rate=0.01, **arguments):
    """A classifier that knows the easy examples, with a rate to go on with."""
    model = classifier(0.3, **arguments)
    model.fit(digits[0][:1000], digits[1][:1000], epochs=4, verbose=0)
    model.optimizer.learning_rate = rate
    return model


def scores_of(model, x, y):
    p = model.predict(x, verbose=0).astype(np.float64)
    return np.sqrt(((p - np.eye(p.shape[1])[y]) ** 2).sum(1))


def pools(score, epochs, shuffle=False, learned=None):
    """The batches of some epochs of 200 batches of two rows, drawn from pools of five parts.

    Rows have the scores `score(rows)`, and in an epoch `learned(rows)` once they are drawn.
    """
    x = np.arange(400.0, dtype="float32")[:, None]
    source = Rows(x, x[:, 0], lengths=[2] * 200)
    generators = np.random.default_rng(1).spawn(3)
    reader = StreamReader(source, None, generators[:2], shuffle, None)
    known = KnownReader(reader, Identity(reader))
    scorer = types.SimpleNamespace(
        has_masks=False, loss_weights=lambda weights, *rest, **y: weights
    )
    memory = ExampleMemory(0)
    parts = PooledParts(known, memory, 0.5, generators[2])
    sampler = RememberedSampler(parts, scorer, memory, 0.5, lambda y: None)
    found, order = [], None
    for epoch in range(1 + epochs):
        reader.begin_epoch()
        sampler.begin_epoch(True)
        step = 0
        while step < 200:
            batches = sampler.next_batches(1, 200 - step)
            step += len(batches)
            found += batches
            if learned and epoch:
                rows = np.concatenate([batch.indices for batch in batches])
                memory.record(order[rows], np.stack([learned(rows)] * 2, axis=1))
            assert all(batch.by_importance == (epoch > 0) for batch in batches)
        parts.end_epoch()
        reader.end_epoch()
        order = known.identity.order()
        memory.resize(known.identity.count)
        memory.record(order, np.stack([score(np.arange(400))] * 2, axis=1))
        if epoch == 0:
            sampler.gain.value, sampler.gain.is_measured = 2.0, True
    for batch in found:
        np.testing.assert_array_equal(batch.x[:, 0], batch.indices)
        assert len(batch.y) == 2
    return found[200:]


@pytest.mark.any_backend
@pytest.mark.parametrize("shuffle", [False, True])
def test_equal_scores_draw_each_row_that_is_read_once(shuffle):
    epochs = 4
    drawn = np.concatenate(
        [batch.indices for batch in pools(lambda rows: np.ones(len(rows)), epochs, shuffle)]
    )
    counts = np.bincount(drawn, minlength=400)
    if shuffle:
        # Some rows that were read late in the first epoch, or in the last one.
        assert np.mean(counts == epochs) > 0.6 and np.abs(counts - epochs).max() <= 2
    else:
        # The rows of the last four twentieths also came before the first draw, or are not yet due.
        assert (counts[:320] == epochs).all()


@pytest.mark.any_backend
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_steps_of_an_epoch_add_up_to_those_of_all_examples(shuffle):
    epochs, values = 40, np.random.default_rng(0).gamma(0.5, size=400).astype("float32")
    sums, rare = np.zeros(epochs), np.zeros(epochs)
    is_rare = values < 0.2
    for step, batch in enumerate(pools(lambda rows: values[rows], epochs, shuffle)):
        assert batch.importance.max() <= 2.0
        sums[step // 200] += np.sum(batch.importance * np.sin(batch.y))
        rare[step // 200] += np.sum(batch.importance * is_rare[batch.indices])
    # Rows of low scores have large weights, so if they came too often `rare` would show it.
    for found, expected in ((sums, np.sin(np.arange(400.0)).sum()), (rare, is_rare.sum())):
        error = found.std(ddof=1) / np.sqrt(epochs)
        assert abs(found.mean() - expected) < 3 * error + 0.01 * is_rare.sum()
    # Independent draws from each pool: 12 and more.
    assert rare.std() < 9


@pytest.mark.any_backend
def test_examples_that_are_learned_when_they_are_drawn_keep_their_weight():
    epochs, hard = 40, np.arange(400) % 4 == 0
    scores = np.where(hard, 4.0, 1.0)
    sums = np.zeros((epochs, 2))
    drawn = pools(lambda rows: scores[rows], epochs, True, learned=lambda rows: scores[rows] / 8)
    for step, batch in enumerate(drawn):
        for column, rows in enumerate((hard, ~hard)):
            sums[step // 200, column] += np.sum(batch.importance * rows[batch.indices])
    # With scores that change within the five pools of a row, the hard ones had 93 of 100.
    error = sums.std(axis=0, ddof=1) / np.sqrt(epochs)
    assert (np.abs(sums.mean(axis=0) - [100, 300]) < 3 * error + 0.5).all(), (sums.mean(0), error)


@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"workers": 2, "max_queue_size": 2}, marks=pytest.mark.slow)],
)
def test_each_batch_is_read_once_an_epoch_and_importance_gains(digits, settings):
    source, counts = Rows(digits[0][:640], digits[1][:640], **settings), []

    class Count(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            source.asked.clear()

        def on_epoch_end(self, epoch, logs=None):
            counts.append(sorted(source.asked))

    trainer = ks.ImportanceTraining(classifier(0.2), seed=0, ease_off=False)
    history = trainer.fit(source, epochs=6, callbacks=[Count()], verbose=0).history
    assert counts == [list(range(20))] * 6
    assert history["importance"][0] == 0.0 and history["importance"][-1] == 1.0
    assert history["presample"] == [1.0] * 6
    assert history["gain"][-1] > 1.1


@pytest.mark.parametrize(
    "lengths", [None, [7, 50, 1, 42], pytest.param([1, 99], marks=pytest.mark.slow)]
)
@pytest.mark.any_backend
def test_memory_and_draws_are_in_the_order_of_batches_and_rows(digits, lengths):
    x, y = digits[0][:100], digits[1][:100]
    model, reading = known(digits, 0.0), Reading()
    trainer = ks.ImportanceTraining(model, seed=0)
    source = Rows(x, y, lengths=lengths)
    history = trainer.fit(source, epochs=12, callbacks=[reading], verbose=0).history
    assert history["importance"][0] == 0.0 and history["importance"][-1] == 1.0
    np.testing.assert_allclose(trainer.memory.score, scores_of(model, x, y), rtol=1e-4)
    # Which rows come before a batch is known from the second epoch on; of equal batches, at once.
    for batch in reading.batches[len(source) if lengths else 0 :]:
        np.testing.assert_array_equal(x[batch.indices], batch.x)
        np.testing.assert_array_equal(y[batch.indices], batch.y)
    drawn = [batch for batch in reading.batches if batch.by_importance]
    for batch in drawn:
        expected = scores_of(model, batch.x, batch.y)
        np.testing.assert_allclose(batch.scores, expected, rtol=1e-4)
    # In each epoch there are as many batches of each length.
    steps = len(source)
    for start in range(0, 12 * steps, steps):
        found = sorted(len(batch.y) for batch in reading.batches[start : start + steps])
        assert found == sorted(np.diff(source.ends))


def test_a_shut_gate_trains_as_fit_does(digits):
    x, y = digits[0][:210], digits[1][:210]

    def even(y_true, y_pred):
        return keras.ops.ones(y_pred.shape[0] or keras.ops.shape(y_pred)[0])

    ours, theirs, reading = classifier(), classifier(), Reading()
    source = Rows(x, y)
    trainer = ks.ImportanceTraining(ours, score=even, seed=0)
    history = trainer.fit(source, epochs=3, shuffle=False, callbacks=[reading], verbose=0).history
    expected = theirs.fit(source, epochs=3, shuffle=False, verbose=0).history
    assert history["importance"] == [0.0] * 3 and trainer.memory.seen.all()
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for step, batch in enumerate(reading.batches):
        np.testing.assert_array_equal(batch.x, source[step % 7][0])
        assert (batch.importance == 1).all()


def test_reported_numbers_are_those_of_the_whole_data(digits):
    x, y = digits[0][:300], digits[1][:300]
    weights = np.where(y % 2 == 0, 3.0, 0.2).astype("float32")
    model = known(digits, 0.0, weighted_metrics=["accuracy"])
    source = Rows(x, y, weights, lengths=[32, 50, 18] * 3)
    history = ks.ImportanceTraining(model, seed=0).fit(source, epochs=40, verbose=0).history
    drawn = np.array(history["importance"]) == 1
    assert drawn.sum() > 35
    for name, value in model.evaluate(source, verbose=0, return_dict=True).items():
        measured = np.array(history[name])[drawn]
        error = measured.std(ddof=1) / np.sqrt(len(measured))
        assert abs(measured.mean() - value) < 3 * error, (name, measured.mean(), value, error)


@pytest.mark.slow
def test_dicts_several_outputs_and_masks_are_scored_as_from_arrays():
    generator = np.random.default_rng(0)
    words = generator.integers(1, 9, (90, 6)) * (np.arange(6) < generator.integers(1, 7, (90, 1)))
    x = {"words": words, "numbers": generator.normal(size=(90, 2)).astype("float32")}
    y = {"tag": generator.integers(0, 3, (90, 6)), "mean": x["numbers"].mean(1, keepdims=True)}

    def memory(by_batch):
        keras.utils.set_random_seed(0)
        inputs = {
            "words": keras.Input((6,), name="words"),
            "numbers": keras.Input((2,), name="numbers"),
        }
        hidden = keras.layers.Embedding(9, 6, mask_zero=True)(inputs["words"])
        tag = keras.layers.Dense(3, activation="softmax", name="tag")(hidden)
        mean = keras.layers.Dense(1, name="mean")(inputs["numbers"])
        model = keras.Model(inputs, {"tag": tag, "mean": mean})
        losses = {"tag": "sparse_categorical_crossentropy", "mean": "mse"}
        model.compile(keras.optimizers.SGD(0.0), losses)
        trainer = ks.ImportanceTraining(model, seed=0, floor=0.1)
        data = (Rows(x, y),) if by_batch else (x, y)
        history = trainer.fit(*data, epochs=12, verbose=0).history
        assert history["importance"][-1] == 1.0
        return trainer.memory, history["loss"]

    (memory_of_batches, losses), (of_arrays, expected) = memory(True), memory(False)
    for name in ("score", "loss", "probability"):
        found = getattr(memory_of_batches, name)
        np.testing.assert_allclose(found, getattr(of_arrays, name), rtol=1e-4, err_msg=name)
    drawn = np.array(losses[1:])
    assert abs(drawn.mean() - expected[0]) < 3 * drawn.std(ddof=1) / np.sqrt(len(drawn)) + 0.01


@pytest.mark.any_backend
def test_a_further_fit_on_the_same_object_goes_on(digits):
    x, y = digits[0][:200], digits[1][:200]
    trainer, source = ks.ImportanceTraining(known(digits), seed=0), Rows(x, y)
    shares = [trainer.fit(source, verbose=0).history["importance"][0] for _ in range(3)]
    assert shares == [0.0, 1.0, 1.0]
    assert trainer.fit(Rows(x, y), verbose=0).history["importance"] == [0.0]
    assert trainer.fit(x, y, verbose=0).history["importance"] == [0.0]
    assert trainer.fit(x, y, verbose=0).history["importance"] == [1.0]


@pytest.mark.any_backend
def test_a_source_that_reorders_its_examples_is_known_by_content(digits):
    x, y = digits[0][:320], digits[1][:320]

    class Logging(Rows):
        def on_epoch_end(self):
            """Reorders nothing."""

    for kind in (Rows, Logging):
        trainer = ks.ImportanceTraining(known(digits), seed=0)
        assert trainer.fit(kind(x, y), epochs=2, verbose=0).history["importance"] == [0.0, 1.0]
    model = known(digits, 0.0)
    trainer, reading = ks.ImportanceTraining(model, seed=0), Reading()
    source = Reordering(x, y)
    # Its first batch shows that another order has come, and is trained on as it comes.
    history = trainer.fit(source, epochs=12, callbacks=[reading], verbose=0).history
    assert history["importance"][0] == 0.0 and history["importance"][1:] == [1.0] * 11
    assert len(trainer.memory) == 320 == len(trainer.memory.ids)
    for batch in reading.batches[10:]:
        np.testing.assert_allclose(
            trainer.memory.score[batch.indices], scores_of(model, batch.x, batch.y), rtol=1e-4
        )


def test_a_source_that_reorders_and_augments_is_not_remembered(digits, monkeypatch):
    monkeypatch.setattr(prepare, "COST_RATIO", 0.01)

    class Augmenting(Reordering):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            noise = np.random.default_rng(len(self.asked)).normal(0, 0.01, x.shape)
            return x + noise.astype("float32"), y

    trainer = ks.ImportanceTraining(known(digits), seed=0)
    source, reading = Augmenting(digits[0][:320], digits[1][:320]), Reading()
    with pytest.warns(UserWarning, match="other contents in each pass.*with ids that stay") as w:
        history = trainer.fit(source, epochs=3, callbacks=[reading], verbose=0).history
    said = [warning for warning in w if "other contents" in str(warning.message)]
    assert len(said) == 1 and trainer.memory is None
    # By fresh scores of a presample from the second epoch on; nothing was lost.
    assert history["presample"][-1] > 1.0
    assert all(batch.indices is None for batch in reading.batches[11:])
    assert len(reading.batches) == 30
    again = trainer.fit(source, verbose=0).history
    assert trainer.memory is None and again["presample"][0] > 1.0


def test_batches_that_change_their_length_are_not_remembered(digits, monkeypatch):
    monkeypatch.setattr(prepare, "COST_RATIO", 0.01)
    x, y = digits[0][:320], digits[1][:320]
    source, trainer = Rows(x, y), ks.ImportanceTraining(known(digits), seed=0)

    class Shorten(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            source.ends[3] += epoch == 2

    history = trainer.fit(source, epochs=5, callbacks=[Shorten()], verbose=0).history
    assert history["importance"][2] == 1.0 and history["presample"][2] == 1.0
    assert trainer.memory is None and history["presample"][-1] > 1.0


@pytest.mark.slow
def test_batches_of_several_lengths_of_time_train_on(digits):
    x, y = digits[0][:160].reshape(160, 8, 8), digits[1][:160]

    class Cut(Rows):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x[:, : 6 + index % 3], y

    keras.utils.set_random_seed(0)
    layers = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((None, 8)), *layers])
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")

    def score(y_true, y_pred):
        return keras.ops.cast(keras.ops.equal(y_true, 3), "float32") + 0.01

    trainer = ks.ImportanceTraining(model, score=score, seed=0)
    history = trainer.fit(Cut(x, y, lengths=[16] * 10), epochs=3, verbose=0).history
    # In groups of one shape.
    assert history["importance"] == [0.0, 1.0, 1.0] and trainer.memory.seen.all()
    assert int(model.optimizer.iterations) == 30


def test_scores_of_other_examples_keep_the_gate_shut_whatever_they_predict(digits):
    """A place holds any example at each reading, and no hook tells."""
    x, y = digits[0][:640], digits[1][:640]
    generator = np.random.default_rng(0)

    class AtRandom(Rows):
        def __getitem__(self, index):
            rows = generator.integers(0, 640, 32)
            return x[rows], y[rows]

    model = classifier(0.2)
    trainer = ks.ImportanceTraining(model, seed=0)
    history = trainer.fit(AtRandom(x, y), epochs=10, verbose=0).history
    # They predict less than half of the variance, and none of that comes true.
    assert history["tau"][-1] > 1.4
    assert history["importance"] == [0.0] * 10, history["importance"]
    assert history["accuracy"][-1] > 0.85


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has it not on PyTorch")
def test_steps_per_execution_and_short_epochs(digits):
    x, y = digits[0][:330], digits[1][:330]
    model = known(digits, 0.0, steps_per_execution=4)
    trainer = ks.ImportanceTraining(model, seed=0)
    history = trainer.fit(Rows(x, y), epochs=3, verbose=0).history
    np.testing.assert_allclose(trainer.memory.score, scores_of(model, x, y), rtol=1e-4)
    assert history["importance"] == [0.0, 1.0, 1.0]


@pytest.mark.slow
def test_short_epochs_wait_for_the_scores_of_most_examples(digits):
    x, y = digits[0][:320], digits[1][:320]
    trainer = ks.ImportanceTraining(known(digits), seed=0)
    history = trainer.fit(Rows(x, y), steps_per_epoch=2, epochs=8, verbose=0).history
    assert history["importance"][:4] == [0.0] * 4
    assert history["importance"][-1] == 1.0


def test_a_seed_repeats_a_run_to_the_last_bit(digits):
    x, y = digits[0][:200], digits[1][:200]

    def run(**settings):
        model = known(digits)
        source = Rows(x, y, **settings)
        return model, ks.ImportanceTraining(model, seed=3).fit(source, epochs=3, verbose=0).history

    (first, history), (second, again) = run(), run(workers=2)
    assert history == again and history["importance"][-1] == 1.0
    assert_same_weights(first, second)


def test_a_number_for_presample_keeps_the_papers_rule(digits):
    trainer = ks.ImportanceTraining(known(digits), presample=2.0, tau_threshold=0, seed=0)
    history = trainer.fit(Rows(digits[0][:128], digits[1][:128]), epochs=2, verbose=0).history
    assert history["presample"] == [2.0, 2.0] and trainer.memory is None
