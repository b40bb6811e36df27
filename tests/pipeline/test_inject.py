"""The background in simulations of litebird_sim: right, and the same however they are split."""

import litebird_sim as lbs
import numpy as np
import pytest
from astropy.time import Time, TimeDelta

import crab
from crab import CrabError, io, params, paths
from crab.impact import flagging, inject
from crab.impact.background import background
from crab.physics import montecarlo, readout
from tests.physics import synthetic
from tests.pipeline import injected
from tests.pipeline.injected import MISSION, RATE_HZ, SKY, Pulses, QuietPulses, joined, simulation
from tests.pipeline.test_docs import blocks

PULSES = Pulses()
NAMES = PULSES.record["detectors"]
OPTIONS = {"environment": SKY, "generator": PULSES, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def whole():
    """All detectors in one observation: TOD, flags and record."""
    sim = simulation(NAMES)
    record = crab.inject(sim, **OPTIONS)
    return joined(sim), joined(sim, "local_flags"), record


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A deposit library without Geant4 in place of the project's."""
    settings = params.load()
    made = synthetic.library(
        settings.missions[MISSION], settings.environments[SKY], n_events=400, split="test"
    )
    path = io.write(made, tmp_path / "deposits.nc")
    monkeypatch.setattr(paths, "deposits", lambda profile, mission, split: path)
    return made


class Constant(Pulses):
    """One attowatt of absorbed optical power, as the change of Joule power that it makes."""

    def sample(self, environment, start_sample, n_samples, seed):
        gain = self.detectors["joule_gain"].item()
        return np.full((12, n_samples), 1e-18 * gain, dtype=np.float32)


def test_an_attowatt_is_the_published_temperature():
    """0.184 pW/K at 140 GHz: public sensitivity code of LiteBIRD; hits come out positive."""
    sim = simulation(NAMES, duration_s=10)
    crab.inject(sim, **OPTIONS | {"generator": Constant()})
    at_140 = ["_140_" in name for name in NAMES]
    assert joined(sim)[at_140] == pytest.approx(1e-18 / 0.184e-12, rel=0.02)
    assert sim.observations[0].tod.dtype == np.float32


@pytest.mark.parametrize("n_obs", [2, 7])
def test_same_however_time_is_split(whole, n_obs):
    tod, flags, record = whole
    sim = simulation(NAMES, n_obs=n_obs)
    split = crab.inject(sim, **OPTIONS)
    assert np.array_equal(joined(sim), tod)
    assert np.array_equal(joined(sim, "local_flags"), flags)
    assert split["hits_flagged"].equals(record["hits_flagged"])
    assert np.allclose(split["rms_k_cmb"], record["rms_k_cmb"], rtol=1e-12)


def test_same_whoever_else_is_local(whole):
    tod, flags, record = whole
    for rows in ([5], [11, 2, 7]):
        sim = simulation([NAMES[row] for row in rows], n_obs=2)
        part = crab.inject(sim, **OPTIONS)
        assert np.array_equal(joined(sim), tod[rows])
        assert np.array_equal(joined(sim, "local_flags"), flags[rows])
        assert part["detector"].values.tolist() == [NAMES[row] for row in rows]
        assert np.array_equal(part["loss"], record["loss"][rows])


def test_same_in_any_order_of_observations(whole):
    sim = simulation(NAMES, n_obs=3)
    crab.inject(sim.observations[::-1], **OPTIONS)  # their times are numbers: from 0
    assert np.array_equal(joined(sim), whole[0])


def test_same_in_small_pieces(whole, monkeypatch):
    monkeypatch.setattr(inject, "_PIECE_SAMPLES", 1234)
    sim = simulation(NAMES)
    record = crab.inject(sim, **OPTIONS)
    assert np.array_equal(joined(sim), whole[0])
    assert np.array_equal(joined(sim, "local_flags"), whole[1])
    assert record["hits_flagged"].equals(whole[2]["hits_flagged"])


def test_it_is_the_generators_own_tod(whole):
    watts = PULSES.sample(SKY, 0, whole[0].shape[1], 3)
    kelvin = -watts * 11 / 10 / PULSES.detectors["power_per_kelvin_w"].values[:, None]
    assert np.allclose(whole[0], kelvin, rtol=1e-6, atol=0)


def test_background_is_what_is_injected(whole):
    names = [NAMES[4], NAMES[1]]
    rays = background(names, SKY, 7000, 3000, generator=PULSES, seed=3)
    assert np.array_equal(rays.values, whole[0][[4, 1], 7000:10_000])
    assert rays["time"].values[0] == pytest.approx(7000 / RATE_HZ)
    assert rays.attrs["units"] == "K_CMB"
    assert rays.attrs["detector_noise"] == "included"


class Slow(Pulses):
    """Of another mission, and sampled at another rate."""

    def __init__(self):
        super().__init__()
        self.detectors = self.detectors.assign_coords(detector=[f"slow{k}" for k in range(12)])
        self.record |= {"sampling_rate_hz": 10.0, "mission": "litebird_mft"}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, r"names = \[\]: name at least one"),
        ([NAMES[0]], {"seed": -3}, "seed = -3: allowed are integers >= 0"),
        ([NAMES[0]], {"wafers": ["L01", "L02"]}, "wafers: 2 are given: allowed is one a detector"),
        ([NAMES[0]], {"sampling_rate_hz": 31.0}, "sampling_rate_hz = 31: .* has 19.1"),
        (
            [NAMES[0], "slow3"],
            {"generator": {MISSION: PULSES, "litebird_mft": Slow()}},
            "sampling rates of the background: 10, 19.1 Hz: allowed is one",
        ),
        (["nobody"], {}, "1 detectors are not known"),
    ],
)
def test_faults_of_an_array_are_named(names, options, message):
    with pytest.raises(CrabError, match=message):
        background(names, SKY, 0, 10, **{"generator": PULSES, "seed": 3, **options})


def test_adds_to_what_is_there(whole):
    sim = simulation(NAMES)
    sim.observations[0].tod += 1.0
    crab.inject(sim, **OPTIONS)
    assert np.array_equal(joined(sim), np.float32(1) + whole[0])


def test_unit_of_the_tod_is_kept(whole):
    tods = [lbs.TodDescription("tod", lbs.Units.uK_CMB, np.float64, "signal")]
    sim = simulation(NAMES, tods=tods)
    crab.inject(sim, **OPTIONS)
    assert joined(sim).dtype == np.float64
    assert np.allclose(joined(sim), 1e6 * whole[0], rtol=1e-6, atol=0)


def test_component_of_its_own(whole):
    sim = simulation(NAMES, n_obs=2)
    crab.inject(sim, component="tod_cosmic_rays", **OPTIONS)
    assert not joined(sim).any()
    assert np.array_equal(joined(sim, "tod_cosmic_rays"), whole[0])
    for holder in (sim, *sim.observations):
        assert [tod.name for tod in holder.tod_list] == ["tod", "tod_cosmic_rays"]
        assert holder.tod_list[1].units == lbs.Units.K_CMB
    # litebird_sim's default list of TODs is one object for all simulations.
    assert [tod.name for tod in simulation(NAMES[:1], duration_s=10).tod_list] == ["tod"]
    crab.inject(sim, component="tod_cosmic_rays", **OPTIONS)
    assert np.array_equal(joined(sim, "tod_cosmic_rays"), 2 * whole[0])


def test_flags_are_the_pulses_and_their_margins():
    """One pulse every 500 samples, 30 mK over noise of 0.4 mK; margins of 1 and 4 samples."""
    sim = simulation(NAMES)
    record = crab.inject(sim, threshold_sigma=7.0, **OPTIONS | {"generator": QuietPulses()})
    flags = joined(sim, "local_flags")
    index = np.arange(flags.shape[1])
    near = ((index % 500 < 5) | (index % 500 == 499)).astype(np.int32)
    assert (flags == near).all()
    assert record["loss"].values == pytest.approx(near.mean())
    assert (record["hits_flagged"] == 39).all()
    assert record.attrs["detector_noise"] == "left out"


def test_litebird_sim_saves_component_and_flags(tmp_path, whole):
    """Written and read by litebird_sim, which keeps flags as lengths of runs."""
    sim = simulation(NAMES[:2])
    crab.inject(sim, component="tod_cosmic_rays", **OPTIONS)
    (obs,) = sim.observations
    obs.pointing_provider = lbs.PointingProvider(lbs.RotQuaternion())
    files = lbs.write_list_of_observations([obs], tmp_path, tod_fields=["tod_cosmic_rays"])
    (read,) = lbs.read_list_of_observations(files, tod_fields=["tod_cosmic_rays"])
    assert np.array_equal(read.tod_cosmic_rays, whole[0][:2])
    assert np.array_equal(read.local_flags, whole[1][:2])


@pytest.mark.parametrize("net_ukrts", [100.0, 3000.0])
def test_noise_of_the_simulation_hides_glitches(net_ukrts):
    """sigma = NET sqrt(rate): 0.44 and 13 mK, against pulses of 30 mK at 140 GHz."""
    sim = simulation([NAMES[2]], net_ukrts=net_ukrts)
    options = OPTIONS | {"generator": QuietPulses(), "threshold_sigma": 7.0}
    assert bool(crab.inject(sim, **options)["hits_flagged"] > 0) == (net_ukrts < 1000)


def test_flags_of_others_are_kept():
    sim = simulation(NAMES)
    sim.observations[0].local_flags = np.full((12, 19_100), 2, dtype=np.uint16)
    crab.inject(sim, flag_value=4, **OPTIONS)
    flags = sim.observations[0].local_flags
    assert flags.dtype == np.uint16
    assert set(np.unique(flags)) == {2, 6}


def test_no_flags_on_request(whole):
    sim = simulation(NAMES)
    record = crab.inject(sim, flags=False, **OPTIONS)
    assert getattr(sim.observations[0], "local_flags", None) is None
    assert "loss" not in record
    assert np.array_equal(joined(sim), whole[0])


@pytest.mark.parametrize("start", [86_400.0, Time("2025-04-01T00:00:00", scale="utc")])
def test_any_part_of_a_mission(whole, start):
    """Simulations that start later get what a longer one has there."""
    late = start + (TimeDelta(300, format="sec") if isinstance(start, Time) else 300.0)
    sim = simulation(NAMES, n_obs=2, start_time=late, duration_s=100)
    crab.inject(sim, mission_start=start, **OPTIONS)
    first = round(300 * RATE_HZ)
    assert np.array_equal(joined(sim), whole[0][:, first : first + 1910])
    own = simulation(NAMES, start_time=late, duration_s=100)
    crab.inject(own, **OPTIONS)
    assert np.array_equal(joined(own), whole[0][:, :1910])


def test_observations_with_calendar_times_need_the_missions_start(whole):
    start = Time("2025-04-01T00:00:00")
    sim = simulation(NAMES, n_obs=2, start_time=start)
    with pytest.raises(CrabError, match="mission_start = None"):
        crab.inject(sim.observations, **OPTIONS)
    with pytest.warns(UserWarning, match="mission_start="):
        crab.inject(sim.observations[1], **OPTIONS)
    n = sim.observations[1].n_samples
    assert np.array_equal(sim.observations[1].tod, whole[0][:, :n])
    crab.inject(sim.observations[0], mission_start=start, **OPTIONS)
    assert np.array_equal(sim.observations[0].tod, whole[0][:, :n])


def correlations(*tods) -> np.ndarray:
    """Between rows, of what is no pulse."""
    rows = np.concatenate(tods)
    index = np.arange(rows.shape[1])
    return np.corrcoef(rows[:, index % 500 > 0])


def test_wafers_and_realisations_are_independent(whole):
    """Pearson's r of n independent samples scatters by 1/sqrt(n)."""
    stand_ins = {"b0": NAMES[0], "b1": NAMES[1], "c0": NAMES[0]}
    sim = lbs.Simulation(
        base_path=None,
        start_time=0.0,
        duration_s=1000.0,
        random_seed=1,
        imo=lbs.Imo(flatfile_location=lbs.PTEP_IMO_LOCATION),
    )
    infos = injected.infos(NAMES[:2])
    infos += injected.infos(["b0", "b1"], wafer="L02") + injected.infos(["c0"], wafer="L03")
    sim.create_observations(infos)
    record = crab.inject(sim, stand_ins=stand_ins, **OPTIONS)
    assert record["wafer"].values.tolist() == ["L01", "L01", "L02", "L02", "L03"]
    assert np.array_equal(joined(sim)[:2], whole[0][:2])
    again = simulation(NAMES[:1])
    crab.inject(again, realisation=1, **OPTIONS)
    r = correlations(joined(sim), joined(again))
    assert np.abs(r[~np.eye(6, dtype=bool)]).max() < 5 / np.sqrt(19_100)
    rays = background(
        ["b0"], SKY, 0, 500, generator=PULSES, seed=3, stand_ins=stand_ins, wafers=["L02"]
    )
    assert np.array_equal(rays.values, joined(sim)[2:3, :500])


def test_monte_carlo_leaves_the_noise_out(library):
    """The wafer's part and the direct hits of the simulator, in K_CMB, for any environment."""
    sim = simulation(NAMES[:3], duration_s=30)
    record = crab.inject(
        sim, environment="solar_min_2009", generator="monte_carlo", seed=5, progress=False
    )
    assert record.attrs["detector_noise"] == "left out"
    settings = params.load()
    cube, _ = montecarlo.simulate(
        library,
        settings.missions[MISSION],
        settings.environments["solar_min_2009"],
        duration_s=30,
        mission_name=MISSION,
        environment_name="solar_min_2009",
        seed=5,
        split="test",
        direct_hits=settings.profiles["smoke"].simulate_tod.direct_hits,
        progress=False,
    )
    optical = readout.to_optical_equivalent(cube)
    expected = sum(
        readout.to_kelvin_cmb(optical, part).values[:3].astype(float)
        for part in ("tod_wafer", "tod_direct")
    )
    assert np.allclose(joined(sim), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert record["rms_k_cmb"].values == pytest.approx(expected.std(axis=1), rel=1e-4)


FAULTS = [
    ({"names": [*NAMES[:2], "nobody"]}, {}, r"1 detectors .*: nobody; allowed are 000_001_007"),
    ({"rate_hz": 31.0}, {}, "sampling_rate_hz = 31: .* has 19.1"),
    ({}, {"environment": "solar_max_2014"}, "'solar_max_2014': this pulses was trained for"),
    (
        {},
        {"environment": "litebird", "generator": "gan_paired"},
        "environment = 'litebird': allowed are",
    ),
    ({}, {"realisation": -1}, "realisation = -1"),
    ({}, {"realisation": 0.5}, "realisation = 0.5: allowed are integers >= 0"),
    ({}, {"seed": -1}, "seed = -1: allowed are integers >= 0"),
    ({}, {"threshold_sigma": 0.0}, "threshold_sigma = 0.0"),
    ({}, {"before_s": -0.1}, "before_s = -0.1: allowed are numbers >= 0"),
    ({}, {"after_s": np.inf}, "after_s = inf"),
    ({}, {"component": "name"}, "component = 'name'"),
    ({}, {"component": "cosmic rays"}, "component = 'cosmic rays'"),
    ({}, {"flag_value": 2**31}, "flag_value = 2147483648: .* 1 to 2147483647"),
    ({}, {"mission_start": 100.0}, "mission_start = 100.0: .* 100 s before it"),
    ({}, {"mission_start": Time("2025-04-01")}, "allowed are two numbers"),
    ({}, {"generator": "gan", "mission": MISSION}, "generator = 'gan': allowed are"),
    ({}, {"generator": "gan_paired", "mission": "lft"}, "mission = 'lft': allowed are"),
    ({"names": ["nobody"]}, {"generator": "gan_paired"}, "nobody: no mission"),
    ({}, {"stand_ins": {NAMES[0]: NAMES[1]}}, "would both get the background"),
    ({"wafer": None}, {"stand_ins": {NAMES[0]: NAMES[5]}}, "wafer = None: a stand-in needs"),
    (
        {"tods": [lbs.TodDescription("tod", lbs.Units.K_RJ, np.float32, "signal")]},
        {},
        "units = 'K_RJ'",
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "message"), FAULTS)
def test_refused_before_anything_changes(ours, theirs, message):
    class Strict(Pulses):
        def sample(self, environment, *request):
            if environment != SKY:
                raise CrabError(f"environment = {environment!r}: this pulses was trained for {SKY}")
            return super().sample(environment, *request)

    sim = simulation(**{"names": NAMES[:2], "duration_s": 50, "n_obs": 2, **ours})
    with pytest.raises(CrabError, match=message):
        crab.inject(sim, **OPTIONS | {"generator": Strict()} | theirs)
    for obs in sim.observations:
        assert not obs.tod.any()
        assert getattr(obs, "local_flags", None) is None
        assert [tod.name for tod in obs.tod_list] == ["tod"]


def test_other_things_are_refused():
    with pytest.raises(CrabError, match="int: allowed are a Simulation"):
        crab.inject(5, **OPTIONS)
    with pytest.raises(CrabError, match="allocate_tod=True"):
        sim = simulation(NAMES[:1], duration_s=10)
        sim.observations[0].tod = None
        crab.inject(sim, **OPTIONS)
    with pytest.raises(CrabError, match=r"local_flags: .* allowed are integers of shape"):
        sim = simulation(NAMES[:1], duration_s=10)
        sim.observations[0].local_flags = np.zeros((1, 5), np.uint8)
        crab.inject(sim, **OPTIONS)


def test_a_process_without_observations_adds_nothing():
    record = crab.inject([], **OPTIONS)
    assert record.sizes["detector"] == 0


class FakeToast:
    """What the page's example touches of a `toast.Data`: one observation of two detectors."""

    def __init__(self, start_s: float, n_samples: int):
        self.obs, self.local_detectors, self.n_local_samples = [self], NAMES[2:4], n_samples
        self.telescope = self.focalplane = self.sample_rate = self
        self.shared = {"times": start_s + np.arange(n_samples) / RATE_HZ}
        self.detdata = {"signal": {name: np.zeros(n_samples) for name in self.local_detectors}}

    def to_value(self, unit: str) -> float:
        assert unit == "Hz"
        return RATE_HZ


def test_examples_of_the_page_run(library):
    ours, flag_again, *rest = (
        block for block in blocks("docs/inject.md", "python") if "stand_ins = " not in block
    )
    space: dict = {}
    exec(ours, space)
    obs = space["sim"].observations[0]
    assert space["record"].attrs["detector_noise"] == "left out"
    rays = obs.tod_cosmic_rays
    assert rays.std(axis=1) == pytest.approx(space["record"]["rms_k_cmb"].values, rel=1e-4)
    assert not np.allclose(
        space["with_rays"].binned_map, space["without"].binned_map, equal_nan=True
    )
    exec(flag_again, space)
    assert space["mask"].shape == rays.shape
    assert (space["loss"] > 0).all()
    space["data"] = FakeToast(100.0, 500)
    exec(rest[0], space)
    start = round(100.0 * RATE_HZ)
    for row, name in enumerate(NAMES[2:4]):
        added = space["data"].detdata["signal"][name]
        assert np.array_equal(added.astype(np.float32), rays[row, start : start + 500])


def test_margins_are_given_in_seconds():
    sim = simulation([NAMES[0]])
    crab.inject(sim, before_s=0.5, after_s=1.0, threshold_sigma=7.0, **OPTIONS)
    first = np.flatnonzero(joined(sim, "local_flags")[0, 400:])[0] + 400
    assert first == 500 - np.ceil(0.5 * RATE_HZ)
    assert flagging.count(joined(sim, "local_flags") > 0)[0] == 39
