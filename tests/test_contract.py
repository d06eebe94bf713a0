"""`ImportanceTraining(model).fit(...)` is `model.fit(...)`: models, sources and settings.

While the gate is shut the two must agree: weights, history, learning rates. While it is open it
must train, report the same names and leave the model as `fit` would.

Every model runs from arrays, every source and setting with the first model: those that differ most
in the quick suite, the others with `-m "not product"`. The full product of models and sources, some
minutes more: `pytest -m product`.
"""

import dataclasses
import inspect

import contract_cases as cases
import keras
import numpy as np
import pytest

import keras_swift as ks

pytestmark = [
    # A presample of 24 out of 44.
    pytest.mark.filterwarnings("ignore:`presample` asks for:UserWarning"),
    pytest.mark.filterwarnings("ignore:The model adds losses of its own:UserWarning"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning"),
    # Keras' own, about sources that do not tell their length.
    pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning"),
]
OURS = {"tau", "gain", "importance", "presample"}


def build(setting, source, folder, tuples=False):
    """A compiled model and the arguments of `fit`, the same at each call."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(setting.policy)
    try:
        model, x, y, compiled = cases.MODELS[setting.model]()
    finally:
        keras.config.set_dtype_policy("float32")
    if tuples:
        x, y = map(keras.tree.lists_to_tuples, (x, y))
    extra = setting.compile() if callable(setting.compile) else setting.compile
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1), **compiled, **extra})
    if setting.change is not None:
        setting.change(model)
    arguments = {"verbose": 0, "epochs": 2, "shuffle": False}
    if source == "arrays":
        arguments["batch_size"] = cases.BATCH
    arguments.update(cases.SOURCES[source](x, y, folder))
    arguments.update(setting.fit(folder) if callable(setting.fit) else setting.fit)
    return model, arguments


def check(setting, source, folder, tuples=False, by_default=False):
    (folder / "plain").mkdir()
    plain_source = cases.PLAIN.get(source, source)
    plain, arguments = build(setting, plain_source, folder / "plain", tuples)
    after_an_epoch = []
    if by_default:
        arguments["callbacks"] = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: after_an_epoch.append(plain.get_weights())
        )
    expected = plain.fit(**arguments)
    if by_default:
        check_the_first_epoch(setting, source, folder / "default", expected, after_an_epoch[0])

    (folder / "ours").mkdir()
    model, arguments = build(setting, source, folder / "ours")
    trainer = ks.ImportanceTraining(model, tau_threshold=1e9, seed=0)
    history = trainer.fit(**arguments)
    assert set(history.history) == set(expected.history) | OURS
    assert history.epoch == expected.epoch
    assert set(history.history["importance"]) == {0.0}
    close = {"rtol": setting.tolerance, "atol": setting.tolerance / 4}
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, err_msg=name, **close)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, **close)

    before = set(vars(model))
    steps = int(model.optimizer.iterations)
    (folder / "open").mkdir()
    again, arguments = build(setting, source, folder / "open")
    if keras.backend.backend() in setting.once:
        model = again
        before = set(vars(model)) | before
        trainer = ks.ImportanceTraining(model, seed=0)
    first = int(model.optimizer.iterations)
    weights = model.get_weights()
    trainer.settings = dataclasses.replace(trainer.settings, tau_threshold=0)
    opened = trainer.fit(**arguments).history
    assert set(opened) == set(expected.history) | OURS
    assert set(opened["importance"]) == {1.0}
    assert all(np.isfinite(values).all() for values in opened.values())
    if not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        # That one leaves steps out, until its scale is low enough.
        assert int(model.optimizer.iterations) - first == steps
    assert any(not np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))
    assert set(vars(model)) == before


def check_the_first_epoch(setting, source, folder, expected, weights):
    """The first epoch of a default run, while nothing is known of the examples, is `fit`'s."""
    folder.mkdir()
    model, arguments = build(setting, source, folder)
    arguments["epochs"] = 1
    history = ks.ImportanceTraining(model, seed=0).fit(**arguments).history
    assert set(history["importance"]) == {0.0}
    close = {"rtol": setting.tolerance, "atol": setting.tolerance / 4}
    for name, values in expected.history.items():
        np.testing.assert_allclose(history[name], values[:1], err_msg=name, **close)
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, theirs, **close)


@pytest.mark.parametrize("model", cases.marked(cases.MODELS))
def test_every_model(tmp_path, model):
    check(cases.Setting(model=model), "arrays", tmp_path)


@pytest.mark.filterwarnings("ignore:`presample='auto'` cannot draw by importance:UserWarning")
@pytest.mark.parametrize("source", cases.marked(cases.SOURCES))
def test_every_source(tmp_path, source):
    check(cases.Setting(), source, tmp_path, by_default=True)


@pytest.mark.parametrize("source", cases.marked(cases.SOURCES))
def test_every_source_is_drawn_by_importance_in_the_second_epoch(tmp_path, source):
    model, arguments = build(cases.Setting(), source, tmp_path)

    def score(y_true, y_pred):
        return keras.ops.cast(keras.ops.equal(keras.ops.reshape(y_true, (-1,)), 0), "float32") + 0.1

    trainer = ks.ImportanceTraining(model, score=score, seed=0)
    history = trainer.fit(**arguments).history
    assert history["importance"] == [0.0, 1.0] and history["presample"] == [1.0, 1.0]
    memory = trainer.memory
    assert memory.seen.all() and len(memory) == (40 if "steps_per_epoch" in arguments else 44)
    # As many are of the class that is scored higher as there are; weights multiply the scores.
    weights = cases.WEIGHTS[: len(memory)] if source.endswith(", weights") else 1.0
    high = cases.LABELS[: len(memory)] == 0
    assert (memory.score / weights > 1).sum() == high.sum()


@pytest.mark.parametrize("name", cases.marked(cases.SETTINGS))
def test_every_setting(tmp_path, name):
    setting = cases.SETTINGS[name]
    if keras.backend.backend() not in setting.backends:
        pytest.skip("not in Keras on this backend")
    check(setting, "arrays", tmp_path)


def check_swift(setting, source, folder):
    """`SwiftTraining` takes the same, and a uniform sampler draws every example once an epoch."""
    (folder / "plain").mkdir()
    plain, arguments = build(setting, source, folder / "plain")
    expected = plain.fit(**arguments).history
    (folder / "ours").mkdir()
    model, arguments = build(setting, source, folder / "ours")
    reference, _ = build(setting, source, folder / "ours")
    sampler = ks.SwiftSampler.uniform(["loss"])
    before = set(vars(model))
    history = ks.SwiftTraining(model, sampler, reference=reference, seed=0).fit(**arguments)
    assert set(history.history) == set(expected)
    assert all(np.isfinite(values).all() for values in history.history.values())
    assert len(history.epoch) == len(expected["loss"])
    assert set(vars(model)) - before <= set(vars(plain))
    assert int(model.optimizer.iterations) == int(plain.optimizer.iterations)


SWIFT_SOURCES = ["PyDataset, workers", "generator", "h5py", "tf.data"]
SWIFT_SETTINGS = ["sample_weight", "class_weight of batches", "steps_per_epoch"]
SWIFT_SETTINGS += ["mixed_bfloat16", "steps_per_execution", "BackupAndRestore, ours"]
MORE_SOURCES, MORE_SETTINGS = ["PyDataset", "pandas"], ["validation_split", "CSVLogger"]


def with_slow(names, more):
    """The names as parameters of a test, and some more that are marked slow."""
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in more)]


@pytest.mark.parametrize("source", with_slow(SWIFT_SOURCES, MORE_SOURCES))
def test_sources_for_swift_training(tmp_path, source):
    if source not in cases.SOURCES:
        pytest.skip("not installed")
    check_swift(cases.Setting(), source, tmp_path)


@pytest.mark.parametrize("name", with_slow(SWIFT_SETTINGS, MORE_SETTINGS))
def test_settings_for_swift_training(tmp_path, name):
    setting = cases.SETTINGS[name]
    if keras.backend.backend() not in setting.backends:
        pytest.skip("not in Keras on this backend")
    check_swift(setting, "arrays", tmp_path)


@pytest.mark.skipif("TensorBoard" not in cases.SETTINGS, reason="TensorBoard is not installed")
def test_tensorboard_shows_what_was_measured(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, arguments = build(cases.SETTINGS["TensorBoard"], "arrays", tmp_path)
    ks.ImportanceTraining(model, tau_threshold=0, seed=0).fit(**arguments)
    events = EventAccumulator(str(tmp_path / "board" / "train")).Reload()
    written = {tag for tags in events.Tags().values() if isinstance(tags, list) for tag in tags}
    assert {f"epoch_{name}" for name in OURS} <= written


@pytest.mark.product
@pytest.mark.parametrize("source", ["PyDataset, workers", "generator", "memory-mapped"])
@pytest.mark.parametrize("model", cases.MODELS)
def test_full_product(tmp_path, model, source):
    if source == "memory-mapped" and keras.tree.is_nested(cases.MODELS[model]()[1]):
        pytest.skip("one file for one array")
    # From batches Keras on TensorFlow takes tuples and no lists; ours takes both.
    check(cases.Setting(model=model), source, tmp_path, tuples=source != "memory-mapped")


def test_every_argument_of_fit_has_a_case(tmp_path):
    seen = {"x", "y", "epochs", "shuffle", "verbose", "batch_size"}
    for setting in cases.SETTINGS.values():
        seen |= set(setting.fit(tmp_path) if callable(setting.fit) else setting.fit)
    assert seen == set(inspect.signature(keras.Model.fit).parameters) - {"self"}
