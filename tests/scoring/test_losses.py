"""Every loss of Keras, as an object and by its name, under importance weights."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

import keras_swift as ks
from keras_swift.src.scoring import forward

N, K = 12, 4
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 3)).astype("float32")
LABELS = RANDOM.integers(0, K, N)
TARGETS = {
    "labels": LABELS,
    "one-hot": np.eye(K, dtype="float32")[LABELS],
    "signs": np.sign(RANDOM.normal(size=(N, K))).astype("float32"),
    "shares": RANDOM.dirichlet(np.ones(K), N).astype("float32"),
    "numbers": RANDOM.normal(size=(N, K)).astype("float32"),
    "counts": RANDOM.poisson(2.0, (N, K)).astype("float32"),
    "sequences": RANDOM.integers(1, K, (N, 2)),
}
# Loss class: its targets, the activation of the output, the shape of the output.
LOSSES = {
    "BinaryCrossentropy": ("one-hot", "sigmoid"),
    "BinaryFocalCrossentropy": ("one-hot", "sigmoid"),
    "CategoricalCrossentropy": ("one-hot", "softmax"),
    "CategoricalFocalCrossentropy": ("one-hot", "softmax"),
    "CategoricalGeneralizedCrossEntropy": ("labels", "softmax"),
    "CategoricalHinge": ("one-hot", "linear"),
    "CosineSimilarity": ("numbers", "linear"),
    "CTC": ("sequences", "linear"),
    "Dice": ("one-hot", "sigmoid"),
    "Hinge": ("signs", "linear"),
    "Huber": ("numbers", "linear"),
    "KLDivergence": ("shares", "softmax"),
    "LogCosh": ("numbers", "linear"),
    "MeanAbsoluteError": ("numbers", "linear"),
    "MeanAbsolutePercentageError": ("numbers", "linear"),
    "MeanSquaredError": ("numbers", "linear"),
    "MeanSquaredLogarithmicError": ("counts", "softplus"),
    "Poisson": ("counts", "softplus"),
    "SparseCategoricalCrossentropy": ("labels", "softmax"),
    "SquaredHinge": ("signs", "linear"),
    "Tversky": ("one-hot", "sigmoid"),
}
# Their value for a batch is no mean over its examples.
OF_THE_WHOLE_BATCH = {"Dice", "Tversky"}
# They compare the examples of a batch with one another.
AMONG_EXAMPLES = {"Circle"}


def names():
    found = {
        name
        for name, thing in vars(keras.losses).items()
        if inspect.isclass(thing) and issubclass(thing, keras.losses.Loss)
    }
    return found - {"Loss"}


def by_name(name):
    """The string that Keras knows the loss by."""
    function = {"CTC": "ctc"}.get(name)
    if function is None:
        words = "".join("_" + c.lower() if c.isupper() else c for c in name).strip("_")
        function = words.replace("k_l_divergence", "kl_divergence")
        function = {"log_cosh": "log_cosh", "huber": "huber"}.get(function, function)
    return function


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


def model_for(name, loss):
    targets, activation = LOSSES[name]
    keras.utils.set_random_seed(0)
    if name == "CTC":
        # Four steps of four classes.
        stack = [keras.layers.Dense(16), keras.layers.Reshape((4, 4))]
    else:
        stack = [keras.layers.Dense(K, activation=activation)]
    model = keras.Sequential([keras.Input((3,)), *stack])
    model.compile(keras.optimizers.SGD(0.05), loss)
    return model, TARGETS[targets]


def test_every_class_of_keras_is_listed():
    assert names() == set(LOSSES) | AMONG_EXAMPLES & names()


@pytest.mark.filterwarnings("ignore:`presample` asks for:UserWarning")
@pytest.mark.parametrize("name", sorted(set(LOSSES) - OF_THE_WHOLE_BATCH))
def test_the_weighted_loss_is_the_weighted_mean_of_single_losses(name):
    loss = getattr(keras.losses, name)()
    model, y = model_for(name, loss)
    drawn = []
    data = ks.ImportanceDataset(
        model,
        X,
        y,
        batch_size=5,
        tau_threshold=0,
        # Many of these losses have gradients of one length.
        score=lambda y, p: ops.exp(ops.reshape(p, (ops.shape(p)[0], -1))[:, 0]),
        seed=0,
        on_draw=drawn.append,
    )
    # Two batches, each as training gets it.
    batches = list(data)[:2]
    for (x, targets, weights), batch in zip(batches, drawn, strict=False):
        single = [
            number(loss(targets[i : i + 1], model(x[i : i + 1], training=False)))
            for i in range(len(x))
        ]
        expected = np.mean(batch.importance * single)
        found = number(loss(targets, model(x, training=False), sample_weight=weights))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert np.ptp(drawn[0].importance) > 0.01


@pytest.mark.filterwarnings("ignore:`presample` asks for:UserWarning")
@pytest.mark.parametrize("name", sorted(set(LOSSES) - OF_THE_WHOLE_BATCH))
def test_names_train_as_objects_do(name):
    try:
        keras.losses.get(by_name(name))
    except ValueError:
        pytest.skip(f"Keras has no name for {name}")

    model, y = model_for(name, getattr(keras.losses, name)())
    data = ks.ImportanceDataset(model, X, y, batch_size=4, tau_threshold=0, seed=0)
    by_object = next(iter(data))

    model, y = model_for(name, by_name(name))
    trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0)
    drawn = []

    class Drawn(keras.callbacks.Callback):
        def on_batch_drawn(self, batch):
            drawn.append(batch)

    history = trainer.fit(X, y, batch_size=4, epochs=2, callbacks=[Drawn()], verbose=0).history
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_array_equal(drawn[0].x, by_object[0])
    np.testing.assert_allclose(drawn[0].importance, by_object[2], rtol=1e-5)


@pytest.mark.parametrize("name", sorted(OF_THE_WHOLE_BATCH))
def test_models_with_a_loss_of_the_whole_batch_are_trained_uniformly(name):
    model, y = model_for(name, getattr(keras.losses, name)())
    with pytest.warns(UserWarning, match="must give one value .* for each example.*`model.fit`"):
        history = ks.ImportanceTraining(model).fit(X, y, batch_size=4, verbose=0).history
    assert (history["importance"], history["gain"]) == ([0.0], [1.0])
    assert np.isfinite(history["loss"]).all()


@pytest.mark.any_backend
@pytest.mark.parametrize("name", sorted(AMONG_EXAMPLES & names()))
def test_losses_that_compare_examples_are_warned_of(name):
    model, y = model_for("SparseCategoricalCrossentropy", getattr(keras.losses, name)())
    with pytest.warns(UserWarning, match="compares the examples of a batch"):
        ks.ImportanceTraining(model, presample=2.0).fit(X, y, batch_size=4, verbose=0)


def test_a_sure_softmax_does_not_look_like_a_loss_that_compares_examples():
    # TensorFlow's loss finds the logits behind a whole output, 300 apart, and none behind a part.
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.array([[2, 254, 0], [0, 0, 0], [254, 0, 0], [0, 0, 254]], "uint8")
    training = ks.ImportanceTraining(model, presample=2.0)
    for label in range(4):
        training.fit(x, np.full(4, label), batch_size=2, verbose=0)


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_with_sample_weight", "none"])
def test_reductions(reduction):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model, y = model_for("MeanSquaredError", loss)
    trainer = ks.ImportanceTraining(model, presample=2.0, tau_threshold=0, seed=0)
    settings = {"batch_size": 4, "verbose": 0}
    if reduction == "mean_with_sample_weight":
        with pytest.warns(UserWarning, match="bias of order 1/b"):
            trainer.fit(X, y, **settings)
    elif reduction == "none":
        plain, _ = model_for("MeanSquaredError", loss)
        try:
            plain.fit(X, y, **settings)
        except Exception:
            pytest.skip("Keras' own `fit` takes no loss without a reduction here")
        trainer.fit(X, y, **settings)
    else:
        history = trainer.fit(X, y, **settings).history
        assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize("dtype", ["int64", "float64", "int32", "float32", "uint8", "bool"])
def test_a_model_is_built_for_the_numbers_that_a_step_gets(dtype):
    # JAX makes 32 bits of 64, and newer ones warn of who asks for 64.
    data = np.zeros((2, 3), dtype)
    expected = keras.ops.convert_to_tensor(data)
    found = forward.specified({"x": data, "y": None})
    assert found["x"].dtype == keras.backend.standardize_dtype(expected.dtype)
    assert found["y"] is None


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its optimizer complained")
def test_batches_of_two_sizes_in_a_loop_of_the_loss_print_no_error(capfd):
    model, y = model_for("CTC", keras.losses.CTC())
    ks.ImportanceTraining(model, seed=0).fit(X, y, batch_size=4, verbose=0)
    assert "not compatible" not in capfd.readouterr().err
