"""The figure of a search shows the search's numbers."""

import dataclasses

import numpy as np
import pytest

from keras_swift.swift.sampler import SwiftSampler
from keras_swift.swift.search.result import SearchResult, SearchTrial


def made_up(names=("loss", "renormed_entropy"), objectives=(0.5, 0.7, np.nan, 0.6)):
    generator = np.random.default_rng(0)
    features = {name: generator.uniform(size=80) for name in (*names, "gradient_norm")}
    trials = []
    for number, objective in enumerate(objectives):
        sampler = SwiftSampler.uniform(names)
        if number:
            sampler = SwiftSampler(
                [0.2, 0.4, 0.7], [0.9, 1.0, 0.2, 0.1, 0.0], [0.5] * len(names), names
            )
        status = "COMPLETED" if np.isfinite(objective) else "FAILED"
        trials.append(SearchTrial(number, sampler, objective, 1.0, status))
    return SearchResult(
        features=features,
        trials=tuple(trials),
        objective="val_accuracy",
        direction="max",
        suspicion=features[names[0]],
        pretrained_weights=[],
        pretrain_epochs=10,
        finetune_epochs=5,
        pretrain_seconds=2.0,
        data_fingerprint="",
    )


def test_figure_shows_draws_function_and_progress(tmp_path):
    result = made_up()
    figure = result.plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 10_000
    left, middle, right = figure.axes[:3]
    drawn = np.sort(left.collections[0].get_array())
    np.testing.assert_allclose(drawn, np.sort(result.probabilities * 80))
    assert left.get_xlabel() == "loss (percentile)"
    assert left.get_ylabel() == "renormed entropy (percentile)"
    np.testing.assert_allclose(middle.get_lines()[1].get_ydata(), result.sampler.values)
    points, best, uniform = right.get_lines()
    assert list(points.get_ydata()) == [0.5, 0.7, 0.6]
    assert list(best.get_ydata()) == [0.5, 0.7, 0.7, 0.7]
    assert list(uniform.get_ydata()) == [0.5, 0.5]
    assert (right.get_xlabel(), right.get_ylabel()) == ("trial", "val accuracy")


def test_lower_is_better_where_the_objective_is_a_loss():
    result = dataclasses.replace(made_up(), direction="min")
    assert result.best.number == 0 and result.gain == 0.0
    figure = result.plot()
    assert list(figure.axes[2].get_lines()[1].get_ydata()) == [0.5, 0.5, 0.5, 0.5]


def test_one_feature_is_drawn_as_a_line():
    result = made_up(names=("loss",))
    figure = result.plot()
    assert figure.axes[0].get_ylabel() == "draws an epoch"
    assert len(figure.axes) == 3


def test_all_trials_failed():
    result = made_up(objectives=(np.nan, np.nan))
    assert result.best.number == 0 and result.sampler.is_uniform
    result.plot()
    assert "2 failed" in str(result)


def test_equal_objectives_leave_it_uniform():
    assert made_up(objectives=(0.7, 0.7)).best.number == 0


def test_suspects_are_the_most_suspicious_first():
    result = made_up()
    order = sorted(range(80), key=lambda i: -result.suspicion[i])
    assert result.suspects(7).tolist() == order[:7]
    assert len(result.suspects(1000)) == 80
    with pytest.raises(ValueError, match="`count` must not be negative"):
        result.suspects(-1)
