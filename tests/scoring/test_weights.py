"""Whether weights arrive in a model's own step, and models that cannot be scored."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_swift as ks
from keras_swift.src import backends
from keras_swift.src.scoring.weights import check_weights_arrive

X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 1)).astype("float32")


class DropsInLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, None)


class PassesInLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight)


class DropsInStep(keras.Model):
    def train_step(self, *arguments):
        *state, (x, y, *_) = arguments
        return super().train_step(*state, (x, y))


class TakesTwo(keras.Model):
    def train_step(self, *arguments):
        *state, data = arguments
        x, y = data
        return super().train_step(*state, (x, y))


class TakesTwoOfItsArguments(keras.Model):
    def train_step(self, *arguments):
        *state, (x, y) = arguments
        return super().train_step(*state, (x, y))


class Raises(keras.Model):
    def train_step(self, *arguments):
        raise ValueError("too many values to unpack (expected 2)")


class PassesInStep(keras.Model):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


class OwnMetrics(keras.Model):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.plain = keras.metrics.MeanAbsoluteError(name="plain")
        self.weighted = keras.metrics.MeanAbsoluteError(name="weighted")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.plain.update_state(y, y_pred)
        self.weighted.update_state(y, y_pred, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)


def network(kind=keras.Model, loss="mse", last=None, metrics=("mae",)):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    # Without a seed of its own it draws, on PyTorch, from the generator that a loader of arrays
    # draws from in plain `fit`, and not in ours.
    outputs = keras.layers.Dropout(0.3, seed=1)(keras.layers.BatchNormalization()(inputs))
    outputs = keras.layers.Dense(1)(outputs)
    model = kind(inputs, outputs if last is None else last(outputs))
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=list(metrics) or None)
    return model


def fit(model, score="gradient_norm", x=X, y=Y, **arguments):
    training = ks.ImportanceTraining(model, presample=3.0, tau_threshold=0, score=score, seed=0)
    return training.fit(x, y, batch_size=4, verbose=0, **arguments)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DropsInLoss, r"`DropsInLoss.compute_loss`, with a loss that is the same whatever the wei"),
        (DropsInStep, r"`DropsInStep.train_step`, with a loss that is the same whatever the weig"),
        (TakesTwo, r"`train_step` must take batches `\(x, y, sample_weight\)`.*Unpack a batch"),
        (TakesTwoOfItsArguments, r"`train_step` must take batches.*Unpack a batch"),
        # Any other error is the model's own.
        (Raises, r"^too many values to unpack \(expected 2\)"),
    ],
)
def test_a_step_without_weights_stops_before_training(kind, message):
    model = network(kind)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", [PassesInStep, DropsInStep])
def test_where_all_gradients_are_zero_the_loss_tells(kind):
    """A ReLU that is off for all examples, as one alone in the last layer may be at first."""
    model = network(kind, last=lambda outputs: ops.relu(outputs - 100.0), metrics=())
    if kind is PassesInStep:
        assert np.isfinite(fit(model).history["loss"]).all()
    else:
        with pytest.raises(ValueError, match="the same whatever the weights are"):
            fit(model)


@pytest.mark.parametrize("kind", [PassesInLoss, PassesInStep])
def test_a_step_with_weights_trains_and_looking_at_it_changes_nothing(kind):
    def trained(model, threshold):
        training = ks.ImportanceTraining(model, presample=3.0, tau_threshold=threshold, seed=0)
        history = training.fit(X, Y, batch_size=4, shuffle=False, epochs=2, verbose=0).history
        return history["importance"], model.get_weights()

    plain = network(kind)
    plain.fit(X, Y, batch_size=4, shuffle=False, epochs=2, verbose=0)
    importance, weights = trained(network(kind), 1e9)
    assert importance == [0, 0]
    for ours, theirs in zip(weights, plain.get_weights(), strict=True):
        # Dropout and its random state included.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert trained(network(kind), 0)[0] == [1, 1]


def test_looking_at_a_step_draws_no_random_number():
    keras.utils.set_random_seed(0)
    stack = [keras.Input((5,)), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
    model = PassesInStep(stack[0], stack[2](stack[1](stack[0])))
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)

    def state():
        own = [keras.ops.convert_to_numpy(variable) for variable in model.non_trainable_variables]
        return [*own, *backends.active().random_state()]

    before = state()
    check_weights_arrive(model, X[:4], Y[:4], np.ones(4, "float32"))
    assert before
    for ours, theirs in zip(state(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_metrics_that_a_model_updates_without_weights_are_warned_of():
    with pytest.warns(UserWarning, match=r"the metrics \['plain'\] by itself, without weights"):
        fit(network(OwnMetrics))


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        values = ops.mean(ops.square(y - y_pred), axis=-1)
        return ops.mean(values if sample_weight is None else values * sample_weight)


def test_without_a_compiled_loss_batches_are_uniform_and_the_cure_is_named():
    plain, model = network(OwnLoss, None), network(OwnLoss, None)
    expected = plain.fit(X, Y, shuffle=False, epochs=2, verbose=0)
    with pytest.warns(UserWarning, match="compiled without a loss.*Give `score=`, a callable"):
        history = fit(model, shuffle=False, epochs=2)
    assert history.history["importance"] == [0, 0]
    assert set(history.history) == set(expected.history) | {
        "tau",
        "gain",
        "importance",
        "presample",
    }


def test_without_a_compiled_loss_a_callable_score_draws():
    seen = []

    def score(y_true, y_pred):
        seen.append(tuple(y_true.shape))
        return ops.abs(y_true - y_pred)[:, 0]

    history = fit(network(OwnLoss, None), score).history
    assert history["importance"] == [1.0]
    assert (12, 1) in seen


class WithoutTargets(keras.Model):
    """Learns to give back its inputs, which it compares by itself."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        values = ops.mean(ops.square(x[:, :1] - y_pred), axis=-1)
        return ops.mean(values if sample_weight is None else values * sample_weight)


def batches_of(form):
    """An endless generator of batches without targets."""
    for start in itertools.cycle(range(0, 24, 4)):
        part = X[start : start + 4]
        yield {"x": part, "(x,)": (part,), "(x, None)": (part, None)}[form]


@pytest.mark.parametrize("form", ["arrays", "x", "(x,)", "(x, None)"])
def test_without_targets_a_callable_score_draws(form):
    seen, drawn = [], []

    class Reader(keras.callbacks.Callback):
        def on_batch_drawn(self, batch):
            drawn.append(batch)

    def score(y_true, y_pred):
        seen.append(y_true)
        return ops.abs(y_pred[:, 0])

    model = network(WithoutTargets, None, metrics=())
    data = {"x": X, "y": None}
    if form != "arrays":
        data = {"x": batches_of(form), "steps_per_epoch": 6}
    training = ks.ImportanceTraining(model, 3.0, 0, score, seed=0)
    history = training.fit(
        **data, **({"batch_size": 4} if form == "arrays" else {}), verbose=0, callbacks=[Reader()]
    ).history
    assert history["importance"] == [1.0] and set(seen) == {None}
    assert all(batch.y is None and len(batch.x) == 4 for batch in drawn)
    for batch in drawn:
        # Of `1 / w = floor + (1 - floor) B s / sum(s)`, what depends on the score.
        slopes = (1 / batch.importance - 0.1) / batch.scores
        np.testing.assert_allclose(slopes, slopes[0], rtol=1e-3)


def test_without_targets_the_default_draws_by_a_callable_from_the_second_epoch_on():
    model = network(WithoutTargets, None, metrics=())
    training = ks.ImportanceTraining(model, score=lambda y, y_pred: y_pred[:, 0] ** 4, seed=0)
    importance = training.fit(X, batch_size=4, epochs=2, verbose=0).history["importance"]
    assert importance[0] == 0 and importance[1] > 0


def test_a_flat_output_is_trained_uniformly_and_the_cure_is_named():
    model = network(last=lambda outputs: keras.layers.Reshape(())(outputs))
    with pytest.warns(UserWarning, match=r"`keras.layers.Reshape\(\(1,\)\)`.*uniform batches"):
        history = fit(model, y=Y[:, 0]).history
    assert history["importance"] == [0.0]


class TwoInOne(keras.Model):
    """Puts out two columns that its loss takes apart."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, [y_pred[:, :1], y_pred[:, 1:]], sample_weight)


def test_losses_of_what_a_model_takes_apart_are_trained_uniformly():
    def compiled():
        model = network(TwoInOne, ["mse", "mae"], lambda out: keras.layers.Dense(2)(out), ())
        return model, {"x": X, "y": (Y, 2 * Y), "shuffle": False, "verbose": 0}

    plain, data = compiled()
    expected = plain.fit(**data).history
    model, data = compiled()
    with pytest.warns(UserWarning, match="computes its loss by itself.*Give `score=`, a callable"):
        history = ks.ImportanceTraining(model, seed=0).fit(**data).history
    assert history["importance"] == [0.0] and set(expected) < set(history)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)


class Counting(keras.layers.Layer):
    """Counts how often it was called."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x


@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 0}])
def test_a_layer_that_counts_its_calls_counts_the_steps_alone(settings):
    layer = Counting()
    model = keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    training = ks.ImportanceTraining(model, seed=0, **settings)
    training.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    assert float(keras.ops.convert_to_numpy(layer.count.value)) == 12.0


class OfFour(keras.layers.Layer):
    """Takes batches of four and no others."""

    def call(self, x):
        return ops.reshape(x, (4, 5))


def test_a_fixed_batch_size_is_trained_uniformly():
    model = keras.Sequential([keras.Input(batch_shape=(4, 5)), OfFour(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="inputs of a fixed batch size"):
        assert fit(model).history["importance"] == [0.0]


@pytest.mark.parametrize("built_by", ["fit", "ours"])
def test_a_model_built_for_its_first_batch_takes_others(built_by):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    if built_by == "fit":
        model.fit(X, Y, batch_size=4, verbose=0)
    else:
        assert fit(model).history["importance"] == [1.0]
    # Keras says so, and means nothing by it; on TensorFlow ours builds for batches of any size.
    is_open = built_by == "ours" and keras.backend.backend() == "tensorflow"
    assert (model.inputs[0].shape[0] is None) == is_open
    assert fit(model).history["importance"] == [1.0]
    loss = ks.compute_features(model, X, Y, ("loss",), verbose=0)["loss"].mean()
    assert loss == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
