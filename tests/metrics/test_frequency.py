"""Autocorrelation and spectral kurtosis against analytic values."""

import numpy as np
import pytest
from scipy import signal

from crab import CrabError, seeds
from crab.metrics import frequency


def white(label, n=128_000, n_detector=2):
    return seeds.rng(24, label).normal(size=(n_detector, n))


def ar1(label, phi, **shape):
    return signal.lfilter([1], [1, -phi], white(label, **shape))


def test_autocorrelation_of_two_autoregressive_processes():
    """AR(1) has phi^lag: 0.8 and 0.7 differ most at lag 3 or 4, by 0.8^3 - 0.7^3 = 0.169."""
    errors = frequency.autocorrelation_error(ar1("a", 0.8), 2 * ar1("b", 0.7), 200)
    assert errors["max"].value == pytest.approx(0.8**3 - 0.7**3, abs=4 * errors["max"].error)
    assert errors["rms"].value < errors["max"].value
    assert errors["max"].error < 0.02


def test_error_of_an_autocorrelation_is_the_scatter_over_repetitions():
    pairs = [(ar1(i, 0.8, n=8000), ar1(-i, 0.7, n=8000)) for i in range(1, 41)]
    values, errors = np.transpose(
        [frequency.autocorrelation_error(a, b, 50)["max"] for a, b in pairs]
    )
    assert errors.mean() == pytest.approx(values.std(), rel=0.35)


def test_same_autocorrelation():
    errors = frequency.autocorrelation_error(ar1("a", 0.8), ar1("c", 0.8), 200)
    # 2 x 128 000 samples of either know each lag to sqrt(2 (1 + phi^2) / (1 - phi^2) / n) = 0.6 %.
    assert errors["max"].value < 4 * 0.006


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_spectral_kurtosis_of_gaussian_noise_is_zero_whatever_its_colour(phi):
    """Mean 0 and variance 4 / M (Antoni 2006; Vrabie et al. 2003), M segments."""
    kurtosis = frequency.spectral_kurtosis(ar1("k", phi, n_detector=20), 128)
    assert kurtosis.shape == (20, 61)
    scatter = np.sqrt(4 / 1000)
    assert kurtosis.mean() == pytest.approx(0, abs=4 * scatter / np.sqrt(20 * 61 / 2))
    assert kurtosis.std() == pytest.approx(scatter, rel=0.1)


def test_spectral_kurtosis_of_a_sine_is_minus_one():
    """Its power never changes: <|X|^4> = <|X|^2>^2."""
    sine = np.sin(2 * np.pi * 20 / 128 * np.arange(128_000))
    kurtosis = frequency.spectral_kurtosis(sine, 128)
    assert kurtosis[20 - 2] == pytest.approx(-1, abs=0.01)


def test_spectral_kurtosis_of_noise_that_is_on_a_tenth_of_the_time():
    """A Gaussian with random power P has 2 <P^2> / <P>^2 - 2: here 2 / 0.1 - 2 = 18."""
    on = np.repeat(seeds.rng(24, "on").random(1000) < 0.1, 128)
    kurtosis = frequency.spectral_kurtosis(on * white("bursts", n_detector=8), 128)
    share = on.mean()
    assert kurtosis.mean() == pytest.approx(2 / share - 2, rel=0.05)


def test_error_of_the_spectral_kurtosis():
    """log(2 + 18) - log(2 + 0) = log 10 in every band."""
    on = np.repeat(seeds.rng(24, "on").random(1000) < 0.1, 128)
    bursts = on * white("bursts", n_detector=8)
    error = frequency.spectral_kurtosis_error(bursts, white("steady", n_detector=8))
    assert error.value == pytest.approx(np.log(1 / on.mean()), abs=max(0.1, 4 * error.error))
    same = frequency.spectral_kurtosis_error(white("a"), white("b"))
    # Scatter of the kurtosis over 2, of either cube, mean over two detectors and a band.
    assert same.value < np.sqrt(4 / 1000) / 2 * np.sqrt(2)


def test_too_short():
    with pytest.raises(CrabError, match="longest_lag = 100: 1600 samples in 16 blocks"):
        frequency.autocorrelation_error(white("a", 1600), white("b", 1600), 100)
    with pytest.raises(CrabError, match="needs at least 2048"):
        frequency.spectral_kurtosis_error(white("a", 2000), white("b", 2000))
