"""Pseudo-spectra on cut skies, and the scaling of noise to a mission."""

import healpy as hp
import numpy as np
import pytest

from crab import seeds
from crab.errors import CrabError
from crab.impact import spectra

NSIDE = 32


@pytest.fixture(scope="module")
def uneven_hits():
    """A cap of a third of the sky whose depth varies by a factor of ten."""
    theta, phi = hp.pix2ang(NSIDE, np.arange(hp.nside2npix(NSIDE)))
    hits = 100 * (1 + 9 * np.cos(phi / 2) ** 2) * (theta < 1.23)
    return hits


def noise(hits, sigma, number=0):
    rng = seeds.rng(3, "test", number)
    with np.errstate(divide="ignore", invalid="ignore"):
        return rng.standard_normal((3, hits.size)) * sigma * np.sqrt([[1], [2], [2]]) / hits**0.5


def test_white_noise_of_an_even_full_sky():
    """N_l = sigma_pix^2 Omega_pix."""
    hits = np.full(hp.nside2npix(NSIDE), 50.0)
    found = spectra.pseudo_spectra(noise(hits, 7.0), hits, 2 * NSIDE)
    for name, sigma2 in (("tt", 7.0**2 / 50), ("ee", 2 * 7.0**2 / 50), ("bb", 2 * 7.0**2 / 50)):
        level = spectra.level(found[name], 2, spectra.effective_sky_fraction(hits))
        assert level.error / level.value < 0.025
        expected = sigma2 * hp.nside2pixarea(NSIDE)
        assert abs(level.value - expected) < 3 * level.error


def test_white_noise_of_an_uneven_cut_sky(uneven_hits):
    """With hits as weights: N_l = Omega sum(w^2 sigma^2)/sum(w^2), and its scatter as stated."""
    sigma = 7.0
    expected = 2 * sigma**2 * hp.nside2pixarea(NSIDE) * uneven_hits.sum() / (uneven_hits**2).sum()
    fraction = spectra.effective_sky_fraction(uneven_hits)
    levels = [
        spectra.level(
            spectra.pseudo_spectra(noise(uneven_hits, sigma, k), uneven_hits, 64)["bb"],
            10,
            fraction,
        )
        for k in range(12)
    ]
    values = np.array([level.value for level in levels])
    stated = levels[0].error
    assert values.mean() == pytest.approx(expected, abs=3 * stated / np.sqrt(12))
    # The standard deviation of 12 has an error of 21 %.
    assert values.std(ddof=1) == pytest.approx(stated, rel=0.6)


def test_mission_level_does_not_depend_on_what_part_of_the_sky_was_seen(uneven_hits):
    """The same detectors and time, on a cap or on the full sky: the same after the mission."""
    net, rate, mission_s = 50.0, 10.0, 1e7
    even = np.full(uneven_hits.size, uneven_hits.mean())
    observed_s = uneven_hits.sum() / rate
    for hits in (uneven_hits, even):
        maps = noise(hits, net * np.sqrt(rate))
        fraction = spectra.effective_sky_fraction(hits)
        found = spectra.level(spectra.pseudo_spectra(maps, hits, 64)["bb"], 10, fraction)
        found = spectra.mission_level(found, hits, observed_s, mission_s)
        assert abs(found.value - spectra.white_level_uk2(net, 1, mission_s)) < 3 * found.error


def test_published_level():
    """1 aW/rtHz in the half-difference, 6 pairs, 1 year: 1.96e-6 uK^2 (arXiv:2101.08410: ~2e-6)."""
    net_ukrts = 1e-18 / (np.sqrt(2) * 0.184e-12) * 1e6
    year = 365.25 * 86400
    assert spectra.white_level_uk2(net_ukrts, 6, year) == pytest.approx(1.96e-6, rel=0.005)


def test_cross_spectrum_of_independent_maps_has_no_noise(uneven_hits):
    a, b = noise(uneven_hits, 7.0, 1), noise(uneven_hits, 7.0, 2)
    fraction = spectra.effective_sky_fraction(uneven_hits)
    auto = spectra.level(spectra.pseudo_spectra(a, uneven_hits, 64)["bb"], 10, fraction)
    cross = spectra.pseudo_spectra(a, uneven_hits, 64, b, uneven_hits)["bb"]
    # A cross-spectrum of two independent maps scatters by N/sqrt(modes): sqrt(2) less.
    assert abs(spectra.level(cross, 10, fraction).value) < 3 * auto.error / np.sqrt(2)


def test_a_sky_signal_on_the_full_sky_comes_back():
    ell = np.arange(65)
    c_ell = np.where(ell > 1, 1e-3 / np.maximum(ell, 1) ** 2, 0.0)
    rng = seeds.rng(5, "test", "sky")
    of_ell, of_m = hp.Alm.getlm(64)
    draws = rng.standard_normal((2, 3, of_ell.size)) * np.sqrt(c_ell[of_ell] / 2)
    alm = np.where(of_m == 0, np.sqrt(2) * draws[0], draws[0] + 1j * draws[1])
    maps = hp.alm2map(alm, NSIDE, lmax=64)
    found = spectra.pseudo_spectra(maps, np.ones(maps.shape[1]), 64)
    ratio = spectra.level(found["bb"][2:] / c_ell[2:], 2, 1.0)
    assert abs(ratio.value - 1) < 3 * ratio.error


def test_binned_keeps_the_mean_over_modes():
    found = spectra.pseudo_spectra(noise(np.full(12288, 9.0), 1.0), np.ones(12288), 63)["ee"]
    bands = spectra.binned(found, np.array([2, 10, 30, 64]))
    modes = np.array([10**2 - 2**2, 30**2 - 10**2, 64**2 - 30**2])
    assert np.average(bands.values, weights=modes) == pytest.approx(
        spectra.level(found, 2, 1.0).value, rel=1e-12
    )


def test_an_empty_map_is_refused():
    with pytest.raises(CrabError, match="weight"):
        spectra.pseudo_spectra(np.zeros((3, 12)), np.zeros(12), 2)
