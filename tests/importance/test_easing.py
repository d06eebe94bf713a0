"""Draws by importance end where they stop helping, and come back where they help again."""

import itertools

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.remembered import PAYING_BACK

nan = float("nan")


def heard(losses, easing=None, **arguments):
    easing = Easing(**arguments) if easing is None else easing
    found = []
    for loss in losses:
        easing.hear(loss)
        found.append(easing.is_on)
    return found


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((5, 4, 4.5, 3, 3.5), [False] * 5),
        ((5, 4, 4, 4.5, 4.1, 3.9, 4, 4), [False, False, False, True, True, False, False, True]),
        # A fall from one that is not the lowest is no fall.
        ((5, 6, 5.5, 4), [False, False, True, False]),
        ((5, nan, nan, 4), [False, False, True, False]),
        # Epochs without a validation say nothing.
        ((5, None, 6, None, None, 7, None), [False, False, False, False, False, True, True]),
    ],
)
def test_two_validations_without_a_lower_loss_ease_off_until_there_is_one(losses, expected):
    assert heard(losses) == expected
    assert heard(losses, enabled=False) == [False] * len(losses)


def test_without_validation_data_scores_below_two_fifths_of_the_first_ease_off():
    easing = Easing()
    easing.begin(True, validates=False)
    found = []
    for score in (nan, 1.0, 0.41, 0.39, 0.5):
        easing.hear(None, score)
        found.append(easing.is_on)
    assert found == [False, False, False, True, False]
    # With validation data scores decide nothing, not even in epochs without a validation.
    easing.begin(True, validates=True)
    easing.hear(None, 0.1)
    assert not easing.is_on


def test_a_restored_state_goes_on_as_the_one_that_was_saved():
    losses = (5, 4, 4.5, 4.6, 4.7, 3.9, 4, 4.1)
    for cut in range(len(losses)):
        first, second = Easing(), Easing()
        heard(losses[:cut], first)
        first.news()
        second.restore(first.state())
        assert second.news() is None
        assert heard(losses[cut:], second) == heard(losses)[cut:]


@pytest.fixture(scope="module")
def weights():
    """The weights of a network that knows the easy digits, so that scores are unequal at once."""
    x, y = load_digits(return_X_y=True)
    model = classifier(0.3)
    model.fit((x[:1000] / 16).astype("float32"), y[:1000], epochs=4, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.fixture
def make(weights):
    """A function that returns this network; its validation losses rise from a number on."""

    def make(first=1):
        model, losses = classifier(0.1), itertools.count(first)
        model.set_weights(weights)
        model.evaluate = lambda *args, **kwargs: {"loss": float(next(losses))}
        return model

    return make


@pytest.fixture
def data(digits):
    """Training data and validation data."""
    return digits[0][:192], digits[1][:192], (digits[0][200:210], digits[1][200:210])


class Reading(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append([])

    def on_batch_drawn(self, batch):
        self.epochs[-1].append(batch)


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        ({}, {}, [0, 1, 1, 0, 0, 0]),
        ({"ease_off": False}, {}, [0, 1, 1, 1, 1, 1]),
        # Validated are the epochs 2, 4 and 6: one without a lower loss is not enough.
        ({}, {"validation_freq": 2}, [0, 1, 1, 1, 1, 1, 0]),
        ({"presample": 2.0, "tau_threshold": 0.0}, {}, [1] * 5),
        ({"presample": 2.0, "tau_threshold": 0.0, "ease_off": True}, {}, [1, 1, 1, 0, 0]),
    ],
    ids=["default", "off", "every other epoch", "the paper's rule", "eased paper's rule"],
)
def test_steps_are_uniform_once_the_validation_loss_rises(
    make, data, arguments, settings, expected
):
    x, y, held = data
    model = make()
    trainer = ks.ImportanceTraining(model, seed=0, **arguments)
    epochs = len(expected)
    history = trainer.fit(x, y, epochs=epochs, validation_data=held, verbose=0, **settings).history
    assert history["val_loss"] == list(range(1, 1 + len(history["val_loss"])))
    assert history["importance"] == expected


@pytest.mark.parametrize("optimizer", [None, pytest.param("adam", marks=pytest.mark.any_backend)])
def test_an_epoch_that_was_eased_off_is_a_permutation(make, data, optimizer):
    x, y, held = data
    reading, model = Reading(), make()
    if optimizer is not None:
        # Its rate grows by the root of the gain, but all of the gain is paid back.
        model.compile(optimizer, "sparse_categorical_crossentropy")
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x, y, epochs=9, validation_data=held, verbose=0, callbacks=[reading])
    for number, epoch in enumerate(reading.epochs):
        drawn = np.sort(np.concatenate([batch.indices for batch in epoch]))
        uniform = number in (0, *range(3, 9))
        assert np.array_equal(drawn, np.arange(len(x))) == uniform
        assert all(np.all(batch.importance == 1) for batch in epoch) == uniform
    scales = [batch.rate_scale for epoch in reading.epochs for batch in epoch]
    # Larger steps are paid back by smaller ones, and then steps are the optimizer's own again.
    batches = [batch for epoch in reading.epochs for batch in epoch]
    worth = [batch.gain if batch.by_importance else batch.rate_scale for batch in batches]
    ahead = np.cumsum(np.array(worth) - 1)
    eased = scales[18:]
    smaller = eased.index(1.0)
    assert ahead[17] > 0 and eased == [PAYING_BACK] * smaller + [1.0] * (len(eased) - smaller)
    # It ends with a part of an epoch, here of two steps.
    assert -2 * (1 - PAYING_BACK) < ahead[-1] <= 0


def test_a_loop_of_epochs_keeps_what_is_gained_and_pays_it_back(make, data):
    x, y, held = data

    def scales(calls):
        reading, trainer = Reading(), ks.ImportanceTraining(make(), seed=0)
        settings = {"validation_data": held, "verbose": 0, "callbacks": [reading]}
        for first, last in calls:
            trainer.fit(x, y, initial_epoch=first, epochs=last, **settings)
        return [[batch.rate_scale for batch in epoch] for epoch in reading.epochs]

    whole, loop = scales([(0, 5)]), scales(itertools.pairwise(range(6)))
    assert loop[3] == whole[3] == [PAYING_BACK] * 6
    # The gain goes on from call to call: it would be 1 again in its first part.
    assert all(min(epochs[2]) > 1.3 for epochs in (loop, whole))


def test_without_larger_steps_there_is_nothing_to_pay_back(make, data):
    x, y, held = data
    reading = Reading()
    trainer = ks.ImportanceTraining(make(), seed=0, scale_learning_rate=False)
    trainer.fit(x, y, epochs=5, validation_data=held, verbose=0, callbacks=[reading])
    assert {batch.rate_scale for epoch in reading.epochs for batch in epoch} == {1.0}


def test_fit_says_so_in_one_sentence(make, data, capsys):
    x, y, held = data
    settings = {"epochs": 5, "validation_data": held}
    for verbose in (0, 1, 2):
        ks.ImportanceTraining(make(), seed=0).fit(x, y, verbose=verbose, **settings)
        shown = capsys.readouterr().out
        sentence = "From epoch 4 on: the validation loss has not fallen in 2 validations"
        assert shown.count(sentence) == (verbose > 0)
        assert shown.count("From epoch") == (verbose > 0)


def test_what_is_learned_by_heart_is_drawn_uniformly_without_validation_data(digits):
    x, y = digits[0][:96], digits[1][:96]
    histories = [
        ks.ImportanceTraining(classifier(0.5), seed=0, ease_off=ease_off)
        .fit(x, y, epochs=30, verbose=0)
        .history["importance"]
        for ease_off in (None, False)
    ]
    assert histories[1][-1] == 1
    assert histories[0][-1] == 0 and max(histories[0]) > 0


def test_another_fit_on_the_same_data_goes_on_and_on_other_data_begins_again(make, data):
    x, y, held = data
    trainer = ks.ImportanceTraining(make(), seed=0)

    def fit(x, y, epochs=1):
        settings = {"epochs": epochs, "validation_data": held, "verbose": 0}
        return trainer.fit(x, y, **settings).history["importance"]

    assert [fit(x, y)[0] > 0 for _ in range(4)] == [False, True, True, False]
    assert fit(x.copy()[:160], y[:160], 2)[-1] > 0


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("killed", [2, 4])
def test_a_resumed_run_eases_off_as_an_unbroken_one(make, data, tmp_path, killed):
    x, y, held = data

    def fit(callbacks, first=1):
        model = make(first)
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        settings = {"epochs": 7, "validation_data": held, "verbose": 0}
        trainer = ks.ImportanceTraining(model, seed=0)
        return model, trainer.fit(x, y, callbacks=[backup, *callbacks], **settings).history

    unbroken, whole = fit([])
    with pytest.raises(KeyboardInterrupt):
        fit([Kill(killed)])
    resumed, rest = fit([], first=1 + killed)
    assert whole["importance"] == [0, 1, 1, 0, 0, 0, 0]
    assert rest["importance"] == whole["importance"][killed:]
    assert_same_weights(resumed, unbroken)


def test_a_dataset_eases_off_in_the_users_own_fit(make, data):
    x, y, held = data
    model = make()
    settings = {"presample": 2.0, "tau_threshold": 0.0, "ease_off": True, "seed": 0}
    dataset = ks.ImportanceDataset(model, x, y, **settings)
    fitting = {"epochs": 5, "validation_data": held, "verbose": 0}
    history = model.fit(dataset, callbacks=[dataset.callback()], **fitting).history
    assert history["importance"] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("kind", [ks.ImportanceTraining, ks.ImportanceDataset])
def test_a_wrong_setting_is_named(digits, kind):
    data = digits if kind is ks.ImportanceDataset else ()
    with pytest.raises(TypeError, match="`ease_off` must be True or False.*'yes'"):
        kind(classifier(), *data, ease_off="yes")
