"""`SwiftTraining` on streams: drawn from pools of the next batches, each read once an epoch."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from small_models import assert_same_weights, classifier, counting_model, counts, one_hot_data
from small_streams import Dealt, shuffled

import keras_swift as ks
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.identity import Identity
from keras_swift.src.swift.datasets import DrawnDataset
from keras_swift.src.swift.pooled import PooledDataset
from keras_swift.src.swift.trainer import SwiftTraining

UNIFORM = ks.SwiftSampler.uniform(["position"], transform="cdf")
# Of the lower half each example is drawn twice, of the other none.
LOWER = ks.SwiftSampler([0.51, 0.51], [1.0, 1.0, 0.0, 0.0], [1.0], ["position"], "cdf")
SLOPED = ks.SwiftSampler([0.5], [1.0, 0.6, 0.2], [1.0], ["position"], "cdf")


def position(y_true, y_pred):
    """A feature that a one-hot linear reference makes the index of the example."""
    return y_pred[:, 0]


def reference(n):
    model = keras.Sequential([keras.Input((n,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    model.set_weights([np.arange(n, dtype="float32")[:, None]])
    return model


def dealt(n, ids=False, orders=None):
    x, y = one_hot_data(n)
    form = lambda rows: (x[rows], y[rows], None, rows) if ids else (x[rows], y[rows])  # noqa: E731
    return Dealt(orders or shuffled(n), form)


def training(model, n, sampler=LOWER, **settings):
    given = {"reference": reference(n), "features": {"position": position}, **settings}
    return SwiftTraining(model, sampler, seed=0, **given)


@pytest.mark.parametrize("ids", [False, True])
def test_a_uniform_sampler_trains_on_each_example_once_an_epoch(ids):
    model, stream = counting_model(480), dealt(480, ids)
    history = training(model, 480, UNIFORM).fit(stream, epochs=3, verbose=0)
    assert counts(model).tolist() == [3.0] * 480
    assert len(history.history["loss"]) == 3
    # Each batch once an epoch; the first is kept from before.
    assert stream.passes == 3


def test_the_better_half_is_drawn_twice_as_often():
    model = counting_model(480)
    training(model, 480).fit(dealt(480), epochs=4, verbose=0)
    found = counts(model)
    assert found.sum() == 4 * 480
    # Ranks of the first epoch are among those read so far; pools have some more or fewer of them.
    assert found[:230].min() >= 5 and found[260:].max() <= 2
    assert found[:240].mean() > 7.4


def test_draws_are_those_of_the_probabilities_over_the_whole_data():
    n, epochs = 320, 12
    model = counting_model(n)
    features = {"position": np.arange(n)}
    stream = dealt(n, ids=True, orders=shuffled(n, epochs))
    SwiftTraining(model, SLOPED, features=features, seed=0).fit(stream, epochs=epochs, verbose=0)
    expected = epochs * n * SLOPED.probabilities(features)
    found = counts(model)
    assert found.sum() == epochs * n
    # A count is off by less than 1 in each epoch, so by chance by less than 3 standard deviations;
    # sums over tenths are much nearer.
    assert np.abs(found - expected).max() < 3.5 * np.sqrt(epochs / 4) + 1
    tenths = found.reshape(10, -1).sum(axis=1), expected.reshape(10, -1).sum(axis=1)
    np.testing.assert_allclose(*tenths, rtol=0.06)


def pool_draws(chance, n=64):
    """How often each row of one pool of 64 rows is drawn, on average over 400 seeds."""
    x, y = one_hot_data(n)
    total = np.zeros(n)
    for seed in range(400):
        generators = np.random.default_rng(0).spawn(2)
        form = lambda rows: (x[rows], y[rows], None, rows)  # noqa: E731
        stream = StreamReader(Dealt([np.arange(n)], form), None, generators, False, None)
        dataset = PooledDataset(stream, Identity(stream), seed)
        dataset.known.pool_steps = 2
        dataset.draw_by(np.asarray(chance) / n)
        drawn = np.concatenate([dataset[k][0] for k in range(2)])
        assert len(drawn) == n
        total += drawn.sum(axis=0)
        dataset.close()
    return total / 400


@pytest.mark.parametrize(
    ("chance", "expected"),
    [
        # A pool like the whole data.
        (np.repeat([0.5, 1.5], 32), np.repeat([0.5, 1.5], 32)),
        # One that is richer: as many rows as were read.
        (np.repeat([0.5, 3.5], 32), np.repeat([0.25, 1.75], 32)),
        # Poorer: at most twice as often, and the rest spread over all.
        (np.repeat([0.0, 0.5], 32), np.repeat([0.5, 1.5], 32)),
        (np.zeros(64), np.ones(64)),
    ],
)
def test_a_pool_draws_as_many_rows_as_were_read(chance, expected):
    # The standard deviation of a mean of 400 counts that are off by less than 1 is below 0.025.
    np.testing.assert_allclose(pool_draws(chance), expected, atol=0.1)


def test_the_reference_is_asked_once_for_each_example(monkeypatch):
    from keras_swift.src.swift.features import FeatureScorer

    rows = []
    call = FeatureScorer.__call__

    def noted(self, x, y):
        rows.append(len(x))
        return call(self, x, y)

    monkeypatch.setattr(FeatureScorer, "__call__", noted)
    training(counting_model(480), 480).fit(dealt(480), epochs=3, verbose=0)
    assert sum(rows) == 480


def test_contents_that_change_are_ranked_within_a_pool():
    x, y = one_hot_data(480)
    generator = np.random.default_rng(0)

    def form(rows):
        return x[rows] + generator.normal(0, 1e-6, (len(rows), 480)).astype("float32"), y[rows]

    model = counting_model(480)
    with pytest.warns(UserWarning, match=r"other contents in each pass.*yield `\(x, y, sample"):
        training(model, 480).fit(Dealt(shuffled(480), form), epochs=3, verbose=0)
    found = np.round(counts(model), 2)
    assert abs(found.sum() - 3 * 480) < 1
    assert found[:210].mean() > 5.5 and found[270:].mean() < 0.5


def test_features_of_the_stream_serve_as_those_of_arrays():
    n = 320
    x, y = one_hot_data(n)
    from_arrays = ks.compute_features(reference(n), x, y, {"position": position}, verbose=0)
    stream = Dealt(shuffled(n), lambda rows: (x[rows], y[rows], None, [f"{i}.png" for i in rows]))
    found = ks.compute_features(reference(n), stream, features={"position": position}, verbose=0)
    index = np.array([int(name.removesuffix(".png")) for name in found.ids])
    assert sorted(index) == list(range(n))
    np.testing.assert_array_equal(found["position"], from_arrays["position"][index])
    models = [counting_model(n), counting_model(n)]
    SwiftTraining(models[0], LOWER, features=found, seed=0).fit(stream, epochs=2, verbose=0)
    # By index: ids are numbers here, and the orders the same.
    numbered = Dealt(stream.orders[1:], lambda rows: (x[rows], y[rows], None, rows))
    given = {"position": np.arange(n)}
    SwiftTraining(models[1], LOWER, features=given, seed=0).fit(numbered, epochs=2, verbose=0)
    assert_same_weights(*models)
    assert counts(models[0])[:150].mean() > 3.5


def test_features_of_a_data_set_are_in_the_order_of_batches_and_rows(digits):
    x, y = digits[0][:100], digits[1][:100]

    class Rows(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return x[32 * index : 32 * index + 32], y[32 * index : 32 * index + 32]

    model = classifier()
    found = ks.compute_features(model, Rows(), features=("loss", "gradient_norm"), verbose=0)
    arrays = ks.compute_features(model, x, y, ("loss", "gradient_norm"), batch_size=32, verbose=0)
    assert found.ids is None
    for name, column in arrays.items():
        np.testing.assert_array_equal(found[name], column)


@pytest.mark.parametrize(
    ("features", "ids", "message"),
    [
        ({"position": np.arange(64)}, False, r"`x` must yield `\(x, y, sample_weight, ids\)`"),
        (
            {"position": np.arange(60)},
            True,
            r"60 numbers, and \d examples without.* id 6\d",
        ),
    ],
)
def test_features_that_belong_to_no_example_are_named(features, ids, message):
    model = counting_model(64)
    with pytest.raises(ValueError, match=message):
        SwiftTraining(model, LOWER, features=features, seed=0).fit(dealt(64, ids), verbose=0)


@pytest.mark.any_backend
def test_a_column_cannot_be_a_feature_of_a_stream(digits):
    stream = Dealt([np.arange(32)], lambda rows: (digits[0][rows], digits[1][rows], None, rows))
    with pytest.raises(ValueError, match="found by their ids. Received: .'age'.*"):
        ks.compute_features(classifier(), stream, features={"age": np.arange(32.0)}, verbose=0)


def test_features_of_a_record_are_not_computed_from_a_stream():
    with pytest.raises(ValueError, match=r"Received: \['mean_margin'\].*`find_suspects"):
        ks.compute_features(classifier(), dealt(64), features=("loss", "mean_margin"))


BY_MARGIN = ks.SwiftSampler([0.3, 0.3], [0.0, 0.0, 1.0, 1.0], [1.0], ["mean_margin"], "cdf")


def moved_labels(digits, n=480, share=0.2):
    generator = np.random.default_rng(0)
    x, y = digits[0][:n], digits[1][:n]
    wrong = generator.random(n) < share
    return x, np.where(wrong, (y + generator.integers(1, 10, n)) % 10, y), wrong


def test_a_stream_has_a_record_of_its_own_as_arrays_have(digits, monkeypatch):
    x, y, _ = moved_labels(digits)
    orders, records = {}, []
    draw = DrawnDataset._draw

    def noted(self):
        orders[self._epoch] = draw(self)
        return orders[self._epoch]

    monkeypatch.setattr(DrawnDataset, "_draw", noted)
    columns = ks.SwiftSampler.probabilities

    def seen(self, features, *rest):
        records.append(features["mean_margin"].copy())
        return columns(self, features, *rest)

    monkeypatch.setattr(ks.SwiftSampler, "probabilities", seen)
    SwiftTraining(classifier(0.2), BY_MARGIN, seed=0, warmup=3).fit(x, y, epochs=4, verbose=0)
    uniform = [orders[epoch] for epoch in range(3)]
    stream = Dealt([*uniform, uniform[0]], lambda rows: (x[rows], y[rows], None, rows))
    SwiftTraining(classifier(0.2), BY_MARGIN, seed=0, warmup=3).fit(stream, epochs=4, verbose=0)
    # After the same uniform epochs the record is the same, to the last bit.
    assert len(records) == 2
    np.testing.assert_array_equal(records[1], records[0][uniform[0]])


def test_a_record_of_its_own_leaves_the_doubtful_out_and_knows_them(digits):
    x, y, wrong = moved_labels(digits)
    drawn = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            drawn.append(np.concatenate(trainer._own.recorder._dataset.drawn(epoch)))

    stream = Dealt(shuffled(len(x)), lambda rows: (x[rows], y[rows], None, rows))
    trainer = SwiftTraining(classifier(0.2), BY_MARGIN, seed=0)
    trainer.fit(stream, epochs=12, verbose=0, callbacks=[Note()])
    found = trainer.suspects()
    assert roc_auc_score(wrong[found.ids], found.scores) > 0.93
    np.testing.assert_array_equal(found.labels, y[found.ids])
    # Uniform at first: each once. Then the doubtful are drawn rarely.
    assert np.bincount(drawn[0]).tolist() == [1] * len(x)
    late = np.concatenate(drawn[6:])
    assert wrong[found.ids[late]].mean() < 0.5 * wrong.mean()
    assert stream.passes == 13
    # Another fit goes on without a second warm-up.
    drawn.clear()
    trainer.fit(stream, epochs=1, verbose=0, callbacks=[Note()])
    assert wrong[found.ids[drawn[0]]].mean() < 0.5 * wrong.mean()


def test_ranks_in_a_class_are_those_of_the_labels_that_came(digits):
    x, y, _ = moved_labels(digits)
    sampler = ks.SwiftSampler([0.3], [0.0, 1.0, 1.0], [1.0], ["mean_margin_in_class"], "cdf")
    stream = Dealt(shuffled(len(x)), lambda rows: (x[rows], y[rows], None, rows))
    trainer = SwiftTraining(classifier(0.2), sampler, seed=0, warmup=1)
    trainer.fit(stream, epochs=2, verbose=0)
    ranks = trainer._own.columns()["mean_margin_in_class"]
    labels = y[trainer._own.examples.ids]
    record = trainer._own.recorder.record.mean_margin
    for label in range(10):
        own = labels == label
        assert np.argsort(ranks[own]).tolist() == np.argsort(record[own]).tolist()
        assert ranks[own].max() == 1.0


def test_a_record_needs_examples_that_come_back(digits):
    generator = np.random.default_rng(0)

    def form(rows):
        noise = generator.normal(0, 0.01, (len(rows), 64)).astype("float32")
        return digits[0][rows] + noise, digits[1][rows]

    trainer = SwiftTraining(classifier(), BY_MARGIN, seed=0)
    with pytest.raises(ValueError, match=r"must be known again in each pass.*0% of whose"):
        trainer.fit(Dealt(shuffled(480), form), epochs=6, verbose=0)


class Batches(keras.utils.PyDataset):
    """Batches of 8 one-hot examples in order; reading one of them may fail."""

    def __init__(self, n, error_at=None):
        super().__init__()
        self.x, self.y = one_hot_data(n)
        self.read, self.error_at = 0, error_at

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, index):
        self.read += 1
        if self.read == self.error_at:
            raise RuntimeError("the disk is full")
        rows = slice(8 * index, 8 * index + 8)
        return self.x[rows], self.y[rows]


def test_generators_need_a_length_and_must_last():
    x, y = one_hot_data(64)

    def endless():
        while True:
            yield x[:8], y[:8]

    with pytest.raises(ValueError, match="`steps_per_epoch` must be given"):
        training(counting_model(64), 64).fit(endless())
    model = counting_model(64)
    training(model, 64).fit(endless(), steps_per_epoch=5, verbose=0)
    assert counts(model).sum() == 40
    short = (batch for batch, _ in zip(endless(), range(4), strict=False))
    with pytest.raises(ValueError, match="The generator ended before training did"):
        training(counting_model(64), 64).fit(short, steps_per_epoch=5, verbose=0)


def test_generators_lose_nothing_to_keras_looking_ahead():
    x, y = one_hot_data(64)
    model = counting_model(64)
    # Three batches of eight for three steps: not one to spare.
    batches = ((x[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8]) for k in range(3))
    training(model, 64, UNIFORM).fit(batches, steps_per_epoch=3, verbose=0)
    assert counts(model).tolist() == [1.0] * 24 + [0.0] * 40


def test_errors_of_a_stream_come_out_as_they_went_in():
    with pytest.raises(RuntimeError, match="the disk is full"):
        training(counting_model(64), 64).fit(Batches(64, error_at=6), verbose=0)


def test_streams_need_another_model_as_reference():
    model = classifier()
    sampler = ks.SwiftSampler([0.5], [1.0, 1.0, 0.0], [1.0], ["loss"], "cdf")
    for other in (None, model):
        with pytest.raises(ValueError, match="`reference` must be a trained model other than"):
            SwiftTraining(model, sampler, reference=other).fit(Batches(64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": np.zeros(64)}, "`y` must not be given with a stream"),
        ({"validation_split": 0.1}, "`validation_split` must be 0"),
    ],
)
def test_streams_refuse_what_they_bring_themselves(arguments, message):
    with pytest.raises(ValueError, match=message):
        training(counting_model(64), 64).fit(Batches(64), **arguments)


@pytest.mark.parametrize("by", ["reference", "record"])
def test_an_interrupted_run_goes_on_as_an_unbroken_one(digits, tmp_path, by):
    x, y, _ = moved_labels(digits)

    class Rows(keras.utils.PyDataset):
        def __len__(self):
            return 15

        def __getitem__(self, index):
            return x[32 * index : 32 * index + 32], y[32 * index : 32 * index + 32]

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(epochs, callbacks=()):
        model = classifier(0.2)
        if by == "record":
            trainer = SwiftTraining(model, BY_MARGIN, seed=0, warmup=1)
        else:
            sampler = ks.SwiftSampler([0.5], [1.0, 1.0, 0.0], [1.0], ["loss"], "cdf")
            trainer = SwiftTraining(model, sampler, reference=classifier(0.3), seed=0)
        trainer.fit(Rows(), epochs=epochs, verbose=0, callbacks=list(callbacks))
        return model

    whole = run(4)
    backup = [ks.BackupAndRestore(tmp_path / "backup")]
    with pytest.raises(KeyboardInterrupt):
        run(4, [*backup, Stop()])
    assert_same_weights(run(4, [ks.BackupAndRestore(tmp_path / "backup")]), whole)
