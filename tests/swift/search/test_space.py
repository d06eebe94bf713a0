"""The search space: knots in order, and distances between draws."""

import numpy as np
import pytest

from keras_swift.swift.sampler import SwiftSampler
from keras_swift.swift.search.space import SamplerSpace


def columns(n=200):
    generator = np.random.default_rng(0)
    return {
        "loss": generator.gamma(2.0, size=n),
        "renormed_entropy": generator.uniform(size=n),
        "gradient_norm": generator.uniform(size=n),
    }


@pytest.mark.parametrize("segments", [1, 2, 4, 6])
def test_every_point_is_a_sampler(segments):
    space = SamplerSpace(segments=segments)
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 2, size=(100, space.dimensions))
    for point in [*corners, *generator.uniform(size=(100, space.dimensions))]:
        sampler = space.to_sampler(point)
        assert np.all(np.diff(sampler.knots) >= 0)
        assert len(sampler.parameters) == space.dimensions == 2 * segments + 2


def test_ten_names_for_ten_numbers():
    assert SamplerSpace().names == [
        *("knot_1", "knot_2", "knot_3"),
        *("value_0", "value_1", "value_2", "value_3", "value_4"),
        *("coefficient_loss", "coefficient_renormed_entropy"),
    ]


def test_uniform_points_give_knots_like_sorted_uniform_numbers():
    space = SamplerSpace()
    points = np.random.default_rng(0).uniform(size=(4000, space.dimensions))
    knots = np.array([space.to_sampler(point).knots for point in points])
    # Sorted uniform numbers have the means 1/4, 2/4 and 3/4 and standard deviations below 0.23.
    assert np.abs(knots.mean(axis=0) - [0.25, 0.5, 0.75]).max() < 5 * 0.23 / np.sqrt(4000)


@pytest.mark.parametrize("segments", [1, 2, 3, 4, 6])
def test_simple_samplers_leave_out_one_end_of_one_feature(segments):
    generator = np.random.default_rng(0)
    data = {name: generator.permutation(101) / 100.0 for name in ("loss", "renormed_entropy")}
    space = SamplerSpace(segments=segments, transform="cdf", columns=data)
    found = space.simple_samplers()
    assert len(found) == 4
    for sampler, (name, sign) in zip(
        found,
        [("loss", 1), ("loss", -1), ("renormed_entropy", 1), ("renormed_entropy", -1)],
        strict=True,
    ):
        # From the end that is kept to the end that is left out.
        order = np.argsort(sign * data[name])
        ordered = sampler.probabilities(data)[order]
        assert np.all(np.diff(ordered) <= 1e-12)
        assert ordered[-1] == 0 and ordered[0] > 0
        if segments >= 4:
            np.testing.assert_allclose(ordered[:20], ordered[0])
            np.testing.assert_allclose(ordered[40], ordered[0] / 2, rtol=0.05)
            assert np.all(ordered[61:] == 0)
        assert space.to_sampler(space.to_point(sampler)).parameters == pytest.approx(
            sampler.parameters
        )


def test_embedding_of_many_examples_keeps_their_gradient_norms():
    generator = np.random.default_rng(0)
    loss = np.arange(2000.0)
    # The upper half of the losses carries next to nothing of the gradient.
    data = {
        "loss": loss,
        "renormed_entropy": generator.normal(size=2000),
        "gradient_norm": np.where(loss < 1000, 1.0, 1e-6),
    }
    space = SamplerSpace(columns=data)
    sampler = SwiftSampler([0.5, 0.5, 0.5], [1, 1, 0, 0, 0], [1.0, 0.0])
    # So the lower half of the gradient is the lowest quarter of the losses.
    drawn = space.embed(space.to_point(sampler)) > 0
    assert abs(drawn.mean() - 0.25) < 0.08


def test_points_come_back():
    space = SamplerSpace()
    for point in np.random.default_rng(0).uniform(size=(20, space.dimensions)):
        sampler = space.to_sampler(point)
        np.testing.assert_allclose(space.to_point(sampler), point, atol=1e-9)
        assert space.from_values(space.to_values(sampler)) == sampler


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_embedding_is_the_root_of_the_probabilities(transform):
    data = columns()
    space = SamplerSpace(transform=transform, columns=data)
    points = np.random.default_rng(0).uniform(size=(10, space.dimensions))
    expected = [np.sqrt(space.to_sampler(point).probabilities(data)) for point in points]
    np.testing.assert_allclose(space.embed(points), expected, atol=1e-9)


def test_numbers_that_draw_the_same_lie_together():
    space = SamplerSpace(columns=columns())
    sampler = SwiftSampler([0.2, 0.4, 0.9], [0.8, 0.2, 0.6, 0.4, 0.2], [0.78, -0.32])
    scaled = SwiftSampler([0.2, 0.4, 0.9], [0.4, 0.1, 0.3, 0.2, 0.1], [0.39, -0.16])
    first, second = space.embed([space.to_point(sampler), space.to_point(scaled)])
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_uniform_samplers_lie_together_whatever_their_knots():
    space = SamplerSpace(columns=columns())
    points = np.random.default_rng(0).uniform(size=(5, space.dimensions))
    points[:, 3:8] = 0.7
    np.testing.assert_allclose(space.embed(points), 1 / np.sqrt(200))
