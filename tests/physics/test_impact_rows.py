"""From a cube to r, and row 12 of the scorecard, on white noise whose answer is known."""

import numpy as np
import pytest

from crab import params, schema, seeds
from crab.errors import CrabError
from crab.impact import channel_levels, likelihood, maps, rows, splits, tensor, theory
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
    table = tensor.analyse(cube, "LFT", tensor.Deglitching()).table.set_index("channel")
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


def numbers(cube):
    return rows.map_numbers(cube, "LFT", nside=8, n_blocks=12)


@pytest.fixture(scope="module")
def found(detectors):
    """Two draws of the same noise, and others that are 20 and 60 % up."""
    factors = {"real": 1.0, "other": 1.0, "loud": 1.2, "louder": 1.6}
    return {
        name: numbers(white_cube(detectors, factor, number))
        for number, (name, factor) in enumerate(factors.items(), 1)
    }


def test_rows_see_a_generator_that_is_too_loud(found):
    """Noise 20 % up is 44 % in N_ell; another draw of the same noise is within its errors."""
    ours, null = (rows.map_rows(found[name], found["real"], 1) for name in ("loud", "other"))
    for name in ("noise_tt", "noise_ee", "noise_bb", "delta_r"):
        value, error = ours[f"downstream_{name}"]
        # A bias grows faster than the noise that makes it.
        assert value > 0.44 - 4 * error and error < 0.25
        value, error = null[f"downstream_{name}"]
        assert value < 4 * error
    for name in rows.SPECTRA:
        assert ours[f"downstream_p_{name}"].value < 0.01 < null[f"downstream_p_{name}"].value
    assert set(ours) >= {f"downstream_spectrum_{name}" for name in rows.SPECTRA}


def test_statements_say_plainly_what_agrees(found):
    yes = rows.statements(found["other"], found["real"], 1)
    no = rows.statements(found["louder"], found["real"], 1)
    assert [row["quantity"] for row in yes] == [row["quantity"] for row in no]
    # Two channels in each of three spectra, three sets of bands, and r.
    assert len(yes) == 10 and all(row["agrees"] for row in yes)
    assert not [row["agrees"] for row in no if row["quantity"].startswith("noise")].count(True)
    assert not [row["agrees"] for row in no if row["quantity"].startswith("spectrum")].count(True)


def test_white_noise_in_maps_of_stretches_is_that_of_the_database(detectors, found):
    """N_ell of 6 detectors after the mission, 8 pi NET^2/(6 t); TT is half of it."""
    for i, channel in enumerate(found["real"].channels):
        net = float(detectors["net_ukrts"].values[detectors["channel"].values == channel][0])
        expected = 8 * np.pi * net**2 / (6 * maps.mission_time_s())
        for name, factor in (("tt", 0.5), ("ee", 1.0), ("bb", 1.0)):
            level = splits.mean(found["real"].levels[name][i])
            assert level.value == pytest.approx(factor * expected, abs=4 * level.error)
            assert level.error < 0.15 * level.value


def test_rows_refuse_cubes_of_other_detectors(detectors, found):
    cube = white_cube(detectors, 1.0, 1).isel(detector=slice(0, 4))
    with pytest.raises(CrabError, match="detectors"):
        rows.map_rows(numbers(cube), found["real"], 1)
