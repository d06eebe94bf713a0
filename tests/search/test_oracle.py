"""The oracle on objectives that are known, without training anything."""

import os
import random
import time

import keras_tuner
import numpy as np
import pytest

from keras_swift.src.search.cube import SamplerCube
from keras_swift.src.search.oracle import SwiftOracle
from keras_swift.src.search.store import TRIAL, Store

N = 500


def noisy_data():
    """Features of a made-up data set, two fifths of which is better left out."""
    generator = np.random.default_rng(0)
    bad = generator.random(N) < 0.4
    loss = generator.gamma(2.0, size=N) + bad * generator.gamma(4.0, size=N)
    entropy = generator.gamma(2.0, 0.5, size=N) + ~bad * generator.uniform(size=N)
    return bad, {
        "loss": loss,
        "renormed_entropy": entropy,
        "gradient_norm": 1 - np.exp(-loss),
    }


BAD, COLUMNS = noisy_data()


def score(sampler):
    """Falls with the share of bad examples, and with too few different ones."""
    probability = sampler.probabilities(COLUMNS)
    effective = 1 / np.sum(probability**2) / N
    return 0.8 - 0.5 * probability[BAD].sum() - 0.2 * max(0.0, 0.5 - effective)


def make(directory, max_trials=14, objective=None, **arguments):
    oracle = SwiftOracle(
        SamplerCube(columns=COLUMNS),
        Store(str(directory / "search")),
        objective or keras_tuner.Objective("score", "max"),
        max_trials,
        **arguments,
    )
    oracle.verbose = 0
    oracle._set_project_dir(str(directory), "search")
    return oracle


def run(oracle, trials=None, objective=score):
    """Runs trials to the end, or as many as given; returns the samplers tried."""
    tried = []
    while trials is None or len(tried) < trials:
        trial = oracle.create_trial("tuner0")
        if trial.status == "STOPPED":
            break
        sampler = oracle.cube.from_values(trial.hyperparameters.values)
        tried.append(sampler)
        oracle.update_trial(trial.trial_id, {"score": objective(sampler)})
        oracle._store.write_values(int(trial.trial_id), None)
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return tried


def test_uniform_comes_first_and_nothing_twice(tmp_path):
    tried = run(make(tmp_path))
    assert len(tried) == 14
    assert tried[0].is_uniform
    assert not any(sampler.is_uniform for sampler in tried[1:])
    assert len({tuple(sampler.parameters) for sampler in tried}) == 14


def test_initial_design_leaves_out_more_and_more(tmp_path):
    tried = run(make(tmp_path, 14))
    drawn = [sampler.probabilities(COLUMNS) > 0 for sampler in tried[1:9]]
    kept = [part.mean() for part in drawn]
    # Sums of two ranks have ties, which are not cut through.
    assert 0.7 <= kept.pop(4) < 0.71
    np.testing.assert_allclose(kept, [0.6, 0.7, 0.8, 0.4, 0.9, 0.5, 0.8], atol=0.003)
    # By the loss, from its lowest; by the entropy, from its highest; all but the lowest losses.
    loss, entropy = COLUMNS["loss"], COLUMNS["renormed_entropy"]
    for part in (drawn[k] for k in (0, 2, 3, 5)):
        assert loss[part].max() < loss[~part].min()
    for part in (drawn[k] for k in (1, 6)):
        assert entropy[part].min() > entropy[~part].max()
    assert loss[drawn[7]].min() > loss[~drawn[7]].max()
    for sampler, part in zip(tried[1:8], drawn, strict=False):
        assert np.ptp(sampler.probabilities(COLUMNS)[part]) < 1e-9


@pytest.mark.parametrize(("trials", "cuts"), [(4, 3), (8, 4), (12, 7), (40, 8)])
def test_two_thirds_of_few_trials_are_the_design(tmp_path, trials, cuts):
    assert make(tmp_path, trials).num_initial_points == 1 + cuts


def test_initial_design_fills_the_cube(tmp_path):
    oracle = make(tmp_path, num_initial_points=73)
    points = np.array([oracle._suggest(number) for number in range(9, 73)])
    # 64 shifted Sobol points put 16, give or take what the first one left out moves, into each
    # quarter of each axis.
    for axis in points.T:
        counts = np.histogram(axis, bins=4, range=(0, 1))[0]
        assert np.abs(counts - 16).max() <= 2


@pytest.mark.slow
def test_finds_more_than_random_search(tmp_path):
    best = {}
    for method in ("bayesian", "random"):
        found = [
            max(map(score, run(make(tmp_path / f"{method}{seed}", 20, method=method, seed=seed))))
            for seed in range(2)
        ]
        best[method] = np.mean(found) - score(run(make(tmp_path / method, 1))[0])
    assert best["bayesian"] > 1.2 * best["random"]


def test_one_seed_gives_one_search(tmp_path):
    first, second, other = (
        run(make(tmp_path / name, 9, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert first[1:] != other[1:]


@pytest.mark.slow
@pytest.mark.parametrize("finished", [0, 3, 9])
def test_resumed_search_goes_on_as_an_unbroken_one(tmp_path, finished):
    unbroken = run(make(tmp_path / "whole", 14))
    before = run(make(tmp_path / "cut", 14), finished)
    killed = make(tmp_path / "cut", 14)
    killed.reload()
    killed.create_trial("tuner0")
    # Nothing more is heard of `killed`.
    resumed = make(tmp_path / "cut", 14)
    state = random.getstate()
    resumed.reload()
    assert random.getstate() == state
    after = run(resumed)
    assert before + after == unbroken


@pytest.mark.parametrize("lost", [(0,), (2,), (7, 9), (11,)])
def test_only_trials_without_their_file_are_run_again(tmp_path, lost):
    unbroken = run(make(tmp_path, 12))
    store = Store(str(tmp_path / "search"))
    for number in lost:
        os.remove(store.path(TRIAL.format(number)))
    files = {number: os.stat(store.path(TRIAL.format(number))) for number in store.trial_numbers()}
    resumed = make(tmp_path, 12)
    with pytest.warns() if lost != (11,) else _quiet():
        resumed.reload()
    # They are found as they were, although later trials are known now.
    assert run(resumed) == [unbroken[number] for number in lost]
    # As KerasTuner writes them: those who sort trials by their id get them in order.
    assert sorted(resumed.trials) == [f"{number:02d}" for number in range(12)]
    assert store.trial_numbers() == list(range(12))
    for number, stat in files.items():
        assert os.stat(store.path(TRIAL.format(number))).st_mtime_ns == stat.st_mtime_ns


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_objectives_that_are_not_finite_are_failures(tmp_path, value):
    oracle = make(tmp_path, 12)

    def objective(sampler):
        return value if not sampler.is_uniform and sampler.values[0] > 0.4 else score(sampler)

    with np.errstate(invalid="ignore"), pytest.warns() if np.isnan(value) else _quiet():
        tried = run(oracle, objective=objective)
    failed = [trial for trial in oracle.trials.values() if trial.status == "FAILED"]
    assert len(tried) == 12
    assert len(failed) == sum(not np.isfinite(objective(sampler)) for sampler in tried) > 0
    (best,) = oracle.get_best_trials()
    assert best.status == "COMPLETED" and np.isfinite(best.score)


class _quiet:
    def __enter__(self):
        return None

    def __exit__(self, *exception):
        return None


def test_many_failures_in_a_row_do_not_stop_the_search(tmp_path):
    oracle = make(tmp_path, 8)
    tried = run(oracle, objective=lambda s: score(s) if s.is_uniform else float("inf"))
    assert len(tried) == 8
    assert oracle.get_best_trials()[0].trial_id == "0"


def test_workers_get_different_trials(tmp_path):
    oracle = make(tmp_path)
    run(oracle, 9)
    samplers = [
        oracle.cube.from_values(oracle.create_trial(f"worker{k}").hyperparameters.values)
        for k in range(3)
    ]
    draws = [sampler.probabilities(COLUMNS) for sampler in samplers]
    for first in range(3):
        for second in range(first):
            assert np.abs(draws[first] - draws[second]).sum() > 0.02


@pytest.mark.slow
def test_a_suggestion_at_forty_trials_is_quick(tmp_path):
    oracle = make(tmp_path, 41)
    run(oracle, 40)
    begin = time.perf_counter()
    oracle.create_trial("tuner0")
    # 0.25 s was seen; 2 s is what is promised.
    assert time.perf_counter() - begin < 2.0


def test_more_trials_go_on_from_fewer(tmp_path):
    before = run(make(tmp_path, 8, num_initial_points=4))
    longer = make(tmp_path, 12, num_initial_points=4)
    longer.reload()
    after = run(longer)
    assert len(after) == 4
    assert Store(str(tmp_path / "search")).trial_numbers() == list(range(12))
    assert not any(sampler in before for sampler in after)


def test_unknown_method_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`method` must be one of"):
        make(tmp_path, method="grid")
