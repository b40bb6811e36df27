"""The simulated cube against the theory of shot noise, its own truth, and itself."""

import numpy as np
import pytest

from crab import params, schema
from crab.errors import CrabError
from crab.physics import montecarlo, spectra
from crab.physics.wafer import EV_TO_J
from tests.physics import synthetic

RATE_HZ = 300.0
NAMES = {"mission_name": "litebird_lft", "environment_name": "litebird_2032", "split": "train"}


@pytest.fixture(scope="module")
def settings():
    return params.load()


@pytest.fixture(scope="module")
def mission(settings):
    """Four detectors on a slow wafer (0.25 s), whose pulses span many samples."""
    whole = settings.missions["litebird_lft"]
    slow = {"bath_conductance_w_per_k": 1.2e-8, "diffusivity_m2_per_s": 0.03, "modes_per_axis": 10}
    thermal = whole.wafer_thermal.model_copy(update=slow)
    changes = {"detectors": whole.detectors[::3], "wafer_thermal": thermal}
    return whole.model_copy(update=changes)


@pytest.fixture(scope="module")
def environment(settings):
    return settings.environments["litebird_2032"]


@pytest.fixture(scope="module")
def library(mission, environment):
    return synthetic.library(mission, environment, rate_hz=RATE_HZ, direct_rate_hz=1.0)


@pytest.fixture(scope="module")
def simulator(library, mission, environment):
    return montecarlo.prepare(library, mission, environment, seed=7, **NAMES)


@pytest.fixture(scope="module")
def simulated(library, mission, environment):
    return montecarlo.simulate(
        library, mission, environment, duration_s=600.0, seed=7, progress=False, **NAMES
    )


def test_event_rates_are_flux_times_aperture(library, environment):
    """Total rate as built, and one event by hand."""
    rates = spectra.event_rates_hz(library, environment)
    assert rates.sum() == pytest.approx(RATE_HZ)
    name = synthetic.SPECIES[int(library.species[17])]
    flux = spectra.differential_flux(environment, name, library.energy_mev.values[[17]])
    assert rates[17] == pytest.approx(flux[0] * float(library.aperture_m2_sr_mev[17]))


def test_rates_follow_the_environment(library, settings):
    """More modulation, fewer hits."""
    quiet, active = (
        spectra.event_rates_hz(library, settings.environments[name]).sum()
        for name in ("solar_min_2009", "solar_max_2014")
    )
    assert quiet > RATE_HZ > active


def test_cube_and_truth_meet_the_schema(simulated):
    cube, truth = simulated
    schema.validate(cube)
    assert cube.tod.shape == (4, 11460)
    assert cube.attrs["power_convention"] == "joule"
    assert np.all(np.diff(truth.time_s) >= 0)
    assert 0 <= truth.time_s[0] and truth.time_s[-1] < 600.0
    direct = truth.detector_index.values >= 0
    np.testing.assert_array_equal(truth.direct_deposit_ev.values > 0, direct)
    assert np.all(truth.deposit_ev > 0)


def test_arrivals_are_poisson(simulated):
    """Number of hits within 4 sigma; counts in 1 s have variance = mean (4 sigma of the ratio);
    waiting times are exponential (mean = standard deviation)."""
    _, truth = simulated
    n = truth.sizes["hit"]
    assert abs(n - 600 * RATE_HZ) < 4 * np.sqrt(600 * RATE_HZ)
    counts = np.bincount(truth.time_s.values.astype(int), minlength=600)
    assert counts.var() / counts.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / 600))
    waits = np.diff(truth.time_s.values)
    assert waits.std() / waits.mean() == pytest.approx(1, abs=4 / np.sqrt(n))


def test_events_are_drawn_by_their_rates(simulated, simulator):
    """Mean deposit of the hits against the rate-weighted mean of the library, within 4 sigma."""
    _, truth = simulated
    share = simulator.rates_hz / simulator.rates_hz.sum()
    log_ev = np.log(simulator.direct["events"]["deposit_ev"].astype(float))
    mean = share @ log_ev
    sigma = np.sqrt(share @ (log_ev - mean) ** 2 / truth.sizes["hit"])
    assert abs(np.log(truth.deposit_ev.values.astype(float)).mean() - mean) < 4 * sigma


def test_mean_and_variance_of_shot_noise(simulator):
    """Campbell's theorem: variance = sum over events of rate x integral of (pulse in one
    detector)^2; the mean, taken off analytically, is left at 0. The pulses are sums of
    exponentials, so the integral is known in closed form."""
    n = 60_000
    parts = simulator.internal(0, n)
    rate = simulator.plate.rate_hz
    pole = 1 / simulator.point.time_constant_s
    weights = simulator.response[0] * simulator.kicks_k.astype(float)
    weights = np.column_stack([weights, -weights.sum(axis=1)])
    decay = np.append(rate, pole)
    # Means over a sample: each exponential loses the factor (1 - e^-rs)/(rs) at long times.
    overlap = 1 / (decay[:, None] + decay[None])
    squares = np.einsum("ei,ij,ej->e", weights, overlap, weights)
    expected = np.sqrt(simulator.rates_hz @ squares)
    wafer = parts["tod_wafer"][0]
    # Errors from blocks of 20 s, many times the longest decay.
    blocks = wafer[: n // 3125 * 3125].reshape(-1, 3125)
    error = blocks.mean(axis=1).std() / np.sqrt(len(blocks))
    assert abs(wafer.mean()) < 4 * error
    spread = (blocks**2).mean(axis=1)
    sigma = spread.std() / np.sqrt(len(blocks)) / (2 * np.sqrt(spread.mean()))
    assert abs(np.sqrt((wafer**2).mean()) - expected) < 4 * sigma + 0.03 * expected


def test_wafer_pulse_of_a_single_hit(simulator):
    """The TOD after one event is minus loop_gain/(1 + loop_gain) times the bath coupling times the
    temperature of the wafer below the TES (the detector is fast), and its integral is the
    time integral of that temperature."""
    event, n = 1234, 4000
    tod = simulator._wafer(np.array([0.5]), np.array([event]), n)
    tod = tod + simulator.mean_wafer_power_w[:, None]
    assert np.all(tod <= 1e-25)
    at = simulator.plate.shapes(simulator.detectors.x_mm.values, simulator.detectors.y_mm.values)
    gain = simulator.point.joule_gain * simulator.point.bath_coupling_w_per_k
    kicks = simulator.kicks_k[event].astype(float)
    np.testing.assert_allclose(
        tod.sum(axis=1) / 156.25, gain * at @ (kicks / simulator.plate.rate_hz), rtol=1e-5
    )
    late = 300
    middle_s = (late + 0.5) / 156.25 - 0.5
    # A pole lags a slow signal by its time constant.
    warm = at @ (kicks * np.exp(-simulator.plate.rate_hz * (middle_s - 0.00225)))
    np.testing.assert_allclose(tod[:, late], gain * warm, rtol=2e-3)


def test_direct_hits_are_where_the_truth_says(simulated, simulator):
    """Energy of an isolated direct hit in the filtered TOD: minus its table value, and it peaks
    at its time in its detector."""
    cube, truth = simulated
    energy_ev = truth.direct_deposit_ev.values
    hits = np.flatnonzero((energy_ev > 500) & (truth.time_s > 5) & (truth.time_s < 595))
    checked = 0
    for hit in hits:
        detector, time_s = int(truth.detector_index[hit]), float(truth.time_s[hit])
        others = (truth.detector_index.values == detector) & (energy_ev > 0)
        if np.sum(others & (np.abs(truth.time_s.values - time_s) < 4)) > 1:
            continue
        near = np.abs(cube.time.values - time_s) < 2.0
        trace = cube.tod_direct.values[detector, near]
        assert abs(cube.time.values[near][trace.argmin()] - time_s) < 1.5 / 19.1
        means = simulator.pulses.interval_means_w(energy_ev[hit], 0.0, 0, 400, 1 / 156.25)
        released = means.sum() / 156.25
        assert trace.sum() / 19.1 == pytest.approx(released, rel=0.02)
        assert -released < energy_ev[hit] * EV_TO_J
        checked += 1
    assert checked > 20


def test_linear_and_nonlinear_direct_hits_differ(library, mission, environment, simulated):
    """Small deposits alike, large ones deeper in the linear approximation; nothing else moves."""
    cube, _ = simulated
    linear, _ = montecarlo.simulate(
        library,
        mission,
        environment,
        duration_s=300.0,
        seed=7,
        direct_hits="linear",
        progress=False,
        **NAMES,
    )
    n = linear.sizes["time"]
    np.testing.assert_array_equal(linear.tod_wafer, cube.tod_wafer[:, :n])
    np.testing.assert_array_equal(linear.tod_noise, cube.tod_noise[:, :n])
    assert float(linear.tod_direct.min()) < 1.5 * float(cube.tod_direct[:, :n].min())


def test_noise_is_independent_and_has_its_level(simulated, simulator):
    """Correlation of 12 k samples below 5/sqrt(n); rms of the band-limited noise against
    NEP sqrt(bandwidth) times the loop-gain factor."""
    cube, _ = simulated
    noise = cube.tod_noise.values
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 5 / np.sqrt(noise.shape[1])
    total = simulator.noise["total"].values
    expected = np.abs(simulator.point.joule_gain) * total * np.sqrt(19.1 / 2)
    np.testing.assert_allclose(noise.std(axis=1), expected, rtol=0.06)


def test_any_stretch_is_bit_identical(library, mission, environment, simulated):
    """A request that starts in the middle and crosses a chunk gives the same numbers."""
    cube, truth = simulated
    start = 5000
    part, hits = montecarlo.simulate(
        library,
        mission,
        environment,
        duration_s=60.0,
        seed=7,
        start_sample=start,
        progress=False,
        **NAMES,
    )
    same = cube.isel(time=slice(start, start + part.sizes["time"]))
    for name in ("tod", *schema.PARTS):
        np.testing.assert_array_equal(part[name], same[name])
    np.testing.assert_allclose(part.time, same.time)
    inside = (truth.time_s >= part.time[0]) & (truth.time_s < part.time[-1] + 1 / 19.1)
    np.testing.assert_array_equal(hits.time_s, truth.time_s[inside.values])


def test_another_seed_is_another_sky(library, mission, environment, simulated):
    """Uncorrelated with the first: |r| below 5 times its error for the wafer's correlation time."""
    cube, _ = simulated
    other, _ = montecarlo.simulate(
        library, mission, environment, duration_s=300.0, seed=8, progress=False, **NAMES
    )
    n = other.sizes["time"]
    for name, samples_per_draw in (("tod_noise", 1), ("tod_wafer", 8)):
        r = np.corrcoef(cube[name].values[0, :n], other[name].values[0])[0, 1]
        assert abs(r) < 5 * np.sqrt(samples_per_draw / n)


def test_library_of_other_detectors(library, mission, settings):
    """Found by where its hits lie, though the mission's name is the same."""
    environment = settings.environments["litebird_2032"]
    others = settings.missions["litebird_lft"].detectors[1::3]
    for names, words in (
        (others, "other detectors"),
        (mission.detectors[:2], "allowed here are 2"),
    ):
        wrong = mission.model_copy(update={"detectors": names})
        with pytest.raises(CrabError, match=words):
            montecarlo.prepare(library, wrong, environment, seed=7, **NAMES)
    small = mission.geometry.model_copy(update={"wafer_side_mm": 70.0})
    with pytest.raises(CrabError, match="up to 35 mm"):
        montecarlo.prepare(
            library, mission.model_copy(update={"geometry": small}), environment, seed=7, **NAMES
        )


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"mission": "planck_hfi"}, "mission = 'planck_hfi': allowed here is 'litebird_lft'"),
        ({"split": "test"}, "split = 'test': allowed here is 'train'"),
    ],
)
def test_library_of_something_else(library, mission, environment, attrs, words):
    with pytest.raises(CrabError, match=words):
        montecarlo.prepare(library.assign_attrs(attrs), mission, environment, seed=7, **NAMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"direct_hits": "quadratic"}, "direct_hits = 'quadratic'"),
        ({"duration_s": 0.01}, "duration_s = 0.01"),
        ({"start_sample": -1}, "start_sample = -1"),
    ],
)
def test_bad_requests(library, mission, environment, change, words):
    with pytest.raises(CrabError, match=words):
        montecarlo.simulate(
            library, mission, environment, **{"duration_s": 10.0, "seed": 7, **NAMES, **change}
        )
