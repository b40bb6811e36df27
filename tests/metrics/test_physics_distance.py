"""Fréchet and kernel physics distances against analytic values."""

import numpy as np
import pytest

from crab import seeds
from crab.metrics import physics_distance, twosample


def gaussian(label, n_times=400, n_detector=3, n_features=6, rho=0.3):
    """Standard normal features; those of one time are correlated between detectors."""
    rng = seeds.rng(21, label)
    common = rng.normal(size=(n_times, 1, n_features))
    own = rng.normal(size=(n_times, n_detector, n_features))
    return np.sqrt(rho) * common + np.sqrt(1 - rho) * own


def test_frechet_distance_of_two_gaussians_in_closed_form():
    """Commuting covariances: |shift|^2 + sum (sigma_a - sigma_b)^2 (Dowson & Landau 1982)."""
    turn = np.linalg.qr(seeds.rng(21, "turn").normal(size=(4, 4)))[0]
    sigma_a, sigma_b = np.array([1.0, 2, 3, 0]), np.array([2.0, 2, 1, 1])
    a, b = ((turn * sigma**2) @ turn.T for sigma in (sigma_a, sigma_b))
    shift = np.array([0.5, 0, 0, -1])
    distance = physics_distance.frechet_gaussian(shift, a, np.zeros(4), b)
    assert distance == pytest.approx(1.25 + 1 + 0 + 4 + 1)


def test_fpd_of_a_shift_and_a_scaling():
    """d (delta^2 + (s - 1)^2) for s x + delta in d dimensions."""
    fpd = physics_distance.fpd(1.5 * gaussian("a") + 0.4, gaussian("b"))
    assert fpd.value == pytest.approx(6 * (0.4**2 + 0.5**2), abs=3 * fpd.error)
    assert fpd.error < 0.3


def test_both_distances_of_one_law_are_zero_in_the_mean():
    """Without the extrapolation the mean of FPD is many of its errors above zero."""
    pairs = [(gaussian(i, 128), gaussian(-i, 128)) for i in range(1, 31)]
    for distance in (physics_distance.fpd, physics_distance.kpd):
        values, errors = np.transpose([distance(a, b) for a, b in pairs])
        assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(pairs))
        # At zero both are degenerate, and the jackknife is on the safe side.
        assert 1 < errors.mean() / values.std() < 2.5
    naive = [
        physics_distance.frechet_gaussian(
            *(f(x.reshape(-1, 6)) for x in pair for f in (mean, covariance))
        )
        for pair in pairs
    ]
    assert np.mean(naive) > 10 * np.std(naive) / np.sqrt(len(pairs))


def mean(x):
    return x.mean(axis=0)


def covariance(x):
    return np.cov(x, rowvar=False)


def test_kpd_of_a_shift_is_that_of_the_polynomial_kernel():
    """One feature, x ~ N(m, 1), y ~ N(0, 1), k = (x y + 1)^4.

    <k> is the sum over j of binom(4, j) m_j(P) m_j(Q) with raw moments m_j, so the squared
    discrepancy is the sum of binom(4, j) (m_j(P) - m_j(Q))^2.
    """
    m = 0.5
    moments = np.array([[1, m, 1 + m**2, m**3 + 3 * m, m**4 + 6 * m**2 + 3], [1, 0, 1, 0, 3]])
    exact = (np.array([1, 4, 6, 4, 1]) * np.diff(moments, axis=0)[0] ** 2).sum()
    kpd = physics_distance.kpd(gaussian("a", 3000, 3, 1) + m, gaussian("b", 3000, 3, 1))
    assert kpd.value == pytest.approx(exact, abs=3 * kpd.error)
    assert kpd.error < 0.25 * exact


def test_the_error_of_a_shift_is_the_scatter_over_repetitions():
    for distance in (physics_distance.fpd, physics_distance.kpd):
        runs = [distance(gaussian(i, 128) + 0.5, gaussian(-i, 128)) for i in range(1, 41)]
        values, errors = np.transpose(runs)
        assert errors.mean() == pytest.approx(values.std(), rel=0.35)


def test_features_are_put_on_the_scale_of_the_reference():
    reference = np.exp(5 * gaussian("heavy", 500, 2, 1))
    (same,) = physics_distance.standardise(reference, reference=reference)
    assert same.mean() == pytest.approx(0, abs=1e-12)
    assert same.std() == pytest.approx(1)
    # The law's tail: without asinh the largest is 30 standard deviations away.
    assert same.max() < 5
    constant = np.zeros((500, 2, 1))
    (moved,) = physics_distance.standardise(constant + 2.0, reference=constant)
    assert moved == pytest.approx(np.arcsinh(2.0))


def test_rows_hold_the_correlation_with_the_other_detectors():
    """Three detectors with a common part of variance share c: corr(x, mean of other two)."""
    rng = seeds.rng(21, "windows")
    c = 0.6
    x = np.sqrt(c) * rng.normal(size=(1, 60, 2000)) + np.sqrt(1 - c) * rng.normal(
        size=(3, 60, 2000)
    )
    table = twosample.features(x)
    rows = physics_distance.feature_rows(table, x)
    assert rows.shape == (60, 3, len(table.columns) - 1 + 2)
    assert rows[..., -2:].mean() == pytest.approx(c / np.sqrt(c + (1 - c) / 2), abs=0.01)
    # Row of window 7 of detector 2.
    assert rows[7, 2, 1] == table.loc[2 * 60 + 7, "std"]
    assert physics_distance.feature_rows(table[:60], x[:1]).shape[2] == len(table.columns) - 1


def test_a_constant_window_has_finite_features():
    x = np.zeros((2, 20, 64))
    assert np.isfinite(physics_distance.feature_rows(twosample.features(x), x)).all()


def test_one_detector_at_each_time():
    rows = np.arange(10 * 3).reshape(10, 3, 1)
    samples = physics_distance.one_of_each_time(rows)
    assert samples.shape == (3, 10, 1)
    assert samples[1, :4, 0].tolist() == [1, 5, 6, 10]
    assert sorted(samples.ravel()) == list(range(30))
    assert physics_distance.one_of_each_time(rows, 4)[0, :, 0].tolist() == [0, 10, 20, 27]
