"""The Gaussian process against the textbook's formula, and on noise it should notice."""

import numpy as np

from keras_swift.src.search import gaussian_process
from keras_swift.src.search.gaussian_process import GaussianProcess


def test_one_setting_is_the_textbook_formula(monkeypatch):
    monkeypatch.setattr(gaussian_process, "LENGTH_SCALES", (0.4,))
    monkeypatch.setattr(gaussian_process, "NOISE_SHARES", (0.1,))
    generator = np.random.default_rng(0)
    points, values = generator.uniform(size=(12, 3)), generator.normal(size=12)
    new = generator.uniform(size=(5, 3))

    def kernel(a, b):
        r = np.sqrt(5) * np.linalg.norm(a[:, None] - b[None], axis=2) / 0.4
        return (1 + r + r**2 / 3) * np.exp(-r)

    inverse = np.linalg.inv(0.9 * kernel(points, points) + 0.1 * np.eye(12))
    level = inverse.sum(axis=0) @ values / inverse.sum()
    variance = (values - level) @ inverse @ (values - level) / 12
    cross = 0.9 * kernel(new, points)
    mean, deviation = GaussianProcess(points, values).predict(new)
    np.testing.assert_allclose(mean, level + cross @ inverse @ (values - level))
    expected = variance * (0.9 - np.einsum("ij,jk,ik->i", cross, inverse, cross))
    np.testing.assert_allclose(deviation, np.sqrt(expected))


def test_noise_is_told_from_shape():
    points = np.linspace(0, 1, 60)[:, None]
    shape = np.sin(6 * points[:, 0])
    noisy = shape + np.random.default_rng(0).normal(0, 0.3, 60)
    mean, deviation = GaussianProcess(points, noisy).predict(points)
    # Sixty looks at about six bends leave a third of the noise.
    assert np.sqrt(np.mean((mean - shape) ** 2)) < 0.15
    assert deviation.max() < 0.3


def test_uncertain_far_from_what_was_seen():
    points = np.random.default_rng(0).uniform(0, 0.3, size=(20, 2))
    process = GaussianProcess(points, points.sum(axis=1))
    _, near = process.predict(points[:1])
    _, far = process.predict(np.array([[3.0, 3.0]]))
    assert far > 3 * near


def test_equal_values_are_no_error():
    points = np.random.default_rng(0).uniform(size=(8, 2))
    mean, deviation = GaussianProcess(points, np.full(8, 0.7)).predict(points)
    np.testing.assert_allclose(mean, 0.7)
    assert np.all(np.isfinite(deviation))
