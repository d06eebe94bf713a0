"""What is measured of a run, against numbers known beforehand."""

import keras
import numpy as np
import pytest
from conftest import classifier

import keras_swift as ks
from keras_swift import run_watch
from keras_swift.measured_gate import MeasuredGate
from keras_swift.run_watch import CostMeter, RateWatch, RunWatch, Schedule


def test_schedule_spreads_snapshots_and_slows_down():
    schedule = Schedule(64)
    snapshots, looks = [], []
    for step in range(1, 6000):
        if schedule.is_due(step):
            snapshots.append(step)
            if schedule.is_complete(step):
                looks.append(step)
    assert looks[:3] == [64, 128, 192]
    assert snapshots[:9] == [8, 16, 24, 32, 40, 48, 56, 64, 72]
    intervals = np.diff(looks)
    assert (np.diff(intervals) >= 0).all()
    # Another eighth of the run, up to eight times the first interval.
    assert intervals[-1] == 512
    assert intervals[looks.index(1037)] == 1037 // 8


def test_cost_ratio_by_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_watch.time, "perf_counter", lambda: now[0])
    meter = CostMeter(batch_size=10)
    assert meter.ratio is None
    for first in range(0, 80, 8):
        meter.begin(first)
        assert not meter.is_over(first + 3)
        for step in range(first, first + 8):
            if meter.is_over(step):
                meter.end(step)
            with meter.timing("load", 10):
                now[0] += 0.1
            with meter.timing("score", 30):
                now[0] += 0.6
            now[0] += 0.9
            if step == 42:
                # A validation, say, in the middle of what is timed.
                now[0] += 1e3
                meter.pause()
                assert not meter.is_over(44)
    # A step is 1.0 without its scoring; an example costs 0.01 to load, 0.02 to score.
    assert meter.ratio == pytest.approx((0.01 + 0.02) / (1.0 / 10))


def test_where_the_rate_is_going():
    rates = {0: 0.1, 100: 0.1, 200: 0.05, 250: 0.1, 300: 0.0, 400: 0.0, 500: 0.1, 600: 0.1}
    now = [0]
    watch = RateWatch(lambda: rates.get(now[0]))

    def decay(step):
        now[0] = step
        return watch.decay(step)

    assert decay(0) == 1
    assert decay(100) == 1
    # Halved in the last 100 of 200 steps: a quarter after 200 more.
    assert decay(200) == pytest.approx(0.25)
    # A rate that rises counts as constant, one that is not known goes on.
    assert decay(250) == 1
    assert decay(300) == 0
    assert decay(310) == 0
    assert decay(400) == 1
    assert decay(500) == 1
    state = watch.state()
    rates[600] = 0.05
    expected = decay(600)
    assert expected == pytest.approx(0.5**6)
    other = RateWatch(lambda: rates.get(now[0]))
    other.restore(state)
    assert other.decay(600) == expected


def test_a_rate_that_is_out_of_reach_at_a_look_is_that_of_the_last_epoch():
    known = [0.1]
    watch = RateWatch(lambda: known[0])
    watch.follow(0)
    known[0] = 0.05
    watch.follow(200)
    known[0] = None
    assert watch.decay(250) == pytest.approx(0.5)
    assert RateWatch(lambda: None).decay(100) == 1


def test_a_look_compares_present_and_averaged_weights(digits):
    """At known weights, and with a function that says which weights it was given."""
    model = classifier()
    start = model.get_weights()
    seen, gate = [], MeasuredGate()

    def score(data, values):
        weights = model.get_weights() if values is None else values[0]
        seen.append([np.array(keras.ops.convert_to_numpy(w)) for w in weights])
        return np.ones(4), np.full(4, 1.0 if values is None else 0.25)

    watch = RunWatch(model, score, gate, 4, (digits[0][:4], digits[1][:4], None), cost_ratio=0.1)
    for step in range(1, 65):
        model.set_weights([w + step for w in start])
        watch.before_step(step, None)
    present, averaged = seen
    taken = np.mean(range(8, 65, 8))
    for w, now, mean in zip(start, present, averaged, strict=True):
        np.testing.assert_allclose(now, w + 64, rtol=1e-5)
        np.testing.assert_allclose(mean, w + taken, rtol=1e-5)
    assert gate.noise_share == 0.75
    assert gate.tau == 1
    assert gate.cost_ratio == 0.1
    # The model is as it was.
    for w, now in zip(start, model.get_weights(), strict=True):
        np.testing.assert_allclose(now, w + 64, rtol=1e-5)


def test_scores_under_given_values_are_those_of_a_model_that_has_them(digits):
    model, other = classifier(), classifier()
    other.set_weights([w + 0.05 for w in model.get_weights()])
    x, y = digits[0][:64], digits[1][:64]
    data = ks.ImportanceDataset(model, x, y, presample="auto", cost_ratio=0.3, seed=0)
    values = ([v.value for v in other.trainable_variables], [])
    scores, losses = data._scores_and_losses((x, y, None), values)
    expected = ks.ImportanceDataset(other, x, y, seed=0, presample=1.5)
    np.testing.assert_allclose(losses, expected._scorer(x, y)["loss"], rtol=1e-5)
    np.testing.assert_allclose(scores, expected._scorer(x, y)["gradient_norm"], rtol=1e-5)


def test_state_goes_on_in_the_middle_of_an_interval(digits):
    model = classifier()
    start = model.get_weights()
    examples = (digits[0][:4], digits[1][:4], None)

    def watch(seen):
        def score(data, values):
            weights = model.get_weights() if values is None else values[0]
            seen.append([np.array(keras.ops.convert_to_numpy(w)) for w in weights])
            return np.ones(4), np.ones(4)

        return RunWatch(model, score, MeasuredGate(), 4, examples, cost_ratio=0.1)

    def run(watch, steps):
        for step in steps:
            model.set_weights([w + step for w in start])
            watch.before_step(step, None)

    through, resumed = [], []
    run(watch(through), range(1, 65))
    first = watch([])
    run(first, range(1, 30))
    second = watch(resumed)
    second.restore(first.state())
    run(second, range(30, 65))
    for ours, theirs in zip(through[1], resumed[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
