"""Amplitude distributions against analytic values."""

import numpy as np
import pytest
from scipy import stats

from crab import seeds
from crab.metrics import distances


def gaussian(label, n=200_000, n_detector=2):
    return seeds.rng(11, label).normal(size=(n_detector, n))


def test_w1_of_a_shift_is_the_shift_over_sigma():
    """W1 of two laws that differ by a shift is the shift (Villani 2003, Rem. 2.19)."""
    reference = 3.0 * gaussian("a")
    w1 = distances.wasserstein(3.0 * gaussian("b") + 0.6, reference)
    assert w1.value == pytest.approx(0.2, abs=4 * w1.error)
    # The means of 2 x 200 000 independent samples of two cubes leave 0.0022 sigma of freedom.
    assert w1.error == pytest.approx(np.sqrt(2 / 400_000), rel=0.5)


def test_w1_of_a_scaling_is_the_mean_absolute_deviation():
    """W1(sX, X) = |s - 1| E|X|, and E|X| = sqrt(2/pi) sigma: 5 % too wide fails the 3 % limit."""
    w1 = distances.wasserstein(1.05 * gaussian("a"), gaussian("b"))
    assert w1.value == pytest.approx(0.05 * np.sqrt(2 / np.pi), abs=4 * w1.error)
    assert w1.value > 0.03


def test_w1_with_all_blocks_and_without_each_is_what_scipy_gives():
    ours, theirs = gaussian("a", 4000, 1)[0], 1.1 * gaussian("b", 2400, 1)[0]
    value, *left = distances._w1(ours.reshape(4, -1), theirs.reshape(4, -1))
    assert value == pytest.approx(stats.wasserstein_distance(ours, theirs), rel=1e-10)
    for k in range(4):
        a, b = (np.delete(x.reshape(4, -1), k, axis=0).ravel() for x in (ours, theirs))
        assert left[k] == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-10)


def test_error_of_w1_is_the_scatter_over_repetitions():
    runs = [
        distances.wasserstein(gaussian(k, 4000) + 0.5, gaussian(-k, 4000)) for k in range(1, 60)
    ]
    values, errors = np.array(runs).T
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.3)


def test_quantiles_and_moments_of_an_exponential_tail():
    """Skewness 2 and excess kurtosis 6 of the exponential law; its quantile of p is -ln(1 - p)."""
    rng = seeds.rng(11, "exponential")
    exponential = rng.exponential(size=(2, 200_000))
    moments = distances.moments(exponential, gaussian("a"))
    assert moments["skewness"].value == pytest.approx(2, abs=4 * moments["skewness"].error)
    assert moments["kurtosis"].value == pytest.approx(6, abs=4 * moments["kurtosis"].error)
    quantiles = distances.tail_quantiles(exponential, gaussian("a"))
    far = quantiles["quantile_1-1e-04"]
    assert far.value == pytest.approx(np.log(1e4) / stats.norm.ppf(1 - 1e-4) - 1, abs=4 * far.error)
    # 400 000 samples hold 4 beyond 1e-5: no such row.
    assert set(quantiles) == {f"quantile_{s}1e-0{k}" for s in ("", "1-") for k in (3, 4)}


def test_quantiles_out_to_a_millionth():
    """Eight million samples: q(1 - 1e-6) of an exponential law of scale 1.5 is 1.5 times as far."""
    draws = [seeds.rng(11, k).exponential(size=(1, 8_000_000)).astype(np.float32) for k in "ab"]
    quantiles = distances.tail_quantiles(np.float32(1.5) * draws[0], draws[1])
    assert len(quantiles) == 8
    for p in ("1e-05", "1e-06"):
        far = quantiles[f"quantile_1-{p}"]
        assert far.value == pytest.approx(0.5, abs=4 * far.error)
        # Density p at a quantile ln(1/p): error 1 / (ln(1/p) sqrt(n p)) of either.
        tail = float(p)
        expected = 1.5 * np.sqrt(2 / (8e6 * tail)) / np.log(1 / tail)
        assert far.error == pytest.approx(expected, rel=0.6)


def test_moments_are_those_of_scipy():
    ours, theirs = gaussian("a", 1600) ** 3, gaussian("b", 3200)
    found = distances.moments(ours, theirs)
    for name, function in (("skewness", stats.skew), ("kurtosis", stats.kurtosis)):
        expected = (function(ours, axis=1) - function(theirs, axis=1)).mean()
        assert found[name].value == pytest.approx(expected, rel=1e-9)
