"""Every argument of every public name: a wrong value is named, before anything changes."""

import functools
import inspect

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_record import made_up_record

import keras_swift as ks

X = np.random.default_rng(0).normal(size=(24, 8)).astype("float32")
Y = X[:, :4].argmax(1)
RANKS = np.arange(24.0)
UNIFORM = ks.SwiftSampler.uniform(["loss"], transform="cdf")


def changed(array, value, row=7):
    array = np.array(array, np.result_type(array, value))
    array[row] = value
    return array


def started(*arguments, **keywords):
    raise AssertionError("training has started")


@functools.cache
def network(name="built", loss="sparse_categorical_crossentropy"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "softmax")], name=name)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


@functools.cache
def without(what):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "softmax")], name="bare")
    if what == "optimizer":
        model.compile(None, "sparse_categorical_crossentropy")
    elif what == "loss":
        model.compile("sgd")
    return model


def fit(trainer, changes):
    arguments = {"x": X, "y": Y, "verbose": 0, **changes}
    return trainer.fit(**arguments)


@functools.cache
def swift(features=True):
    return ks.SwiftTraining(network(), UNIFORM, features={"loss": RANKS} if features else None)


@functools.cache
def importance():
    return ks.ImportanceTraining(network(), seed=0)


MEMORY = ks.ExampleMemory(24)
# Each takes wrong arguments by name, and has right ones for the others.
CALLS = {
    "ImportanceTraining": lambda a: ks.ImportanceTraining(**{"model": network(), **a}),
    "ImportanceTraining.fit": lambda a: fit(importance(), a),
    "ImportanceDataset": lambda a: ks.ImportanceDataset(
        **{"model": network(), "x": X, "y": Y, **a}
    ),
    "SwiftTraining": lambda a: ks.SwiftTraining(**{"model": network(), "sampler": UNIFORM, **a}),
    "SwiftTraining.fit": lambda a: fit(swift(), a),
    "compute_features": lambda a: ks.compute_features(
        **{"model": network(), "x": X, "y": Y, "verbose": 0, **a}
    ),
    "find_suspects": lambda a: ks.find_suspects(
        **{"model": network(), "x": X, "y": Y, "verbose": 0, **a}
    ),
    "search": lambda a: ks.search(
        **{"model": network(), "x": X, "y": Y, "validation_data": (X, Y), "verbose": 0, **a}
    ),
    "SamplerSpace": lambda a: ks.SamplerSpace(**a),
    "SwiftSampler": lambda a: ks.SwiftSampler(
        **{"knots": [0.5], "values": [1, 1, 0], "coefficients": [1.0], "features": ["loss"], **a}
    ),
    "SwiftSampler.uniform": lambda a: ks.SwiftSampler.uniform(**a),
    "SwiftSampler.from_parameters": lambda a: ks.SwiftSampler.from_parameters(
        **{"parameters": UNIFORM.parameters, "layout": UNIFORM.layout, **a}
    ),
    "SwiftSampler.probabilities": lambda a: ks.SwiftSampler.uniform(["loss"]).probabilities(
        **{"features": {"loss": RANKS}, "gradient_norm": RANKS, **a}
    ),
    "SwiftSampler.save": lambda a: UNIFORM.save(**a),
    "SwiftSampler.load": lambda a: ks.SwiftSampler.load(**a),
    "plot_training": lambda a: ks.plot_training(
        **{"history": {"loss": [1.0], "gain": [1.0], "importance": [0.0]}, **a}
    ),
    "ExampleMemory": lambda a: ks.ExampleMemory(**{"size": 3, **a}),
    "ExampleMemory.record": lambda a: MEMORY.record(
        **{"indices": np.arange(2), "values": np.ones((2, 4)), **a}
    ),
    "ExampleMemory.resize": lambda a: MEMORY.resize(**a),
}
PUBLIC = {
    "ImportanceTraining.fit": ks.ImportanceTraining.fit,
    "SwiftTraining.fit": ks.SwiftTraining.fit,
    "SwiftSampler.uniform": ks.SwiftSampler.uniform,
    "SwiftSampler.from_parameters": ks.SwiftSampler.from_parameters,
    "SwiftSampler.probabilities": ks.SwiftSampler.probabilities,
    "SwiftSampler.save": ks.SwiftSampler.save,
    "SwiftSampler.load": ks.SwiftSampler.load,
    "ExampleMemory.record": ks.ExampleMemory.record,
    "ExampleMemory.resize": ks.ExampleMemory.resize,
}
PARAMETERS = [
    (call, name)
    for call in CALLS
    for name in inspect.signature(PUBLIC.get(call) or getattr(ks, call)).parameters
    # What may be wrong with names is checked where suspects are shown.
    if name not in ("self", "class_names")
]
HOW = {"deadline": None, "database": None, "derandomize": True, "max_examples": 12}

# Values of no type that any argument of numbers, names or flags has.
objects = st.one_of(
    st.binary(max_size=2),
    st.complex_numbers(),
    st.builds(object),
    st.just(np.ones(3)),
    st.just(keras.ops.ones(2)),
    st.just([[1]]),
)
not_numbers = objects | st.text(max_size=3) | st.booleans() | st.lists(st.integers(), max_size=2)
not_ints = not_numbers | st.floats()
not_counts = not_ints | st.integers(max_value=0) | st.just(np.int64(0))
not_counts_or_zero = not_ints | st.integers(max_value=-1)
not_texts = objects | st.integers() | st.floats() | st.lists(st.text(max_size=2), max_size=2)
outside = st.floats(max_value=-1e-9) | st.floats(min_value=1) | st.just(np.nan)
not_functions = objects.filter(lambda value: not callable(value)) | st.integers()
not_paths = st.integers() | st.floats() | st.builds(object) | st.just(["a"]) | st.just("")

WRONG = {
    **dict.fromkeys(
        ["batch_size", "steps_per_epoch", "validation_batch_size", "max_trials", "segments"]
        + ["finetune_epochs", "warmup", "count"],
        not_counts,
    ),
    **dict.fromkeys(
        ["epochs", "initial_epoch", "validation_steps", "pretrain_epochs", "confirm", "seed"]
        + ["size"],
        not_counts_or_zero,
    ),
    **dict.fromkeys(["file", "path", "directory", "project_name"], not_paths),
    **dict.fromkeys(["overwrite", "averages"], objects | st.integers() | st.text(max_size=3)),
    "ease_off": objects | st.integers() | st.text(max_size=3),
    "scale_learning_rate": objects | st.integers() | st.text(max_size=3),
    "shuffle": objects | st.integers() | st.sampled_from(["no", "batches"]),
    "verbose": objects | st.integers(3) | st.sampled_from(["yes", "", 0.5, -1]),
    **dict.fromkeys(["validation_split", "floor"], not_numbers | outside),
    "presample": objects | st.booleans() | st.floats(max_value=1) | st.sampled_from(["3", np.inf]),
    "tau_threshold": not_numbers | st.floats(max_value=-1e-9) | st.just(np.nan),
    "score": not_functions | st.just("entropy"),
    "score_inputs": not_functions,
    "on_draw": not_functions,
    "method": not_texts | st.just("grid"),
    "transform": not_texts | st.just("rank"),
    "objective": st.integers() | st.builds(object) | st.sampled_from(["val_hair", "", []]),
    "class_weight": st.sampled_from(
        [[1.0], {"0": 1.0}, {0.5: 1.0}, {0: "2"}, {0: np.nan}, {0: [1.0, 2.0]}, 5, np.ones(4)]
    ),
    "callbacks": st.sampled_from([5, "a", [5], keras.callbacks.Callback, np.ones(3)]),
    "validation_freq": st.sampled_from([0, -1, 2.5, "a", [0], [1.5], {}, np.ones(2), True]),
    "validation_data": st.sampled_from(
        [5, "a", (), (X, Y, None, None), (1, 2), ("a", "b"), object(), (X, 3)]
    ),
    "history": st.sampled_from([None, 5, [1.0], "a", {}, {"loss": [1.0]}]),
    "space": st.sampled_from([5, "cgf", ("loss",), ks.SamplerSpace]),
    "sampler": st.sampled_from([None, 5, "uniform", ks.SwiftSampler, {"knots": []}]),
    "layout": st.sampled_from([None, 4, ("loss",), "loss"]),
    "parameters": st.sampled_from([None, 4, "a", np.ones(3), [[1.0]], [np.nan] * 9]),
    "knots": st.sampled_from([None, 0.5, "a", [2.0], [np.nan], [[0.5]], [0.5, 0.4], object()]),
    "values": st.sampled_from([None, 0.5, "a", [2.0] * 3, [np.nan] * 3, [1.0], np.ones((1, 3))]),
    "coefficients": st.sampled_from([None, 0.5, "a", [2.0], [np.nan], [1.0, 1.0], []]),
    "features": st.sampled_from([5, "loss", [5], [], ["a", "a"], object(), np.ones(3), {}]),
    "gradient_norm": st.sampled_from([5, "a", np.ones(3), -RANKS, RANKS * np.nan, object()]),
    "indices": st.sampled_from([None, "a", [0.5, 1.0], 3, [[1, 2]], [0, 24], [-1, 0]]),
    "model": st.sampled_from([None, 5, "model", keras.Model, without("all")]),
    "reference": st.sampled_from([1, "model", keras.Model, without("all")]),
    "record": st.sampled_from([1, "a", {"mean_loss": RANKS}, object(), made_up_record(5)]),
    "x": st.sampled_from([5, "a", object(), np.zeros((0, 8)), X[:5], X[:, :3], X[:, None, None]]),
    "y": st.sampled_from([5, "a", object(), Y[:5], changed(Y, 99), changed(Y, -1)])
    | st.sampled_from([changed(Y, np.nan), np.array(list("abcd") * 6), np.array([None] * 24)]),
    "sample_weight": st.sampled_from([5, "a", object(), np.ones(5), np.array(list("abcd") * 6)]),
}
# The same name for something else.
ELSEWHERE = {
    ("find_suspects", "epochs"): not_counts,
    ("ExampleMemory.record", "values"): st.sampled_from([None, "a", np.ones((2, 3)), [1.0, 2.0]]),
    ("SwiftTraining", "features"): st.sampled_from([5, "loss", [], ["lost"], {}, object()]),
    ("compute_features", "features"): st.sampled_from([5, "loss", [], ["lost"], {}, [object()]])
    | st.sampled_from([{"a": "lost"}, {"a": X}, [np.ones(3)], {"a": RANKS * np.nan}]),
    ("SamplerSpace", "features"): st.sampled_from([5, "loss", [], ["lost"], {}, object()]),
    ("SwiftSampler.probabilities", "features"): st.sampled_from([5, "a", None, {}, np.ones(24)]),
}


def wrong_values(call, name):
    return ELSEWHERE.get((call, name), WRONG.get(name))


@pytest.mark.parametrize(("call", "name"), PARAMETERS)
def test_a_wrong_argument_is_named_before_anything_changes(monkeypatch, call, name):
    for model in (keras.Model, keras.Sequential):
        monkeypatch.setattr(model, "fit", started)
    values = wrong_values(call, name)
    assert values is not None, f"say in WRONG which values of `{name}` are wrong"

    @settings(**HOW)
    @given(values)
    def check(value):
        arguments = {name: value}
        if name == "record":
            arguments["features"] = ["mean_loss"]
        with pytest.raises((TypeError, ValueError)) as raised:
            CALLS[call](arguments)
        message = str(raised.value)
        assert f"`{name}`" in message or f"`{name}" in message, message
        assert "Received" in message, message
        assert len(message) < 1500

    before = network().get_weights()
    check()
    for now, then in zip(network().get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert int(network().optimizer.iterations) == 0
