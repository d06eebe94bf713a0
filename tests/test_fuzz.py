"""Bad and odd input: a correct run, or an error that names the argument; never anything else."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_swift as ks

pytestmark = [
    pytest.mark.filterwarnings("ignore:`presample` asks for:UserWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]
# The same examples in every run. For others: `derandomize=False` and more of them.
EVERYWHERE_THE_SAME = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": True,
}
# What an error of ours begins with or holds: the argument at fault.
NAMED = (
    "`x`", "`y`", "`sample_weight`", "`class_weight`", "`batch_size`", "`presample`", "Scores",
    "`validation_split`", "`steps_per_epoch`", "`x`, `y` and", "A batch", "All parts of a batch",
    "The ids of a batch",
    "The batches of a stream",
)  # fmt: skip


def trainer(kind):
    """One for all examples of a kind: building and compiling is what takes the time."""
    if kind not in built:
        keras.utils.set_random_seed(0)
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="softmax")])
        network.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        training = ks.ImportanceTraining(network, presample=2.0, tau_threshold=0, seed=0)
        built[kind] = training, network.get_weights()
    training, weights = built[kind]
    training.model.set_weights(weights)
    return training


built = {}
numbers = st.sampled_from([0.0, 1.0, -2.5, 1e30, -1e38, np.nan, np.inf, -np.inf])


@st.composite
def inputs(draw):
    n = draw(st.integers(0, 9))
    width = draw(st.sampled_from([3, 3, 3, 3, 2]))
    dtype = draw(st.sampled_from(["float32", "float64", "float16", "int32", "uint8", "bool"]))
    x = np.random.default_rng(n).normal(size=(n, width)).astype(dtype)
    if n and x.size and np.issubdtype(x.dtype, np.floating) and draw(st.booleans()):
        with np.errstate(over="ignore"):
            x.flat[draw(st.integers(0, x.size - 1))] = draw(numbers)
    return draw(
        st.sampled_from([x, x, x, x, x.astype(object), x[:, 0] if width else x, x[None], "text", 3])
    )


@st.composite
def targets(draw):
    n = draw(st.integers(0, 9))
    y = np.array(draw(st.lists(st.integers(-1, 4), min_size=n, max_size=n)), "int64")
    kind = draw(st.sampled_from(["int64", "int32", "uint8", "float32", "column", "none", "list"]))
    if kind == "none":
        return None
    if kind == "list":
        return y.tolist()
    return y[:, None] if kind == "column" else y.astype(kind)


weights = st.one_of(
    st.none(),
    st.lists(numbers, min_size=1, max_size=9).map(lambda found: np.array(found, "float32")),
)


def outcome(**arguments):
    """`None` after a run, or our error."""
    # Keras' own `fit` on TensorFlow takes targets of one rank in the life of a model.
    training = trainer(np.ndim(arguments.get("y")))
    try:
        history = training.fit(**arguments, verbose=0)
    except (ValueError, TypeError) as error:
        assert any(name in str(error) for name in NAMED), error
        assert "train_step" not in vars(training.model)
        return error
    assert np.isfinite(history.history["tau"]).all()
    return None


def is_right(x, y, weight):
    """Whether Keras' own `fit` could take these, said in other words than the package's."""
    if not isinstance(x, np.ndarray) or x.dtype == object or x.shape[1:] != (3,) or not len(x):
        return False
    if not isinstance(y, np.ndarray) or len(y) != len(x):
        return False
    labels = y.astype("float64")
    return not ((labels < 0) | (labels > 3)).any() and (weight is None or len(weight) == len(x))


@settings(max_examples=100, **EVERYWHERE_THE_SAME)
@given(x=inputs(), y=targets(), weight=weights, batch=st.sampled_from([1, 3, 50]))
def test_arrays_train_or_are_named(x, y, weight, batch):
    error = outcome(x=x, y=y, sample_weight=weight, batch_size=batch)
    if not is_right(x, y, weight):
        assert error is not None
        return
    finite = np.isfinite(x.astype("float32")).all() and (
        weight is None or np.isfinite(weight).all()
    )
    # Large numbers may overflow on their way through the network; then scores say so.
    small = np.abs(x.astype("float64")).max() < 1e4 and (
        weight is None or (abs(weight) < 1e4).all()
    )
    # What is not finite trains as in `fit`, with a warning once a batch is drawn by importance.
    if finite and small:
        assert error is None, error


@settings(max_examples=60, **EVERYWHERE_THE_SAME)
@given(
    batches=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([3, 3, 3, 2]), st.integers(1, 4)),
        min_size=0,
        max_size=5,
    ),
    steps=st.sampled_from([1, 3, None]),
)
@pytest.mark.any_backend
def test_streams_train_or_are_named(batches, steps):
    def stream():
        for size, width, parts in batches:
            batch = (np.zeros((size, width), "float32"), np.zeros(size), np.ones(size), 0)
            yield batch[:parts]

    error = outcome(x=stream(), steps_per_epoch=steps)
    good = all(size and width == 3 and parts in (2, 3) for size, width, parts in batches)
    uniform = len({parts for _, _, parts in batches}) == 1
    enough = steps is not None and len(batches) >= 2 * steps
    if good and uniform and enough:
        assert error is None, error
    if not batches:
        assert error is not None


@pytest.mark.slow
@settings(max_examples=40, **EVERYWHERE_THE_SAME)
@given(
    # No smaller ones: some backends take subnormal products for 0.
    weights=st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=8, max_size=8),
    scores=st.lists(st.sampled_from([0.0, 1e-30, 1.0, 3.0, 1e30]), min_size=8, max_size=8),
)
def test_weights_are_never_silently_wrong(weights, scores):
    given_scores = np.array(scores, "float32")

    def score(y_true, y_pred):
        return keras.ops.take(given_scores, keras.ops.cast(y_true, "int32"))

    network = built.setdefault("eight", None) or eight()
    drawn = []
    data = ks.ImportanceDataset(
        network,
        np.eye(8, dtype="float32"),
        np.arange(8),
        np.array(weights, "float32"),
        batch_size=4,
        presample=2.0,
        tau_threshold=0,
        floor=0.25,
        score=score,
        seed=0,
        on_draw=drawn.append,
    )
    list(data)
    # By hand, in other words than the package's: the score times the weight, a quarter uniform.
    scaled = (given_scores * np.array(weights, "float32")).astype("float64")
    p = np.full(8, 1 / 8)
    if scaled.sum() > 0:
        p = 0.75 * scaled / scaled.sum() + 0.25 / 8
    for batch in drawn:
        expected = 1 / (8 * p[batch.indices])
        np.testing.assert_allclose(batch.importance, expected, rtol=1e-4)
        user = np.array(weights)[batch.indices]
        np.testing.assert_allclose(batch.weights.reshape(-1), expected * user, rtol=1e-4)


def eight():
    network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, activation="softmax")])
    network.compile("sgd", "sparse_categorical_crossentropy")
    built["eight"] = network
    return network
