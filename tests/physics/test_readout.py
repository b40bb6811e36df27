"""Noise levels, anti-alias filter and units against closed forms and published numbers."""

import numpy as np
import pytest
from scipy import signal

from crab import params, schema
from crab.errors import CrabError
from crab.physics import instrument, readout, tes
from tests.conftest import make_attrs

INTERNAL_HZ, OUTPUT_HZ = 156.25, 19.1


@pytest.fixture(scope="module")
def mission():
    return params.load().missions["litebird_lft"]


@pytest.fixture(scope="module")
def point(mission):
    return tes.operating_point(mission.sensor, mission.wafer_thermal.bath_temperature_k)


@pytest.fixture(scope="module")
def noise(mission, point):
    table = readout.noise_equivalent_power(mission.sensor, point, instrument.detectors(mission))
    return table.sel(detector=table.channel == "L4-140").isel(detector=0)


@pytest.fixture(scope="module")
def decimate():
    return readout.decimator(INTERNAL_HZ, OUTPUT_HZ)


def test_noise_budget_at_140_ghz(noise):
    """Public sensitivity code for this TES: phonon 5.2, photon 10.2, both 11.5 aW/sqrt(Hz)."""
    assert float(noise.phonon) == pytest.approx(5.2e-18, rel=0.02)
    assert float(noise.photon) == pytest.approx(10.2e-18, rel=0.02)
    assert float(np.hypot(noise.phonon, noise.photon)) == pytest.approx(11.5e-18, rel=0.02)
    assert float(noise.johnson) < 0.1 * float(noise.phonon)


def test_photon_noise_formula(noise):
    """2 h nu P + 2 P^2/dnu at 140 GHz, 42 GHz wide, 0.5 pW, by hand."""
    expected = 2 * 6.62607e-34 * 140e9 * 0.5e-12 + 2 * 0.5e-12**2 / 42e9
    assert float(noise.photon) ** 2 == pytest.approx(expected, rel=1e-5)


def test_net_at_140_ghz(noise):
    """Check 7: between the 38.4 (LFT) and 54.0 (MFT) uK sqrt(s) of the instrument database."""
    assert 38.0 <= float(noise.net) <= 54.0


def test_conversion_at_140_ghz(mission):
    """0.184 pW/K at 140 GHz; narrow bands tend to eta k dnu x^2 e^x/(e^x - 1)^2; low frequencies
    to the Rayleigh-Jeans limit eta k dnu."""
    got = readout.power_per_kelvin_w(140.0, 42.0, mission.sensor.optical_efficiency)
    assert float(got) == pytest.approx(0.184e-12, rel=0.02)
    x = 6.62607015e-34 * 140e9 / (1.380649e-23 * 2.7255)
    narrow = 1.380649e-23 * 1e6 * x**2 * np.exp(x) / np.expm1(x) ** 2
    assert float(readout.power_per_kelvin_w(140.0, 1e-3, 1.0)) == pytest.approx(narrow, rel=1e-6)
    low = readout.power_per_kelvin_w(0.1, 0.01, 0.5)
    assert float(low) == pytest.approx(0.5 * 1.380649e-23 * 1e7, rel=1e-5)


def test_noise_has_the_given_level_and_time_constant(point):
    """One-sided PSD against NEP^2 (loop gain factor)^2 [inside/(1 + (2 pi f tau)^2) + readout],
    averaged over each sample and folded at the internal Nyquist frequency."""
    rate_hz, n = 2000.0, 2**19
    white = np.random.default_rng(3).standard_normal((2, n))
    samples = readout.detector_noise_w(
        white, rate_hz, 10e-18, 5e-18, point.time_constant_s, point.joule_gain
    )
    f_hz, psd = signal.welch(samples, rate_hz, nperseg=2048)
    for low, high in ((2, 20), (60, 80), (300, 330)):
        band = (f_hz >= low) & (f_hz < high)
        f_mid = f_hz[band].mean()
        inside = 100e-36 / (1 + (2 * np.pi * f_mid * point.time_constant_s) ** 2)
        expected = point.joule_gain**2 * (inside + 25e-36)
        assert psd[band].mean() == pytest.approx(expected, rel=0.04)


def test_white_level_survives_decimation(decimate):
    """PSD below 0.9 of the new Nyquist frequency is the input's, within the 1 % of its error."""
    n = 625 * decimate.down + 2 * decimate.halo
    samples = np.random.default_rng(4).standard_normal(n) * np.sqrt(INTERNAL_HZ / 2)
    f_hz, psd = signal.welch(decimate(samples), OUTPUT_HZ, nperseg=512)
    band = (f_hz > 0.2) & (f_hz < 0.45 * OUTPUT_HZ * 0.98)
    assert psd[band].mean() == pytest.approx(1.0, rel=0.02)


def tone(f_hz, decimate, periods=3):
    n = periods * decimate.down + 2 * decimate.halo
    time_s = (np.arange(n) - decimate.halo) / INTERNAL_HZ
    return decimate(np.sin(2 * np.pi * f_hz * time_s + 0.4))


@pytest.mark.parametrize("f_hz", [10.6, 12.0, 19.1, 38.0, 77.0])
def test_aliases_are_rejected(decimate, f_hz):
    """A sine above 1.1 of the new Nyquist frequency (9.55 Hz) is suppressed by 60 dB or more."""
    assert 20 * np.log10(np.abs(tone(f_hz, decimate)).max()) < -60


@pytest.mark.parametrize("f_hz", [0.01, 1.0, 5.0, 8.5])
def test_signals_pass_without_delay_or_loss(decimate, f_hz):
    """In the band the output is the input at the output's own times."""
    out = tone(f_hz, decimate)
    time_s = np.arange(len(out)) / OUTPUT_HZ
    np.testing.assert_allclose(out, np.sin(2 * np.pi * f_hz * time_s + 0.4), atol=1e-3)


def test_constant_and_count(decimate):
    """Gain 1 at zero frequency; 3125 internal samples make 382."""
    assert (decimate.up, decimate.down) == (382, 3125)
    out = decimate(np.ones((2, 2 * decimate.down + 2 * decimate.halo)))
    assert out.shape == (2, 764)
    np.testing.assert_allclose(out, 1.0, atol=2e-4)


@pytest.mark.parametrize(
    ("internal_hz", "output_hz", "words"),
    [(156.25, 100.0, "at least 2.5 times"), (156.25, 19.10001, "ratio to sampling_rate_hz")],
)
def test_rates_that_do_not_fit(internal_hz, output_hz, words):
    with pytest.raises(CrabError, match=words):
        readout.decimator(internal_hz, output_hz)


@pytest.fixture
def cube(mission, point):
    table = instrument.detectors(mission).assign_coords(
        joule_gain=point.joule_gain,
        power_per_kelvin_w=("detector", np.linspace(1e-13, 2e-13, 12)),
    )
    rng = np.random.default_rng(6)
    parts = {name: rng.normal(size=(12, 50)) * 1e-16 for name in ("tod_wafer", "tod_noise")}
    parts["tod"] = sum(parts.values())
    return schema.make_cube(parts, table, OUTPUT_HZ, make_attrs())


def test_power_conventions_differ_by_the_loop_gain(cube, point):
    """joule = -loop_gain/(1 + loop_gain) times optical equivalent, in every part, and back."""
    optical = readout.to_optical_equivalent(cube)
    schema.validate(optical)
    ratio = -point.loop_gain / (1 + point.loop_gain)
    for name in ("tod", "tod_wafer", "tod_noise"):
        np.testing.assert_allclose(cube[name], ratio * optical[name], rtol=1e-6)
    back = readout.to_joule(optical)
    assert back.attrs == cube.attrs
    np.testing.assert_allclose(back.tod, cube.tod, rtol=1e-6)
    assert cube.attrs["power_convention"] == "joule"


def test_kelvin_only_from_optical_power(cube):
    with pytest.raises(CrabError, match="'joule': allowed here is 'optical_equivalent'"):
        readout.to_kelvin_cmb(cube)
    optical = readout.to_optical_equivalent(cube)
    kelvin = readout.to_kelvin_cmb(optical)
    assert kelvin.attrs["units"] == "K_CMB"
    assert kelvin.dtype == np.float32
    np.testing.assert_allclose(
        kelvin.values, optical.tod.values / cube.power_per_kelvin_w.values[:, None], rtol=1e-6
    )
    with pytest.raises(CrabError, match="allowed here is 'joule'"):
        readout.to_optical_equivalent(optical)
    with pytest.raises(CrabError, match="'power_per_kelvin_w' is missing"):
        readout.to_kelvin_cmb(optical.drop_vars("power_per_kelvin_w"))
