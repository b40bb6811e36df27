"""Correlation between detectors against constructed covariances."""

import numpy as np
import pytest

from crab import CrabError, seeds
from crab.metrics import correlation

RHO = np.array([[1.0, 0.95, 0.7], [0.95, 1.0, 0.7], [0.7, 0.7, 1.0]])


def correlated(label, n=100_000):
    sigma = np.array([[1e-16], [3e-16], [2e-15]])
    white = seeds.rng(13, label).normal(size=(3, n))
    return sigma * (np.linalg.cholesky(RHO) @ white)


def test_matrix_of_a_constructed_covariance():
    """Pearson's r has the error (1 - rho^2) / sqrt(N) (Fisher 1915)."""
    rho = correlation.matrix(correlated("a"))
    expected = (1 - RHO**2) / np.sqrt(100_000)
    assert np.abs(rho.value - RHO).max() < 4 * expected.max()
    assert rho.error[0, 2] == pytest.approx(expected[0, 2], rel=0.5)
    assert np.diag(rho.value) == pytest.approx(1)


def test_matrix_agrees_with_numpy():
    samples = correlated("a", 1600)
    assert correlation.matrix(samples).value == pytest.approx(np.corrcoef(samples))


def test_error_of_independent_detectors_is_the_largest_correlation():
    independent = seeds.rng(13, "b").normal(size=(3, 100_000))
    error = correlation.matrix_error(independent, correlated("a"))
    assert error["max"].value == pytest.approx(0.95, abs=0.02)
    assert error["rms"].value == pytest.approx(np.sqrt((0.95**2 + 2 * 0.7**2) / 3), abs=0.02)


def test_shuffled_detectors_are_seen_and_a_second_draw_passes():
    reference = correlated("a")
    same = correlation.matrix_error(correlated("c"), reference)["max"]
    shuffled = correlation.matrix_error(correlated("c")[[2, 0, 1]], reference)["max"]
    assert same.value < 0.02
    assert shuffled.value == pytest.approx(0.25, abs=0.02)
    assert shuffled.error < 0.01


def test_a_single_detector_has_no_correlation():
    with pytest.raises(CrabError, match="1 detectors"):
        correlation.matrix(np.ones((1, 100)))
    with pytest.raises(CrabError, match="3 in generated, 2 in reference"):
        correlation.matrix_error(correlated("a", 100), correlated("b", 100)[:2])
