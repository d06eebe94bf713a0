"""Every argument of every public name: a wrong value is named, before anything changes."""

import functools
import inspect
import os

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_record import made_up_record, made_up_suspects

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
SUSPECTS = made_up_suspects(24)
TRIALS = (ks.SearchTrial(0, UNIFORM, 0.5, 1.0), ks.SearchTrial(1, UNIFORM, 0.6, 1.0))
RESULT = ks.SearchResult(
    features={"loss": RANKS},
    trials=TRIALS,
    confirmed=(),
    objective="val_loss",
    direction="min",
    record=made_up_record(24),
    classes=None,
    pretrained_weights=[],
    pretrain_epochs=1,
    finetune_epochs=1,
    pretrain_seconds=1.0,
    record_epochs=1.0,
    data_fingerprint="",
)
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
    "SwiftSampler.transformed": lambda a: ks.SwiftSampler.uniform(["loss"]).transformed(
        **{"features": {"loss": RANKS}, "gradient_norm": RANKS, **a}
    ),
    "SwiftSampler.piecewise_linear": lambda a: UNIFORM.piecewise_linear(**a),
    "SwiftSampler.from_config": lambda a: ks.SwiftSampler.from_config(**a),
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
    "ExampleMemory.arranged": lambda a: MEMORY.arranged(**a),
    "ExampleMemory.restore": lambda a: MEMORY.restore(**a),
    "BackupAndRestore": lambda a: ks.BackupAndRestore(**{"backup_dir": "backup", **a}),
    "SearchResult.is_better": lambda a: RESULT.is_better(
        **{"trial": TRIALS[1], "uniform": TRIALS[0], **a}
    ),
    "SearchResult.suspects": lambda a: RESULT.suspects(**a),
    "SearchResult.plot": lambda a: RESULT.plot(**a),
    "Suspects.to_frame": lambda a: SUSPECTS.to_frame(**a),
    "Suspects.to_csv": lambda a: SUSPECTS.to_csv(**{"file": os.devnull, **a}),
    "Suspects.plot": lambda a: SUSPECTS.plot(**a),
    "Suspects.captions": lambda a: SUSPECTS.captions(**a),
}
# What users receive and do not make.
RECEIVED = {"Batch", "SearchResult", "SearchTrial", "Suspects", "WrongShare"}
# It asks for what a training remembered: `tests/suspects/test_of_record.py`.
ELSEWHERE_TESTED = {"ImportanceTraining.suspects", "SwiftTraining.suspects"}


def public(call):
    return functools.reduce(getattr, call.split("."), ks)


def parameters(call):
    return [name for name in inspect.signature(public(call)).parameters if name != "self"]


PARAMETERS = [(call, name) for call in CALLS for name in parameters(call)]
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
    **dict.fromkeys(["file", "path", "directory", "project_name", "backup_dir"], not_paths),
    **dict.fromkeys(
        ["overwrite", "averages", "return_scores", "double_checkpoint", "delete_checkpoint"],
        objects | st.integers() | st.text(max_size=3),
    ),
    "save_freq": objects | st.floats() | st.integers(max_value=0) | st.sampled_from(["", True]),
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
    "class_names": st.sampled_from(
        [
            5,
            "abcd",
            ["a"],
            list("abcde"),
            object(),
            [list("ab")] * 4,
            [["a"], list("ab")],
            {"x": list("abcd")},
        ]
    ),
    "ids": st.sampled_from([5, "a", [1], object(), np.ones((24, 2))]),
    "config": st.sampled_from([5, "a", [], {}, {"knots": 1}, {**UNIFORM.get_config(), "a": 1}]),
    "transformed": st.sampled_from([None, "a", object(), [[1.0], [1.0, 2.0]]]),
    "order": st.sampled_from([None, 5, "a", [0.5], [[1, 2]], object()]),
    "state": st.sampled_from([None, 5, (1, 2, 3), MEMORY]),
    **dict.fromkeys(["trial", "uniform"], st.sampled_from([None, 1, UNIFORM])),
    "indices": st.sampled_from([None, "a", [0.5, 1.0], 3, [[1, 2]], [0, 24], [-1, 0]]),
    "model": st.sampled_from([None, 5, "model", keras.Model, without("all")]),
    "reference": st.sampled_from([1, "model", keras.Model, without("all")]),
    "record": st.sampled_from([1, "a", {"mean_loss": RANKS}, object(), made_up_record(5)]),
    "x": st.sampled_from([5, "a", object(), np.zeros((0, 8)), X[:5], X[:, :3], X[:, None, None]]),
    "y": st.sampled_from([5, "a", object(), Y[:5], changed(Y, 99), changed(Y, -1)])
    | st.sampled_from([changed(Y, np.nan), np.array(list("abcd") * 6), np.array([None] * 24)]),
    "sample_weight": st.sampled_from([5, "a", object(), np.ones(5), np.array(list("abcd") * 6)])
    | st.sampled_from([changed(np.ones(24), np.nan), changed(np.ones(24), -np.inf)]),
}
# The same name for something else.
ELSEWHERE = {
    ("find_suspects", "epochs"): not_counts,
    ("ExampleMemory.record", "values"): st.sampled_from([None, "a", np.ones((2, 3)), [1.0, 2.0]]),
    ("SwiftTraining", "features"): st.sampled_from([5, "loss", [], ["lost"], {}, object()]),
    ("compute_features", "features"): st.sampled_from([5, "loss", [], ["lost"], {}, [object()]])
    | st.sampled_from([{"a": "lost"}, {"a": X}, [np.ones(3)], {"a": RANKS * np.nan}]),
    ("SamplerSpace", "features"): st.sampled_from([5, "loss", [], ["lost"], {}, object()]),
    ("SearchResult.suspects", "count"): not_counts_or_zero,
    **dict.fromkeys(
        [(f"SwiftSampler.{name}", "features") for name in ("probabilities", "transformed")],
        st.sampled_from([5, "a", None, {}, np.ones(24)]),
    ),
}


def test_every_public_call_is_among_them():
    calls = set()
    for name in ks.__all__:
        value = getattr(ks, name)
        if name not in RECEIVED:
            calls.add(name)
        # Keras calls those of a callback or a data set.
        if inspect.isclass(value) and not name == "BackupAndRestore":
            own = {key for key in vars(value) if not key.startswith(("_", "on_"))}
            calls |= {f"{name}.{key}" for key in own if callable(getattr(value, key))}
    asked = {call for call in calls if parameters(call)}
    assert asked - ELSEWHERE_TESTED == set(CALLS)


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


TRAINS = ["ImportanceTraining", "SwiftTraining", "find_suspects", "search"]
NEEDS_LOSS = ["SwiftTraining.fit", "compute_features", "find_suspects", "search"]


@pytest.mark.parametrize("call", TRAINS)
def test_a_model_without_an_optimizer_is_named(call):
    message = "`model` must be compiled with an optimizer.*Received: optimizer=None"
    with pytest.raises(ValueError, match=message):
        CALLS[call]({"model": without("optimizer")})


@pytest.mark.parametrize("call", [*NEEDS_LOSS, "ImportanceDataset"])
def test_a_model_without_a_loss_is_named(call):
    message = "`model` must be compiled with a loss.*Received: one without"
    with pytest.raises(ValueError, match=message):
        if call == "SwiftTraining.fit":
            fit(ks.SwiftTraining(without("loss"), UNIFORM, features={"loss": RANKS}), {})
        else:
            CALLS[call]({"model": without("loss")})


def two_outputs():
    inputs = keras.Input((8,))
    outputs = {
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(inputs),
        "size": keras.layers.Dense(1, name="size")(inputs),
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"kind": "sparse_categorical_crossentropy", "size": "mse"})
    return model


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (list("ab"), "a list of 3 names for the output 'kind'. Received: 2 names"),
        ({"kind": list("ab")}, "a list of 3 names for the output 'kind'. Received: 2 names"),
        ({"kind": "abc"}, "a list of 3 names for the output 'kind', or a dict"),
        ({"size": ["m"]}, r"for outputs with classes, of which there are \['kind'\]"),
        ({"colour": ["red"]}, r"for outputs with classes, of which there are \['kind'\]"),
    ],
)
def test_names_are_for_the_classes_of_an_output(monkeypatch, names, message):
    model = two_outputs()
    monkeypatch.setattr(keras.Model, "fit", started)
    y = {"kind": Y % 3, "size": X[:, :1]}
    with pytest.raises((TypeError, ValueError), match="`class_names` must be " + message):
        ks.find_suspects(model, X, y, class_names=names, verbose=0)


def of_python(value):
    return {int: np.int64, float: np.float32, bool: np.bool_}.get(type(value), lambda v: v)(value)


# 64 bits are what frameworks have for a seed.
@pytest.mark.parametrize("seed", [3, 2**70])
def test_numbers_of_numpy_are_as_good_as_those_of_python(tmp_path, seed):
    def run(convert, folder):
        def given(**arguments):
            return {name: convert(value) for name, value in arguments.items()}

        in_fit = given(batch_size=8, epochs=2, validation_split=0.25, validation_freq=1)
        trainer = ks.ImportanceTraining(network.__wrapped__(), **given(presample=2.0, floor=0.25))
        backup = ks.BackupAndRestore(folder / "b", **given(save_freq=2, double_checkpoint=True))
        trainer.fit(X, Y, verbose=0, callbacks=[backup], **in_fit, validation_batch_size=convert(4))
        numbers = given(max_trials=1, pretrain_epochs=1, finetune_epochs=1, batch_size=8, confirm=0)
        own = seed if seed > 2**64 else convert(seed)
        data = {"validation_data": (X, Y), "directory": folder / "search"}
        model = network.__wrapped__()
        return ks.search(model, X, Y, **data, **numbers, seed=own, verbose=0).trials[0].objective

    assert run(of_python, tmp_path / "numpy") == run(lambda value: value, tmp_path / "python")
