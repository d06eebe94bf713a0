import keras
import numpy as np
import pytest
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.src import backends
from keras_swift.src.importance.resampling import importance_weights, sampling_probability
from keras_swift.src.scoring.scorer import Scorer

STEP_TRACING = keras.backend.backend() != "torch"


def dataset(model, digits, size=200, **arguments):
    x, y = digits
    return ks.ImportanceDataset(model, x[:size], y[:size], **{"seed": 0, **arguments})


def test_shut_gate_trains_on_every_example_once(digits):
    data = dataset(classifier(), digits, tau_threshold=1e9)
    # An epoch that was left early does not shift the next ones.
    data.on_epoch_begin()
    data.feed.next_batch()
    data.on_epoch_end()
    for _ in range(3):
        data.on_epoch_begin()
        batches = [data.feed.next_batch() for _ in range(data.num_batches)]
        data.on_epoch_end()
        indices = np.concatenate([batch.indices for batch in batches])
        assert sorted(indices) == list(range(200))
        assert [len(batch.indices) for batch in batches] == [32] * 6 + [8]
        assert all((batch.weights == 1).all() for batch in batches)
    summary = data.feed.epoch_summary()
    # One batch in 16 is scored: of 7, 7 and 7 batches after the first the 1st and the 17th.
    assert 0.1 < summary.pop("tau") < 2.5
    assert summary == {"importance": 0.0, "presample": 1.0, "gain": 1.0}


def test_every_example_is_presampled_before_any_is_a_second_time(digits, monkeypatch):
    data = dataset(classifier(), digits, tau_threshold=0)
    seen = []
    reader = data.feed.reader
    take = reader.presample
    monkeypatch.setattr(reader, "presample", lambda size: seen.append(take(size)) or seen[-1])
    for _ in range(25):
        data.feed.next_batch()
    seen = np.concatenate([presample.indices for presample in seen])
    for start in range(0, len(seen) - 200, 200):
        assert sorted(seen[start : start + 200]) == list(range(200))
    # The order of a seed is NumPy's alone, so it is the same on every backend.
    expected = np.random.default_rng(0).spawn(3)[1].permutation(200)
    assert seen[:200].tolist() == expected.tolist()


def test_batches_are_drawn_from_the_presample_with_its_weights(digits):
    x, y = digits
    model = classifier()
    data = dataset(model, digits, tau_threshold=0, floor=0.2, score="loss")
    presample = np.random.default_rng(0).spawn(3)[1].permutation(200)[:96]
    loss = -np.log(model.predict(x[presample], verbose=0)[np.arange(96), y[presample]])
    weight_of = dict(
        zip(presample, importance_weights(sampling_probability(loss, 0.2)), strict=True)
    )
    batch = data.feed.next_batch()
    np.testing.assert_allclose(batch.importance, [weight_of[i] for i in batch.indices], rtol=1e-4)
    np.testing.assert_array_equal(batch.x, x[batch.indices])
    np.testing.assert_array_equal(batch.y, y[batch.indices])


@pytest.mark.parametrize("rounding", ["exact", "bfloat16", "partly zero"])
def test_expected_step_is_the_presamples_mean_step(digits, rounding):
    """Enumerates the outcomes of one draw through Keras' own weighted step."""
    x, y = digits[0][:24], digits[1][:24]
    model = classifier(1.0, metrics=None)
    scores = Scorer(model)(x, y)["gradient_norm"]
    if rounding == "bfloat16":
        bits = scores.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        scores = bits.view(np.float32)
    if rounding == "partly zero":
        scores = np.where(np.arange(24) % 3 == 0, 0.0, scores)
    probability = sampling_probability(scores, floor=0.1)
    start = model.get_weights()

    def step(rows, weights):
        model.set_weights(start)
        model.train_on_batch(x[rows], y[rows], sample_weight=weights.astype("float32"))
        return [a - b for a, b in zip(start, model.get_weights(), strict=True)]

    expected = [np.zeros(w.shape) for w in start]
    for i, weight in enumerate(importance_weights(probability)):
        for total, change in zip(expected, step([i], np.array([weight])), strict=True):
            total += probability[i] * change
    for ours, theirs in zip(expected, step(np.arange(24), np.ones(24)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_probes_while_shut_and_scores_every_step_while_open(digits):
    model = classifier()
    for threshold, expected in ((1e9, 1 + 31 // 16), (0, 32)):
        data = dataset(model, digits, tau_threshold=threshold)
        batches = [data.feed.next_batch() for _ in range(32)]
        assert sum(batch.scores is not None for batch in batches) == expected


def test_the_papers_gate_opens_when_the_scores_spread(digits):
    data = dataset(
        classifier(),
        digits,
        presample=3.0,
        score=lambda y, p: keras.ops.one_hot(0, p.shape[0], dtype="float32"),
    )
    opened = [data.feed.next_batch().by_importance for _ in range(40)]
    assert not opened[0]
    assert opened[-1]


def test_the_default_gate_opens_when_the_scores_are_worth_it(digits):
    def spread(y, p):
        return keras.ops.one_hot(0, p.shape[0], dtype="float32")

    data = dataset(classifier(), digits, score=spread)
    batches = [data.feed.next_batch() for _ in range(60)]
    assert not batches[0].by_importance
    assert (batches[-1].by_importance, batches[-1].presample_size) == (True, 160)
    # Even scores are not worth their price.
    data = dataset(classifier(), digits, score=lambda y, p: keras.ops.ones(p.shape[0]))
    assert not any(data.feed.next_batch().by_importance for _ in range(60))


def test_an_item_outside_an_epoch_shows_the_form_and_draws_nothing(digits):
    untouched, data = (dataset(classifier(), digits, tau_threshold=0) for _ in range(2))
    shown = [data[index] for index in (0, 5)]
    before, after = untouched.feed.next_batch(), data.feed.next_batch()
    np.testing.assert_array_equal(before.x, after.x)
    for item in shown:
        assert [part.shape for part in item] == [(32, 64), (32,), (32,)]
        assert [part.dtype for part in item] == [after.x.dtype, after.y.dtype, after.weights.dtype]


def test_iterating_goes_through_an_epoch(digits):
    data = dataset(classifier(), digits)
    assert len(list(data)) == len(data) == 7
    assert sum(len(y) for _, y, _ in data) == 200


def test_direct_fit_repeats_with_a_seed(digits):
    def run():
        model = classifier(weighted_metrics=["accuracy"], metrics=None)
        data = dataset(model, digits, tau_threshold=0)
        history = model.fit(data, epochs=3, verbose=0, callbacks=[data.callback()])
        return model, history.history

    (first, history), (second, again) = run(), run()
    assert history == again
    assert history["importance"] == [1.0] * 3
    assert_same_weights(first, second)


def test_direct_fit_shows_one_number_and_keeps_four(digits, capsys):
    model = classifier()
    data = dataset(model, digits, tau_threshold=0, presample=3.0)
    history = model.fit(data, epochs=2, verbose=2, callbacks=[data.callback()])
    shown = capsys.readouterr().out
    assert "gain: " in shown
    assert not any(name in shown for name in ("tau", "importance", "presample"))
    assert history.history["presample"] == [3.0, 3.0] and len(history.history["tau"]) == 2
    assert history.history["importance"] == [1.0, 1.0] and len(history.history["gain"]) == 2


def test_direct_fit_scores_in_step(digits, monkeypatch):
    """Scores come from the weights as they are just before the step."""
    model = classifier(0.5, metrics=None)
    seen = []

    def score(y_true, y_pred):
        return keras.ops.one_hot(0, y_pred.shape[0], dtype="float32") + 1e-3

    data = dataset(model, digits, tau_threshold=0, score=score)
    inner = Scorer.__call__

    def spy(self, x, y, sample_weight=None, values=None):
        weights = [np.array(v) for v in values[0]] if values else model.get_weights()
        seen.append(weights[-1].copy())
        return inner(self, x, y, sample_weight, values=values)

    monkeypatch.setattr(Scorer, "__call__", spy)
    before = []

    class Before(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                values, _ = backends.active().capture_values(model)
                before.append(np.array(values[-1]))
            else:
                before.append(model.get_weights()[-1])

    model.fit(data, epochs=2, verbose=0, callbacks=[data.callback(), Before()])
    # PyTorch's loader fetches an item before the callback of its step runs.
    assert len(seen) >= 14
    trained = seen[-14:]
    assert len({weights.tobytes() for weights in trained}) == 14
    np.testing.assert_array_equal(trained, before)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras empties the model on JAX alone")
def test_direct_fit_without_the_callback_says_so(digits):
    model = classifier()
    with pytest.raises(RuntimeError, match=r"callbacks=\[dataset.callback\(\)\]"):
        model.fit(dataset(model, digits), verbose=0)


def test_weights_fit_losses_with_a_time_axis():
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(30, 5, 2)).astype("float32")
    data = ks.ImportanceDataset(model, x, x[:, :, :1], batch_size=5, tau_threshold=0, seed=0)
    assert data.feed.next_batch().weights.shape == (5, 1)
    temporal = np.arange(150, dtype="float32").reshape(30, 5)
    data = ks.ImportanceDataset(model, x, x[:, :, :1], temporal, 5, tau_threshold=0, seed=0)
    batch = data.feed.next_batch()
    np.testing.assert_allclose(
        batch.weights, batch.importance[:, None] * temporal[batch.indices], rtol=1e-5
    )


def test_masked_batches_are_corrected_for_their_unmasked_share():
    """The weighted masked loss over all draws is the presample's masked loss."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Embedding(9, 3, mask_zero=True), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    generator = np.random.default_rng(0)
    x = generator.integers(1, 9, (60, 4)) * (np.arange(4) < generator.integers(1, 5, (60, 1)))
    y = generator.normal(size=(60, 4, 1)).astype("float32") * (x[:, :1, None] > 6) * 5
    data = ks.ImportanceDataset(
        model, x, y, batch_size=20, tau_threshold=0, seed=0, steps_per_epoch=200
    )
    losses = [
        model.test_on_batch(batch.x, batch.y, sample_weight=batch.weights)
        for batch in (data.feed.next_batch() for _ in range(200))
    ]
    expected = model.evaluate(x, y, batch_size=60, verbose=0)
    error = np.std(losses) / np.sqrt(len(losses))
    # Three standard errors; without the correction the mean is off by over ten.
    assert abs(np.mean(losses) - expected) < 3 * error


def test_dict_inputs_and_several_outputs():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    hidden = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {
        "c": keras.layers.Dense(4, activation="softmax", name="c")(hidden),
        "d": keras.layers.Dense(1, name="d")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"c": "sparse_categorical_crossentropy", "d": "mse"})
    generator = np.random.default_rng(0)
    x = {"a": generator.normal(size=(40, 3)), "b": generator.normal(size=(40, 2))}
    y = {"c": generator.integers(0, 4, 40), "d": generator.normal(size=(40, 1))}
    data = ks.ImportanceDataset(model, x, y, batch_size=8, tau_threshold=0, seed=0)
    xs, ys, weights = data[0]
    assert {key: part.shape for key, part in xs.items()} == {"a": (8, 3), "b": (8, 2)}
    # One array of weights serves all outputs.
    assert set(ys) == {"c", "d"} and weights.shape == (8,)
    assert np.isfinite(model.fit(data, verbose=0, callbacks=[data.callback()]).history["loss"][0])


def test_presample_larger_than_the_data_is_capped(digits):
    with pytest.warns(UserWarning, match="asks for 96 examples a step, the data have 50"):
        data = dataset(classifier(), digits, size=50, tau_threshold=0)
    assert data.feed.next_batch().presample_size == 50


def test_one_example(digits):
    with pytest.warns(UserWarning, match="the data have 1"):
        data = dataset(classifier(), digits, size=1, tau_threshold=0)
    batch = data.feed.next_batch()
    assert batch.importance.tolist() == [1.0]


def test_self_normalised_reduction_is_warned_of(digits):
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    with pytest.warns(UserWarning, match="self-normalised, with a bias of order 1/b"):
        dataset(classifier(loss=loss), digits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"batch_size": 0},
            "`batch_size` must be a positive integer, or None. Received",
        ),
        ({"batch_size": 3.5}, "batch_size=3.5"),
        ({"steps_per_epoch": -1}, "`steps_per_epoch` must be a positive"),
        ({"sample_weight": np.ones(3)}, r"len\(sample_weight\)=3"),
    ],
)
def test_bad_arguments_are_named(digits, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dataset(classifier(), digits, **arguments)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras asks one item ahead on JAX")
@pytest.mark.parametrize("execution", [1, 2, 3])
def test_items_asked_for_one_step_early_are_scored_by_values_that_are_there(
    digits, monkeypatch, execution
):
    import jax

    # As on a GPU, where Keras starts the transfer of the next batch early.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    model = classifier()
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=execution)
    indices = []
    dataset = ks.ImportanceDataset(
        model,
        *(part[:224] for part in digits),
        tau_threshold=0,
        seed=0,
        on_draw=lambda batch: indices.append(batch.indices),
    )
    model.fit(dataset, epochs=2, callbacks=[dataset.callback()], verbose=0)
    assert len(indices) == 14


def test_cheaper_inputs_are_scored_and_the_whole_ones_trained_on(digits):
    """Scores of a quarter of the pixels, drawn and weighted exactly."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 1))
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(hidden)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(pooled))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = digits[0][:96].reshape(-1, 8, 8, 1), digits[1][:96]
    data = ks.ImportanceDataset(
        model, x, y, tau_threshold=0, floor=0.0, seed=0, score_inputs=lambda x: x[:, ::2, ::2]
    )
    batch = data.feed.next_batch()
    expected = Scorer(model)(x[:, ::2, ::2], y)["gradient_norm"]
    np.testing.assert_allclose(batch.scores, expected[batch.indices], rtol=1e-4)
    np.testing.assert_array_equal(batch.x, x[batch.indices])
    weights = importance_weights(sampling_probability(expected))
    np.testing.assert_allclose(batch.importance, weights[batch.indices], rtol=1e-4)
    with pytest.raises(TypeError, match="`score_inputs` must be a function.*score_inputs=2"):
        ks.ImportanceTraining(model, score_inputs=2)
