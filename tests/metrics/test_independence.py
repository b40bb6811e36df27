"""Sample correlation against its null and against planted faults."""

import numpy as np
import pytest
from scipy import signal

from crab import CrabError, seeds
from crab.metrics import independence

N = 1060


def white(label, n_detector=2, n_windows=150):
    return seeds.rng(14, label).normal(size=(n_detector, n_windows, N))


@pytest.fixture(scope="module")
def clean():
    return independence.sample_correlation(white("a"), seed=1)


def test_null_law_of_white_windows(clean):
    """r of two white windows has the standard deviation 1/sqrt(N): 3.1 % for 1060 samples."""
    for r in (clean.r, clean.r_null):
        assert r.size == 4 * 150 * 149 / 2
        assert r.std() == pytest.approx(1 / np.sqrt(N), rel=0.02)
    assert abs(clean.excess.value) < 4 * clean.excess.error
    assert abs(clean.largest.value - 1) < 0.25


def test_pools_hold_two_and_a_half_million_effective_samples(clean):
    """Then the null's mean |r| is sqrt(2 / (pi N)) = 0.05 %."""
    assert 2.5e6 <= clean.effective_samples < 5e6
    assert clean.pooled_null == pytest.approx(5.05e-4, rel=0.1)
    # |r| of one pool scatters by 0.76 of its mean.
    n_pools = round(clean.r.size * N / clean.effective_samples)
    assert clean.pooled.value == pytest.approx(clean.pooled_null, rel=3 * 0.76 / np.sqrt(n_pools))


def test_effective_samples_of_red_windows():
    """An AR(1) series of N samples counts as N (1 - phi^2) / (1 + phi^2) (Bartlett 1946)."""
    red = signal.lfilter([1], [1, -0.8], white("b").reshape(2, -1)).reshape(2, -1, N)
    result = independence.sample_correlation(red, seed=1)
    assert 1 / np.mean(result.r_null**2) == pytest.approx(N * 0.36 / 1.64, rel=0.05)
    assert abs(result.excess.value) < 4 * result.excess.error
    assert result.pooled.value < 0.01


def test_a_pattern_shared_by_all_windows_is_seen_in_the_pooled_value():
    """x = sqrt(rho) pattern + sqrt(1 - rho) noise: every pair has the correlation rho."""
    pattern = seeds.rng(14, "pattern").normal(size=N)
    pattern /= pattern.std()
    result = independence.sample_correlation(
        np.sqrt(0.05) * pattern + np.sqrt(0.95) * white("a"), 1
    )
    assert result.pooled.value == pytest.approx(0.05, abs=0.003)
    assert result.excess.value == pytest.approx(0.05, abs=0.005)


def test_correlation_of_either_sign_is_seen_in_the_excess():
    """A pattern with random sign: the mean r is 0, its rms beyond the null is rho."""
    rng = seeds.rng(14, "signs")
    pattern = rng.normal(size=N)
    signs = rng.choice([-1, 1], size=(2, 150, 1))
    x = np.sqrt(0.05) * signs * pattern / pattern.std() + np.sqrt(0.95) * white("a")
    result = independence.sample_correlation(x, 1)
    assert result.pooled.value < 0.01
    assert result.excess.value == pytest.approx(0.05, abs=0.005)


def test_repeated_windows_are_seen():
    """Every window twice: a pair in 2 x 150 - 1 has r = 1, so <r^2> exceeds its null by 1/149."""
    x = white("a", 1, 75)
    result = independence.sample_correlation(np.concatenate([x, x], axis=1), 1)
    assert result.excess.value == pytest.approx(np.sqrt(1 / 149), rel=0.05)
    assert result.largest.value > 5
    assert np.abs(result.r).max() == pytest.approx(1, abs=1e-5)


def test_correlation_between_detectors_is_not_counted():
    """Two detectors that see the same are physics; only different times are paired."""
    x = white("a", 1)
    result = independence.sample_correlation(np.concatenate([x, x]), 1)
    assert np.abs(result.r).max() < 0.3
    assert abs(result.excess.value) < 4 * result.excess.error
    # The second detector brings nothing new.
    one = independence.sample_correlation(x, 1)
    assert result.pooled.error == pytest.approx(one.pooled.error, rel=1e-3)


def test_too_few_windows():
    with pytest.raises(CrabError, match="windows: 3 of 1060"):
        independence.sample_correlation(white("a", 1, 3), 1)


def test_same_seed_same_numbers(clean):
    again = independence.sample_correlation(white("a"), seed=1)
    assert again.pooled == clean.pooled
    assert np.array_equal(again.r_null, clean.r_null)
