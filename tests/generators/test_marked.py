"""The marked point process: Campbell's theorem, Poisson counts, random access, any environment."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from crab import params
from crab.errors import CrabError
from crab.generators import (
    event_noise,
    event_response,
    event_table,
    event_training,
    files,
    fine_grid,
)
from crab.generators.fine_grid import PHASES
from crab.generators.marked import Events, MarkedEvents
from crab.generators.small_events import SmallEvents, bent
from crab.physics import instrument, montecarlo, readout, sensors, spectra, wafer
from crab.streaming_settings import TrainEventsNotebook

_PATH = Path(__file__).parents[1] / "physics" / "synthetic.py"
_SPEC = importlib.util.spec_from_file_location("synthetic_library", _PATH)
synthetic = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(synthetic)

MISSION = "litebird_lft"
KNOWN = params.load()
SETTINGS = TrainEventsNotebook(
    environments=["solar_min_2009", "solar_event_2032"],
    potential_min_mv=300,
    potential_max_mv=900,
    n_potentials=4,
    threshold_events_hz=100,
    hidden_units=8,
    hidden_layers=1,
    n_bins=6,
    n_draws=20000,
    batch_size=256,
    steps=50,
    learning_rate=3e-3,
)


@pytest.fixture(scope="module")
def library():
    return synthetic.library(KNOWN.missions[MISSION], KNOWN.environments["solar_min_2009"])


@pytest.fixture(scope="module")
def fitted(library):
    return event_training.fit("stream_events", library, MISSION, SETTINGS, KNOWN, seed=1)


@pytest.fixture(scope="module")
def path(fitted, tmp_path_factory):
    model, record = fitted
    hashes = dict.fromkeys(("training_data_hash", "params_hash", "source_hash"), "0" * 12)
    target = tmp_path_factory.mktemp("model") / "stream_events.keras"
    return files.write_model(target, model, {**record, **hashes})


@pytest.fixture(scope="module")
def generator(path):
    return MarkedEvents.load(path, MISSION)


@pytest.fixture(scope="module")
def simulator(library):
    return montecarlo.prepare(
        library,
        KNOWN.missions[MISSION],
        KNOWN.environments["solar_min_2009"],
        mission_name=MISSION,
        environment_name="solar_min_2009",
        seed=1,
        split="train",
    )


def test_any_cut_and_any_order_agree(generator):
    length, env = generator.block_samples, "litebird_2032"
    whole = generator.sample(env, length - 700, 1500, 3)
    late = generator.sample(env, length + 100, 700, 3)
    early = generator.sample(env, length - 700, 800, 3)
    np.testing.assert_array_equal(np.concatenate([early, late], axis=1), whole)
    assert whole.dtype == np.float32
    assert generator.sample(env, 5, 0, 3).shape == (12, 0)
    assert (generator.sample(env, 0, 100, 4) != generator.sample(env, 0, 100, 3)).all()
    other = generator.sample("solar_min_2009", length + 100, 700, 3)
    assert (other != late).mean() > 0.99


def test_no_seam_between_blocks(generator):
    """Without noise, what events of one block leave in the next is the same from both sides."""
    flux = generator._flux("solar_min_2009")
    length, lead = generator.block_samples, generator.reach[1]
    one, two = (generator._events(flux, generator._fluxes_cm2(flux, b), b, 3) for b in (0, 1))
    end = length - generator.reach[0]
    np.testing.assert_array_equal(
        one.sample[one.sample >= end], two.sample[two.sample < end + _next_bins(generator)]
    )
    assert _next_bins(generator) >= sum(generator.reach) > lead
    tail = one.marks[one.sample >= end]
    np.testing.assert_allclose(tail, two.marks[: len(tail)], rtol=1e-5, atol=1e-5)


def test_numbers_of_the_next_block_are_its_own():
    def rng_of(block):
        return lambda k: np.random.default_rng(block + k)

    one, two = (fine_grid.normal_blocks(rng_of(b), 3, 100, 11, 120) for b in (0, 1))
    np.testing.assert_array_equal(one[:, 100:111], two[:, :11])
    assert not one[:, 111:].any() and one[:, :111].all()
    assert abs(np.corrcoef(one[:, :100].ravel(), two[:, :100].ravel())[0, 1]) < 0.25


def _next_bins(generator) -> float:
    return generator._n_next * generator._bin_samples


def test_counts_are_poisson(generator, library):
    """Rate and variance of the counts of a block, against the library's own rates."""
    env = "solar_min_2009"
    length_s = generator.block_samples / 19.1
    end = generator.block_samples - generator.reach[0]
    counts = []
    for block in range(25):
        found = generator.events(env, block, 7)
        counts.append((found.sample < block * generator.block_samples + end).sum())
    expected = _made_alone_hz(library, generator, KNOWN.environments[env], None) * length_s
    assert np.mean(counts) == pytest.approx(expected, rel=0.01)  # interpolated: 0.1 %
    # The variance of 25 counts is known to 29 %.
    assert np.var(counts) == pytest.approx(expected, rel=0.9)


def _made_alone_hz(library, generator, environment, time_s) -> float:
    """Rate of the library's events that are above the threshold or hit a sensor."""
    rates_hz = spectra.event_rates_hz(library, environment, time_s)
    energy = np.bincount(
        library["event_index"], library["deposit_ev"] * (library["volume"] == 0), len(rates_hz)
    )
    hit = np.zeros(len(rates_hz), bool)
    hit[library["event_index"][library["volume"] > 0]] = True
    return rates_hz[hit | (energy > generator.record["threshold_ev"])].sum()


def test_rates_follow_the_potential(generator, library):
    """Mission start against year 3, and a solar event that comes and goes."""
    env = KNOWN.environments["litebird_2032"]
    flux = generator._flux("litebird_2032")
    year_s = 365.25 * 86400
    quiet, solar = flux.at(np.array([0.0, 2.75 * year_s]))
    ours = generator.rates.at(quiet, solar, 12).sum(axis=(0, 2))
    wanted = [_made_alone_hz(library, generator, env, t) for t in (0.0, 2.75 * year_s)]
    np.testing.assert_allclose(ours, wanted, rtol=0.01)
    assert ours[0] > 1.15 * ours[1]
    late = int(2.75 * year_s * 19.1 / generator.block_samples)
    n = [
        sum(len(generator.events("litebird_2032", b + k, 1).kind) for k in range(4))
        for b in (0, late)
    ]
    assert n[0] / n[1] == pytest.approx(ours[0] / ours[1], rel=0.03)
    storm = generator._flux("solar_event_2032")
    quiet, solar = storm.at(np.array([0.0, 4800.0]))
    rates_hz = generator.rates.at(quiet, solar, 12).sum(axis=2)
    assert rates_hz[1, 0] == 0
    wanted = [_made_alone_hz(library, generator, storm.environment, t) for t in (0.0, 4800.0)]
    np.testing.assert_allclose(rates_hz.sum(axis=0), wanted, rtol=0.01)
    assert wanted[1] > wanted[0]


class _OneMark:
    """Sampler whose events all leave the same energy at the same place of the wafer."""

    ln_ev, x_mm, y_mm = np.log(3e6), 11.0, -7.0

    def __init__(self, sampler):
        self.scales, self.solar = sampler.scales, sampler.solar

    def draw(self, context, present, normal):
        marks = np.zeros(present.shape, np.float32)
        marks[:, :3] = present[:, :3] * np.array([self.ln_ev, self.x_mm, self.y_mm])
        marks[:, 3:] = present[:, 3:] * -20.0  # 2e-9 eV
        return marks


def test_campbell(path, simulator):
    """Mean, variance and third cumulant of shot noise: n-th = rate times integral of F^n.

    Campbell 1909, Rice 1944; F is the simulator's answer to such an event, here from its modes.
    """
    generator = MarkedEvents.load(path)
    generator.sampler = _OneMark(generator.sampler)
    generator._small.quiet[:], generator._small.solar[:] = 0, 0
    flux = generator._flux("solar_min_2009")
    plate, sample_s = generator._wafer.plate, generator._grid.sample_s
    quiet, solar = flux.at(np.zeros(1))
    alone = generator.rates.kinds[:, 0]
    rate_hz = generator.rates.at(quiet, solar, 12)[0, 0, alone].sum()
    rate = plate.rate_hz[:, None]
    pole = 1 / simulator.sensor.time_constant_s

    def integral(since_s):
        t = np.maximum(since_s, 0)[None]
        return (pole * -np.expm1(-rate * t) - rate * -np.expm1(-pole * t)) / (pole - rate)

    shapes = generator._grid.respond(integral, 0.2, 32)  # 32 places between two samples
    felt = plate.shapes(_OneMark.x_mm, _OneMark.y_mm) * simulator._coupling / plate.rate_hz
    felt *= np.exp(_OneMark.ln_ev) * wafer.EV_TO_J / plate.heat_capacity_j_per_k
    answer = np.tensordot(felt, shapes, 1)  # (n_det, 32, n_samples)
    expected = [rate_hz * sample_s * (answer**n).sum(axis=2).mean(axis=1) for n in (1, 2, 3)]
    moments = []
    for block in range(8):
        fluxes_cm2 = generator._fluxes_cm2(flux, block)
        found = generator._events(flux, fluxes_cm2, block, 2)
        small = generator._small.moments(*fluxes_cm2)
        tod = generator._heat(flux, found, small, block, 2).astype(float)
        dev = tod - expected[0][:, None]
        moments.append([tod.mean(axis=1), (dev**2).mean(axis=1), (dev**3).mean(axis=1)])
    moments = np.array(moments)
    error = moments.std(axis=0, ddof=1) / np.sqrt(len(moments))
    for n, tolerance in enumerate((0.002, 0.005, 0.03)):
        off = np.abs(moments[:, n].mean(axis=0) / expected[n] - 1)
        assert off.max() < tolerance + 4 * (error[n] / np.abs(expected[n])).max()
        assert (error[n] / np.abs(expected[n])).max() < 0.05


def test_small_events_have_campbells_cumulants(generator):
    """Covariance of two detectors and third cumulants of a process of 2e5 eV at one place."""
    response, sample_s = generator._wafer, generator._grid.sample_s
    pattern = np.zeros((2, 3, 16, 16))
    pattern[:, :, 9, 4] = 1
    rate_hz, energy_ev = 100.0, 2e5
    powers = [rate_hz * energy_ev**n for n in (1, 2, 3)]
    tables = {
        "ln_flux": [0.0, 1.0],
        "quiet": np.repeat(np.array([powers, powers])[:, :, None], 2, axis=2),
        "solar": np.zeros((2, 3)),
        "pattern": pattern,
    }
    small = SmallEvents(response, tables, sample_s)
    length = 8192
    moments = np.repeat(np.array([powers, powers])[:, :, None], 64, axis=2)
    n_places = response.n_places(length)
    places = small.places(moments, np.random.default_rng, length, n_places)
    drawn = (response.patterns @ places).astype(float)[:, : length * PHASES]
    x, y = (((np.array([k]) + 0.5) / 16 - 0.5) * 100 for k in (9, 4))
    amplitude = response.amplitudes(x, y, np.array([energy_ev]))[0].astype(float)
    amplitude = response.patterns @ amplitude
    n = rate_hz * sample_s / PHASES
    big = np.abs(amplitude) > 0.1 * np.abs(amplitude).max()
    covariance = np.cov(drawn[big])
    expected = n * np.outer(amplitude, amplitude)[np.ix_(big, big)]
    np.testing.assert_allclose(covariance, expected, rtol=0.06)  # 16 000 numbers
    third = ((drawn - drawn.mean(axis=1, keepdims=True)) ** 3).mean(axis=1)[big]
    np.testing.assert_allclose(third, n * amplitude[big] ** 3, rtol=0.25)


def test_small_events_have_the_spectrum_of_events_at_any_time(generator):
    """Campbell: rate times the mean of |answer(f)|^2 over the place of an event in a sample.

    Answers are the filter's for 32 places, folded at the Nyquist frequency as samples are; bands of
    some 2000 modes are known to 2 %.
    """
    response, grid = generator._wafer, generator._grid
    n, length = 256, 2**17
    n_places = response.n_places(length)
    white = np.zeros((len(response.shape_of), n_places), np.float32)
    white[0] = np.random.default_rng(5).standard_normal(n_places)
    tod = response.samples(white, length)[0].reshape(-1, n)
    power = (np.abs(np.fft.rfft(tod * np.hanning(n))) ** 2).mean(axis=0) / (
        np.hanning(n) ** 2
    ).sum()
    answers = _answers(response, 32)[:, 0]
    wanted = (np.abs(np.fft.rfft(answers, n)) ** 2).mean(axis=0) * PHASES
    ratio = (power[1:-1] / wanted[1:-1])[:124].reshape(-1, 4).mean(axis=1)
    np.testing.assert_allclose(ratio, 1, atol=5 * 1.4 / np.sqrt(4 * len(tod)))
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert grid.sample_s == pytest.approx(1 / 19.1)


def _answers(response, n_phases: int) -> np.ndarray:
    """First component to events at so many places in a sample, (n_phases, n_det, n_samples)."""
    length = 128
    out = []
    for phase in range(n_phases):
        places = np.zeros((len(response.shape_of), response.n_places(length)), np.float32)
        amplitude = np.eye(1, len(response.shape_of), dtype=np.float32)
        response.add(places, np.array([60 + phase / n_phases]), amplitude)
        out.append(response.samples(places, length))
    return np.array(out)


def test_shared_out_events_are_the_filters_answers(generator, simulator):
    """An event anywhere in a sample, on the grid of two places, against its answer of 32 places.

    The grid's spectrum ends at 2 Nyquist frequencies and the filter's at 1.1: shares of 8 places
    miss at most 0.3 % at the end of it, 0.1 % of the whole.
    """
    response, grid = generator._wafer, generator._grid
    pole, rate = 1 / simulator.sensor.time_constant_s, response.plate.rate_hz.min()

    def integral(since_s):
        t = np.maximum(since_s, 0)[None]
        return (pole * -np.expm1(-rate * t) - rate * -np.expm1(-pole * t)) / (pole - rate)

    coarse, fine = (grid.respond(integral, 0.02, n)[0] for n in (PHASES, 32))
    shapes = coarse[::-1].T.reshape(1, -1)
    one = dataclasses.replace(
        response,
        patterns=np.ones((1, 1), np.float32),
        shape_of=np.zeros(1, int),
        shapes=shapes,
    )
    got = _answers(one, 32)[:, 0, 60 - grid.lead :][:, : fine.shape[1]]
    assert np.sqrt(((got - fine) ** 2).mean() / (fine**2).mean()) < 1e-3
    power = [np.abs(np.fft.rfft(x, 256)) ** 2 for x in (got, fine)]
    np.testing.assert_allclose(power[0].mean(axis=0), power[1].mean(axis=0), rtol=2e-3)


def test_background_is_the_sample_without_noise(generator):
    """The same events bit for bit; what is left has the noise's variance.

    That of Welch's theorem: the integral of the noise's spectrum after the filter; 40 000 nearly
    independent numbers know it to 1 %.
    """
    env, n = "litebird_2032", 40_000
    whole, rays = (make(env, 500, n, 3) for make in (generator.sample, generator.background))
    flux, length = generator._flux(env), generator.block_samples
    noise = np.concatenate([generator._noise(flux, b, 3) for b in range(3)], axis=1)
    np.testing.assert_array_equal(whole, rays + noise[:, 500 : 500 + n])
    part = generator.background(env, length - 10, 20, 3)
    np.testing.assert_array_equal(part, rays[:, length - 510 : length - 490])
    frequency_hz = np.linspace(0, 19.1 / 2, 2001)
    density = event_noise.noise_spectrum(generator._sensor, generator._grid, frequency_hz)
    expected = 2 * np.trapezoid(density, frequency_hz, axis=1)
    difference = whole.astype(float) - rays
    np.testing.assert_allclose(difference.var(axis=1), expected, rtol=0.04)
    # 12 detectors together: 0.3 %.
    assert (difference.var(axis=1) / expected).mean() == pytest.approx(1, abs=0.01)
    assert generator.background(env, 5, 0, 3).shape == (12, 0)
    with pytest.raises(CrabError, match="start_sample = -1"):
        generator.background(env, -1, 1, 3)


def test_normal_numbers_are_normal():
    """Moments, quantiles and independence of Box & Muller's numbers (4 sigma of 4e6)."""
    x = fine_grid.normal(np.random.default_rng(1), (2, 2_000_001)).astype(float)
    assert x.shape == (2, 2_000_001)
    n = x.size
    for power, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs((x**power).mean() - moment) < 4 * np.sqrt(variance / n)
    for level in (0.01, 1, 3, 4.5):
        share = 2 * norm.sf(level)
        assert abs((np.abs(x) > level).mean() - share) < 4 * np.sqrt(share / n)
    assert abs((x[0] * x[1]).mean()) < 4 / np.sqrt(n / 2)
    assert abs(np.mean((x[0] ** 2 - 1) * (x[1] ** 2 - 1))) < 4 * 2 / np.sqrt(n / 2)
    assert np.isfinite(x).all()


def test_bent_numbers_have_the_skewness():
    skewness = np.array([-2.0, 0.0, 0.3, 1.5])
    b = bent(skewness)
    np.testing.assert_allclose(6 * b - 4 * b**3, skewness, atol=1e-12)
    assert bent(np.array([50.0]))[0] == bent(np.array([2.7]))[0]


def test_noise_has_the_simulators_spectrum(generator, simulator):
    """Spectrum of 40 stretches of the simulator's noise, and the filter of the generator's."""
    grid, sensor = generator._grid, generator._sensor
    taps = event_noise.noise_taps(sensor, grid)
    n = 256
    frequency_hz = np.fft.rfftfreq(n, grid.sample_s)
    wanted = event_noise.noise_spectrum(sensor, grid, frequency_hz)
    filtered = np.abs(np.fft.rfft(taps, n, axis=1)) ** 2 * grid.sample_s
    np.testing.assert_allclose(filtered, wanted, rtol=0.02)
    noise = simulator.samples(0, 80 * n)["tod_noise"].reshape(12, 80, n)
    ours = generator._noise(generator._flux("solar_min_2009"), 0, 1)
    for tod in (noise, ours[:, : 32 * n].reshape(12, 32, n)):
        power = (np.abs(np.fft.rfft(tod * np.hanning(n), axis=2)) ** 2).mean(axis=1)
        power *= grid.sample_s / (np.hanning(n) ** 2).sum()
        ratio = (power / wanted)[:, 2:-2].reshape(12, -1, 5).mean(axis=(0, 2))
        np.testing.assert_allclose(ratio, 1, atol=0.08)
        assert ratio.mean() == pytest.approx(1, abs=0.01)


def test_answer_is_the_simulators(generator, simulator):
    """A single event through the simulator; a track of some mm is one place here."""
    events = simulator.direct["events"]
    chosen = np.flatnonzero((events["n_detectors"] == 0) & (events["deposit_ev"] > 3e5))[:10]
    n = simulator.decimate.down + 2 * simulator.decimate.halo
    sample = (n / 2 - simulator.decimate.halo - 0.5) * 19.1 / simulator.internal_rate_hz
    for event in chosen:
        wanted = simulator.decimate(simulator.single_event(int(event), n)["tod_wafer"])
        marks = np.zeros((1, generator.rates.kinds.shape[1]), np.float32)
        marks[0, :3] = (
            np.log(events["deposit_ev"][event]),
            *(events[axis][event] for axis in ("x_mm", "y_mm")),
        )
        kind = np.flatnonzero(generator.rates.kinds[:, 0])[:1]
        found = Events(np.array([sample]), kind, marks, np.zeros(1, int))
        nothing = np.zeros((2, len(event_table.ORDERS), 128))
        got = generator._heat(generator._flux("solar_min_2009"), found, nothing, 0, 1)
        got = got[:, : wanted.shape[1]]
        assert np.sqrt(((got - wanted) ** 2).mean() / (wanted**2).mean()) < 0.04


def test_direct_pulse_is_the_simulators(generator, simulator):
    """A hit on a sensor, where the pulse is not linear (pulse tables of 1 %)."""
    direct = simulator.direct
    row = int(np.argmax(direct["deposit_ev"]))
    event, detector = int(direct["event"][row]), int(direct["detector"][row])
    n = simulator.decimate.down + 2 * simulator.decimate.halo
    wanted = simulator.decimate(simulator.single_event(event, n)["tod_direct"])
    got = np.zeros(wanted.shape, np.float32)
    sample = (n / 2 - simulator.decimate.halo - 0.5) * 19.1 / simulator.internal_rate_hz
    generator._direct.add(
        got,
        np.array([0]),
        np.array([detector]),
        np.log(direct["deposit_ev"][row : row + 1]),
        np.array([sample]),
    )
    assert np.abs(got - wanted).max() < 0.01 * np.abs(wanted).max()


def test_mean_is_the_simulators(generator, simulator):
    """What is taken off: cells of 6 mm instead of every deposit's own place."""
    mean_w = generator._mean_w(generator._flux("solar_min_2009"))
    np.testing.assert_allclose(mean_w, simulator.mean_wafer_power_w, rtol=0.01)


def test_other_detectors_of_the_wafer(generator):
    instrument_ = KNOWN.missions[MISSION].instrument.model_copy(update={"detectors": None})
    everything = instrument.detectors(
        KNOWN.missions[MISSION].model_copy(update={"instrument": instrument_})
    )
    other = generator.with_detectors(everything)
    assert other.sample("litebird_2032", 100, 50, 1).shape == (216, 50)
    assert len(other.record["detectors"]) == 216
    # Those that were known feel the same.
    same = everything.sel(detector=generator.detectors["detector"].values)
    again = generator.with_detectors(same)
    np.testing.assert_allclose(
        again.sample("litebird_2032", 0, 500, 1), generator.sample("litebird_2032", 0, 500, 1)
    )
    # Hits on sensors: as many for each detector.
    flux = generator._flux("litebird_2032")
    quiet, solar = flux.at(np.zeros(1))
    near = generator.rates.per_detector
    few, many = (generator.rates.at(quiet, solar, n)[0, 0, near].sum() for n in (12, 216))
    assert many / few == pytest.approx(18)


def test_errors(generator, path):
    for request, words in (
        (("litebird_2033", 0, 1, 1), "litebird_2033"),
        (("litebird_2032", -1, 1, 1), "start_sample = -1"),
        (("litebird_2032", 0, -1, 1), "n_samples = -1"),
    ):
        with pytest.raises(CrabError, match=words):
            generator.sample(*request)
    with pytest.raises(CrabError, match="planck_hfi"):
        MarkedEvents.load(path, "planck_hfi")
    with pytest.raises(CrabError, match="nowhere"):
        MarkedEvents.load(path, MISSION, "nowhere")
    table = generator.detectors.copy(deep=True)
    table["x_mm"] = table["x_mm"] + 80
    with pytest.raises(CrabError, match="x_mm"):
        generator.with_detectors(table)


def test_solar_events_must_have_been_learned(fitted):
    model, record = fitted
    tables = {**record["tables"], "solar_hz": [0.0] * len(record["tables"]["solar_hz"])}
    lean = MarkedEvents(model, {**record, "tables": tables})
    with pytest.raises(CrabError, match="solar"):
        lean.sample("solar_event_2032", 0, 1, 1)


def test_moments_and_rates_of_the_table(simulator):
    """Below and above the threshold together: all that the library deposits in the wafer."""
    environments = [KNOWN.environments[name] for name in SETTINGS.environments]
    table = event_table.tabulate(simulator, environments, np.array([340.0, 700.0]), 50.0)
    found = event_table.moments(table, simulator)
    energy = simulator.direct["events"]["deposit_ev"].astype(float)
    np.testing.assert_allclose(
        found["sums"][:, 1].sum(axis=0), table.rates_hz @ energy**2, rtol=1e-5
    )
    np.testing.assert_allclose(found["pattern"].sum(axis=(2, 3)), 1)
    alone = table.kinds[:, 0]
    assert table.kind_rates_hz[0, alone].sum() == pytest.approx(50, rel=0.05)
    assert (np.diff(table.fluxes_cm2[:2]) < 0).all()


def test_finished_model_is_taken_over(tmp_path, library, monkeypatch):
    monkeypatch.setattr(event_training, "open_table", lambda _: library)
    short = SETTINGS.model_copy(update={"steps": 2, "n_draws": 1000})
    target = tmp_path / "stream_events.keras"
    first = event_training.train_events("stream_events", "smoke", MISSION, short, 1, target)
    stamp, content = first.stat().st_mtime_ns, first.read_bytes()
    event_training.train_events("stream_events", "smoke", MISSION, short, 1, target)
    assert first.stat().st_mtime_ns == stamp
    first.unlink()
    event_training.train_events("stream_events", "smoke", MISSION, short, 1, target)
    assert first.read_bytes() == content
    record = files.read_record(first)
    assert record["environment"] == "any" and record["environments"] == SETTINGS.environments


def test_planck_without_a_wafer():
    """Absorbers of both bolometers: kinds are patterns, and a pulse lasts for seconds."""
    mission = KNOWN.missions["planck_hfi"]
    detectors = instrument.detectors(mission)
    sensor = sensors.build(mission, detectors, 1e9)
    grid = event_response.Grid(
        readout.decimator(mission.internal_rate_hz, mission.sampling_rate_hz),
        mission.internal_rate_hz,
    )
    response = event_response.direct_response(mission, sensor, grid, 1e9)
    names = list(mission.geometry.absorbers)
    shares = [mission.sensor.pulses[name].energy_share for name in names]
    integrals = response.rows[:, 3].sum(axis=1) * grid.sample_s / wafer.EV_TO_J
    np.testing.assert_allclose(integrals, shares, rtol=2e-3)
