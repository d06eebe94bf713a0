"""The search space: knots in order, and distances between draws."""

import numpy as np
import pytest

from keras_swift.src.search.cube import CUTS, SamplerCube
from keras_swift.src.swift.sampler import SwiftSampler


def columns(n=200):
    generator = np.random.default_rng(0)
    return {
        "loss": generator.gamma(2.0, size=n),
        "renormed_entropy": generator.uniform(size=n),
        "gradient_norm": generator.uniform(size=n),
    }


@pytest.mark.parametrize("segments", [1, 2, 4, 6])
def test_every_point_is_a_sampler(segments):
    space = SamplerCube(segments=segments)
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 2, size=(100, space.dimensions))
    for point in [*corners, *generator.uniform(size=(100, space.dimensions))]:
        sampler = space.to_sampler(point)
        assert np.all(np.diff(sampler.knots) >= 0)
        assert len(sampler.parameters) == space.dimensions == 2 * segments + 2


def test_ten_names_for_ten_numbers():
    assert SamplerCube().names == [
        *("knot_1", "knot_2", "knot_3"),
        *("value_0", "value_1", "value_2", "value_3", "value_4"),
        *("coefficient_loss", "coefficient_renormed_entropy"),
    ]


def test_uniform_points_give_knots_like_sorted_uniform_numbers():
    space = SamplerCube()
    points = np.random.default_rng(0).uniform(size=(4000, space.dimensions))
    knots = np.array([space.to_sampler(point).knots for point in points])
    # Sorted uniform numbers have the means 1/4, 2/4 and 3/4 and standard deviations below 0.23.
    assert np.abs(knots.mean(axis=0) - [0.25, 0.5, 0.75]).max() < 5 * 0.23 / np.sqrt(4000)


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
@pytest.mark.parametrize("segments", [1, 2, 3, 4, 6])
def test_cuts_keep_a_share_of_one_end(segments, transform):
    generator = np.random.default_rng(0)
    data = {name: generator.permutation(1001) / 1000.0 for name in ("loss", "renormed_entropy")}
    data["gradient_norm"] = data["loss"] ** 2
    space = SamplerCube(segments=segments, transform=transform, columns=data)
    for feature, sign, keep in (("loss", 1, 0.7), ("loss", -1, 0.4), ("renormed_entropy", 1, 0.5)):
        sampler = space.cut({feature: sign}, keep)
        order = np.argsort(sign * data[feature])
        probability = sampler.probabilities(data)[order]
        # From the end that is kept to the end that is left out.
        assert np.all(np.diff(probability) <= 1e-12) and probability[0] > probability[-1]
        if segments > 2:
            kept = round(keep * 1001)
            assert abs(np.sum(probability > 0) - kept) <= 1
            np.testing.assert_allclose(probability[: kept - 1], probability[0])
        assert space.to_sampler(space.to_point(sampler)).parameters == pytest.approx(
            sampler.parameters
        )


def test_ties_that_leave_nothing_to_cut_are_no_error():
    data = {"share_wrong": np.zeros(50), "gradient_norm": np.ones(50)}
    space = SamplerCube(("share_wrong",), columns=data)
    probability = space.cut({"share_wrong": 1.0}, 0.6).probabilities(data)
    np.testing.assert_allclose(probability, 1 / 50)


def test_the_design_leaves_out_the_end_that_is_doubted():
    generator = np.random.default_rng(0)
    names = ("mean_margin", "mean_loss")
    data = {name: generator.permutation(500) / 500.0 for name in names}
    data["gradient_norm"] = generator.random(500)
    # A low margin is doubtful, and so is a high loss.
    doubts = np.stack([-data["mean_margin"], data["mean_loss"]], axis=1)
    for transform in ("cdf", "cgf"):
        space = SamplerCube(names, transform=transform, columns=data)
        *found, last = [sampler.probabilities(data) > 0 for sampler in space.design()]
        assert len(found) == len(CUTS)
        for drawn, (places, keep) in zip(found, CUTS, strict=True):
            assert abs(drawn.mean() - keep) < 0.005
            doubt = doubts[:, places].sum(axis=1)
            assert doubt[drawn].max() < doubt[~drawn].min() + 1e-9
        # The last leaves out what is doubted least.
        assert abs(last.mean() - 0.8) < 0.005
        assert doubts[last, 0].min() > doubts[~last, 0].max()


def test_the_design_of_one_feature_has_no_cut_twice():
    data = {"loss": np.arange(100.0), "gradient_norm": np.ones(100)}
    found = SamplerCube(("loss",), columns=data).design()
    kept = [np.mean(sampler.probabilities(data) > 0) for sampler in found]
    np.testing.assert_allclose(kept, [0.6, 0.7, 0.8, 0.4, 0.9, 0.5, 0.8], atol=0.011)


def test_embedding_of_many_examples_keeps_their_gradient_norms():
    generator = np.random.default_rng(0)
    loss = np.arange(2000.0)
    # The upper half of the losses carries next to nothing of the gradient.
    data = {
        "loss": loss,
        "renormed_entropy": generator.normal(size=2000),
        "gradient_norm": np.where(loss < 1000, 1.0, 1e-6),
    }
    space = SamplerCube(columns=data)
    sampler = SwiftSampler([0.5, 0.5, 0.5], [1, 1, 0, 0, 0], [1.0, 0.0])
    # So the lower half of the gradient is the lowest quarter of the losses.
    drawn = space.embed(space.to_point(sampler)) > 0
    assert abs(drawn.mean() - 0.25) < 0.08


def test_points_come_back():
    space = SamplerCube()
    for point in np.random.default_rng(0).uniform(size=(20, space.dimensions)):
        sampler = space.to_sampler(point)
        np.testing.assert_allclose(space.to_point(sampler), point, atol=1e-9)
        assert space.from_values(space.to_values(sampler)) == sampler


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_embedding_is_the_root_of_the_probabilities(transform):
    data = columns()
    space = SamplerCube(transform=transform, columns=data)
    points = np.random.default_rng(0).uniform(size=(10, space.dimensions))
    expected = [np.sqrt(space.to_sampler(point).probabilities(data)) for point in points]
    np.testing.assert_allclose(space.embed(points), expected, atol=1e-9)


def test_numbers_that_draw_the_same_lie_together():
    space = SamplerCube(columns=columns())
    sampler = SwiftSampler([0.2, 0.4, 0.9], [0.8, 0.2, 0.6, 0.4, 0.2], [0.78, -0.32])
    scaled = SwiftSampler([0.2, 0.4, 0.9], [0.4, 0.1, 0.3, 0.2, 0.1], [0.39, -0.16])
    first, second = space.embed([space.to_point(sampler), space.to_point(scaled)])
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_uniform_samplers_lie_together_whatever_their_knots():
    space = SamplerCube(columns=columns())
    points = np.random.default_rng(0).uniform(size=(5, space.dimensions))
    points[:, 3:8] = 0.7
    np.testing.assert_allclose(space.embed(points), 1 / np.sqrt(200))
