"""Strings into models that begin with a layer that takes them, and errors where none can."""

import keras
import numpy as np
import pytest

import keras_swift as ks

WORDS = np.random.default_rng(0).choice(["red", "green", "blue", "grey"], (24, 3))
TEXTS = np.array([" ".join(words) for words in WORDS])
LABELS = (WORDS == "red").any(axis=1).astype("int64")
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def network():
    keras.utils.set_random_seed(0)
    vectorise = keras.layers.TextVectorization(output_sequence_length=3)
    vectorise.adapt(TEXTS)
    stack = [vectorise, keras.layers.Embedding(9, 4), keras.layers.GlobalAveragePooling1D()]
    last = keras.layers.Dense(2, activation="softmax")
    model = keras.Sequential([keras.Input((), dtype="string"), *stack, last])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def constant(texts):
    import tensorflow as tf

    return tf.constant(texts)


def data_set(texts):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((texts, LABELS)).batch(6)


FORMS = {
    "str": lambda texts: texts,
    "bytes": lambda texts: texts.astype(bytes),
    "objects": lambda texts: texts.astype(object),
    "tf.constant": constant,
    "tf.data": data_set,
}


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tensors of strings are TensorFlow's")
@pytest.mark.parametrize("form", FORMS)
def test_strings_train_as_in_fit(form):
    data = {"x": FORMS[form](TEXTS), "y": LABELS, "batch_size": 6}
    if form == "tf.data":
        data = {"x": data["x"]}
    plain = network()
    plain.fit(constant(TEXTS), LABELS, batch_size=6, shuffle=False, epochs=2, verbose=0)
    model = network()
    training = ks.ImportanceTraining(model, presample=2.0, tau_threshold=1e9, seed=0)
    training.fit(**data, shuffle=False, epochs=2, verbose=0)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    opened = ks.ImportanceTraining(model, presample=2.0, tau_threshold=0, seed=0)
    assert opened.fit(**data, verbose=0).history["importance"] == [1.0]
    if form != "tf.data":
        found = ks.compute_features(model, data["x"], LABELS, ("loss",), verbose=0)
        predicted = model.predict(constant(TEXTS), verbose=0)[np.arange(24), LABELS]
        np.testing.assert_allclose(found["loss"], -np.log(predicted), rtol=1e-4)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tensors of strings are TensorFlow's")
@pytest.mark.parametrize("form", ["str", "tf.constant"])
def test_strings_are_searched_and_drawn_by_a_sampler(form):
    x = FORMS[form](TEXTS)
    result = ks.search(
        network(),
        x,
        LABELS,
        validation_data=(x, LABELS),
        max_trials=2,
        pretrain_epochs=1,
        finetune_epochs=1,
        confirm=0,
        verbose=0,
        seed=0,
    )
    model = network()
    history = ks.SwiftTraining(model, result, seed=0).fit(x, LABELS, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all() and len(result.trials) == 2


@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow takes strings")
@pytest.mark.parametrize("form", ["str", "bytes", "objects"])
def test_strings_are_named_where_there_are_no_tensors_of_them(form):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match=r"`x` must hold numbers.*TextVectorization\(...\)\(x\)"):
        ks.ImportanceTraining(model).fit(FORMS[form](TEXTS), LABELS, verbose=0)
