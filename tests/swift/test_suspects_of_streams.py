"""`find_suspects` of streams, whose examples are known by ids, places or contents."""

import keras
import numpy as np
import pytest
from small_models import classifier
from small_streams import Dealt, shuffled

import keras_swift as ks
from keras_swift.src.swift.datasets import DrawnDataset


def moved_labels(digits, n=480, share=0.2):
    generator = np.random.default_rng(0)
    x, y = digits[0][:n], digits[1][:n]
    wrong = generator.random(n) < share
    return x, np.where(wrong, (y + generator.integers(1, 10, n)) % 10, y), wrong


@pytest.fixture
def orders_of_arrays(monkeypatch):
    """The orders in which `find_suspects` trains on arrays, one for each epoch."""
    orders = {}
    draw = DrawnDataset._draw

    def noted(self):
        orders[self._epoch] = draw(self)
        return orders[self._epoch]

    monkeypatch.setattr(DrawnDataset, "_draw", noted)
    return orders


@pytest.mark.parametrize("by", ["ids", pytest.param("names", marks=pytest.mark.slow), "contents"])
def test_the_suspects_are_those_of_arrays_in_the_same_order(digits, orders_of_arrays, by):
    x, y, _ = moved_labels(digits)
    arrays = ks.find_suspects(classifier(0.3), x, y, epochs=12, seed=0, verbose=0)
    forms = {
        "ids": lambda rows: (x[rows], y[rows], None, rows),
        "names": lambda rows: (x[rows], y[rows], None, [f"image {i}" for i in rows]),
        "contents": lambda rows: (x[rows], y[rows]),
    }
    orders = [orders_of_arrays[epoch] for epoch in range(12)]
    stream = ks.find_suspects(
        classifier(0.3), Dealt(orders, forms[by]), epochs=12, seed=0, verbose=0
    )
    # Examples are numbered in the order in which they were read.
    index = orders[0]
    np.testing.assert_array_equal(stream.scores, arrays.scores[index])
    np.testing.assert_array_equal(stream.probability, arrays.probability[index])
    np.testing.assert_array_equal(stream.labels, y[index])
    assert set(index[stream.indices]) == set(arrays.indices)
    proposals = dict(zip(arrays.indices, arrays.instead, strict=True))
    assert [proposals[i] for i in index[stream.indices]] == stream.instead.tolist()
    assert stream.wrong_share.estimate == pytest.approx(arrays.wrong_share.estimate, abs=0.01)
    assert len(stream) > 20
    if by != "contents":
        names = index if by == "ids" else np.array([f"image {i}" for i in index])
        np.testing.assert_array_equal(stream.ids, names)
        assert stream.to_frame()["id"].tolist() == names[stream.indices].tolist()
        assert f"example {names[stream.indices[0]]}: labelled" in str(stream)
    else:
        assert stream.ids.dtype == np.uint64 and len(set(stream.ids)) == len(x)
        assert "id" not in stream.to_frame()


class WithoutLength(Dealt):
    """As a `tf.data` pipeline with a filter."""

    __len__ = None


def test_a_stream_without_a_length_is_counted_without_a_word(digits):
    x, y, _ = moved_labels(digits, 100)
    stream = WithoutLength([np.arange(100)], lambda rows: (x[rows], y[rows]))
    found = ks.find_suspects(classifier(0.3), stream, epochs=2, seed=0, verbose=0)
    np.testing.assert_array_equal(found.labels, y)
    features = ks.compute_features(classifier(), stream, features=("loss",), verbose=0)
    assert len(features["loss"]) == 100


class Rows(keras.utils.PyDataset):
    """Batches of 32 rows that keep their places, augmented."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.generator = x, y, np.random.default_rng(0)

    def __len__(self):
        return -(-len(self.x) // 32)

    def __getitem__(self, index):
        rows = slice(32 * index, 32 * index + 32)
        noise = self.generator.normal(0, 0.01, self.x[rows].shape).astype("float32")
        return self.x[rows] + noise, self.y[rows]


def test_a_data_set_counts_its_examples_in_the_order_of_batches_and_rows(digits):
    x, y, wrong = moved_labels(digits, 490)
    found = ks.find_suspects(classifier(0.3), Rows(x, y), epochs=12, seed=0, verbose=0)
    assert found.ids is None
    np.testing.assert_array_equal(found.labels, y)
    assert len(found.scores) == 490
    assert wrong[found.indices].mean() > 0.8
    assert np.isin(np.flatnonzero(wrong), found.indices).mean() > 0.5
    again = ks.find_suspects(classifier(0.3), Rows(x, y), epochs=12, seed=0, verbose=0)
    np.testing.assert_array_equal(found.scores, again.scores)


def test_the_figure_reads_the_examples_that_it_shows(digits):
    x, y, _ = moved_labels(digits)
    stream = Dealt(shuffled(len(x)), lambda rows: (x[rows], y[rows], None, rows))
    found = ks.find_suspects(classifier(0.3), stream, epochs=8, seed=0, verbose=0)
    passes = stream.passes
    figure = found.plot(count=6)
    assert stream.passes == passes + 1
    lines = [axes.get_lines()[0].get_ydata() for axes in figure.axes if axes.get_lines()]
    assert len(lines) == 6
    for line, index in zip(lines, found.indices, strict=False):
        np.testing.assert_allclose(line, x[found.ids[index]][:12], rtol=1e-6)


@pytest.mark.parametrize("noise", ["all", "half"])
def test_contents_that_change_are_an_error_with_the_cure(digits, noise):
    x, y, _ = moved_labels(digits)
    generator = np.random.default_rng(2)

    def augmented(rows):
        if noise == "all":
            return x[rows] + generator.normal(0, 0.01, (len(rows), 64)).astype("float32"), y[rows]
        # As images that are turned at random.
        turned = generator.random(len(rows)) < 0.5
        return np.where(turned[:, None], x[rows][:, ::-1], x[rows]), y[rows]

    model = classifier(0.3)
    before = model.get_weights()
    stream = Dealt(shuffled(len(x)), augmented)
    message = r"must be known again.*known by their contents\. Yield `\(x, y, sample_weight, ids\)`"
    with pytest.raises(ValueError, match=message):
        ks.find_suspects(model, stream, epochs=6, verbose=0)
    assert stream.passes == 2
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_augmented_examples_are_known_by_their_ids(digits):
    x, y, wrong = moved_labels(digits)
    generator = np.random.default_rng(2)

    def augmented(rows):
        noise = generator.normal(0, 0.02, (len(rows), 64)).astype("float32")
        return x[rows] + noise, y[rows], None, rows

    found = ks.find_suspects(
        classifier(0.3), Dealt(shuffled(len(x)), augmented), epochs=12, seed=0, verbose=0
    )
    assert wrong[found.ids[found.indices]].mean() > 0.8


def test_examples_of_weight_zero_do_not_count(digits):
    x, y, _ = moved_labels(digits)
    weights = np.where(np.arange(len(x)) % 4, 1.0, 0.0).astype("float32")
    stream = Dealt(shuffled(len(x)), lambda rows: (x[rows], y[rows], weights[rows], rows))
    found = ks.find_suspects(classifier(0.3), stream, epochs=6, seed=0, verbose=0)
    np.testing.assert_array_equal(np.isnan(found.scores), weights[found.ids] == 0)
    assert weights[found.ids[found.indices]].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": -1}, "`y` must hold class numbers"),
        ({"x": np.nan}, "`x` holds a NaN or an infinity, first in the example with id 300"),
    ],
)
def test_what_is_wrong_with_an_example_is_named(digits, change, message):
    x, y, _ = moved_labels(digits)
    x, y = x.copy(), y.copy()
    for name, value in change.items():
        {"x": x, "y": y}[name][300] = value
    stream = Dealt([np.arange(len(x))], lambda rows: (x[rows], y[rows], None, rows))
    with pytest.raises(ValueError, match=message):
        ks.find_suspects(classifier(0.1), stream, epochs=2, seed=0, verbose=0)


def test_what_is_no_stream_with_an_end_is_refused(digits):
    with pytest.raises(ValueError, match="`y` must not be given with a stream"):
        ks.find_suspects(classifier(), Rows(*digits), digits[1])
    with pytest.raises(TypeError, match="`x` must be data that has an end and can be read again"):
        ks.find_suspects(classifier(), ((x, x) for x in digits[0]))


def test_every_target_of_a_stream_is_recorded():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(320, 8)).astype("float32")
    y = (x[:, :3] > 0).astype("float32")
    moved = generator.random(y.shape) < 0.1
    y = np.where(moved, 1 - y, y)

    def many():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, "sigmoid")])
        model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
        return model

    stream = Dealt(shuffled(320), lambda rows: (x[rows], y[rows], None, rows))
    found = ks.find_suspects(many(), stream, epochs=12, seed=0, verbose=0)
    assert found.scores.shape == (320, 3)
    np.testing.assert_array_equal(found.labels, y[found.ids])
    entries = moved[found.ids[found.indices], found.entries]
    assert len(found) > 50 and entries.mean() > 0.8


def test_steps_of_a_long_epoch_are_read_several_times(digits, monkeypatch):
    x, y, _ = moved_labels(digits)
    form = lambda rows: (x[rows], y[rows], None, rows)  # noqa: E731
    results = []
    for unread in (2**14, 64):
        monkeypatch.setattr("keras_swift.src.swift.pooled.UNREAD", unread)
        stream = Dealt(shuffled(len(x)), form)
        results.append(ks.find_suspects(classifier(0.3), stream, epochs=3, seed=0, verbose=0))
    np.testing.assert_array_equal(results[0].scores, results[1].scores)
