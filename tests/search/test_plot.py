"""The figure of a search shows the search's numbers."""

import dataclasses

import numpy as np
from made_up_record import made_up_record

from keras_swift.src.search.result import SearchResult
from keras_swift.src.search.trial import SearchTrial
from keras_swift.src.swift.sampler import SwiftSampler


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
        confirmed=(),
        objective="val_accuracy",
        direction="max",
        record=made_up_record(80),
        classes=None,
        pretrained_weights=[],
        pretrain_epochs=10,
        finetune_epochs=5,
        pretrain_seconds=2.0,
        record_epochs=0.0,
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
    assert right.get_xlabel() == "trial"
    assert right.get_ylabel() == "val accuracy (higher is better)"


def test_the_title_says_what_was_chosen():
    result = made_up()
    share = 1 / (80 * np.sum(result.probabilities**2))
    assert result.plot().get_suptitle() == (
        f"Chosen: trial 1, as varied as uniform draws from {share:.0%} of the data; "
        "val accuracy +0.200 in its trial"
    )
    again = tuple(dataclasses.replace(trial, objective=0.5) for trial in result.trials[:2])
    title = dataclasses.replace(result, confirmed=again).plot().get_suptitle()
    assert title == "Chosen: uniform draws: nothing is clearly better"


def test_a_notebook_shows_the_printed_rows():
    result = dataclasses.replace(made_up(), note="<b>", objective="val_a&b")
    html = result._repr_html_()
    assert "<th>judged by</th><td>val_a&amp;b, higher is better</td>" in html
    assert "<td>&lt;b&gt;</td>" in html and "<b>" not in html
    assert html.count("<tr>") == len(str(result).splitlines()) - 1


def test_lower_is_better_where_the_objective_is_a_loss():
    result = dataclasses.replace(made_up(), direction="min")
    assert result.best.number == 0 and result.gain == 0.0
    figure = result.plot()
    assert list(figure.axes[2].get_lines()[1].get_ydata()) == [0.5, 0.5, 0.5, 0.5]


def test_one_feature_is_drawn_as_a_line():
    result = made_up(names=("loss",))
    figure = result.plot()
    assert figure.axes[0].get_ylabel() == "draws per epoch (1: uniform)"
    assert len(figure.axes) == 3


def test_all_trials_failed():
    result = made_up(objectives=(np.nan, np.nan))
    assert result.best.number == 0 and result.sampler.is_uniform
    result.plot()
    assert "2 failed" in str(result)


def test_equal_objectives_leave_it_uniform():
    assert made_up(objectives=(0.7, 0.7)).best.number == 0


def test_what_was_trained_from_scratch_is_shown():
    result = made_up()
    again = tuple(
        dataclasses.replace(trial, objective=value)
        for trial, value in ((result.trials[0], 0.3), (result.trials[1], 0.95))
    )
    axes = dataclasses.replace(result, confirmed=again).plot().axes[2]
    (stars,) = [line for line in axes.get_lines() if line.get_label() == "trained from scratch"]
    assert list(stars.get_xdata()) == [0, 1] and list(stars.get_ydata()) == [0.3, 0.95]
    low, high = axes.get_ylim()
    assert low <= 0.3 and high >= 0.95
