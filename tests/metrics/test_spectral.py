"""Power spectra against analytic values."""

import numpy as np
import pytest
from scipy import signal

from crab import CrabError, seeds
from crab.metrics import spectral

RATE_HZ = 19.1


def white(label, n=320_000, n_detector=1):
    return seeds.rng(12, label).normal(size=(n_detector, n))


def test_density_of_white_noise_is_two_variances_over_the_rate():
    frequency_hz, density = spectral.power_spectrum(3.0 * white("a"), RATE_HZ, 512)
    assert frequency_hz[-1] == pytest.approx(RATE_HZ / 2)
    assert density[0, 2:-1].mean() == pytest.approx(2 * 9 / RATE_HZ, rel=0.02)


def test_ratio_of_scaled_noise_is_the_square_of_the_scale():
    pulls = []
    for k in range(4):
        result = spectral.ratio(1.05 * white(k), white(-1 - k), RATE_HZ, 1024, hwp_rpm=46)
        pulls.append((result.bins["ratio"] - 1.05**2) / result.bins["error"])
        # 5 % too much amplitude is 10.25 % too much power: over the limit of 10 %.
        assert result.percentile_95.value > 0.10
    assert np.shape(pulls) == (4, 33)
    # Student's t with the 15 degrees of freedom of 16 blocks: mean square 15/13; 0.17 is its
    # scatter here.
    assert np.mean(np.square(pulls)) == pytest.approx(15 / 13, abs=3 * 0.17)


def test_bin_errors_follow_from_the_number_of_modes():
    """Relative error of the ratio of two spectra: sqrt(2 / (bandwidth x duration))."""
    result = spectral.ratio(white("a"), white("b"), RATE_HZ, 1024)
    last = result.bins.iloc[-1]
    modes = (last.high_hz - last.low_hz) * 320_000 / RATE_HZ
    # 16 blocks know their error to 18 %; Welch's Hann windows lose 3 % of it.
    assert last.error == pytest.approx(np.sqrt(2 / modes), rel=0.5)
    assert result.worst_bin_error == result.bins["error"].max()


def test_a_wrong_slope_is_seen():
    red = signal.lfilter([1], [1, -0.5], white("a"))
    redder = signal.lfilter([1], [1, -0.6], white("b"))
    assert spectral.ratio(redder, red, RATE_HZ, 1024).percentile_95.value > 0.3


def test_logarithmic_bins_are_filled_and_reach_nyquist():
    frequency_hz = np.fft.rfftfreq(1060, 1 / RATE_HZ)
    edges = spectral.log_bins(frequency_hz, 30)
    assert np.histogram(frequency_hz, edges)[0].min() >= 1
    assert edges[-1] == pytest.approx(RATE_HZ / 2)
    assert np.diff(np.log(edges[1:])) == pytest.approx(np.diff(np.log(edges[1:]))[0])


@pytest.mark.parametrize(
    ("hwp_rpm", "centre_hz"), [(46, 3.0667), (39, 2.6), (61, 4.0667)], ids=["LFT", "MFT", "HFT"]
)
def test_bins_around_the_modulation_frequency(hwp_rpm, centre_hz):
    """4 f_HWP of LiteBIRD's telescopes (LiteBIRD Collaboration 2023, doi:10.1093/ptep/ptac150)."""
    bins = spectral.hwp_bins(hwp_rpm, RATE_HZ / 2)
    assert len(bins) == 3
    assert np.mean(bins) == pytest.approx(centre_hz, abs=1e-4)
    assert spectral.hwp_bins(hwp_rpm, 1.0) == []


def test_segments_that_do_not_fit_are_refused():
    with pytest.raises(CrabError, match=r"segment_samples = 1024.*at most 62"):
        spectral.ratio(white("a", 1000), white("b", 1000), RATE_HZ, 1024)
    with pytest.raises(CrabError, match="n_bins = 30"):
        spectral.ratio(white("a"), white("b"), RATE_HZ, 32)
