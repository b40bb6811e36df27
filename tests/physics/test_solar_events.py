"""Solar-particle events against their published fluence and peak."""

import numpy as np
import pytest
from scipy import integrate, special

from crab import params
from crab.errors import CrabError
from crab.params import SolarEvent
from crab.physics import solar_events, spectra

ENVIRONMENT = params.load().environments["solar_event_2032"]
EVENT = ENVIRONMENT.solar_events[0]
WHOLE = EVENT.model_copy(update={"fluence_scale": 1.0})


def above(flux, energy_min_mev: float) -> float:
    """Integral over energy."""
    value, _ = integrate.quad(
        lambda u: np.exp(u) * float(flux(np.exp(u))),
        np.log(energy_min_mev),
        np.log(5e3),
        epsrel=1e-10,
        limit=300,
    )
    return value


def test_fluence_is_the_published_form():
    """Hydrogen of 28 October 2003 (Mewaldt et al. 2005): ``1.35e9 T^-1.05 exp(-T/28.2)`` per cm2
    sr MeV; its integral above 39 MeV is an incomplete gamma function (s = -0.05, by recursion)."""
    expected = 1.35e9 * 100**-1.05 * np.exp(-100 / 28.2) * 1e4
    assert solar_events.fluence(WHOLE, "proton", 100.0) == pytest.approx(expected, rel=1e-12)
    x, s = 39 / 28.2, -0.05
    gamma = (special.gammaincc(s + 1, x) * special.gamma(s + 1) - x**s * np.exp(-x)) / s
    integral = above(lambda e: solar_events.fluence(WHOLE, "proton", e), 39.0)
    assert integral == pytest.approx(1.35e9 * 1e4 * 28.2**s * gamma, rel=1e-6)


def test_time_integral_gives_the_published_fluence():
    """Flux over the whole event, minus what there is before it, is the scaled fluence."""
    assert integrate.quad(
        lambda t: float(solar_events.profile(EVENT, t)), EVENT.onset_s, 2e6, limit=500
    )[0] == pytest.approx(1, rel=1e-6)
    energy = np.array([40.0, 100.0])
    quiet = spectra.differential_flux(ENVIRONMENT, "proton", energy)
    times_s = np.concatenate([[0.0], np.geomspace(1e-1, 1e6, 6000) + EVENT.onset_s])
    excess = [spectra.differential_flux(ENVIRONMENT, "proton", energy, t) - quiet for t in times_s]
    summed = np.trapezoid(excess, times_s, axis=0)
    np.testing.assert_allclose(summed, 1e-3 * solar_events.fluence(WHOLE, "proton", energy), 1e-4)


def test_whole_event_peaks_at_the_published_flux():
    """25242 protons/(cm2 s sr) above 10 MeV on 28-29 October 2003 (Mewaldt et al. 2005, Table 1),
    which sets the decay time: within 1 %. The scaled event is of NOAA's class S1 (10 to 100)."""
    whole = above(lambda e: solar_events.peak_flux(WHOLE, "proton", e), 10.0) / 1e4
    assert whole == pytest.approx(25242, rel=0.01)
    scaled = above(lambda e: solar_events.peak_flux(EVENT, "proton", e), 10.0) / 1e4
    assert 10 < scaled < 100


def test_profile():
    """Nothing before the onset, a maximum where the derivative vanishes, then a decay with the
    decay time; the weight is the profile over its maximum."""
    assert np.all(solar_events.profile(EVENT, [-1e4, 0.0, EVENT.onset_s]) == 0)
    peak_s = solar_events.peak_time_s(EVENT)
    near = solar_events.profile(EVENT, peak_s + np.array([-60.0, 0.0, 60.0]))
    assert near[1] == near.max()
    late = solar_events.profile(EVENT, np.array([2e5, 2e5 + EVENT.decay_s]))
    assert late[1] / late[0] == pytest.approx(np.exp(-1), rel=1e-6)
    weights = spectra.component_weights(ENVIRONMENT, [0.0, EVENT.onset_s, peak_s])
    np.testing.assert_allclose(weights, [[1, 1, 1], [0, 0, 1]])


def test_an_hour_shows_the_event():
    """The onset is in the first hour; 1.5 hours in, protons above 39 MeV outnumber the quiet ones
    by 5 to 15, and the quiet mean knows nothing of the event."""
    assert 0 < EVENT.onset_s < 3600
    quiet = above(lambda e: spectra.differential_flux(ENVIRONMENT, "proton", e), 39.0)
    later = above(lambda e: spectra.differential_flux(ENVIRONMENT, "proton", e, 5400.0), 39.0)
    assert 5 < later / quiet < 15
    steady = spectra.force_field("proton", 39.0, ENVIRONMENT.phi_mv)
    assert spectra.differential_flux(ENVIRONMENT, "proton", 39.0) == steady


def test_protons_only():
    """No other species; an unknown one is an error."""
    for name in spectra.SPECIES:
        assert (solar_events.fluence(EVENT, name, 50.0) > 0) == (name == "proton")
    with pytest.raises(CrabError, match=r"species = 'neutron'"):
        solar_events.fluence(EVENT, "neutron", 50.0)


def test_decay_must_be_slower_than_rise():
    """Names both times."""
    with pytest.raises(ValueError, match=r"rise_s = 3600.0: allowed are values below decay_s = 60"):
        SolarEvent(**{**EVENT.model_dump(), "decay_s": 60.0})
