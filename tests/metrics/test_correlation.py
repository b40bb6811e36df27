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


def test_all_none_and_half_of_the_correlation():
    reference = correlated("a")
    assert correlation.recovered(correlated("c"), reference).value == pytest.approx(1, abs=0.01)
    none = correlation.recovered(seeds.rng(13, "b").normal(size=(3, 100_000)), reference)
    assert none.value == pytest.approx(0, abs=4 * none.error)
    # As much independent noise as signal halves every correlation.
    sigma = reference.std(axis=1, keepdims=True)
    noise = sigma * seeds.rng(13, "noise").normal(size=reference.shape)
    half = correlation.recovered(correlated("c") + noise, reference)
    assert half.value == pytest.approx(0.5, abs=0.01)


def delayed(label, samples, n=64_000):
    """Two detectors with half of their variance in common, which the second sees later."""
    rng = seeds.rng(13, label)
    common, own = rng.normal(size=n + samples), rng.normal(size=(2, n))
    return np.sqrt(0.5) * (np.stack([common[samples:], common[:n]]) + own)


def test_coherence_sees_a_delay():
    """Coherence 0.5 exp(i 2 pi f d): its difference from 0.5 is |sin(pi f d)|, at most 1."""
    same = correlation.coherence_error(delayed("a", 0), delayed("b", 0), 256)
    late = correlation.coherence_error(delayed("a", 1), delayed("b", 0), 256)
    assert same["max"].value < 0.05
    # The last band, of f near 0.4 on average: mean of exp(i 2 pi f) over it.
    low = 129 * (9 / 129) ** (1 / 5) / 256
    f = np.linspace(low, 0.5, 1000)
    expected = 0.5 * abs(np.exp(2j * np.pi * f).mean() - 1)
    assert late["max"].value == pytest.approx(expected, abs=0.03)
    assert late["rms"].value < late["max"].value


def test_coherence_sees_a_correlation_that_depends_on_frequency():
    """Low frequencies in common, high ones not: one number for all would hide it."""
    rng = seeds.rng(13, "bands")

    def draw(shared):
        common, own = rng.normal(size=(1, 64_000)), rng.normal(size=(2, 64_000))
        spectrum = np.fft.rfft(own, axis=1)
        cut = spectrum.shape[1] // 2
        part = slice(None, cut) if shared == "low" else slice(cut, None)
        spectrum[:, part] = np.fft.rfft(common, axis=1)[:, part]
        return np.fft.irfft(spectrum, axis=1)

    low, high = draw("low"), draw("high")
    assert correlation.matrix_error(low, high)["max"].value < 0.03
    assert correlation.coherence_error(low, high, 256)["max"].value > 0.9


def test_multiplicity_counts_detectors_and_neighbouring_samples():
    hit = np.zeros((3, 8), bool)
    hit[0, 2] = hit[1, 3] = hit[2, 7] = True
    assert correlation.multiplicity(hit).tolist() == [0, 1, 2, 2, 1, 0, 1, 1]


def test_total_variation_of_common_and_of_single_hits():
    """Hits in all four detectors against as many in a single one: distance 1, same rate."""
    rng = seeds.rng(13, "hits")
    together = np.repeat(rng.random((1, 32_000)) < 0.01, 4, axis=0)
    alone = np.zeros((4, 32_000), bool)
    alone[rng.integers(0, 4, 32_000), np.arange(32_000)] = rng.random(32_000) < 0.01
    errors = correlation.multiplicity_error(together, alone)
    # Two single hits within three samples look like one in two detectors: some per cent.
    assert errors["distance"].value == pytest.approx(1, abs=1e-9)
    assert errors["rate"].value == pytest.approx(0, abs=4 * errors["rate"].error)
    again = np.repeat(rng.random((1, 32_000)) < 0.012, 4, axis=0)
    errors = correlation.multiplicity_error(again, together)
    assert errors["distance"].value == 0
    # Three samples a hit, less their overlap: 1 - (1 - p)^3.
    rate = (1 - 0.988**3) / (1 - 0.99**3) - 1
    assert errors["rate"].value == pytest.approx(rate, abs=4 * errors["rate"].error)


def test_no_hits_at_all():
    none, some = np.zeros((2, 320), bool), np.ones((2, 320), bool)
    assert correlation.multiplicity_error(none, some)["distance"].value == 1
    assert np.isnan(correlation.multiplicity_error(none, none)["distance"].value)


def test_coherence_needs_segments_that_fit():
    with pytest.raises(CrabError, match="segment_samples = 32: coherence needs at least 64"):
        correlation.coherence_error(correlated("a"), correlated("b"), 32)
    with pytest.raises(CrabError, match=r"segment_samples = 256: 1600 samples.* at most 100"):
        correlation.coherence_error(correlated("a", 1600), correlated("b", 1600), 256)
    with pytest.raises(CrabError, match="1 detectors"):
        correlation.multiplicity_error(np.ones((1, 100), bool), np.ones((1, 100), bool))
