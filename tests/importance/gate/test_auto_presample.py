"""`presample="auto"` and `scale_learning_rate` in whole runs."""

import keras
import numpy as np
import pytest
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.data import reader as supply
from keras_swift.data.arrays import ArraySource
from keras_swift.importance import sampler as batch_drawer
from keras_swift.importance.gate import measured as measured_gate
from keras_swift.importance.gate import run_watch
from keras_swift.importance.gate.measured import FALL_COUNTS, MeasuredGate
from keras_swift.importance.sampler import BatchDrawer

MEASURED = {"tau", "cost_ratio", "noise_share", "loss_exponent", "predicted_gain"}


@pytest.fixture
def eager_gate(monkeypatch):
    """A gate that opens at its first look, as where noise is all that is left."""

    def observe(self, loss, averaged_loss, cost_ratio, **known):
        self.noise_share, self.tau, self._looks, self._agreeing = 0.9, 4.0, 3, 2
        self.cost_ratio = cost_ratio
        self._decide()

    monkeypatch.setattr(MeasuredGate, "observe", observe)
    # The first look after 64 steps.
    monkeypatch.setattr(run_watch, "STEPS_A_BATCH", 1)


def fit(model, digits, size=800, epochs=8, **trainer):
    x, y = digits[0][:size], digits[1][:size]
    trainer = ks.ImportanceTraining(model, presample="auto", seed=0, **trainer)
    return trainer.fit(x, y, batch_size=64, epochs=epochs, verbose=0).history


def test_history_has_what_was_measured(digits):
    history = fit(classifier(0.3), digits, epochs=30)
    assert set(history) == {"accuracy", "loss", "importance", "presample", *MEASURED}
    # 13 steps an epoch, the first look after 320 steps.
    assert all(np.isnan(history["cost_ratio"][:24]))
    assert history["cost_ratio"][-1] > 0
    assert 0 <= history["noise_share"][-1] < 1
    assert all(np.isfinite(history["tau"]))


def test_a_given_cost_repeats_a_run(digits, eager_gate):
    def run():
        model = classifier(0.3)
        return model, fit(model, digits, epochs=7, cost_ratio=0.1)

    (first, history), (second, again) = run(), run()
    assert history["importance"][-1] == 1
    for name, values in history.items():
        np.testing.assert_array_equal(values, again[name])
    assert_same_weights(first, second)


def test_shut_it_trains_as_plain_fit_does(digits):
    x, y = digits[0][:256], digits[1][:256]
    ours, theirs = classifier(), classifier()
    trainer = ks.ImportanceTraining(ours, presample="auto", seed=0)
    trainer.fit(x, y, epochs=2, shuffle=False, verbose=0)
    theirs.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_ratio_that_pays_most_is_presampled(digits, eager_gate):
    history = fit(classifier(0.3), digits, epochs=7, cost_ratio=0.01)
    assert history["presample"][0] == 1
    assert history["presample"][-1] == pytest.approx(5)
    history = fit(classifier(0.3), digits, size=150, epochs=28, cost_ratio=0.01)
    # The data have no more for a batch of 64.
    assert history["presample"][-1] == pytest.approx(2)


def test_too_few_examples_for_any_presample_train_uniformly(digits):
    history = fit(classifier(), digits, size=100, epochs=2)
    assert history["importance"] == [0, 0]


def test_plot_shows_what_was_measured(digits, eager_gate):
    history = fit(classifier(0.3), digits, epochs=7, cost_ratio=0.1)
    figure = ks.plot_training(history)
    above, below, measured, share = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in measured.get_lines()}
    np.testing.assert_array_equal(lines["predicted gain"], history["predicted_gain"])
    np.testing.assert_array_equal(lines["scoring over training, f"], history["cost_ratio"])
    assert (measured.get_xlabel(), below.get_xlabel()) == ("epoch", "")


class Rates(keras.callbacks.Callback):
    """Sets the rate from outside, and notes what callbacks read."""

    def __init__(self, rates):
        super().__init__()
        self.rates, self.read = rates, []

    def on_epoch_begin(self, epoch, logs=None):
        if self.rates is not None:
            self.model.optimizer.learning_rate = self.rates[epoch]

    def on_epoch_end(self, epoch, logs=None):
        self.read.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


@pytest.fixture
def steps_of(digits, monkeypatch):
    """The changes of the weights in epochs of one step drawn by importance at a given tau."""

    class Fixed(batch_drawer.Gate):
        def update(self, tau, steps=1):
            self.tau = 3.0

    monkeypatch.setattr(batch_drawer, "Gate", Fixed)

    def steps(scale, rates, epochs=1, optimizer="sgd"):
        model = classifier(metrics=None)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        trainer = ks.ImportanceTraining(model, tau_threshold=0, seed=0, scale_learning_rate=scale)
        callback = Rates(rates)
        weights = [model.get_weights()]
        look = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: weights.append(model.get_weights())
        )
        x, y = digits[0][:96], digits[1][:96]
        settings = {"batch_size": 32, "steps_per_epoch": 1, "epochs": epochs, "verbose": 0}
        trainer.fit(x, y, callbacks=[callback, look], **settings)
        changes = [
            [b - a for a, b in zip(*pair, strict=True)]
            for pair in zip(weights, weights[1:], strict=False)
        ]
        return changes, callback.read, model

    return steps


def assert_times(changes, factor, others):
    for ours, theirs in zip(changes, others, strict=True):
        np.testing.assert_allclose(ours, factor * theirs, rtol=1e-3, atol=1e-7)


def rate_of(model):
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


GAIN = 1 / (1 / 9 + 1 / 3)


@pytest.mark.parametrize("scale", [True, "plain"])
def test_a_step_is_that_of_the_scaled_rate(steps_of, scale):
    (ours,), read, model = steps_of(scale, [0.1])
    (plain,), _, _ = steps_of(False, [0.1])
    assert_times(ours, GAIN, plain)
    # Callbacks and whoever comes after read the user's rate.
    assert read == [pytest.approx(0.1)]
    assert "_get_current_learning_rate" not in vars(model.optimizer)


def test_scaling_follows_the_users_rate_and_does_not_compound(steps_of):
    rates = [0.1, 0.0, 0.02]
    changes, read, model = steps_of(True, rates, epochs=3)
    assert read == [pytest.approx(rate) for rate in rates]
    assert rate_of(model) == pytest.approx(0.02)
    plain, _, _ = steps_of(False, [0.0, 0.0, 0.02 * GAIN], epochs=3)
    again, _, _ = steps_of(True, [0.0, 0.0, 0.02], epochs=3)
    assert_times(again[2], 1.0, plain[2])
    assert not any(part.any() for part in changes[1])


def test_capped_never_exceeds_the_highest_rate(steps_of):
    # Steps so small that the gradients are the same on both sides.
    rates = [1e-3, 0.8e-3, 1e-4]
    capped, _, _ = steps_of("capped", rates, epochs=3)
    plain, _, _ = steps_of(False, rates, epochs=3)
    for epoch, factor in enumerate((1.0, 1 / 0.8, GAIN)):
        sizes = [np.sqrt(sum(np.sum(p**2.0) for p in c[epoch])) for c in (capped, plain)]
        assert sizes[0] / sizes[1] == pytest.approx(factor, rel=0.05)


def test_a_schedule_goes_on(steps_of):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.05])
    (first, _), _, model = steps_of(True, None, 2, keras.optimizers.SGD(schedule))
    (plain,), _, _ = steps_of(False, None, 1, keras.optimizers.SGD(0.1))
    assert_times(first, GAIN, plain)
    assert rate_of(model) == pytest.approx(0.05)


def test_the_optimizer_is_left_alone_after_an_exception(digits):
    class Failing(keras.Sequential):
        def train_step(self, *arguments):
            raise RuntimeError("mine")

    model = Failing([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    trainer = ks.ImportanceTraining(model, tau_threshold=0, scale_learning_rate=True)
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(digits[0][:96], digits[1][:96], verbose=0)
    assert "_get_current_learning_rate" not in vars(model.optimizer)


def test_a_loss_without_a_noise_share_is_told_of_once(digits):
    def below_zero(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1) - 5.0

    model = classifier(0.01, loss=below_zero, metrics=[])
    with pytest.warns(UserWarning, match="takes a loss above 0. Received: -4.9") as caught:
        history = fit(model, digits, epochs=40)
    assert sum("takes a loss above 0" in str(warning.message) for warning in caught) == 1
    assert set(history["importance"]) == {0}
    assert np.isnan(history["noise_share"][-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"presample": "auto", "tau_threshold": 2.0}, "`tau_threshold` is for a presample of a"),
        ({"presample": 3.0, "cost_ratio": 0.3}, '`cost_ratio` is what `presample="auto"` would'),
        ({"presample": "auto", "cost_ratio": 0}, "`cost_ratio` must be greater than 0.*=0"),
        ({"presample": "auto", "cost_ratio": "f"}, "`cost_ratio` must be.*cost_ratio='f'"),
        ({"presample": "large"}, "`presample` must be greater than 1.*'large'.*or 'auto'"),
        ({"scale_learning_rate": "max"}, "`scale_learning_rate` must be False, True.*'max'"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.ImportanceTraining(classifier(), **arguments)


@pytest.mark.parametrize(
    "moved_by", ["schedule", "callback", "schedule in one epoch", "function in one epoch"]
)
def test_the_gate_is_told_of_a_falling_rate(digits, monkeypatch, moved_by):
    decays = []
    observe = MeasuredGate.observe

    def listening(self, *measured, decay, **known):
        decays.append(decay)
        observe(self, *measured, decay=decay, **known)

    monkeypatch.setattr(MeasuredGate, "observe", listening)
    monkeypatch.setattr(run_watch, "STEPS_A_BATCH", 1)
    model = classifier()
    x, y = digits[0][:256], digits[1][:256]
    trainer = ks.ImportanceTraining(model, presample="auto", cost_ratio=0.3, seed=0)
    callbacks, rate = [], 0.1
    if moved_by.startswith("function"):
        # Keras takes one without arguments, too.
        def rate():
            return 0.1

    elif moved_by != "callback":
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 8, 0.9)
    else:
        callbacks = [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 * 0.9**epoch)]
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    # Eight steps an epoch, a look every eight epochs; or all steps in one.
    length = {"epochs": 1, "steps_per_epoch": 136} if "one" in moved_by else {"epochs": 17}
    trainer.fit(x, y, batch_size=32, callbacks=callbacks, verbose=0, **length)
    expected = [1.0, 1.0] if moved_by.startswith("function") else [0.9**8, 0.9**16]
    assert decays == pytest.approx(expected, rel=1e-3)


@pytest.fixture
def told(monkeypatch):
    """What the gate is told at each look; the first looks after 64 steps and every 64."""
    seen = []
    observe = MeasuredGate.observe

    def listening(self, *measured, **known):
        seen.append(known)
        observe(self, *measured, **known)

    monkeypatch.setattr(MeasuredGate, "observe", listening)
    monkeypatch.setattr(run_watch, "STEPS_A_BATCH", 1)
    return seen


@pytest.mark.parametrize("initial_epoch", [0, 10])
def test_the_gate_is_told_how_much_is_left_and_how_the_loss_falls(digits, told, initial_epoch):
    x, y = digits[0][:320], digits[1][:320]
    trainer = ks.ImportanceTraining(classifier(0.1), presample="auto", cost_ratio=0.3, seed=0)
    epochs = {"epochs": initial_epoch + 32, "initial_epoch": initial_epoch}
    history = trainer.fit(x, y, batch_size=32, verbose=0, **epochs).history
    # Ten steps an epoch, so most looks are within one.
    shares = [(320 - step) / 320 for step in (64, 128, 192, 256)]
    assert [known["share_left"] for known in told] == pytest.approx(shares)
    # Three of the second half are needed.
    assert [known["fall"] is None for known in told] == [True, True, True, False]
    assert told[-1]["fall"] > 0.2
    assert history["loss_exponent"][-1] == told[-1]["fall"] * FALL_COUNTS


def test_steps_by_importance_do_not_count_for_the_fall(digits, told, monkeypatch):
    x, y = digits[0][:256], digits[1][:256]
    monkeypatch.setattr(MeasuredGate, "_decide", lambda self: None)
    dataset = ks.ImportanceDataset(
        classifier(), x, y, batch_size=32, presample="auto", cost_ratio=0.3, seed=0
    )
    dataset._drawer.gate.ratio = 2
    for _ in range(40):
        list(dataset)
    # No callback has said where the end is.
    assert [known["share_left"] for known in told] == [1.0] * 4
    assert [known["fall"] for known in told] == [None] * 4


def test_the_end_of_a_fit_is_not_that_of_the_next(digits, told):
    x, y = digits[0][:320], digits[1][:320]
    dataset = ks.ImportanceDataset(
        classifier(0.1), x, y, batch_size=32, presample="auto", cost_ratio=0.3, seed=0
    )
    dataset.model.fit(dataset, epochs=7, callbacks=[dataset.callback()], verbose=0)
    for _ in range(7):
        list(dataset)
    # One look six steps before the end of `fit`, one after it.
    assert [known["share_left"] for known in told] == pytest.approx([6 / 70, 1.0])


def test_a_rate_that_callbacks_move_within_an_epoch_is_read(digits):
    class Halve(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch in (40, 80):
                self.model.optimizer.learning_rate = 0.1 * 0.5 ** (batch // 40)

    model = classifier()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    dataset = ks.ImportanceDataset(
        model, *(part[:96] for part in digits), steps_per_epoch=90, presample="auto", seed=0
    )
    model.fit(dataset, callbacks=[Halve(), dataset.callback()], verbose=0)
    assert dataset._drawer.watch._rate.decay(89) < 0.5


@pytest.mark.parametrize("presample", ["auto", 3.0])
@pytest.mark.parametrize("length", [{"epochs": 9}, {"epochs": 3, "steps_per_epoch": 50}])
def test_batches_drawn_together_are_those_drawn_one_by_one(digits, monkeypatch, presample, length):
    monkeypatch.setattr(run_watch, "STEPS_A_BATCH", 1)
    # So that the gate opens in the course of the run.
    for name, value in {"OPENS_ABOVE": 0.5, "LOOKS": 1, "AGREEING": 1}.items():
        monkeypatch.setattr(measured_gate, name, value)
    together = []

    def run():
        batches = []

        class Recorder(keras.callbacks.Callback):
            def on_batch_drawn(self, batch):
                batches.append((batch.indices, batch.importance, batch.by_importance))

        model = classifier()
        schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 8, 0.99)
        model.compile(keras.optimizers.SGD(schedule), "sparse_categorical_crossentropy")
        settings = {"cost_ratio": 0.05} if presample == "auto" else {"tau_threshold": 1.3}
        x, y = digits[0][:500], digits[1][:500]
        trainer = ks.ImportanceTraining(model, presample, seed=0, scoring_dtype=None, **settings)
        history = trainer.fit(x, y, callbacks=[Recorder()], verbose=0, **length)
        return model, history.history, batches

    count_ahead = BatchDrawer.count_ahead
    monkeypatch.setattr(
        BatchDrawer, "count_ahead", lambda self: together.append(count_ahead(self)) or together[-1]
    )
    model, history, batches = run()
    assert max(together) == supply.TOGETHER
    monkeypatch.setattr(supply, "TOGETHER", 1)
    alone, its_history, its_batches = run()
    assert 0 < sum(by_importance for *_, by_importance in batches) < len(batches)
    for batch, its_batch in zip(batches, its_batches, strict=True):
        for part, its_part in zip(batch, its_batch, strict=True):
            np.testing.assert_array_equal(part, its_part)
    for name, values in history.items():
        np.testing.assert_array_equal(values, its_history[name])
    assert_same_weights(model, alone)


def test_a_cost_is_measured_in_short_epochs(digits, told):
    x, y = digits[0][:192], digits[1][:192]
    # Six steps an epoch, fewer than are drawn together.
    history = ks.ImportanceTraining(classifier(), presample="auto", seed=0).fit(
        x, y, batch_size=32, epochs=24, verbose=0
    )
    assert len(told) == 2
    assert history.history["cost_ratio"][-1] > 0


def test_large_batches_are_not_drawn_together(digits):
    source = ArraySource(np.repeat(digits[0][:800], 40, axis=1), digits[1][:800])
    generators = [np.random.default_rng(0), np.random.default_rng(1)]
    # 10,248 bytes an example.
    for size, count in ((32, 8), (64, 6), (256, 1)):
        assert supply.ArraySupply(source, size, generators, shuffle=True).together == count


def test_an_end_that_is_past_leaves_no_steps(digits, monkeypatch):
    dataset = ks.ImportanceDataset(
        classifier(), *(part[:96] for part in digits), cost_ratio=0.3, seed=0
    )
    left = []
    watch = dataset._drawer.watch
    monkeypatch.setattr(watch, "before_step", lambda step, values, steps: left.append(steps))
    monkeypatch.setattr(watch, "steps_until_due", lambda step: 1)
    dataset.expect(0.5)
    assert len(list(dataset)) == 3
    assert left == [1.5, 0.5, 0]


def test_without_an_optimizer_the_rate_counts_as_constant(digits):
    model = classifier()
    model.compile(None, "sparse_categorical_crossentropy")
    dataset = ks.ImportanceDataset(
        model, *(part[:96] for part in digits), presample="auto", cost_ratio=0.3, seed=0
    )
    assert len(list(dataset)) == 3
    assert dataset._drawer.watch._rate.decay(2) == 1


@pytest.mark.parametrize("stops_after", [3, 8, 11])
@pytest.mark.parametrize("presample", ["auto", 3.0])
def test_what_an_epoch_that_ends_early_leaves_is_drawn_next(
    digits, monkeypatch, presample, stops_after
):
    def run():
        settings = {"cost_ratio": 0.3} if presample == "auto" else {"tau_threshold": 1e9}
        dataset = ks.ImportanceDataset(
            classifier(),
            *(part[:500] for part in digits),
            presample=presample,
            steps_per_epoch=20,
            seed=0,
            **settings,
        )
        drawn = []
        for _ in range(4):
            for step, (x, _, _) in enumerate(dataset, 1):
                drawn.append(x)
                if step == stops_after:
                    break
        return drawn, dataset.state()

    drawn, state = run()
    monkeypatch.setattr(supply, "TOGETHER", 1)
    alone, its_state = run()
    for ours, theirs in zip(drawn, alone, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name in ("step", "unprobed"):
        assert state[name] == its_state[name]
    for part in ("uniform", "presample"):
        np.testing.assert_array_equal(state["supply"][part][0], its_state["supply"][part][0])
        assert state["supply"][part][1:] == its_state["supply"][part][1:]


class Ragged(keras.utils.PyDataset):
    """Four batches of two sequences, those from `first` on one step longer than the one before."""

    def __init__(self, first):
        super().__init__()
        self.lengths = [3 + max(0, index - first) for index in range(4)]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = np.random.default_rng(index)
        x = generator.random((2, self.lengths[index], 2), dtype=np.float32)
        return x, x.mean(axis=(1, 2))


def of_sequences():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.LSTM(4), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def test_batches_of_different_lengths_train_as_with_plain_fit():
    ours, theirs = of_sequences(), of_sequences()
    trainer = ks.ImportanceTraining(ours, seed=0)
    with pytest.warns(UserWarning, match="uniform from here on.*Pad them to one length"):
        history = trainer.fit(Ragged(0), epochs=3, shuffle=False, verbose=0).history
    expected = theirs.fit(Ragged(0), epochs=3, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    assert history["importance"] == [0.0] * 3


def test_a_generator_of_just_the_batches_of_fit_is_enough(digits):
    x, y = digits

    def batches():
        return ((x[first : first + 16], y[first : first + 16]) for first in range(0, 96, 16))

    ours, theirs = classifier(), classifier()
    trainer = ks.ImportanceTraining(ours, seed=0)
    with pytest.warns(UserWarning, match="uniform from here on.*generator ended"):
        trainer.fit(batches(), epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
    theirs.fit(batches(), epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", ["ragged", "generator"])
def test_a_gate_that_opens_without_a_presample_shuts_for_good(digits, monkeypatch, kind):
    x, y = digits
    if kind == "ragged":
        model, source, steps = of_sequences(), Ragged(1), 4
        # What is looked at is of one form.
        monkeypatch.setattr(run_watch, "EXAMPLES", 4)
    else:
        model, steps = classifier(), 20
        source = ((x[first : first + 16], y[first : first + 16]) for first in range(0, 320, 16))
    dataset = ks.ImportanceDataset(
        model, source, steps_per_epoch=steps, cost_ratio=0.3, shuffle=False, seed=0
    )
    assert dataset._drawer.gate.ratios
    seen = []
    with pytest.warns(UserWarning, match="uniform from here on"):
        for step, (part, *_) in enumerate(dataset):
            # Five batches are not to be had from there.
            if step == {"ragged": 1, "generator": 16}[kind]:
                dataset._drawer.gate.ratio = 5
            seen.append(part)
    assert len(seen) == steps
    assert dataset._drawer.gate.ratios == ()
    for index, part in enumerate(seen):
        expected = source[index][0] if kind == "ragged" else x[16 * index : 16 * index + 16]
        np.testing.assert_array_equal(part, expected)
