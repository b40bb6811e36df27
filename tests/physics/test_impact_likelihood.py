"""Bias and uncertainty of r: analytic limits of the likelihood, and the theory behind it."""

import numpy as np
import pytest

from crab.errors import CrabError
from crab.impact import likelihood, theory


def test_lensing_is_like_white_noise_of_five_microkelvin_arcminutes():
    """Lensing B-modes at low l equal 5 uK arcmin of white noise (Lewis & Challinor 2006)."""
    lensing = theory.spectra(60)["scalar_bb"].sel(ell=slice(2, None))
    depth_ukarcmin = np.sqrt(lensing.mean().item()) * np.rad2deg(1) * 60
    assert depth_ukarcmin == pytest.approx(5.0, rel=0.05)


def test_tensor_spectrum_has_the_recombination_bump():
    """For r = 0.01, D_l peaks near l = 80 at about 7e-4 uK^2 (Kamionkowski & Kovetz 2016)."""
    sky = theory.spectra(200).sel(ell=slice(30, None))
    ell = sky["ell"].values
    d_ell = 0.01 * sky["tensor_bb"].values * ell * (ell + 1) / (2 * np.pi)
    assert 70 < ell[d_ell.argmax()] < 100
    assert d_ell.max() == pytest.approx(7e-4, rel=0.1)


def test_theory_beyond_its_table():
    with pytest.raises(CrabError, match="ell_max = 5000"):
        theory.spectra(5000)


@pytest.mark.parametrize("noise_uk2", [0.0, 2e-6])
@pytest.mark.parametrize("sky_fraction", [0.3, 0.7])
def test_sigma_is_the_fisher_integral(noise_uk2, sky_fraction):
    """sigma^-2 = sum (2l+1)/2 f_sky (C_t/(C_l + N))^2, and so is the curvature of ln L."""
    sky = likelihood.model(noise_uk2)
    table = theory.spectra(200).sel(ell=slice(2, None))
    total = table["scalar_bb"] + noise_uk2
    fisher = (2 * table["ell"] + 1) / 2 * sky_fraction * (table["tensor_bb"] / total) ** 2
    found = likelihood.auto_spectrum(0.0, sky, sky_fraction)
    assert found.sigma == pytest.approx(float(fisher.sum()) ** -0.5, rel=1e-12)
    assert found.bias == pytest.approx(0.0, abs=1e-12)
    # Of the exact likelihood: -d2 lnL/dr2 by finite differences.
    step = found.sigma * 1e-2
    measured = sky.lensing + sky.noise
    values = [likelihood.log_likelihood(r, measured, sky, sky_fraction) for r in (-step, 0.0, step)]
    curvature = -(values[0] - 2 * values[1] + values[2]) / step**2
    assert curvature**-0.5 == pytest.approx(found.sigma, rel=1e-3)


def test_a_bias_shaped_like_tensors_is_that_r():
    """B_l = r0 C_t moves the peak by r0 exactly, and a negative one by -r0."""
    sky = likelihood.model(3e-6)
    for r0 in (1e-5, 3e-3, 0.2, -1e-4):
        found = likelihood.auto_spectrum(r0 * sky.tensor, sky, 0.5)
        assert found.bias == pytest.approx(r0, rel=1e-6)


def test_a_small_white_bias_is_the_weighted_mean():
    """dr = sum (2l+1) C_t B/C^2 / sum (2l+1) (C_t/C)^2 to first order in B."""
    sky = likelihood.model(3e-6)
    bias_uk2 = 1e-12
    total = sky.lensing + sky.noise
    weight = (2 * sky.ell + 1) * sky.tensor / total**2
    expected = np.sum(weight * bias_uk2) / np.sum(weight * sky.tensor)
    found = likelihood.auto_spectrum(bias_uk2, sky, 0.5)
    assert found.bias == pytest.approx(expected, rel=1e-3)


def test_the_bias_is_the_peak_of_the_likelihood():
    sky = likelihood.model(1e-6)
    bias_uk2 = 5e-7
    found = likelihood.auto_spectrum(bias_uk2, sky, 0.5)
    measured = sky.lensing + sky.noise + bias_uk2
    at_peak = likelihood.log_likelihood(found.bias, measured, sky, 0.5)
    for r in found.bias + found.sigma * np.array([-0.05, 0.05]):
        assert likelihood.log_likelihood(r, measured, sky, 0.5) < at_peak


def test_data_below_zero_have_no_r():
    """A power spectrum is no less than 0: with less the likelihood has no peak."""
    sky = likelihood.model(1e-6)
    least = float(np.min(sky.lensing + sky.noise))
    assert np.isnan(likelihood.auto_spectrum(-1.01 * least, sky, 0.5).bias)
    assert likelihood.auto_spectrum(-0.5 * least, sky, 0.5).bias < 0


def test_cross_spectrum_of_independent_halves_is_unbiased_and_a_little_wider():
    """Noise that halves do not share is no bias; with half the time each they lose sqrt(2) at most.

    Noise only (no lensing): the variance of a cross-spectrum of two halves, 2N each, is
    (2N)^2/(2l+1); that of the auto-spectrum of all 2 N^2/(2l+1): sigma grows by sqrt(2).
    """
    noise = 1.0
    sky = likelihood.model(noise)
    auto = likelihood.auto_spectrum(0.0, sky, 0.5)
    cross = likelihood.cross_spectrum(0.0, 2 * noise, sky, 0.5)
    assert cross.bias == 0.0
    assert cross.sigma / auto.sigma == pytest.approx(np.sqrt(2), rel=1e-4)
    # Noiseless: both are limited by lensing alone.
    sky = likelihood.model(0.0)
    assert likelihood.cross_spectrum(0.0, 0.0, sky, 0.5).sigma == pytest.approx(
        likelihood.auto_spectrum(0.0, sky, 0.5).sigma, rel=1e-12
    )


def test_noise_that_both_halves_share_is_a_bias():
    sky = likelihood.model(1e-6)
    common = 2e-4 * sky.tensor
    found = likelihood.cross_spectrum(common, 2e-6, sky, 0.5)
    assert found.bias == pytest.approx(2e-4, rel=1e-9)


def test_negative_noise_is_refused():
    with pytest.raises(CrabError, match="noise_uk2"):
        likelihood.model(-1e-6)
