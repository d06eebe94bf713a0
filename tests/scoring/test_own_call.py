"""Losses with a `__call__` of their own, and models whose loss joins the axes of its output."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_swift as ks
from keras_swift.src.scoring.scorer import Scorer

N, STEPS, K = 12, 5, 3
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 4)).astype("float32")
SEQUENCES = RANDOM.normal(size=(N, STEPS, 4)).astype("float32")
SEQUENCES[np.arange(STEPS) >= RANDOM.integers(1, STEPS + 1, (N, 1))] = 0.0
LABELS = RANDOM.integers(0, K, N)
# Two examples in three have a label.
UNKNOWN = np.where(RANDOM.random(N) < 1 / 3, -1, LABELS)


class WithoutWeights(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), axis=-1)

    def __call__(self, y_true, y_pred, sample_weight=None):
        return ops.mean(self.call(ops.convert_to_tensor(y_true, "float32"), y_pred))


class AfterTheMean(WithoutWeights):
    def __call__(self, y_true, y_pred, sample_weight=None):
        loss = super().__call__(y_true, y_pred)
        return loss if sample_weight is None else loss * ops.mean(sample_weight)


class Contrastive(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true = ops.reshape(y_true, (-1, 1))
        same = ops.cast(ops.equal(y_true, ops.transpose(y_true)), "float32")
        return ops.mean((ops.matmul(y_pred, ops.transpose(y_pred)) - same) ** 2)


class Known(keras.losses.SparseCategoricalCrossentropy):
    """Labels of -1 do not count."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        known = ops.cast(ops.greater_equal(y_true, 0), "float32")
        weights = known if sample_weight is None else known * sample_weight
        return super().__call__(ops.maximum(y_true, 0), y_pred, weights)


class Resized(keras.losses.MeanSquaredError):
    """Images of targets of twice the size of the output."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        # By reshaping: `average_pool` of Keras 3.15 fails on JAX while a model is built.
        y_true = ops.mean(ops.reshape(y_true, (-1, 2, 2, 2, 2, 1)), axis=(2, 4))
        return super().__call__(y_true, y_pred, sample_weight)


class PassedOn(keras.losses.MeanSquaredError):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return 2.0 * super().__call__(y_true, y_pred, sample_weight)


def compiled(loss, *layers, shape=(4,), **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), *(layers or [keras.layers.Dense(K)])])
    model.compile(keras.optimizers.SGD(0.1), loss, **arguments)
    return model


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


CASES = {
    "unknown labels": lambda: (compiled(Known(from_logits=True)), X, UNKNOWN),
    "sum": lambda: (compiled(Known(from_logits=True, reduction="sum")), X, UNKNOWN),
    "resized targets": lambda: (
        compiled(Resized(), keras.layers.Dense(4), keras.layers.Reshape((2, 2, 1))),
        X,
        RANDOM.normal(size=(N, 4, 4, 1)).astype("float32"),
    ),
    "sequences": lambda: (compiled(PassedOn(), shape=(STEPS, 4)), SEQUENCES, SEQUENCES[..., :K]),
    "masked sequences": lambda: (
        compiled(PassedOn(), keras.layers.Masking(), keras.layers.Dense(K), shape=(STEPS, 4)),
        SEQUENCES,
        SEQUENCES[..., :K] + 1.0,
    ),
    "divided by the weights": lambda: (
        compiled(PassedOn(reduction="mean_with_sample_weight")),
        X,
        X[:, :K],
    ),
}


# What JAX compiles for half a minute.
LARGE = {"masked sequences", "resized targets", "sequences"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.any_backend] * (name in LARGE))
        for name in sorted(CASES)
    ],
)
def test_losses_and_weights_are_those_of_the_loss_as_it_is_called(name):
    model, x, y = CASES[name]()
    scorer = Scorer(model, ("gradient_norm", "loss"))
    found = scorer(x, y)
    outputs = model(x)
    mask = getattr(outputs, "_keras_mask", None)

    def value(rows, weights):
        # The whole model, so that the output has its mask.
        return number(model.loss(ops.convert_to_tensor(y[rows]), model(x[rows]), weights))

    everything = slice(None)
    ones = scorer.loss_weights(np.ones(N, np.float32))
    alone = [value(slice(i, i + 1), ops.convert_to_tensor(ones[i : i + 1])) for i in range(N)]
    np.testing.assert_allclose(
        found["loss"], np.multiply(alone, found["valid"][:, 0]), rtol=1e-4, atol=1e-6
    )
    assert ("masked" in name) == bool((found["valid"] < 1).any()), mask
    # The weighted loss of the batch is the weighted mean of those, or their sum.
    importance = RANDOM.uniform(0.5, 2.0, N)
    weighted = ops.convert_to_tensor(scorer.loss_weights(importance))
    scale = {"sum": N, "divided by the weights": 1 / importance.mean()}.get(name, 1.0)
    share = found["valid"].mean()
    expected = scale * np.mean(importance * found["loss"]) / share
    assert value(everything, weighted) == pytest.approx(expected, rel=1e-4)


def test_the_score_of_an_example_without_a_label_is_zero():
    model, x, y = CASES["unknown labels"]()
    found = Scorer(model, ("gradient_norm",))(x, y)["gradient_norm"]
    logits = ops.convert_to_numpy(model(x))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.linalg.norm(softmax - np.eye(K)[np.maximum(y, 0)], axis=1) * (y >= 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    weights = RANDOM.uniform(0.5, 2.0, N).astype("float32")
    weighted = Scorer(model, ("gradient_norm",))(x, y, weights)["gradient_norm"]
    np.testing.assert_allclose(weighted, expected * weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"tau_threshold": 0}])
def test_a_loss_that_prepares_its_targets_trains_by_importance(settings):
    model, x, y = CASES["unknown labels"]()
    before = model.evaluate(x, y, verbose=0)
    trainer = ks.ImportanceTraining(model, seed=0, **settings)
    history = trainer.fit(x, y, batch_size=4, epochs=4, verbose=0).history
    assert history["importance"][-1] > 0
    assert model.evaluate(x, y, verbose=0) < before


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WithoutWeights, "`WithoutWeights.__call__`, with a loss that is the same whatever the we"),
        (AfterTheMean, "`AfterTheMean.__call__`, with a loss that is no weighted mean or sum"),
    ],
)
def test_a_loss_that_leaves_the_weights_out_is_named(kind, message):
    for trainer in (ks.ImportanceTraining(compiled(kind())), None):
        with pytest.raises(ValueError, match="must weight the loss of each .*" + message):
            if trainer is None:
                ks.ImportanceDataset(compiled(kind()), X, X[:, :K], batch_size=4)
            else:
                trainer.fit(X, X[:, :K], batch_size=4, verbose=0)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("loss", ["one", "list", "dict"])
def test_the_losses_of_several_outputs_are_asked_one_by_one(loss):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(K, name=name)(inputs) for name in ("a", "b", "c")}
    losses = {"a": PassedOn(), "b": None, "c": "mae"}
    y = {name: X[:, :K] + position for position, name in enumerate("abc")}
    if loss == "one":
        losses = PassedOn()
    elif loss == "list":
        outputs, losses, y = [list(part.values()) for part in (outputs, losses, y)]
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.01), losses)
    found = Scorer(model, ("loss",))(X, y)["loss"]
    for position in range(3):
        row = keras.tree.map_structure(lambda leaf, i=position: leaf[i : i + 1], y)
        expected = model.evaluate(X[position : position + 1], row, verbose=0)
        total = expected[0] if isinstance(expected, list) else expected
        assert found[position] == pytest.approx(total, rel=1e-4)
    trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
    assert np.isfinite(trainer.fit(X, y, batch_size=4, verbose=0).history["loss"]).all()


def test_a_loss_that_compares_the_examples_is_trained_as_by_fit():
    plain = compiled(Contrastive())
    settings = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    expected = plain.fit(X, LABELS, **settings).history["loss"]
    with pytest.warns(UserWarning, match="compares the examples of a batch.*`model.fit`"):
        found = ks.ImportanceTraining(compiled(Contrastive())).fit(X, LABELS, **settings).history
    assert (found["loss"], found["importance"]) == (expected, [0.0, 0.0])


def test_suspects_and_features_need_a_loss_of_single_examples():
    with pytest.raises(ValueError, match="compares the examples of a batch"):
        ks.find_suspects(compiled(Contrastive()), X, LABELS, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="compares the examples of a batch"):
        ks.compute_features(compiled(Contrastive()), X, LABELS, features=("loss",), verbose=0)


def joined(y_true, y_pred):
    y_true = ops.reshape(ops.cast(y_true, "float32"), (-1, 1))
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


def joining_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS, 4))
    outputs = keras.layers.Dense(1)(ops.reshape(inputs, (-1, 4)))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), joined)
    return model


@pytest.mark.parametrize("score", ["gradient_norm", lambda y_true, y_pred: ops.mean(y_pred, -1)])
def test_outputs_that_join_batch_and_time_are_trained_as_by_fit(score):
    settings = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    y = SEQUENCES[..., 0]
    expected = joining_model().fit(SEQUENCES, y, **settings).history["loss"]
    with pytest.warns(UserWarning, match=r"one row for each example.*Keep the axis.*`model.fit`"):
        found = ks.ImportanceTraining(joining_model(), score=score)
        found = found.fit(SEQUENCES, y, **settings).history
    assert (found["loss"], found["importance"]) == (expected, [0.0, 0.0])


class JoinedTargets(keras.utils.PyDataset):
    """Batches whose targets have a row for each step of each example."""

    def __len__(self):
        return N // 4

    def __getitem__(self, index):
        rows = SEQUENCES[4 * index : 4 * index + 4]
        return rows, rows[..., 0].reshape(-1)


def test_batches_with_joined_targets_are_trained_as_by_fit():
    settings = {"epochs": 2, "shuffle": False, "verbose": 0}
    expected = joining_model().fit(JoinedTargets(), **settings).history["loss"]
    with pytest.warns(UserWarning, match=r"lengths \[4, 20\].*a row for each.*`model.fit`"):
        found = ks.ImportanceTraining(joining_model()).fit(JoinedTargets(), **settings).history
    assert (found["loss"], found["importance"]) == (expected, [0.0, 0.0])
