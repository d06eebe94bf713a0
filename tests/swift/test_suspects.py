"""`find_suspects` on labels moved by hand."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from small_models import classifier

import keras_swift as ks
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.records.examples import ArrayExamples
from keras_swift.src.swift.suspects import RefuseDivergence


def moved_labels(digits, n=600, share=0.3):
    generator = np.random.default_rng(0)
    x, y = digits[0][:n], digits[1][:n]
    wrong = generator.random(n) < share
    return x, np.where(wrong, (y + generator.integers(1, 10, n)) % 10, y), wrong, y


def test_wrong_labels_are_found_and_counted(digits):
    x, y, wrong, true = moved_labels(digits)
    model = classifier(0.3)
    before = model.get_weights()
    found = ks.find_suspects(model, x, y, seed=0, verbose=0)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert abs(found.wrong_share.estimate - wrong.mean()) < 0.05
    assert wrong[found.indices].mean() > 0.9
    assert np.isin(np.flatnonzero(wrong), found.indices).mean() > 0.85
    assert np.all(np.diff(found.scores[found.indices]) <= 0)
    assert np.all(found.probability[found.indices] > 0.5)
    # What the model would say is mostly the true class, and never the label.
    assert np.all(found.instead != y[found.indices])
    assert np.mean(found.instead == true[found.indices]) > 0.7
    assert f"{len(found)} of 600 labels" in str(found)
    first = found.indices[0]
    assert f"example {first}: labelled {y[first]}, predicted {found.instead[0]}" in str(found)
    again = ks.find_suspects(model, x, y, seed=0, verbose=0)
    np.testing.assert_array_equal(found.scores, again.scores)
    features = ks.compute_features(model, x, y, ("mean_margin",), record=found.record, verbose=0)
    np.testing.assert_array_equal(features["mean_margin"], -found.scores)


def test_clean_labels_are_left_alone(digits):
    found = ks.find_suspects(classifier(0.3), digits[0][:500], digits[1][:500], seed=0, verbose=0)
    assert found.wrong_share.estimate < 0.05


def test_the_figure_shows_images_with_both_classes(digits, tmp_path):
    x, y, _, _ = moved_labels(digits, 200)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    )
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    found = ks.find_suspects(model, x.reshape(-1, 8, 8, 1), y, epochs=15, seed=0, verbose=0)
    assert len(found) > 20
    figure = found.plot(tmp_path / "suspects.png", count=10)
    assert (tmp_path / "suspects.png").stat().st_size > 5000
    shown = [axes for axes in figure.axes if axes.get_images()]
    assert len(shown) == 10
    first = found.indices[0]
    picture = x[first].reshape(8, 8)
    drawn = shown[0].get_images()[0].get_array()
    low, high = picture.min(), picture.max()
    np.testing.assert_allclose(drawn, (picture - low) / (high - low), atol=1e-6)
    caption = f"example {first}\nlabelled {y[first]}, predicted {found.instead[0]}"
    assert shown[0].get_title() == caption


def test_rows_are_drawn_as_lines(digits):
    x, y, _, _ = moved_labels(digits, 200)
    found = ks.find_suspects(classifier(0.1), x, y, epochs=15, seed=0, verbose=0)
    figure = found.plot(count=6)
    lines = [axes.get_lines()[0].get_ydata() for axes in figure.axes if axes.get_lines()]
    assert len(lines) == 6
    # So few examples may be not learned yet: then those that are doubted most are shown.
    doubted = np.argsort(-found.scores, kind="stable")
    first = found.indices[0] if len(found) else doubted[0]
    np.testing.assert_allclose(lines[0], x[first][:12], rtol=1e-6)


def test_regression_shows_a_group_of_high_losses():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 3)).astype("float32")
    y = x @ [1.0, -2.0, 0.5]
    wrong = generator.random(400) < 0.15
    y = np.where(wrong, y + 40 * generator.choice([-1, 1], 400), y).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.03), "mae")
    found = ks.find_suspects(model, x, y, epochs=10, seed=0, verbose=0)
    np.testing.assert_array_equal(found.labels, y.astype("float64"))
    # What the model predicts is near the right value.
    right = x[found.indices] @ np.array([1.0, -2.0, 0.5])
    assert np.median(np.abs(found.instead - right)) < 1.0
    assert f"labelled {y[found.indices[0]]:.4g}, predicted {found.instead[0]:.4g}" in str(found)
    assert np.mean(np.isin(np.arange(400), found.indices) == wrong) > 0.95


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "`epochs` must be"),
        ({"y": None}, ValueError, "`y` must be given"),
        ({"x": iter([1]), "y": None}, TypeError, "`x` must be data that has an end"),
    ],
)
def test_wrong_arguments_are_refused(digits, arguments, error, message):
    settings = {"x": digits[0][:20], "y": digits[1][:20], **arguments}
    with pytest.raises(error, match=message):
        ks.find_suspects(classifier(), settings.pop("x"), settings.pop("y"), **settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        # TensorFlow's ReLU makes 0 of a NaN on some processors: only the weights show it then.
        (
            "x",
            r"`x` (must be finite.*1 of 100 examples, the first|holds a NaN.*example) at index 5",
        ),
        ("sample_weight", r"`sample_weight` must be finite.*the first at index 5"),
        (None, r"of epoch 1\. The data are finite: lower the learning rate"),
    ],
)
def test_a_diverged_training_is_an_error_that_says_when(digits, name, message):
    data = {"x": digits[0][:100].copy(), "y": digits[1][:100], "sample_weight": np.ones(100)}
    model = classifier(0.1 if name else 1e38)
    before = model.get_weights()
    if name:
        data[name][5] = np.nan
    with pytest.raises(ValueError, match=message):
        ks.find_suspects(model, **data, epochs=2, seed=0, verbose=0)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_that_are_not_finite_are_named_though_the_losses_are(digits):
    # As a ReLU that makes 0 of a NaN leaves them.
    model = classifier()
    model.layers[0].bias.assign(np.full(model.layers[0].bias.shape, np.nan))
    source = ArraySource(digits[0][:20], digits[1][:20])
    callback = RefuseDivergence(SimpleNamespace(diverged=None), ArrayExamples(source))
    callback.set_model(model)
    with pytest.raises(ValueError, match="weights that are not finite after epoch 1. The data are"):
        callback.on_epoch_end(0, {"loss": 1.0})
