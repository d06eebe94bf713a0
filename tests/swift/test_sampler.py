"""The sampler against a slow loop, its invariances, and its file."""

import json

import numpy as np
import pytest

from keras_swift.src.swift.ranks import cumulative_rank
from keras_swift.src.swift.sampler import SwiftSampler


def features(n=60, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "loss": generator.gamma(2.0, size=n),
        "renormed_entropy": generator.uniform(size=n),
        "gradient_norm": generator.uniform(size=n),
    }


def some_sampler(transform="cgf", **changes):
    numbers = {
        "knots": [0.2, 0.5, 0.6],
        "values": [0.9, 0.1, 0.7, 0.3, 0.0],
        "coefficients": [0.8, -0.3],
    }
    return SwiftSampler(**{**numbers, **changes}, transform=transform)


def slow_probabilities(sampler, columns):
    """Equations 4 to 10, one example and one sum at a time."""
    raw = [columns[name] for name in sampler.features]
    n = len(raw[0])
    ranks = [[sum(other <= value for other in column) / n for value in column] for column in raw]
    aggregate = [
        sum(c * rank[i] for c, rank in zip(sampler.coefficients, ranks, strict=True))
        for i in range(n)
    ]
    grad = columns["gradient_norm"] if sampler.transform == "cgf" else [1.0] * n
    heights = []
    for u in aggregate:
        t = sum(g for g, other in zip(grad, aggregate, strict=True) if other <= u) / sum(grad)
        ends = [0.0, *sampler.knots, 1.0]
        for k in range(sampler.segments):
            low, high = ends[k], ends[k + 1]
            if t <= high:
                part = (t - low) / (high - low)
                heights.append(sampler.values[k] * (1 - part) + sampler.values[k + 1] * part)
                break
    return np.array(heights) / sum(heights)


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_probabilities_follow_the_equations(transform):
    columns = features()
    # Ties in one feature, and in both.
    columns["loss"][5:15] = columns["loss"][5]
    columns["renormed_entropy"][8:12] = columns["renormed_entropy"][8]
    sampler = some_sampler(transform)
    probability = sampler.probabilities(columns)
    np.testing.assert_allclose(probability, slow_probabilities(sampler, columns), rtol=1e-12)
    assert probability.dtype == np.float64
    assert probability.sum() == pytest.approx(1.0, abs=1e-15)


def test_ten_numbers_by_default():
    assert some_sampler().parameters.tolist() == [
        *(0.2, 0.5, 0.6),
        *(0.9, 0.1, 0.7, 0.3, 0.0),
        *(0.8, -0.3),
    ]


def test_equal_examples_are_drawn_alike_in_any_order():
    columns = {name: np.repeat(column, 3) for name, column in features(40).items()}
    order = np.random.default_rng(1).permutation(120)
    shuffled = {name: column[order] for name, column in columns.items()}
    probability = some_sampler().probabilities(shuffled)
    np.testing.assert_allclose(probability, some_sampler().probabilities(columns)[order])
    groups = probability[np.argsort(order)].reshape(40, 3)
    assert np.array_equal(groups, np.repeat(groups[:, :1], 3, axis=1))


def test_only_ranks_of_features_matter():
    columns = features()
    stretched = {**columns, "loss": np.exp(3 * columns["loss"]) - 7}
    np.testing.assert_array_equal(
        some_sampler().probabilities(columns), some_sampler().probabilities(stretched)
    )


def test_values_and_coefficients_matter_up_to_a_factor():
    columns = features()
    smaller = some_sampler(values=[0.45, 0.05, 0.35, 0.15, 0.0], coefficients=[0.4, -0.15])
    np.testing.assert_allclose(
        some_sampler().probabilities(columns), smaller.probabilities(columns)
    )


def test_cumulative_gradient_gives_equal_intervals_equal_gradient():
    columns = features(2000)
    position = some_sampler().transformed(columns)
    shares = np.histogram(position, bins=4, range=(0, 1), weights=columns["gradient_norm"])[0]
    # Each is within one example's gradient of a quarter.
    assert np.abs(shares / shares.sum() - 0.25).max() <= 1.01 / columns["gradient_norm"].sum()


def test_sums_equal_but_for_rounding_are_ties():
    columns = {"a": np.arange(9) % 3, "b": np.arange(9) // 3}
    sampler = SwiftSampler([], [0.0, 1.0], [0.3, 0.6], ["a", "b"], "cdf")
    # a + 2 b is 2 for the examples 2 and 3, and 4 for 5 and 6.
    position = sampler.transformed(columns)
    assert position[2] == position[3] and position[5] == position[6]


def test_uniform_draws_all_alike():
    sampler = SwiftSampler.uniform(segments=6)
    assert sampler.is_uniform and sampler.segments == 6
    assert np.array_equal(sampler.probabilities(features(50)), np.full(50, 1 / 50))
    assert not some_sampler().is_uniform


@pytest.mark.parametrize(
    "change",
    [
        {"values": [0.0] * 5},
        {"coefficients": [0.0, 0.0]},
    ],
)
def test_degenerate_numbers_mean_uniform(change):
    # A height of zero everywhere; an aggregate that is the same for all.
    sampler = some_sampler(**{"values": [0.5] * 4 + [0.4], **change})
    np.testing.assert_allclose(sampler.probabilities(features(50)), 1 / 50)


def test_gradients_of_zero_fall_back_on_the_plain_ranks():
    columns = {**features(), "gradient_norm": np.zeros(60)}
    np.testing.assert_array_equal(
        some_sampler("cgf").probabilities(columns), some_sampler("cdf").probabilities(columns)
    )


@pytest.mark.parametrize(("count", "segments"), [(1, 1), (1, 4), (3, 2), (5, 6)])
def test_any_number_of_features_and_segments(count, segments):
    generator = np.random.default_rng(0)
    names = [f"f{k}" for k in range(count)]
    sampler = SwiftSampler(
        np.sort(generator.uniform(size=segments - 1)),
        generator.uniform(size=segments + 1),
        generator.uniform(-1, 1, size=count),
        names,
        "cdf",
    )
    matrix = generator.normal(size=(30, count))
    columns = dict(zip(names, matrix.T, strict=True))
    np.testing.assert_array_equal(sampler.probabilities(matrix), sampler.probabilities(columns))
    np.testing.assert_allclose(
        sampler.probabilities(matrix), slow_probabilities(sampler, columns), rtol=1e-12
    )


def test_cumulative_rank_of_ties_takes_the_end_of_the_tie():
    ranks = cumulative_rank(np.array([2.0, 1.0, 2.0, 5.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert ranks.tolist() == [0.6, 0.2, 0.6, 1.0]


def test_saved_sampler_is_the_same(tmp_path):
    sampler = some_sampler("cdf")
    sampler.save(tmp_path / "sampler.json")
    loaded = SwiftSampler.load(tmp_path / "sampler.json")
    assert loaded == sampler
    assert loaded.get_config() == sampler.get_config()
    assert json.loads((tmp_path / "sampler.json").read_text())["version"] == 1


def test_load_explains_a_file_that_is_cut_off(tmp_path):
    some_sampler().save(tmp_path / "sampler.json")
    text = (tmp_path / "sampler.json").read_text()
    (tmp_path / "sampler.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="not valid JSON .*; it may be truncated"):
        SwiftSampler.load(tmp_path / "sampler.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "has: 'list'"),
        ({"weights": 1}, "has: None"),
        ({"format": "keras_swift.SwiftSampler", "version": 2}, "has version 2. Read it with"),
        ({"format": "keras_swift.SwiftSampler", "version": 1}, r"has \[\]"),
        ({"values": [1.0, 2.0, 1.0, 1.0, 1.0]}, "`values` must be .* from 0.0 to 1.0"),
        ({"values": [1.0, float("nan"), 1.0, 1.0, 1.0]}, "`values` must be"),
        ({"knots": "abc"}, "`knots` must be an array of numbers"),
        ({"features": ["loss"]}, "one number for each of `features`"),
        ({"transform": "rank"}, "`transform` must be one of"),
    ],
)
def test_load_explains_a_foreign_file(tmp_path, content, message):
    some_sampler().save(tmp_path / "sampler.json")
    if isinstance(content, dict) and "format" not in content and "weights" not in content:
        content = {**json.loads((tmp_path / "sampler.json").read_text()), **content}
    (tmp_path / "sampler.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        SwiftSampler.load(tmp_path / "sampler.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"knots": [0.5, 0.2, 0.6]}, "`knots` must be in ascending order"),
        ({"knots": [0.5, 0.6]}, "two numbers more than `knots`"),
        ({"coefficients": [2.0, 0.0]}, "`coefficients` must be .* from -1.0 to 1.0"),
        ({"features": ["loss", "loss"]}, "`features` must differ"),
    ],
)
def test_constructor_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        some_sampler(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": None}, r"missing: \['loss'\]"),
        ({"gradient_norm": None}, 'needs the gradient norm.*use transform="cdf"'),
        ({"loss": np.full(60, np.nan)}, "finite. Received: 60 of 60 numbers of 'loss'"),
        ({"loss": np.ones(59)}, r"same shape \(n,\)"),
        ({"gradient_norm": np.full(60, -1.0)}, "must not be negative. Received: 60 negative"),
    ],
)
def test_probabilities_refuse(change, message):
    columns = {k: v for k, v in {**features(), **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        some_sampler().probabilities(columns)
