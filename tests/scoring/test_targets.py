"""The structure of targets and weights: as `compile` allows it, or an error that says what is."""

import keras
import numpy as np
import pytest

import keras_swift as ks
from keras_swift.src.scoring.structures import follow
from keras_swift.src.validation import UnfitData, explained

LOSS = "sparse_categorical_crossentropy"
X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
A = np.arange(12) % 4
B = np.arange(12) % 2
ONE_HOT = np.eye(4, dtype="float32")[A]
ONES = np.ones(12, "float32")


def network(form, loss=LOSS):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    a = keras.layers.Dense(4, activation="softmax", name="a")(inputs)
    b = keras.layers.Dense(2, activation="softmax", name="b")(inputs)
    outputs = {
        "one": a,
        "list of one": [a],
        "dict of one": {"a": a},
        "list": [a, b],
        "dict": {"a": a, "b": b},
    }
    model = keras.Model(inputs, outputs[form])
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def drawn(model, y, sample_weight=None):
    """The weights of one batch, drawn by importance."""
    batches = []
    data = ks.ImportanceDataset(
        model,
        X,
        y,
        sample_weight,
        4,
        presample=2.0,
        tau_threshold=0,
        seed=0,
        on_draw=batches.append,
    )
    list(data)
    return batches[0]


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize(
    ("form", "loss", "y", "same_as"),
    [
        ("one", LOSS, [A], ("one", LOSS, A)),
        ("list of one", LOSS, A, ("one", LOSS, A)),
        ("list of one", LOSS, [A], ("one", LOSS, A)),
        # This score needs the last layer's activation.
        ("list of one", "mean_squared_error", ONE_HOT, ("one", "mean_squared_error", ONE_HOT)),
        ("dict of one", LOSS, A, ("one", LOSS, A)),
        ("dict of one", LOSS, [A], ("one", LOSS, A)),
        ("dict of one", LOSS, {"a": A}, ("one", LOSS, A)),
        ("list", LOSS, (A, B), ("list", LOSS, [A, B])),
        ("list", LOSS, {"b": B, "a": A}, ("list", LOSS, [A, B])),
        ("dict", LOSS, [A, B], ("list", LOSS, [A, B])),
        # Targets for the outputs with a loss alone.
        ("list", [None, LOSS], [B], ("list", [None, LOSS], [A, B])),
        ("dict", {"b": LOSS}, [B], ("list", [None, LOSS], [A, B])),
        ("dict", {"b": LOSS}, {"b": B}, ("list", [None, LOSS], [A, B])),
        ("dict", {"a": LOSS}, [A], ("one", LOSS, A)),
        ("list", [None, LOSS], B, ("list", [None, LOSS], [A, B])),
        ("dict", {"b": LOSS}, B, ("list", [None, LOSS], [A, B])),
        ("dict", {"b": LOSS}, {"a": None, "b": B}, ("list", [None, LOSS], [A, B])),
        ("list", [None, LOSS], [None, B], ("list", [None, LOSS], [A, B])),
    ],
)
@pytest.mark.slow
def test_one_score_however_the_targets_come(form, loss, y, same_as):
    ours, reference = drawn(network(form, loss), y), drawn(network(*same_as[:2]), same_as[2])
    np.testing.assert_array_equal(ours.indices, reference.indices)
    np.testing.assert_allclose(ours.scores, reference.scores, rtol=1e-5)
    ks.ImportanceTraining(network(form, loss)).fit(X, y, batch_size=4, verbose=0)


TWO = "`y` must be a list of 2 arrays, or a dict with the keys 'a', 'b': the model has 2 outputs."


@pytest.mark.parametrize(
    ("form", "y", "message"),
    [
        ("one", [A, A], "`y` must be one array: the model has one output. Received: a list of 2"),
        ("one", {"a": A}, "Received: a dict with the keys 'a'"),
        ("list of one", [A, A], "`y` must be one array"),
        ("list", A, TWO + " Received: one array"),
        ("list", [A], TWO + " Received: a list of 1"),
        ("list", [A, B, B], TWO + " Received: a list of 3"),
        ("list", {"a": A}, TWO + " Received: a dict with the keys 'a'"),
        ("list", {"a": A, "b": B, "c": B}, TWO + " Received: a dict with the keys 'a', 'b', 'c'"),
        ("list", [[A, B]], TWO + " Received: a nested list of 1"),
        ("dict", [A, B, B], TWO),
        ("dict", {"a": A, "c": B}, TWO + " Received: a dict with the keys 'a', 'c'"),
        ("list", [], "`y` must hold at least one array. Received: an empty structure"),
    ],
)
def test_targets_that_do_not_fit_the_outputs_are_named(form, y, message):
    fails(network(form), y, message)


def fails(model, y, message):
    training = ks.ImportanceTraining(model, presample=2.0)
    with pytest.raises(ValueError) as error:
        training.fit(X, y, batch_size=4, verbose=0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("form", "y", "weights"),
    [
        ("one", A, [ONES, ONES]),
        ("list", [A, B], [ONES]),
        ("list", [A, B], {"a": ONES}),
        ("dict", [A, B], {"a": ONES, "c": ONES}),
    ],
)
def test_weights_that_do_not_fit_the_outputs_are_named(form, y, weights):
    training = ks.ImportanceTraining(network(form), presample=2.0)
    with pytest.raises(ValueError, match="`sample_weight` must be one array for all outputs"):
        training.fit(X, y, sample_weight=weights, batch_size=4, verbose=0)


def test_a_batch_that_fits_no_layer_is_named_also_late():
    def stream():
        for width in (3, 3, 2, 2):
            yield np.zeros((4, width), "float32"), np.zeros(4)

    training = ks.ImportanceTraining(network("one"), presample=2.0, tau_threshold=0)
    with pytest.raises(ValueError, match=r"`x` and `y` must fit .* x of shape \('n', 2\)"):
        training.fit(stream(), steps_per_epoch=2, verbose=0)


def test_an_error_of_python_on_a_line_of_ours_is_explained():
    with (
        pytest.raises(ValueError, match="must fit the model.*They gave IndexError"),
        explained(X, A),
    ):
        follow((3,), [])


class OutOfMemoryError(RuntimeError):
    """As PyTorch's."""


class Coded(RuntimeError):
    """As JAX's."""

    error_code_string = "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("kind", [MemoryError, OutOfMemoryError, Coded])
def test_a_lack_of_memory_is_no_fault_of_the_data(kind):
    with pytest.raises(kind), explained(X, A):
        raise kind


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="on the CPU it has no error of its own for this"
)
def test_what_the_framework_raises_is_known_as_a_lack_of_memory():
    with pytest.raises(Exception) as raised, explained(X, A):
        keras.ops.convert_to_numpy(keras.ops.zeros((2**50,)))
    assert not isinstance(raised.value, UnfitData)
