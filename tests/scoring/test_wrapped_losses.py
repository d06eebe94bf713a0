"""Losses that are wrapped in several layers, and the structures that they are compiled in."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_swift as ks
from keras_swift.src.scoring.scorer import Scorer

N, K = 10, 3
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 4)).astype("float32")
Y = RANDOM.normal(size=(N, K)).astype("float32")


def scaled(y_true, y_pred, scale=1.0):
    return scale * ops.mean(ops.square(ops.cast(y_true, y_pred.dtype) - y_pred), axis=-1)


def passing_on(function):
    @functools.wraps(function)
    def wrapped(*arguments, **named):
        return function(*arguments, **named)

    return wrapped


class Callable:
    """No loss of Keras, but an object that can be called; also one with a method."""

    def __init__(self, function=scaled):
        self.function = function

    def __call__(self, y_true, y_pred):
        return self.function(y_true, y_pred)

    def method(self, y_true, y_pred):
        return self.function(y_true, y_pred, scale=2.0)


class Holding(keras.losses.Loss):
    """A loss of another loss, which has a reduction of its own."""

    def __init__(self, inner, **settings):
        super().__init__(**settings)
        self.inner = inner

    def call(self, y_true, y_pred):
        return 3.0 * self.inner.call(y_true, y_pred)


class Calling(Holding):
    """The same by the `__call__` of the inner loss."""

    def call(self, y_true, y_pred):
        return 3.0 * self.inner(y_true, y_pred)


FORMS = {
    "partial": lambda: functools.partial(scaled, scale=2.0),
    "partial of a wrapped function": lambda: functools.partial(passing_on(scaled), scale=2.0),
    "function wrapped twice": lambda: passing_on(passing_on(scaled)),
    "lambda": lambda: lambda y_true, y_pred: scaled(y_true, y_pred),
    "object": Callable,
    "object of an object": lambda: Callable(Callable(passing_on(scaled))),
    "method": lambda: Callable().method,
    "loss of Keras wrapped": lambda: passing_on(keras.losses.mean_squared_error),
    "wrapper of Keras": lambda: keras.losses.get(functools.partial(scaled, scale=0.5)),
    "loss in a loss": lambda: Holding(keras.losses.MeanSquaredError()),
    "loss in a loss in a loss": lambda: Holding(Holding(keras.losses.Huber(delta=0.5))),
    "loss called in a loss": lambda: Calling(keras.losses.MeanSquaredError(reduction=None)),
    "float64": lambda: keras.losses.MeanSquaredError(dtype="float64"),
    "float16": lambda: keras.losses.MeanSquaredError(dtype="float16"),
    "float16 of its own": lambda: Holding(keras.losses.MeanSquaredError(), dtype="float16"),
    "sum": lambda: Holding(keras.losses.MeanSquaredError(), reduction="sum"),
    "mean": lambda: keras.losses.LogCosh(reduction="mean"),
}


def compiled(form, structure):
    """A model, its targets, and whether the loss of a batch is a sum."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    a, b = (keras.layers.Dense(K, name=name)(inputs) for name in ("a", "b"))
    outputs, loss, y = {
        "one": lambda: (a, FORMS[form](), Y),
        "[one]": lambda: ([a], [FORMS[form]()], [Y]),
        "{one}": lambda: ({"a": a}, {"a": FORMS[form]()}, {"a": Y}),
        "[two]": lambda: ([a, b], [FORMS[form](), "mae"], [Y, Y + 1]),
        "[None, one]": lambda: ([a, b], [None, FORMS[form]()], [Y + 1, Y]),
        "{one, None}": lambda: ({"a": a, "b": b}, {"a": FORMS[form](), "b": None}, {"a": Y}),
        "{two}": lambda: ({"a": a, "b": b}, {"b": FORMS[form](), "a": "mae"}, {"b": Y, "a": Y + 1}),
        "one for two": lambda: ([a, b], FORMS[form](), [Y, Y + 1]),
    }[structure]()
    if structure == "{one, None}":
        y = {**y, "b": Y}
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.01), loss)
    return model, y


def rows(y, chosen):
    return keras.tree.map_structure(lambda leaf: leaf[chosen], y)


def assert_losses_are_those_of_evaluate(form, structure):
    model, y = compiled(form, structure)
    scorer = Scorer(model, ("gradient_norm", "loss"))
    found = scorer(X, y)
    # Half precision has three digits.
    tolerance = 3e-3 if "float16" in form else 1e-4
    for position in range(N):
        chosen = slice(position, position + 1)
        alone = model.evaluate(X[chosen], rows(y, chosen), verbose=0)
        alone = alone[0] if isinstance(alone, list) else alone
        assert found["loss"][position] == pytest.approx(alone, rel=tolerance, abs=1e-5)
    assert np.ptp(found["gradient_norm"]) > 0


def assert_trains_as_fit(form, structure):
    settings = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    plain, y = compiled(form, structure)
    expected = plain.fit(X, y, **settings).history["loss"]
    model, y = compiled(form, structure)
    shut = ks.ImportanceTraining(model, presample=2.0, tau_threshold=1e9, seed=0)
    np.testing.assert_allclose(shut.fit(X, y, **settings).history["loss"], expected, rtol=1e-5)
    for theirs, ours in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    model, y = compiled(form, structure)
    opened = ks.ImportanceTraining(model, presample=2.0, tau_threshold=0, seed=0)
    history = opened.fit(X, y, **settings).history
    assert history["importance"] == [1.0, 1.0] and np.isfinite(history["loss"]).all()


# An output without a loss has no gradient.
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
# JAX takes it as float32, and says so.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")
@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_losses_of_wrapped_losses_are_those_of_each_example_alone(form):
    assert_losses_are_those_of_evaluate(form, "one")
    assert_losses_are_those_of_evaluate(form, "[None, one]")


@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize(
    "structure",
    ["[one]", "{one}", "[two]", "[None, one]", "{one, None}", "{two}", "one for two"],
)
def test_structures_of_losses_are_those_of_fit(structure):
    for form in ("partial", "loss in a loss"):
        assert_losses_are_those_of_evaluate(form, structure)
    assert_trains_as_fit("loss in a loss", structure)


@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")
@pytest.mark.parametrize("form", sorted(FORMS))
def test_wrapped_losses_train_as_with_fit(form):
    assert_trains_as_fit(form, "one")
