"""The simulated cube against the theory of shot noise, its own truth, and itself."""

import numpy as np
import pytest

from crab import io, params, schema
from crab.errors import CrabError
from crab.physics import montecarlo, spectra, wafer
from crab.physics.wafer import EV_TO_J
from tests.physics import synthetic

RATE_HZ = 300.0
NAMES = {"mission_name": "litebird_lft", "environment_name": "steady", "split": "train"}


@pytest.fixture(scope="module")
def settings():
    return params.load()


@pytest.fixture(scope="module")
def mission(settings):
    """Four detectors on a slow wafer (0.25 s), whose pulses span many samples."""
    whole = settings.missions["litebird_lft"]
    slow = {"bath_conductance_w_per_k": 1.2e-8, "diffusivity_m2_per_s": 0.03, "modes_per_axis": 10}
    thermal = whole.wafer_thermal.model_copy(update=slow)
    instrument = whole.instrument.model_copy(update={"detectors": whole.instrument.detectors[::3]})
    changes = {"instrument": instrument, "wafer_thermal": thermal}
    return whole.model_copy(update=changes)


@pytest.fixture(scope="module")
def environment(settings):
    return settings.environments["measured_ams02_2011_2013"]


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


def test_flux_changes_over_the_mission(library, mission, settings):
    """Hits in 200 s at the start, in the middle and at the end of 2032-35 against the force field
    at the potential of that time (4 sigma); each stretch is asked for alone."""
    environment = settings.environments["litebird_2032"]
    simulator = montecarlo.prepare(library, mission, environment, seed=7, **NAMES)
    year_s = 365.25 * 86400
    for year in (0.0, 1.25, 2.99):
        time_s, _, _ = simulator.arrivals(year * year_s, year * year_s + 200)
        phi_mv = float(spectra.phi_at(environment, year * year_s))
        steady = settings.environments["solar_max_2014"].model_copy(update={"phi_mv": phi_mv})
        expected = 200 * spectra.event_rates_hz(library, steady).sum()
        assert abs(len(time_s) - expected) < 4 * np.sqrt(expected) + 0.003 * expected
    attrs = montecarlo.lazy_cube(
        library, mission, environment, duration_s=5 * 86400.0, seed=7, **NAMES
    ).attrs
    first, second = environment.phi_nodes[:2]
    slope = (second.phi_mv - first.phi_mv) / ((second.year - first.year) * 365.25)
    assert attrs["phi_start_mv"] == first.phi_mv
    assert attrs["phi_stop_mv"] == pytest.approx(first.phi_mv + 5 * slope, abs=0.01)


def test_solar_event_comes_and_goes(library, mission, settings):
    """Hits in 100 s before the onset are the quiet rate's (4 sigma); those of the event follow
    its profile: the ratio between two times is the ratio of the weights (4 sigma)."""
    environment = settings.environments["solar_event_2032"]
    simulator = montecarlo.prepare(library, mission, environment, seed=7, **NAMES)
    quiet_hz, event_hz = spectra.component_rates_hz(library, environment).sum(axis=1)
    (event,) = environment.solar_events
    before = len(simulator.arrivals(event.onset_s - 150, event.onset_s - 50)[0])
    assert abs(before - 100 * quiet_hz) < 4 * np.sqrt(100 * quiet_hz)
    for after_s in (1800.0, 30_000.0):
        start_s = event.onset_s + after_s
        _, weight = spectra.component_weights(environment, np.array([start_s + 50]))[:, 0]
        expected = 100 * (quiet_hz + weight * event_hz)
        found = len(simulator.arrivals(start_s, start_s + 100)[0])
        assert weight * event_hz > 0.01 * quiet_hz
        assert abs(found - expected) < 4 * np.sqrt(expected)


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
    pole = 1 / simulator.sensor.time_constant_s
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
    tod = simulator.single_event(event, n)["tod_wafer"]
    assert np.all(tod <= 1e-25)
    at = simulator.plate.shapes(simulator.detectors.x_mm.values, simulator.detectors.y_mm.values)
    gain = simulator.sensor.gain * simulator.sensor.wafer_coupling_w_per_k
    kicks = simulator.kicks_k[event].astype(float)
    np.testing.assert_allclose(
        tod.sum(axis=1) / 156.25, gain * at @ (kicks / simulator.plate.rate_hz), rtol=1e-5
    )
    late = 300
    middle_s = (late + 0.5) / 156.25
    # A pole lags a slow signal by its time constant.
    warm = at @ (kicks * np.exp(-simulator.plate.rate_hz * (middle_s - 0.00225)))
    np.testing.assert_allclose(tod[:, n // 2 + late], gain * warm, rtol=2e-3)


@pytest.mark.parametrize("event", [12, 1234])
def test_energy_balance_of_an_event(library, mission, environment, event):
    """Linear response: the time integral of the change of Joule power is -loop_gain/(1 +
    loop_gain) times the energy that reached the TES (Irwin & Hilton 2005, Eqs. 21-27): the
    deposit itself for a direct hit (event 12 has one), and for heat the bath coupling times the
    time integral of the wafer's temperature there, within 1e-4; after filter and decimation."""
    simulator = montecarlo.prepare(
        library, mission, environment, seed=7, direct_hits="linear", **NAMES
    )
    n, halo = 4 * simulator.decimate.down, simulator.decimate.halo
    parts = simulator.single_event(event, n)
    padded = {k: np.pad(v, [(0, 0), (halo, halo)]) for k, v in parts.items()}
    energy_j = {k: simulator.decimate(v).sum(axis=1) / 19.1 for k, v in padded.items()}

    loop_gain = -simulator.sensor.gain / (1 + simulator.sensor.gain)
    assert 10 < loop_gain < 15
    at = simulator.plate.shapes(simulator.detectors.x_mm.values, simulator.detectors.y_mm.values)
    kelvin_s = at @ (simulator.kicks_k[event].astype(float) / simulator.plate.rate_hz)
    reached_j = {
        "tod_wafer": simulator.sensor.wafer_coupling_w_per_k * kelvin_s,
        "tod_direct": np.zeros(4),
    }
    on_tes = (library.event_index.values == event) & (library.volume.values == 1)
    assert on_tes.any() == (event == 12)
    for detector, deposit_ev in zip(
        library.detector_index.values[on_tes], library.deposit_ev.values[on_tes], strict=True
    ):
        reached_j["tod_direct"][detector] += deposit_ev * EV_TO_J
    for part, energy in reached_j.items():
        np.testing.assert_allclose(
            energy_j[part], -loop_gain / (1 + loop_gain) * energy, rtol=1e-4, atol=1e-26
        )


def test_tails_cross_the_ends_of_chunks(library, mission, environment):
    """Heat that lasts longer than a chunk (a wafer of 0.25 s, and chunks of 0.1 s here) is the
    same as in one go: no seam, though each chunk is computed alone. Within 1e-6 of the rms."""
    simulator = montecarlo.prepare(library, mission, environment, seed=7, **NAMES)
    whole = simulator.internal(1000, 480)
    pieces = [simulator.internal(1000 + 16 * k, 16) for k in range(30)]
    for part in ("tod_wafer", "tod_direct"):
        joined = np.concatenate([piece[part] for piece in pieces], axis=1)
        assert np.abs(joined - whole[part]).max() < 1e-6 * whole["tod_wafer"].std()
    # The detector's memory of earlier noise starts anew with each request: 30 time constants on,
    # 0.07 s, all is the same.
    for k, piece in enumerate(pieces):
        same = whole["tod_noise"][:, 16 * k :][:, :16]
        np.testing.assert_allclose(piece["tod_noise"][:, 12:], same[:, 12:], rtol=0, atol=1e-26)


def test_images_leave_the_mean_where_it_is(mission, environment):
    """A lopsided library (all hits in one corner): with images the wafer is warmed alike in its
    corners, each allowed image comes as often as the others, and what is taken off as the mean is
    the mean (4 sigma)."""
    corner = synthetic.library(mission, environment, rate_hz=RATE_HZ, direct_rate_hz=1.0)
    in_wafer = corner.volume == 0
    for axis, side in (("x_mm", -1), ("y_mm", 1)):
        corner[axis] = corner[axis].where(~in_wafer, side * abs(corner[axis]))
    for mask, allowed in ((255, range(8)), (0b10010011, (0, 1, 4, 7)), (1, (0,))):
        corner["images"] = ("event", np.full(corner.sizes["event"], mask, np.uint8))
        simulator = montecarlo.prepare(corner, mission, environment, seed=7, **NAMES)
        counts = np.bincount(simulator.arrivals(0, 100)[2], minlength=8)
        share = counts[list(allowed)] / counts.sum()
        assert counts.sum() == counts[list(allowed)].sum()
        assert np.abs(share - 1 / len(allowed)).max() < 4 / np.sqrt(counts.sum() * len(allowed))
        blocks = simulator.internal(0, 60_000)["tod_wafer"][:, :59_375].reshape(4, -1, 3125)
        means = blocks.mean(axis=2)
        error = means.std(axis=1) / np.sqrt(means.shape[1])
        assert np.all(np.abs(means.mean(axis=1)) < 4 * error)


@pytest.mark.parametrize("image", range(8))
def test_image_warms_the_mirrored_place(mission, environment, library, image):
    """The truth's centroid of an arrival and the heat that its image makes: right after a hit the
    wafer is warmest where the truth says, within a few mm."""
    only = library.copy()
    only["images"] = ("event", np.full(only.sizes["event"], 1 << image, np.uint8))
    simulator = montecarlo.prepare(only, mission, environment, seed=7, **NAMES)
    truth = simulator.truth(0, 0.2)
    far = np.hypot(truth.x_mm, truth.y_mm).values
    hit = int(np.flatnonzero((far > 15) & (np.abs(truth.x_mm) < 40) & (np.abs(truth.y_mm) < 40))[0])
    assert np.all(truth.image == image)
    kicks = wafer.image_jumps(
        simulator.kicks_k[[int(truth.event[hit])]], np.array([image], np.int8)
    )[0]
    axis = np.linspace(-50, 50, 101)
    x_mm, y_mm = (grid.ravel() for grid in np.meshgrid(axis, axis))
    warm = simulator.plate.shapes(x_mm, y_mm) @ (kicks * np.exp(-1e-5 * simulator.plate.rate_hz))
    top = warm.argmax()
    assert abs(x_mm[top] - float(truth.x_mm[hit])) < 5
    assert abs(y_mm[top] - float(truth.y_mm[hit])) < 5


def test_equal_poles_lose_nothing(library, mission, environment):
    """A wafer that cools as fast as the sensor answers: the pulse's integral is the one of a wafer
    that cools 0.1 % slower, within 0.2 %."""
    sensor_hz = (
        1
        / montecarlo.prepare(library, mission, environment, seed=7, **NAMES).sensor.time_constant_s
    )
    capacity = wafer.build(mission.geometry, mission.wafer_thermal).heat_capacity_j_per_k
    integral = []
    for factor in (1.0, 0.999):
        thermal = {"bath_conductance_w_per_k": factor * sensor_hz * capacity, "modes_per_axis": 1}
        changed = mission.wafer_thermal.model_copy(update=thermal)
        simulator = montecarlo.prepare(
            library,
            mission.model_copy(update={"wafer_thermal": changed}),
            environment,
            seed=7,
            **NAMES,
        )
        integral.append(simulator.single_event(1234, 2000)["tod_wafer"].sum(axis=1))
    assert np.all(integral[0] < 0)
    np.testing.assert_allclose(*integral, rtol=2e-3)


def test_lazy_cube_is_the_cube(library, mission, environment, simulated, tmp_path):
    """Bit for bit, also through Zarr; only what is asked for is computed."""
    cube, _ = simulated
    lazy = montecarlo.lazy_cube(library, mission, environment, duration_s=600.0, seed=7, **NAMES)
    assert lazy.attrs == cube.attrs
    some = lazy.tod.isel(time=slice(7000, 7100)).compute()
    np.testing.assert_array_equal(some, cube.tod[:, 7000:7100])
    path = io.write_zarr(lazy, tmp_path / "cube.zarr", progress=False)
    back = io.open_tod(path)
    assert back.tod.chunks is not None
    for name in ("tod", *schema.PARTS):
        np.testing.assert_array_equal(back[name], cube[name])
    with pytest.raises(CrabError, match=r"cube.zarr: exists already"):
        io.write_zarr(lazy, path)
    with pytest.raises(CrabError, match="the cube is in memory"):
        io.write_zarr(cube, tmp_path / "other.zarr")


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
        means = simulator.sensor.hits_w(0, energy_ev[[hit]], np.zeros(1), 400, 1 / 156.25)
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
    total = simulator.sensor.noise["total"].values
    expected = np.abs(simulator.sensor.gain) * total * np.sqrt(19.1 / 2)
    np.testing.assert_allclose(noise.std(axis=1), expected, rtol=0.06)


@pytest.mark.parametrize("name", ["measured_ams02_2011_2013", "solar_event_2032", "litebird_2032"])
def test_any_stretch_is_bit_identical(library, mission, settings, name):
    """A request that starts in the middle and crosses a chunk gives the same numbers, also with
    images, a potential that changes, a solar event and hits that pile up."""
    several = library.copy()
    several["images"] = ("event", np.full(library.sizes["event"], 255, np.uint8))
    if name == "solar_event_2032":  # so many direct hits that they meet
        several["deposit_ev"] = several.deposit_ev.where(several.volume == 0, 1e5)
        aimed = several.event_index.values[several.volume.values == 1]
        several["aperture_m2_sr_mev"].values[aimed] *= 3
    sky = settings.environments[name]
    simulator = montecarlo.prepare(several, mission, sky, seed=7, **NAMES)
    length = simulator.chunk_samples
    whole = simulator.samples(4 * length, 3 * length)
    start = 5 * length - 700
    part = simulator.samples(start, length + 900)
    for key in ("tod", *schema.PARTS):
        same = whole[key][:, start - 4 * length :][:, : length + 900]
        np.testing.assert_array_equal(part[key], same)
    ends_s = np.array([4 * length, start, start + length + 900, 7 * length]) / 19.1
    hits = simulator.truth(ends_s[1], ends_s[2])
    every = simulator.truth(ends_s[0], ends_s[3])
    inside = ((every.time_s >= ends_s[1]) & (every.time_s < ends_s[2])).values
    for column in ("time_s", "event", "image"):
        np.testing.assert_array_equal(hits[column], every[column][inside])
    if name == "solar_event_2032":
        gaps_s = np.diff(np.sort(hits.time_s.values[hits.detector_index.values == 0]))
        assert (gaps_s < 0.05).any()


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
    environment = settings.environments["measured_ams02_2011_2013"]
    others = settings.missions["litebird_lft"].instrument.detectors[1::3]
    for names, words in (
        (others, "other detectors"),
        (mission.instrument.detectors[:2], "allowed here are 2"),
    ):
        instrument = mission.instrument.model_copy(update={"detectors": names})
        wrong = mission.model_copy(update={"instrument": instrument})
        with pytest.raises(CrabError, match=words):
            montecarlo.prepare(library, wrong, environment, seed=7, **NAMES)
    named = library.assign_attrs(detectors=" ".join(mission.instrument.detectors[::-1]))
    with pytest.raises(CrabError, match="made for the detectors"):
        montecarlo.prepare(named, mission, environment, seed=7, **NAMES)
    other = library.copy()
    other["volume"].attrs["flag_meanings"] = "wafer grid"
    with pytest.raises(CrabError, match="made for the absorbers grid: allowed here are tes"):
        montecarlo.prepare(other, mission, environment, seed=7, **NAMES)
    empty = library.isel(event=slice(0, 0), deposit=slice(0, 0))
    with pytest.raises(CrabError, match="holds no event"):
        montecarlo.prepare(empty, mission, environment, seed=7, **NAMES)
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
        ({"duration_s": float("nan")}, "duration_s = nan"),
        ({"start_sample": -1}, "start_sample = -1"),
    ],
)
def test_bad_requests(library, mission, environment, change, words):
    with pytest.raises(CrabError, match=words):
        montecarlo.simulate(
            library, mission, environment, **{"duration_s": 10.0, "seed": 7, **NAMES, **change}
        )
