"""From a cube to r, and row 12 of the scorecard, on white noise whose answer is known."""

import numpy as np
import pytest

from crab import params, schema, seeds
from crab.errors import CrabError
from crab.impact import channel_levels, likelihood, rows, tensor, theory
from crab.physics import instrument, readout

RATE_HZ, N_SAMPLES = 19.1, 3 * 68_760


@pytest.fixture(scope="module")
def detectors():
    mission = params.load().missions["litebird_lft"]
    table = instrument.detectors(mission)
    slope = readout.power_per_kelvin_w(table["bandcenter_ghz"], table["bandwidth_ghz"], 0.5)
    return table.assign_coords(power_per_kelvin_w=("detector", slope))


def white_cube(detectors, factor, number):
    """Independent white noise, `factor` times the database's."""
    rng = seeds.rng(9, "test", "rows", number)
    net_k = 1e-6 * factor * detectors["net_ukrts"].values
    sigma_w = net_k * np.sqrt(RATE_HZ) * detectors["power_per_kelvin_w"].values
    tod = sigma_w[:, None] * rng.standard_normal((len(sigma_w), N_SAMPLES))
    attrs = {
        "mission": "litebird_lft",
        "environment": "test",
        "phi_mv": 600.0,
        "lis": "helmod_2017",
        "seed": number,
        "power_convention": "optical_equivalent",
        "physics_list": "none",
        "params_hash": "none",
    }
    return schema.make_cube({"tod": tod}, detectors, RATE_HZ, attrs)


def test_white_noise_becomes_the_instrument_noise_of_the_database(detectors):
    """Independent detectors of the database's NET: its own sensitivity, and r of that noise."""
    cube = white_cube(detectors, 1.0, 0)
    table = tensor.analyse(cube, "LFT", tensor.Deglitching()).set_index("channel")
    facts = channel_levels.channels("LFT")
    ell = likelihood.model().ell
    for channel in ("L4-100", "L4-140"):
        row, noise = table.loc[channel], facts.loc[channel, "noise_uk2"]
        window = theory.beam(ell, facts.loc[channel, "fwhm_arcmin"])
        assert row["n_ell"] * window[0] == pytest.approx(
            noise, abs=4 * row["n_ell_error"] * window[0]
        )
        assert row["n_ell_error"] < 0.1 * row["n_ell"]
        scale = row["n_ell"] * window[0] / noise
        expected = likelihood.auto_spectrum(
            scale * noise / window, likelihood.model(noise / window), tensor.SKY_FRACTION
        )
        assert row["auto_bias"] == pytest.approx(expected.bias, rel=1e-6)
        assert row["auto_sigma"] == pytest.approx(expected.sigma, rel=1e-9)
        assert row["times_bias"] == 0
        assert row["effective_detectors"] == pytest.approx(6, rel=0.1)
    # Independent channels add up by their inverse variances.
    both = 1 / (1 / facts.loc[["L4-100", "L4-140"], "noise_uk2"]).sum()
    found = table.loc[tensor.UNCORRELATED]
    assert found["n_ell"] == pytest.approx(both, abs=4 * found["n_ell_error"])
    assert found["n_ell_error"] < 0.1 * both


def test_rows_see_a_generator_that_is_too_loud(detectors):
    """Noise 20 % up is 44 % in N_ell; another draw of the same noise is within its errors."""
    real, other, loud = (
        white_cube(detectors, factor, number) for number, factor in enumerate((1.0, 1.0, 1.2), 1)
    )
    found = rows.map_rows(loud, real, (other, real), "LFT")
    for name, sharpness in (("map_noise_bb", 0.1), ("map_noise_tt", 0.3)):
        ours, null = found[name]
        assert abs(ours.value - 0.44) < 4 * ours.error and ours.error < sharpness
        assert null.value < 4 * null.error
    assert found["delta_r"][0].value > found["delta_r"][1].value
    assert set(found) >= {"map_noise_bb_deglitched", "map_noise_tt_deglitched"}


def test_rows_refuse_cubes_of_other_detectors(detectors):
    cube = white_cube(detectors, 1.0, 1)
    with pytest.raises(CrabError, match="detectors"):
        rows.map_rows(cube.isel(detector=slice(0, 4)), cube, None, "LFT")
