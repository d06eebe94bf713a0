"""`find_suspects` where an example has several targets, or one that is not a class."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import keras_swift as ks


def compiled(inputs, outputs, loss, rate=0.01):
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


def multi_label_task(n=600, labels=4):
    """Rows whose labels are the signs of sums, of which a tenth of the rows has one wrong."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 12)).astype("float32")
    y = (x @ generator.normal(size=(12, labels)) > 0).astype("float32")
    rows = np.flatnonzero(generator.random(n) < 0.1)
    entries = generator.integers(0, labels, len(rows))
    y[rows, entries] = 1 - y[rows, entries]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    outputs = keras.layers.Dense(labels, activation="sigmoid")(hidden)
    return compiled(inputs, outputs, "binary_crossentropy"), x, y, rows, entries


def test_the_wrong_entry_of_a_multi_label_row_is_found(tmp_path):
    model, x, y, rows, entries = multi_label_task()
    names = ["red", "green", "blue", "grey"]
    found = ks.find_suspects(model, x, y, class_names=names, seed=0, verbose=0)
    wrong = np.zeros(y.shape, bool)
    wrong[rows, entries] = True
    assert found.scores.shape == found.labels.shape == y.shape
    assert roc_auc_score(wrong.ravel(), found.scores.ravel()) > 0.97
    assert found.indices.shape == found.entries.shape == found.instead.shape
    assert wrong[found.indices, found.entries].mean() > 0.8
    # No more are suspects than confident predictions contradict: three fifths of the wrong ones.
    assert wrong[found.indices, found.entries].sum() > 0.5 * len(rows)
    np.testing.assert_array_equal(found.instead, 1 - y[found.indices, found.entries])
    # Hard entries are contradicted with confidence as well, so the lower end says nothing of them.
    assert found.wrong_share.low == 0.0 and wrong.mean() <= found.wrong_share.high
    assert f"of {y.size} labels" in str(found)
    first, entry = found.indices[0], found.entries[0]
    label = int(y[first, entry])
    assert f"example {first}, {names[entry]}: labelled {label}, predicted {1 - label}" in str(found)
    np.testing.assert_array_equal(np.flatnonzero(~found.keep), np.unique(found.indices))


def tagging_task(n=300, steps=6):
    """Tokens tagged by their number modulo 3; steps after the length are padding."""
    generator = np.random.default_rng(0)
    length = generator.integers(2, steps + 1, n)
    x = generator.integers(1, 13, (n, steps)) * (np.arange(steps) < length[:, None])
    y = x % 3
    wrong = (generator.random(x.shape) < 0.08) & (x > 0)
    y[wrong] = (y[wrong] + 1) % 3
    keras.utils.set_random_seed(0)
    inputs = keras.Input((steps,))
    hidden = keras.layers.Embedding(13, 8, mask_zero=True)(inputs)
    outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    model = compiled(inputs, outputs, "sparse_categorical_crossentropy", 0.02)
    return model, x, y, wrong


@pytest.mark.parametrize("weighted", [False, True])
def test_the_wrong_step_of_a_sequence_is_found_and_padding_does_not_count(weighted):
    model, x, y, wrong = tagging_task()
    padding = x == 0
    weight = None
    if weighted:
        # A step of weight 0 counts no more than one of padding.
        padding[:, 1] = True
        weight = np.where(padding, 0.0, 1.0)
    found = ks.find_suspects(model, x, y, epochs=10, sample_weight=weight, seed=0, verbose=0)
    assert np.isnan(found.scores[padding]).all() and np.isfinite(found.scores[~padding]).all()
    flagged = np.zeros(y.shape, bool)
    flagged[found.indices, found.entries] = True
    assert np.mean(flagged[~padding] == wrong[~padding]) > 0.98
    assert not flagged[padding].any()
    # The tag that the token has elsewhere.
    right = x[found.indices, found.entries] % 3
    assert np.mean(found.instead == right) > 0.9


def test_a_pixel_has_a_row_and_a_column():
    generator = np.random.default_rng(0)
    x = generator.integers(0, 2, (200, 3, 4, 1)).astype("float32")
    y = x[..., 0].astype("int64")
    wrong = generator.random(y.shape) < 0.05
    y[wrong] = 1 - y[wrong]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 4, 1))
    outputs = keras.layers.Dense(1, activation="sigmoid")(inputs)
    model = compiled(inputs, outputs, "binary_crossentropy", 0.05)
    found = ks.find_suspects(model, x, y[..., None], epochs=20, seed=0, verbose=0)
    assert found.scores.shape == found.labels.shape == y.shape
    assert found.entries.shape == (len(found), 2)
    flagged = np.zeros(y.shape, bool)
    flagged[found.indices, found.entries[:, 0], found.entries[:, 1]] = True
    np.testing.assert_array_equal(flagged, wrong)
    row, column = found.entries[0].tolist()
    assert f"example {found.indices[0]}, entry ({row}, {column}): labelled" in str(found)


def test_of_several_outputs_each_suspect_says_which(tmp_path):
    generator = np.random.default_rng(0)
    n = 600
    x = generator.normal(size=(n, 8)).astype("float32")
    kind, size = x[:, :3].argmax(1), x[:, 3:] @ np.ones(5)
    wrong_kind, wrong_size = generator.random(n) < 0.1, generator.random(n) < 0.05
    y = {
        "kind": np.where(wrong_kind, (kind + 1) % 3, kind),
        "size": (size + 30 * wrong_size).astype("float32"),
    }
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    outputs = {
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(hidden),
        "size": keras.layers.Dense(1, name="size")(inputs),
    }
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mae"}
    model = compiled(inputs, outputs, losses, 0.02)
    names = {"kind": ["a", "b", "c"]}
    found = ks.find_suspects(model, x, y, class_names=names, seed=0, verbose=0)
    assert set(found.outputs) == {"kind", "size"} and found.entries is None
    for name, wrong in (("kind", wrong_kind), ("size", wrong_size)):
        flagged = np.isin(np.arange(n), found.indices[found.outputs == name])
        assert np.mean(flagged == wrong) > 0.95
        assert found.scores[name].shape == (n,)
    # Either output's most suspicious comes first.
    assert len(set(found.outputs[:2])) == 2
    frame = found.to_frame(ids=[f"row {i}" for i in range(n)])
    assert list(frame) == ["index", "id", "output", "label", "proposal", "score", "probability"]
    assert frame["id"].tolist() == [f"row {i}" for i in found.indices]
    sizes = frame[frame["output"] == "size"]
    np.testing.assert_allclose(sizes["label"].astype(float), y["size"][sizes["index"]])
    kinds = frame[frame["output"] == "kind"]
    assert kinds["label"].tolist() == ["abc"[label] for label in y["kind"][kinds["index"]]]
    np.testing.assert_allclose(kinds["score"], found.scores["kind"][kinds["index"]])
    found.to_csv(tmp_path / "suspects.csv")
    lines = (tmp_path / "suspects.csv").read_text().splitlines()
    assert lines[0] == "index,output,label,proposal,score,probability"
    assert len(lines) == len(found) + 1
    assert lines[1].split(",")[:2] == [str(found.indices[0]), found.outputs[0]]
    with pytest.raises(ValueError, match=r"`ids` must have one id for each of the 600"):
        found.to_frame(ids=["a"])


def test_a_loss_of_another_kind_is_a_score(digits):
    def hinge_of_squares(y_true, y_pred):
        return keras.ops.mean(keras.ops.maximum(0.0, 1.0 - y_true * y_pred) ** 2, axis=-1)

    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 5)).astype("float32")
    y = np.sign(x[:, 0]).astype("float32")[:, None]
    wrong = generator.random(400) < 0.1
    y[wrong] *= -1
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    model = compiled(inputs, keras.layers.Dense(1)(inputs), hinge_of_squares, 0.02)
    found = ks.find_suspects(model, x, y, seed=0, verbose=0)
    assert found.instead is None and roc_auc_score(wrong, found.scores) > 0.95


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array(["cat", "dog"] * 10), r"`y` must hold numbers.*np.unique"),
        (np.arange(20) % 11, r"`y` must hold class numbers from 0 to 9"),
    ],
)
def test_labels_that_are_no_class_numbers_are_an_error(digits, y, message):
    inputs = keras.Input((64,))
    outputs = keras.layers.Dense(10, activation="softmax")(inputs)
    model = compiled(inputs, outputs, "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message):
        ks.find_suspects(model, digits[0][:20], y, verbose=0)


@pytest.mark.parametrize("kind", [bool, "uint8", "float32", "one hot", "column"])
def test_labels_of_every_numeric_type_are_the_same_labels(digits, kind):
    x, y = digits[0][:60], digits[1][:60] % 2
    given = {"one hot": np.eye(2, dtype="float32")[y], "column": y[:, None]}
    inputs = keras.Input((64,))
    loss = ("" if kind == "one hot" else "sparse_") + "categorical_crossentropy"
    model = compiled(inputs, keras.layers.Dense(2, activation="softmax")(inputs), loss)
    labels = given[kind] if kind in given else y.astype(kind)
    found = ks.find_suspects(model, x, labels, epochs=1, seed=0, verbose=0)
    assert found.labels.tolist() == y.tolist() and found.entries is None


def test_a_record_that_does_not_fit_in_memory_is_an_error(monkeypatch):
    from keras_swift.src.records import target_record

    monkeypatch.setattr(target_record, "RECORD_BYTES", target_record.TARGET_BYTES * 1000)
    model, x, y, _, _ = multi_label_task()
    with pytest.raises(ValueError, match=r"at most 1,000 targets.*Received: 2,400 targets of 600"):
        ks.find_suspects(model, x, y, verbose=0)
