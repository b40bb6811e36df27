"""Planck's bolometers: rate and families of glitches from deposits in the parts of a module."""

import numpy as np
import pytest
from scipy import optimize

from crab import params, schema
from crab.physics import instrument, montecarlo, spectra, transport, wafer

NAMES = {"mission_name": "planck_hfi", "environment_name": "solar_min_2009", "split": "test"}


@pytest.fixture(scope="module")
def settings():
    return params.load()


@pytest.fixture(scope="module")
def mission(settings):
    return settings.missions["planck_hfi"]


@pytest.fixture(scope="module")
def sky(settings):
    return settings.environments["solar_min_2009"]


@pytest.fixture(scope="module")
def library(settings, mission, tmp_path_factory):
    changes = {
        "n_target_primaries": 30_000,
        "n_shield_primaries": 20_000,
        "n_aimed_primaries": 3000,
    }
    return transport.build_library(
        "planck_hfi",
        mission.geometry,
        instrument.detectors(mission),
        "test",
        settings.profiles["smoke"].deposits.model_copy(update=changes),
        settings.environments,
        7,
        tmp_path_factory.mktemp("deposits"),
    )


@pytest.fixture(scope="module")
def simulator(library, mission, sky):
    return montecarlo.prepare(library, mission, sky, seed=7, **NAMES)


def test_one_glitch_a_second(simulator, mission):
    """About one event per second and bolometer, within a factor of 2 (Planck 2013 X,
    arXiv:1303.5071), most of them in the silicon die."""
    rates = {
        name: simulator.absorber_rate_hz(k).mean()
        for k, name in enumerate(mission.geometry.absorbers)
    }
    assert 0.5 < sum(rates.values()) < 2
    assert rates["die"] > 0.5 * sum(rates.values())


def test_long_glitches_follow_the_published_power_law(library, sky):
    """dN/dE of deposits in the die from twice the break at 140 keV, over a factor of 40: exponent
    -2.4 +- 0.15 (Planck 2013 X, fig. 8), plus two statistical errors of this small library."""
    rates_hz = spectra.event_rates_hz(library, sky)
    die = library.volume.values == 1
    kev = library.deposit_ev.values[die] / 1e3
    rate = rates_hz[library.event_index.values[die]]
    own = (kev > 280) & (kev < 280 * 40)
    log, weight, span = np.log(kev[own] / 280), rate[own], np.log(40)

    def cost(s):
        return s * np.average(log, weights=weight) + np.log(np.expm1((1 - s) * span) / (1 - s))

    exponent = optimize.minimize_scalar(cost, bounds=(1.1, 5), method="bounded").x
    error = (exponent - 1) / np.sqrt(weight.sum() ** 2 / (weight**2).sum())
    assert error < 0.06
    assert abs(exponent - 2.4) < 0.15 + 2 * error


def test_one_track_crosses_both_dies(library):
    """The dies of a pair of polarisation-sensitive bolometers lie on top of each other: one event
    often deposits in both."""
    event, die = library.event_index.values, library.volume.values == 1
    first, second = (set(event[die & (library.detector_index.values == k)]) for k in (0, 1))
    assert 0.2 < len(first & second) / len(first) < 0.95


@pytest.mark.parametrize(
    ("absorber", "part", "late"), [("die", "tod_wafer", 0.038), ("grid", "tod_direct", 0.004)]
)
def test_pulses_have_their_energy_and_their_tail(simulator, mission, absorber, part, late):
    """One event through the response: its time integral is the stated share of the deposit (to
    1e-6), and 40 ms after a long event what is left is the tail, a few per cent of the peak, where
    a short one has next to none (Planck early results VI, fig. 5)."""
    index = list(mission.geometry.absorbers).index(absorber)
    share = mission.sensor.pulses[absorber].energy_share
    sample_s = 1 / simulator.internal_rate_hz
    n = 30_000
    power_w = simulator.sensor.hits_w(index, np.array([1e5]), np.array([0.1]), n, sample_s)
    assert power_w.sum() * sample_s == pytest.approx(share * 1e5 * wafer.EV_TO_J, rel=1e-6)
    left = power_w[int(0.14 / sample_s)] / power_w.max()
    assert 0.3 * late < left < 1.5 * late
    assert simulator.sensor.parts[index] == part


def test_cube_has_positive_glitches_and_no_mean(library, mission, sky, simulator):
    """Optical-equivalent power: hits positive. The silicon's part has its expected mean taken off:
    zero within 4 errors of blocks of 30 s."""
    cube, truth = montecarlo.simulate(
        library, mission, sky, duration_s=900.0, seed=7, progress=False, **NAMES
    )
    schema.validate(cube)
    assert cube.attrs["power_convention"] == "optical_equivalent"
    assert float(cube.tod_direct.max()) > 10 * abs(float(cube.tod_direct.min()))
    block = round(30 * mission.sampling_rate_hz)
    wafer_w = cube.tod_wafer.values.astype(float)
    means = wafer_w[:, : wafer_w.shape[1] // block * block].reshape(2, -1, block).mean(axis=2)
    error = means.std(axis=1) / np.sqrt(means.shape[1])
    assert np.all(np.abs(means.mean(axis=1)) < 4 * error)
    assert set(np.unique(truth.absorber)) <= {0, 1, 2, 3}
    assert int(truth.n_detectors.max()) == 2
    assert np.all(truth.image == 0)


def test_noise_is_the_measured_one(simulator, mission):
    """NET = NEP/(sqrt(2) dP/dT), 55.4 uK sqrt(s) for 143-2a (HFI instrument model 4.27)."""
    assert float(simulator.sensor.noise.net[0]) == pytest.approx(55.4, rel=0.01)
