"""What is measured of a run, against numbers known beforehand."""

import gc
import weakref

import keras
import numpy as np
import pytest
from small_models import classifier

import keras_swift as ks
from keras_swift.fitting import resume
from keras_swift.importance.gate import cost_meter, run_watch
from keras_swift.importance.gate.cost_meter import CostMeter
from keras_swift.importance.gate.measured import MeasuredGate
from keras_swift.importance.gate.run_watch import RunWatch, Schedule


@pytest.fixture(autouse=True)
def first_look_after_64_steps(monkeypatch):
    monkeypatch.setattr(run_watch, "STEPS_A_BATCH", 1)


def looks_of(schedule, steps):
    """The steps at which a run that is told its end is looked at."""
    return [
        step
        for step in range(1, steps + 1)
        if schedule.is_due(step) and schedule.is_complete(step, steps - step)
    ]


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
    # Another eighth of the run, up to four times the first interval.
    assert intervals[-1] == 256
    assert intervals[looks.index(1037)] == 1037 // 8


def test_schedule_looks_more_often_towards_the_end():
    looks = looks_of(Schedule(64), 6000)
    lengths = dict(zip(looks, np.diff(looks), strict=False))
    # As without an end while a quarter of what is left is more; then that; then the shortest.
    assert lengths[1037] == 1037 // 8
    late = [look for look in lengths if (6000 - look) // 4 < 256]
    assert len(late) > 5
    assert all(lengths[look] == max(64, (6000 - look) // 4) for look in late)


def test_schedule_of_long_intervals_still_looks_often_at_the_end():
    looks = looks_of(Schedule(200), 6000)
    assert looks[:2] == [200, 400]
    assert max(np.diff(looks)) > 400
    assert looks[-1] > 6000 - 64
    assert set(np.diff(looks)[-3:]) == {64}


def test_schedule_of_looks_that_cost_many_steps():
    def length(step, **known):
        schedule = Schedule(64)
        schedule.restore({"began": step - 64, "taken": run_watch.SNAPSHOTS, "length": 64})
        assert schedule.is_complete(step, **known)
        return schedule.state()["length"]

    assert length(64, least=800) == 800
    # No longer than needed, and a quarter of what is left, but for half of it near the end.
    assert length(9000, least=80) == 256
    assert length(9000, least=800, steps_left=2000) == 500
    assert length(9000, least=800, steps_left=400) == 400
    assert length(9000, steps_left=400) == 100


@pytest.mark.parametrize("cost_ratio", [None, 0.3])
def test_what_looks_cost_in_steps_keeps_them_apart(digits, monkeypatch, cost_ratio):
    monkeypatch.setattr(CostMeter, "look", 5.0)
    looks = []
    monkeypatch.setattr(RunWatch, "_look", lambda self, step, *_: looks.append(step))
    monkeypatch.setattr(RunWatch, "_add", lambda self, captured: None)
    examples = (digits[0][:4], digits[1][:4], None)
    watch = RunWatch(classifier(), None, MeasuredGate(), 4, examples, cost_ratio)
    for step in range(1, 1100):
        watch.before_step(step, None)
    # 1 % of the steps; where nothing is to depend on the clock, as without it.
    assert list(np.diff(looks)[:2]) == ([500, 500] if cost_ratio is None else [64, 64])


def test_what_a_look_costs_by_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cost_meter.time, "perf_counter", lambda: now[0])
    meter = CostMeter(batch_size=10)
    # The first compiles, another waits for somebody else.
    for number, seconds in enumerate((100.0, 3.0, 50.0, 4.0)):
        with meter.watching():
            now[0] += seconds / 2
        now[0] += 1.0
        with meter.watching():
            now[0] += seconds / 2
        meter.look_ends()
        assert meter.look == (6.0 if number else 0.0)
        meter.begin(8 * number)
        now[0] += 4 * 0.5
        meter.end(8 * number + 4)


@pytest.mark.parametrize("epoch", [50, 5])
def test_the_rate_is_read_before_looks_and_once_an_epoch(digits, monkeypatch, epoch):
    read = []
    monkeypatch.setattr(RunWatch, "_add", lambda self, captured: None)
    monkeypatch.setattr(RunWatch, "_look", lambda self, *_: None)
    examples = (digits[0][:4], digits[1][:4], None)
    watch = RunWatch(classifier(), None, MeasuredGate(), 4, examples, cost_ratio=0.3)
    monkeypatch.setattr(watch._rate, "follow", lambda step: read.append(step) or True)
    for step in range(200):
        if step % epoch == 0:
            watch.pause()
        watch.before_step(step, None)
    # A look after every 64 steps. In short epochs more seldom than in each.
    expected = [0, 50, 64, 100, 128, 160, 192] if epoch == 50 else [0, 32, 64, 96, 128, 160, 192]
    assert read == expected


def test_cost_ratio_by_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cost_meter.time, "perf_counter", lambda: now[0])
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


def test_a_look_at_scores_that_are_not_finite_tells_the_gate_nothing(digits):
    x, y = digits[0][:4].copy(), digits[1][:4]
    x[1] = np.nan

    def score(data, values):
        return np.array([1.0, np.nan, 1.0, 1.0]), np.ones(4)

    gate = MeasuredGate()
    watch = RunWatch(classifier(), score, gate, 4, (x, y, None), cost_ratio=0.1)
    before = gate.state()
    for step in range(1, 65):
        watch.before_step(step, None)
    assert gate.state() == before


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
    scores, losses = data._drawer.scores_and_losses((x, y, None), values)
    expected = ks.ImportanceDataset(other, x, y, seed=0, presample=1.5)
    np.testing.assert_allclose(losses, expected._drawer._scorer(x, y)["loss"], rtol=1e-5)
    np.testing.assert_allclose(scores, expected._drawer._scorer(x, y)["gradient_norm"], rtol=1e-5)


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
    whole = watch(through)
    run(whole, range(1, 129))
    first = watch([])
    run(first, range(1, 100))
    second = watch(resumed)
    second.restore(first.state())
    run(second, range(100, 129))
    assert len(through) == 2 * len(resumed) == 4
    for ours, theirs in zip(through[3], resumed[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert second.state()["fall"] == whole.state()["fall"] == {"seen": [(64, 1.0), (128, 1.0)]}


def test_a_look_that_fails_leaves_nothing_for_the_next(digits):
    model = classifier()
    start = model.get_weights()
    averaged = []

    def score(data, values):
        if values is not None:
            averaged.append([keras.ops.convert_to_numpy(w) for w in values[0]])
        elif len(calls) == 8:
            raise RuntimeError("stopped")
        return np.ones(4), np.ones(4)

    examples = (digits[0][:4], digits[1][:4], None)
    watch = RunWatch(model, score, MeasuredGate(), 4, examples, cost_ratio=0.1)
    calls = []
    for step in range(8, 129, 8):
        calls.append(step)
        try:
            watch.before_step(step, None)
        except RuntimeError:
            assert step == 64
    (mean,) = averaged
    for w, now in zip(start, mean, strict=True):
        np.testing.assert_allclose(now, w, rtol=1e-5)


def test_the_average_ends_with_the_watch(digits):
    model = classifier()
    examples = (digits[0][:4], digits[1][:4], None)
    watch = RunWatch(model, None, MeasuredGate(), 4, examples, cost_ratio=0.1)
    for step in range(8, 33, 8):
        watch.before_step(step, None)
    kept = weakref.ref(watch._total[0][0])
    del watch
    gc.collect()
    assert kept() is None


def test_other_variables_after_compiling_again_are_averaged(digits):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8) for _ in range(3)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    averaged = []

    def score(data, values):
        if values is not None:
            averaged.append([keras.ops.convert_to_numpy(w) for part in values for w in part])
        return np.ones(4), np.ones(4)

    examples = (np.zeros((4, 8)), np.zeros((4, 8)), None)
    model.compile("sgd", "mse")
    watch = RunWatch(model, score, MeasuredGate(), 4, examples, cost_ratio=0.1)
    for step in range(1, 33):
        watch.before_step(step, None)
    # In the middle of an interval: as many variables to train as before, and fewer.
    for begin, frozen in ((32, [0]), (128, [1]), (256, [0, 1])):
        for number, layer in enumerate(layers):
            layer.trainable = number not in frozen
        model.compile("sgd", "mse")
        found = len(averaged)
        for step in range(begin + 1, begin + 66):
            watch.before_step(step, None)
        assert len(averaged) == found + 1
        now = [*model.trainable_variables, *model.non_trainable_variables]
        for variable, mean in zip(now, averaged[-1], strict=True):
            np.testing.assert_allclose(mean, keras.ops.convert_to_numpy(variable), rtol=1e-5)


def test_the_sum_of_bfloat16_weights_can_be_saved(digits, tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    examples = (digits[0][:4], digits[1][:4], None)

    def score(data, values):
        return np.ones(4), np.ones(4)

    watch = RunWatch(model, score, MeasuredGate(), 4, examples, cost_ratio=0.1)
    for step in range(8, 41, 8):
        watch.before_step(step, None)
    resume.write_state(tmp_path / "state.npz", watch.state())
    other = RunWatch(model, score, MeasuredGate(), 4, examples, cost_ratio=0.1)
    other.restore(resume.read_state(tmp_path / "state.npz"))
    for step in range(48, 57, 8):
        watch.before_step(step, None)
        other.before_step(step, None)
    for ours, theirs in zip(watch._total[0], other._total[0], strict=True):
        assert keras.backend.standardize_dtype(theirs.dtype) == "bfloat16"
        np.testing.assert_array_equal(
            *(keras.ops.convert_to_numpy(keras.ops.cast(v, "float32")) for v in (ours, theirs))
        )
