"""A trainer answers for its model, to its user and to Keras' wrappers for scikit-learn."""

import keras
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from small_models import classifier

import keras_swift as ks

# Draws examples rarely that have a high loss in their class, by a record of its own training.
SAMPLER = ks.SwiftSampler([0.5], [1.0, 1.0, 0.1], [1.0], ["mean_loss_in_class"], "cdf")
TRAINERS = {
    "importance": lambda model: ks.ImportanceTraining(model, seed=0),
    "swift": lambda model: ks.SwiftTraining(model, SAMPLER, seed=0, warmup=1),
}


@pytest.mark.parametrize("make", TRAINERS.values(), ids=TRAINERS)
def test_a_trainer_answers_for_its_model(make, digits):
    x, y = digits[0][:128], digits[1][:128]
    model = classifier()
    trainer = make(model)
    assert trainer.model is model and trainer.history is None
    history = trainer.fit(x, y, epochs=2, validation_split=0.25, verbose=0)
    assert trainer.history is history is model.history
    np.testing.assert_array_equal(trainer.predict(x, verbose=0), model.predict(x, verbose=0))
    found = trainer.evaluate(x, y, batch_size=50, verbose=0, return_dict=True)
    assert found == model.evaluate(x, y, batch_size=50, verbose=0, return_dict=True)
    assert (trainer.compiled, trainer.loss) == (True, model.loss)
    assert trainer.optimizer is model.optimizer


def network(X, y, units=8, train=TRAINERS["importance"]):
    """A trainer of a network whose size is that of the data; Keras' wrapper makes `y` one-hot."""
    keras.utils.set_random_seed(0)
    outputs = keras.layers.Dense(y.shape[1], activation="softmax")
    model = keras.Sequential(
        [keras.Input((X.shape[1],)), keras.layers.Dense(units, activation="relu"), outputs]
    )
    model.compile(keras.optimizers.SGD(0.5), "categorical_crossentropy")
    return train(model)


@pytest.mark.parametrize("name", TRAINERS)
def test_keras_wrapper_trains_with_a_trainer(name, digits):
    x, y = digits[0][:256], digits[1][:256]
    estimator = keras.wrappers.SKLearnClassifier(network, model_kwargs={"train": TRAINERS[name]})
    copy = clone(estimator).fit(x, y, epochs=3, verbose=0)
    assert len(copy.history_.epoch) == 3
    by_hand = network(x, np.eye(10)[y], train=TRAINERS[name])
    by_hand.fit(x, np.eye(10)[y], epochs=3, verbose=0)
    expected = by_hand.predict(x, verbose=0).argmax(axis=1)
    np.testing.assert_array_equal(copy.predict(x), expected)


@pytest.mark.any_backend
def test_a_grid_search_in_a_pipeline_chooses_the_network_that_can_learn(digits):
    x, y = digits[0][:200], digits[1][:200]
    estimator = make_pipeline(MinMaxScaler(), keras.wrappers.SKLearnClassifier(network))
    units = [{"units": 1}, {"units": 32}]
    search = GridSearchCV(estimator, {"sklearnclassifier__model_kwargs": units}, cv=2)
    search.fit(x, y, sklearnclassifier__epochs=5, sklearnclassifier__verbose=0)
    assert search.best_params_["sklearnclassifier__model_kwargs"] == {"units": 32}
    assert len(search.best_estimator_[-1].history_.epoch) == 5


def line(X, y):
    model = keras.Sequential([keras.Input((X.shape[1],)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mean_squared_error")
    return ks.ImportanceTraining(model, seed=0)


def test_keras_wrapper_regresses_with_a_trainer():
    x = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
    y = x @ np.array([1.0, -2.0], "float32")
    estimator = keras.wrappers.SKLearnRegressor(line)
    scores = cross_val_score(estimator, x, y, cv=2, params={"epochs": 10, "verbose": 0})
    # A line without noise: what is left of the variance is the training's.
    assert scores.min() > 0.99
