"""Importance training from pipelines: iterables, generators and loaders that shuffle anew."""

import itertools
import threading
import time
import traceback

import keras
import numpy as np
import pytest
from small_models import classifier

import keras_swift as ks
from keras_swift.src.data import read_ahead
from keras_swift.src.importance import step_records


class Shuffled:
    """Batches of 32 in another order in each pass; of no kind that Keras knows but iterable."""

    def __init__(self, x, y, ids=None, change=None, length=True, weights=None):
        self.x, self.y, self.ids, self.change, self.weights = x, y, ids, change, weights
        self.passes, self.read, self.closed = 0, 0, 0
        if length:
            self.__class__ = Measured

    def __iter__(self):
        generator = np.random.default_rng(self.passes)
        self.passes += 1
        try:
            order = generator.permutation(len(self.y))
            for rows in np.array_split(order, -(-len(order) // 32)):
                self.read += 1
                x = self.x[rows] if self.change is None else self.change(self.x[rows], generator)
                weights = None if self.weights is None else self.weights[rows]
                part = (x, self.y[rows], weights)
                yield part if self.ids is None else (*part, self.ids[rows])
        finally:
            self.closed += 1


class Measured(Shuffled):
    def __len__(self):
        return -(-len(self.y) // 32)


def endless(source):
    while True:
        yield from source


def noisy(x, generator):
    return x + generator.normal(0, 0.01, x.shape).astype("float32")


def known(digits, rate=0.01, **arguments):
    model = classifier(0.3, **arguments)
    model.fit(digits[0][:1000], digits[1][:1000], epochs=4, verbose=0)
    model.optimizer.learning_rate = rate
    return model


def scores_of(model, x, y):
    p = model.predict(x, verbose=0).astype(np.float64)
    return np.sqrt(((p - np.eye(p.shape[1])[y]) ** 2).sum(1))


def threads():
    return {t for t in threading.enumerate() if t.name.startswith("keras_swift")}


@pytest.fixture
def no_thread_is_left():
    """Those of readers that other tests did not close do not count."""
    before = threads()
    yield
    assert threads() <= before


def test_what_is_remembered_is_that_of_arrays_by_content_and_by_ids(digits):
    x, y = digits[0][:320], digits[1][:320]
    model = known(digits, 0.0)
    expected = scores_of(model, x, y)
    trainer = ks.ImportanceTraining(model, seed=0)
    history = trainer.fit(Shuffled(x, y), epochs=3, verbose=0).history
    assert history["importance"] == [0.0, 1.0, 1.0] and history["gain"][-1] > 1.5
    np.testing.assert_allclose(np.sort(trainer.memory.score), np.sort(expected), rtol=1e-4)

    names = np.array([f"image {index}" for index in range(320)])
    history = trainer.fit(Shuffled(x, y, names, noisy), epochs=3, verbose=0).history
    assert history["importance"] == [0.0, 1.0, 1.0]
    found = dict(zip(trainer.memory.ids.tolist(), trainer.memory.score, strict=True))
    near = [found[name] for name in names]
    assert np.corrcoef(near, expected)[0, 1] > 0.9 and len(found) == 320


def test_an_epoch_reads_each_batch_once_and_ends_with_it(digits, no_thread_is_left):
    x, y = digits[0][:640], digits[1][:640]
    source, counts = Shuffled(x, y), []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: counts.append(source.read))
    ks.ImportanceTraining(known(digits), seed=0).fit(source, epochs=3, callbacks=[count], verbose=0)
    # The first batch is also read to build the model.
    np.testing.assert_array_equal(np.diff(counts), [20, 20])


@pytest.mark.parametrize("steps", [20, 7])
def test_a_generator_without_an_end_is_known_when_it_comes_back(digits, steps):
    source = Shuffled(digits[0][:640], digits[1][:640])
    trainer = ks.ImportanceTraining(known(digits), seed=0)
    epochs = 3 if steps == 20 else 8
    history = trainer.fit(endless(source), steps_per_epoch=steps, epochs=epochs, verbose=0).history
    assert history["importance"][0] == 0.0 and history["importance"][-1] == 1.0
    # Not one more than was trained on: what follows is for whoever reads on.
    assert source.read == steps * epochs
    assert len(trainer.memory) == 640


def test_a_source_without_a_length_is_counted_and_remembered(digits):
    source = Shuffled(digits[0][:320], digits[1][:320], length=False)
    trainer = ks.ImportanceTraining(known(digits), seed=0)
    with pytest.warns(UserWarning, match="read once from end to end"):
        history = trainer.fit(source, epochs=2, verbose=0).history
    assert history["importance"] == [0.0, 1.0]


@pytest.mark.slow
def test_reported_numbers_are_those_of_the_whole_data(digits):
    x, y = digits[0][:300], digits[1][:300]
    weights = np.where(y % 2 == 0, 3.0, 0.2).astype("float32")
    model = known(digits, 0.0, weighted_metrics=["accuracy"])
    source = Shuffled(x, y, weights=weights)
    history = ks.ImportanceTraining(model, seed=0).fit(source, epochs=40, verbose=0).history
    drawn = np.array(history["importance"]) == 1
    assert drawn.sum() == 39
    expected = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    for name, value in expected.items():
        measured = np.array(history[name])[drawn]
        error = measured.std(ddof=1) / np.sqrt(len(measured))
        # 3 standard errors: a false alarm in one of 370 seeds for each number.
        assert abs(measured.mean() - value) < 3 * error, (name, measured.mean(), value, error)


@pytest.mark.slow
def test_repeated_examples_share_a_score_and_the_loss_stays_that_of_all(digits):
    x, y = np.tile(digits[0][:64], (5, 1)), np.tile(digits[1][:64], 5)
    model = known(digits, 0.0)
    trainer = ks.ImportanceTraining(model, seed=1)
    history = trainer.fit(Shuffled(x, y), epochs=40, verbose=0).history
    assert len(trainer.memory) == 64 and history["importance"][1:] == [1.0] * 39
    drawn = np.array(history["loss"][1:])
    error = drawn.std(ddof=1) / np.sqrt(len(drawn))
    assert abs(drawn.mean() - model.evaluate(x, y, verbose=0)[0]) < 3 * error


def tagger(source):
    """Knows most of the tags."""
    keras.utils.set_random_seed(0)
    stack = [
        keras.layers.Embedding(9, 6, mask_zero=True),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((None,)), *stack])
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    model.fit(source.x, source.y, epochs=12, verbose=0)
    model.optimizer.learning_rate = 0.0
    return model


class Bucketed:
    """Sentences of 1 to 12 words, near ones together, each batch padded to 4, 8 or 12."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.lengths = np.sort(generator.integers(1, 13, 160))
        self.x = generator.integers(1, 9, (160, 12)) * (np.arange(12) < self.lengths[:, None])
        wrong = generator.random((160, 12)) < 0.1
        self.y = np.where(wrong, self.x + 1, self.x) % 3 * (self.x > 0)
        self.generator = generator

    def __len__(self):
        return 10

    def __iter__(self):
        # Which sentences share a batch changes, and with it how far they are padded.
        near = np.argsort(self.lengths + self.generator.uniform(0, 2, 160))
        batches = []
        for rows in self.generator.permutation(near.reshape(10, 16)):
            longest = -(-self.lengths[rows].max() // 4) * 4
            batches.append((self.x[rows, :longest], self.y[rows, :longest]))
        # Keras' `fit` on TensorFlow takes a length that the first two share for that of all.
        others = (i for i in range(1, 10) if batches[i][0].shape != batches[0][0].shape)
        batches.insert(1, batches.pop(next(others)))
        yield from batches


@pytest.mark.any_backend
def test_batches_of_several_lengths_are_drawn_in_groups_of_one_shape():
    source = Bucketed()
    model = tagger(source)
    trainer = ks.ImportanceTraining(model, seed=0, floor=0.1)
    history = trainer.fit(source, epochs=30, verbose=0).history
    assert history["importance"] == [0.0] + [1.0] * 29
    # However far it was padded, a sentence has one row.
    different = np.unique(np.concatenate([source.x, source.y], axis=1), axis=0)
    assert len(trainer.memory) == len(different) and trainer.memory.seen.all()
    drawn = np.array(history["loss"][1:])
    error = drawn.std(ddof=1) / np.sqrt(len(drawn))
    # Each step of `fit` divides by the words of its own batch.
    settings = {"steps_per_epoch": 10, "epochs": 30, "shuffle": False, "verbose": 0}
    uniform = model.fit(endless(source), **settings).history["loss"]
    spread = np.std(uniform, ddof=1) / np.sqrt(len(uniform))
    assert abs(drawn.mean() - np.mean(uniform)) < 3 * np.hypot(error, spread)


class Tagger(keras.Model):
    """A model that says nothing of its inputs' lengths."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(9, 6)
        self.tag = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.tag(self.embed(inputs))


@pytest.mark.parametrize("says", ["model", "source"])
def test_two_batches_of_one_length_do_not_fix_the_length(says):
    batches = []
    for length in (8, 8, 4, 12):
        x = np.random.default_rng(length).integers(0, 9, (16, length))
        batches.append((x, x % 3, np.ones((16, length), "float32")))
    if says == "source":
        tf = pytest.importorskip("tensorflow")
        spec = tuple(tf.TensorSpec((None, None), array.dtype) for array in batches[0])
        source = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
        model = Tagger()
    else:
        source = itertools.cycle(batches)
        model = keras.Sequential([keras.Input((None,)), Tagger().embed, Tagger().tag])
    model.compile("sgd", "sparse_categorical_crossentropy")
    settings = {"steps_per_epoch": 4, "epochs": 3, "verbose": 0}
    history = ks.ImportanceTraining(model, seed=0).fit(source, **settings).history
    assert len(history["loss"]) == 3 and np.isfinite(history["loss"]).all()


def test_the_next_pool_of_a_slow_source_is_read_while_one_is_trained_on(digits, monkeypatch):
    monkeypatch.setattr(read_ahead, "SLOW", 0.0)
    monkeypatch.setattr(read_ahead, "MEASURED", 1)
    source, begun = Shuffled(digits[0][:640], digits[1][:640]), []

    class Wait(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            begun.append(source.read)

        def on_train_batch_end(self, batch, logs=None):
            # In the first pool of five: training waits here until the second has been read.
            end = time.monotonic() + 20
            while batch == 1 and len(begun) > 1 and source.read < begun[-1] + 10:
                assert time.monotonic() < end, "nothing is read while the model trains"
                time.sleep(0.001)

    trainer = ks.ImportanceTraining(known(digits), seed=0)
    history = trainer.fit(source, epochs=3, callbacks=[Wait()], verbose=0).history
    assert history["importance"] == [0.0, 1.0, 1.0]
    np.testing.assert_array_equal(np.diff(begun), [20, 20])


@pytest.mark.any_backend
def test_the_next_pool_is_read_before_the_scores_of_the_last_one(digits, monkeypatch):
    """Reading scores waits for the steps that a device has not made yet."""
    source, seen = Shuffled(digits[0][:640], digits[1][:640]), []
    read_back = step_records.StepRecords.read_back

    def noted(self, *arguments):
        seen.append(source.read)
        read_back(self, *arguments)

    monkeypatch.setattr(step_records.StepRecords, "read_back", noted)
    trainer = ks.ImportanceTraining(known(digits), seed=0)
    history = trainer.fit(source, epochs=3, verbose=0).history
    assert history["importance"] == [0.0, 1.0, 1.0] and trainer.memory.known_share == 1.0
    # Two pools of five and the end of the epoch. One batch more was read to build the model.
    assert seen[-3:] == [56, 61, 61]


@pytest.mark.any_backend
def test_a_quick_source_is_read_by_the_thread_that_trains(digits, monkeypatch):
    monkeypatch.setattr(read_ahead, "SLOW", 1.0)
    monkeypatch.setattr(read_ahead, "MEASURED", 1)
    found = set()

    def noted(x, generator):
        found.add(threading.get_ident())
        return x

    source = Shuffled(digits[0][:640], digits[1][:640], change=noted)
    ks.ImportanceTraining(known(digits), seed=0).fit(source, epochs=3, verbose=0)
    assert found == {threading.get_ident()}


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_exception_of_the_source_arrives_as_raised_and_no_thread_is_left(
    digits, epoch, no_thread_is_left
):
    class Broken(Shuffled):
        def breaking(self, x, generator):
            if self.passes > epoch + 1 and self.read % 20 == 7:
                raise OSError("the disk is gone")
            return x

    source = Broken(digits[0][:640], digits[1][:640], length=False)
    source.change = source.breaking
    trainer = ks.ImportanceTraining(known(digits), seed=0)
    with pytest.raises(OSError, match="^the disk is gone$") as caught:
        trainer.fit(source, steps_per_epoch=20, epochs=4, verbose=0)
    assert "breaking" in [f.name for f in traceback.extract_tb(caught.value.__traceback__)]


def test_an_interrupted_run_leaves_no_thread_and_closes_the_source(digits, no_thread_is_left):
    source = Shuffled(digits[0][:640], digits[1][:640])

    def interrupt(batch, logs=None):
        if source.passes > 2 and batch == 9:
            raise KeyboardInterrupt

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    trainer = ks.ImportanceTraining(known(digits), seed=0)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(source, epochs=4, callbacks=[callback], verbose=0)
    assert source.closed == source.passes
    # It can be gone on with.
    assert trainer.fit(source, epochs=1, verbose=0).history["importance"] == [1.0]


def test_a_resumed_run_knows_the_examples_again(digits, tmp_path):
    x, y = digits[0][:320], digits[1][:320]
    names = np.arange(320) * 7

    def train(epochs, source):
        model = known(digits)
        trainer = ks.ImportanceTraining(model, seed=0)
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        history = trainer.fit(source, epochs=epochs, callbacks=[backup], verbose=0)
        return trainer, history.history

    first, _ = train(2, Shuffled(x, y, names, noisy))
    second, history = train(3, Shuffled(x, y, names, noisy))
    assert history["importance"] == [1.0]
    np.testing.assert_array_equal(second.memory.ids, first.memory.ids)


@pytest.mark.any_backend
def test_a_seed_repeats_a_run_to_the_last_bit(digits):
    def run():
        source = Shuffled(digits[0][:320], digits[1][:320])
        return ks.ImportanceTraining(known(digits), seed=3).fit(source, epochs=3, verbose=0).history

    assert run() == run()


@pytest.mark.any_backend
def test_image_data_generators_are_data_sets_with_an_end(digits):
    """They have `__next__` too, which is not how they are read."""
    x, y = digits[0][:320], digits[1][:320]

    class Flow(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.order = np.arange(320)

        def __len__(self):
            return 10

        def __getitem__(self, index):
            rows = self.order[32 * index : 32 * index + 32]
            return x[rows], y[rows]

        def __iter__(self):
            return self

        def __next__(self):
            raise AssertionError("read as a generator")

        def on_epoch_end(self):
            self.order = np.random.default_rng(0).permutation(320)

    for settings in ({}, {"steps_per_epoch": 10}):
        trainer = ks.ImportanceTraining(known(digits), seed=0)
        history = trainer.fit(Flow(), epochs=3, verbose=0, **settings).history
        assert history["importance"] == [0.0, 1.0, 1.0]
