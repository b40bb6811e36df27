"""Missions that nobody has computed yet: quick to open, and the same bits however they are cut."""

import tracemalloc
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import xarray as xr

import crab
from crab import CrabError, io, mission_source, params, paths, sample_times, schema, seeds
from crab.generators import base
from crab.impact.background import background
from crab.physics import instrument, montecarlo
from tests.conftest import make_attrs, make_detectors
from tests.physics import synthetic
from tests.pipeline import mission_project
from tests.pipeline.injected import SKY, joined, simulation
from tests.pipeline.mission_project import BLOCK, GENERATOR, NAMES, RATE_HZ, seconds


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return mission_project.make(tmp_path_factory.mktemp("project"))


@pytest.fixture
def opened(project, monkeypatch):
    """`open_mission` in the small project."""
    monkeypatch.setenv("CRAB_ROOT", str(project))

    def opened(**options):
        return crab.open_mission(**{**NAMES, "generator": GENERATOR, "chunk_s": 1.0, **options})

    return opened


@pytest.fixture
def calls(monkeypatch):
    """Requests to the generator: first sample and length."""
    made, seen = mission_source.tod, []

    def counted(source, start_sample, n_samples, seed):
        seen.append((start_sample, n_samples))
        return made(source, start_sample, n_samples, seed)

    monkeypatch.setattr(mission_source, "tod", counted)
    return seen


def test_three_years_are_open_at_once_and_hold_nothing(opened, calls):
    opened(duration_s=60.0)  # the baseline is fitted
    tracemalloc.start()
    cube = opened(duration_s=3 * 365.25 * 86400, chunk_s=3600.0)
    text = repr(cube) + cube._repr_html_()
    schema.validate(cube)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cube.sizes["time"] == round(3 * 365.25 * 86400 * RATE_HZ) > 1.8e9
    assert "TimeIndex" in text
    assert peak < 2e7  # its times alone would be 1.4e10
    assert calls == []
    assert set(cube["tod"].chunks[1][:-1]) == {4 * BLOCK}  # about an hour


def test_default_length_is_the_span_of_the_environment(opened):
    cube = opened(chunk_s=86400.0)
    nodes = params.load().environments["litebird_2032"].phi_nodes
    span_s = (nodes[-1].year - nodes[0].year) * 365.25 * 86400
    assert cube.sizes["time"] == round(span_s * RATE_HZ)
    assert cube.attrs["phi_start_mv"] == nodes[0].phi_mv
    assert cube.attrs["phi_stop_mv"] == pytest.approx(nodes[-1].phi_mv)


def test_selection_computes_only_what_it_touches(opened, calls):
    cube = opened(duration_s=seconds(100))
    inside = cube.sel(time=slice(seconds(7.25), seconds(7.5)))
    assert inside["tod"].values.shape == (3, inside.sizes["time"])
    (request,) = calls
    assert request[0] // BLOCK == (sum(request) - 1) // BLOCK == 7
    calls.clear()
    cube["tod"].isel(detector=[2, 0], time=slice(10 * BLOCK, 12 * BLOCK)).compute()
    assert sorted(calls) == [(10 * BLOCK, BLOCK), (11 * BLOCK, BLOCK)]


def test_chunks_are_whole_blocks_wherever_a_cube_begins(opened):
    cube = opened(start_s=1000.0, duration_s=seconds(5), chunk_s=seconds(2.2))
    ends = cube.attrs["start_sample"] + np.cumsum(cube["tod"].chunks[1])
    assert cube.attrs["start_sample"] == 19100
    assert all(ends[:-1] % (2 * BLOCK) == 0)
    assert cube["time"].values[0] == 19100 / RATE_HZ


def test_any_order_of_any_pieces_gives_the_same_bits(opened):
    """In one go; in pieces in random order, each opened for itself; by 1, 2 and 4 threads."""
    whole = opened(duration_s=seconds(6))
    tod = whole["tod"].values
    edges = np.linspace(0, whole.sizes["time"], 12).astype(int)
    order = np.random.default_rng(8).permutation(len(edges) - 1)
    for n_threads, piece in zip([1, 2, 4] * len(order), order, strict=False):
        low, high = edges[piece : piece + 2]
        part = opened(start_s=low / RATE_HZ, duration_s=(high - low) / RATE_HZ)
        got = part["tod"].compute(scheduler="threads", num_workers=n_threads).values
        np.testing.assert_array_equal(got, tod[:, low:high])
        cut = whole["tod"].isel(time=slice(low, high))
        np.testing.assert_array_equal(cut.values, tod[:, low:high])
    step = whole["tod"].isel(time=slice(5, None, 7000), detector=slice(None, None, -1))
    np.testing.assert_array_equal(step.values, tod[::-1, 5::7000])


def test_it_is_the_generator(opened):
    """The configured wafer and realisation 0 leave the seed as it is."""
    names = (GENERATOR, "smoke", *NAMES.values(), params.load())
    opened(duration_s=60.0)
    model = base.ready(*names)
    expected = model.sample("litebird_2032", 500, 1000, 11)
    cube = opened(start_s=500 / RATE_HZ, duration_s=1000 / RATE_HZ, seed=11)
    np.testing.assert_array_equal(cube["tod"], expected)
    some = opened(
        start_s=500 / RATE_HZ, duration_s=1000 / RATE_HZ, seed=11, detectors=["det_02", "det_00"]
    )
    np.testing.assert_array_equal(some["tod"], expected[[2, 0]])
    assert cube.attrs["generator"] == GENERATOR
    assert cube.attrs["seed"] == 11


def test_seeds_and_realisations_differ(opened):
    """Independent: correlations of n samples are of order n**-0.5."""
    kinds = [{}, {"seed": 4}, {"realisation": 1}, {"realisation": 2}, {"seed": 4, "realisation": 1}]
    tods = [opened(duration_s=seconds(1), **kind)["tod"].values[0] for kind in kinds]
    corr = np.corrcoef(tods) - np.eye(len(kinds))
    assert abs(corr).max() < 5 / BLOCK**0.5


def test_seeds_of_wafers_and_realisations():
    """The run's own seed for the mission's wafer; else 63 bits, as an attribute of a file holds.

    Of 31 bits, 50 wafers in 1000 realisations would have two the same with a chance of 0.44.
    """
    assert mission_source.stream_seed(4, "L01", "L01", 0) == 4
    asked = [(seed, f"L{w:02d}", r) for seed in (4, 5) for w in range(50) for r in range(100)]
    found = [mission_source.stream_seed(seed, wafer, "L01", r) for seed, wafer, r in asked]
    assert len(set(found)) == len(asked)
    derived = np.array([x for x in found if x > 5])
    assert derived.max() < 2**63 and derived.dtype == np.int64
    # Uniform: the mean of n of them scatters by 1/sqrt(12 n).
    assert (derived / 2.0**63).mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * len(derived)))
    expected = seeds.philox_key(4, "wafer", "L02", "realisation", 3) >> 65
    assert mission_source.stream_seed(4, "L02", "L01", 3) == expected


def test_names_travel_and_not_the_model(opened):
    cube = opened(duration_s=seconds(3))
    packed = cloudpickle.dumps(cube)
    assert len(packed) < 3e4  # the baseline alone has 1024 x 3 x 3 taps of 16 bytes
    np.testing.assert_array_equal(cloudpickle.loads(packed)["tod"], cube["tod"])


def test_a_newer_model_is_read_and_an_older_cube_refuses_it(opened, project):
    older = opened(duration_s=10.0, seed=1)
    before = older["tod"].values
    try:
        mission_project.train(project, scale=2.0)
        np.testing.assert_allclose(opened(duration_s=10.0, seed=1)["tod"], 2 * before, rtol=1e-5)
        with pytest.raises(CrabError, match="not the one that was opened"):
            older["tod"].compute()
    finally:
        mission_project.train(project)
    np.testing.assert_array_equal(older["tod"], before)


class Movable:
    """A generator that can be moved to other detectors."""

    name, windowed = "movable", False

    def __init__(self, detectors):
        self.detectors = detectors
        self.record = {
            **make_attrs(),
            "sampling_rate_hz": RATE_HZ,
            "detectors": detectors["detector"].values.tolist(),
        }

    @classmethod
    def load(cls, path, mission=None, environment=None, detectors=None):
        return cls(make_detectors())

    def with_detectors(self, detectors):
        return type(self)(detectors)

    def sample(self, environment, start_sample, n_samples, seed):
        values = (seed + start_sample + np.arange(n_samples)) * 1e-20
        return np.tile(values.astype(np.float32), (self.detectors.sizes["detector"], 1))


def test_another_wafer_needs_a_generator_that_can_be_moved(opened, monkeypatch):
    monkeypatch.setitem(base.REGISTRY, "movable", f"{__name__}:Movable")
    asked = []

    def table(mission):
        asked.append((mission.instrument.wafer, mission.instrument.detectors))
        return make_detectors(5).assign_coords(wafer=("detector", ["L02"] * 5))

    # The database takes seconds to read.
    monkeypatch.setattr(instrument, "detectors", table)
    own = opened(duration_s=10.0, generator="movable", seed=3)
    other = opened(duration_s=10.0, generator="movable", seed=3, wafer="L02")
    assert own.sizes["detector"] == 3 and other.sizes["detector"] == 5
    assert asked == [("L02", None)]
    assert set(other["wafer"].values) == {"L02"}
    assert abs(own["tod"][0] - other["tod"][0]).min() > 0
    with pytest.raises(CrabError, match=r"wafer = 'L02': baseline_gaussian .* allowed are 'L01'"):
        opened(duration_s=10.0, wafer="L02")
    own_by_name = opened(duration_s=10.0, wafer="L01")
    np.testing.assert_array_equal(own_by_name["tod"], opened(duration_s=10.0)["tod"])


@pytest.fixture
def library(project, monkeypatch):
    """The small project with a deposit library without Geant4."""
    monkeypatch.setenv("CRAB_ROOT", str(project))
    settings = params.load()
    craft = settings.missions["litebird_lft"]
    sky = settings.environments["litebird_2032"]
    made = synthetic.library(craft, sky, n_events=400).assign_attrs(split="test")
    path = paths.deposits("smoke", "litebird_lft", "test")
    if not path.exists():
        io.write(made, path)
    return made


def simulated(library, environment="litebird_2032", **options) -> xr.Dataset:
    """Cube of the simulator itself."""
    settings = params.load()
    return montecarlo.lazy_cube(
        library,
        settings.missions["litebird_lft"],
        settings.environments[environment],
        mission_name="litebird_lft",
        environment_name=environment,
        split="test",
        direct_hits=settings.profiles["smoke"].simulate_tod.direct_hits,
        **options,
    )


def test_monte_carlo_opens_in_the_same_way(opened, library):
    cube = opened(generator="monte_carlo", duration_s=700.0, start_s=900.0, seed=7)
    expected = simulated(library, duration_s=700.0, start_sample=17190, seed=7)
    np.testing.assert_array_equal(cube["tod"], expected["tod"])
    assert cube["tod"].chunks == expected["tod"].chunks  # no chunk of it is simulated twice
    xr.testing.assert_equal(cube.coords.to_dataset(), expected.coords.to_dataset())
    only = {"title", "hit_rate_hz", "generator", "realisation"}
    assert set(cube.attrs) ^ set(expected.attrs) < only
    for key in set(expected.attrs) - only:
        assert cube.attrs[key] == expected.attrs[key], key


def test_monte_carlo_of_any_environment_and_seed_holds_one_simulator(library, monkeypatch):
    model = base.ready("monte_carlo", "smoke", *NAMES.values())
    made, prepared = montecarlo.prepare, []

    def counted(*what, **options):
        prepared.append(options["environment_name"])
        return made(*what, **options)

    monkeypatch.setattr(montecarlo, "prepare", counted)
    asked = [("litebird_2032", 1), ("litebird_2032", 2), ("solar_max_2014", 2)]
    tods = [model.sample(environment, 100, 50, seed) for environment, seed in asked]
    assert prepared == ["litebird_2032", "solar_max_2014"]
    for (environment, seed), tod in zip(asked, tods, strict=True):
        cube = simulated(library, environment, duration_s=50 / RATE_HZ, start_sample=100, seed=seed)
        np.testing.assert_array_equal(tod, cube["tod"])
        parts = model.background(environment, 100, 50, seed)
        np.testing.assert_array_equal(parts, cube["tod_wafer"] + cube["tod_direct"])
    assert model.sample("litebird_2032", 5, 0, 1).shape == (12, 0)
    for request, message in (
        (("mars", 0, 10, 1), "environment = 'mars': allowed are"),
        (("litebird_2032", -1, 10, 1), "start_sample = -1"),
        (("litebird_2032", 0, -1, 1), "n_samples = -1"),
    ):
        with pytest.raises(CrabError, match=message):
            model.sample(*request)


def test_monte_carlo_of_another_wafer(opened, library):
    """L02 has detectors at the places of L01's; L00 has larger pixels."""
    options = {"generator": "monte_carlo", "duration_s": 500.0, "seed": 7}
    own, other = opened(**options), opened(**options, wafer="L02")
    assert set(other["wafer"].values) == {"L02"}
    assert other["detector"].values[0] == "000_002_007_UA_100_T"
    for key in ("x_mm", "y_mm", "channel", "power_per_kelvin_w"):
        np.testing.assert_array_equal(other[key], own[key])
    assert other.attrs["params_hash"] != own.attrs["params_hash"]
    # The seed alone makes it another: its background is that of L01 with the wafer's seed.
    seed = mission_source.stream_seed(7, "L02", "L01", 0)
    names = ("monte_carlo", "smoke", *NAMES.values())
    of_l01, of_l02 = (
        mission_source.find(*names, wafer, params.load())[1] for wafer in ("L01", "L02")
    )
    n_samples = own.sizes["time"]
    drawn = of_l02.background("litebird_2032", 0, n_samples, seed)
    np.testing.assert_array_equal(drawn, of_l01.background("litebird_2032", 0, n_samples, seed))
    first = of_l01.background("litebird_2032", 0, n_samples, 7)
    # Above the median at the same time: always within a wafer, by chance in two.
    above = np.array([row > np.median(row) for row in np.concatenate([first, drawn])])
    r = np.corrcoef(above)
    assert r[:12, :12].min() > 0.5
    assert np.abs(r[:12, 12:]).max() < 0.1
    with pytest.raises(CrabError, match=r"wafer L00: it has no detector where 000_001_007_UB_100"):
        opened(**options, wafer="L00")


@pytest.mark.parametrize(("wafer", "realisation"), [("L01", 0), ("L01", 3), ("L02", 2)])
def test_missions_and_injections_have_the_same_background(opened, library, wafer, realisation):
    """Same seed, wafer and realisation: `open_mission`, `background` and `inject` agree."""
    what = {"generator": "monte_carlo", "seed": 7, "realisation": realisation}
    start, n_samples = 2000, 3000
    span = {"start_s": start / RATE_HZ, "duration_s": n_samples / RATE_HZ}
    cube = opened(**what, **span, wafer=wafer)
    # The parts of its own TOD, as the simulator gives them.
    source = mission_source.find("monte_carlo", "smoke", *NAMES.values(), wafer, params.load())
    seed = mission_source.stream_seed(7, wafer, "L01", realisation)
    np.testing.assert_array_equal(source[1].sample(SKY, start, n_samples, seed), cube["tod"])
    watts = source[1].background(SKY, start, n_samples, seed)
    expected = watts / cube["joule_gain"].item() / cube["power_per_kelvin_w"].values[:, None]
    names = cube["detector"].values.tolist()
    stand_ins = dict(zip(names, opened(**what, **span)["detector"].values.tolist(), strict=True))
    where = {"mission": "litebird_lft", "stand_ins": stand_ins if wafer != "L01" else None}
    rays = background(names, SKY, start, n_samples, **what, **where, wafers=[wafer] * 12)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(rays.values, expected, rtol=1e-5, atol=1e-6 * scale)
    # litebird_sim rounds down.
    length = {"start_time": start / RATE_HZ, "duration_s": (n_samples + 0.5) / RATE_HZ}
    sim = simulation(names, wafer=wafer, **length)
    crab.inject(
        sim, environment=SKY, **what, **where, mission_start=0.0, flags=False, progress=False
    )
    np.testing.assert_array_equal(joined(sim), rays.values)
    # A generator that was moved knows whose seed it is.
    moved = background(names, SKY, start, n_samples, **what | {"generator": source[1]})
    np.testing.assert_array_equal(moved.values, rays.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mission": "litebird"}, "mission = 'litebird': allowed are"),
        ({"environment": "mars"}, "environment = 'mars': allowed are"),
        ({"generator": "gan"}, "generator = 'gan': allowed are .*monte_carlo"),
        ({"profile": "tiny"}, "profile = 'tiny': allowed are"),
        ({"seed": -1}, "seed = -1: allowed are integers >= 0"),
        ({"realisation": 0.5}, "realisation = 0.5: allowed are integers >= 0"),
        ({"duration_s": 0.01}, "duration_s = 0.01: allowed are numbers >= 0.0523"),
        ({"duration_s": np.inf}, "duration_s = inf"),
        ({"start_s": -1.0}, "start_s = -1.0: allowed are numbers >= 0"),
        ({"chunk_s": np.nan}, "chunk_s = nan"),
        ({"detectors": ["det_00", "det_9"]}, "detectors = 'det_9': allowed are det_00"),
        ({"environment": "solar_min_2009"}, "solar_min_2009-train.nc: no such file"),
    ],
)
def test_faults_are_named(opened, options, message):
    with pytest.raises(CrabError, match=message):
        opened(**options)


@pytest.fixture
def times():
    """The same 1000 times by their rule and held, from sample 1e9 on."""
    start, n = 1_000_000_007, 1000
    held = xr.Dataset({"row": ("time", np.arange(n))}, {"time": (start + np.arange(n)) / RATE_HZ})
    ruled = held.drop_vars("time").assign_coords(sample_times.coordinates(start, n, RATE_HZ))
    return SimpleNamespace(held=held, ruled=ruled)


def test_lazy_times_are_the_held_ones_however_they_are_cut(times):
    for cut in (slice(None), slice(100, 900, 7), slice(None, None, -3), [5, 2, -1], 17):
        expected = times.held.isel(time=cut)
        np.testing.assert_array_equal(times.ruled.isel(time=cut)["time"], expected["time"])
    twice = times.ruled.isel(time=slice(100, None)).isel(time=slice(300, 400, 2))
    np.testing.assert_array_equal(twice["time"], times.held["time"][400:500:2])
    assert sample_times.rule(twice).first == 1_000_000_407


def test_lazy_times_select_as_held_ones_do(times):
    rng = np.random.default_rng(1)
    first_s, last_s = times.held["time"].values[[0, -1]]
    ends = rng.uniform(first_s - 5, last_s + 5, (200, 2)).tolist()
    ends += [[None, last_s - 10], [first_s + 10, None], [first_s - 9, first_s - 8]]
    ends += [list(times.held["time"].values[[3, 9]]), [last_s, first_s]]
    for low, high in ends:
        expected = times.held.sel(time=slice(low, high))["row"].values
        np.testing.assert_array_equal(times.ruled.sel(time=slice(low, high))["row"], expected)
    one = times.held["time"].values[77]
    assert times.ruled.sel(time=one)["row"] == 77
    near = [one + 0.02, one - 1.0, last_s + 100]
    expected = times.held.sel(time=near, method="nearest")["row"]
    np.testing.assert_array_equal(times.ruled.sel(time=near, method="nearest")["row"], expected)
    for wrong in (one + 0.02, last_s + 1, first_s - 1):
        with pytest.raises(KeyError):
            times.ruled.sel(time=wrong)


def test_lazy_times_go_on_where_others_end(times):
    parts = [times.ruled.isel(time=part) for part in (slice(0, 300), slice(300, 1000))]
    joined = xr.concat(parts, "time")
    assert sample_times.rule(joined).equals(sample_times.rule(times.ruled))
    gap = xr.concat([parts[1], parts[0]], "time")
    assert sample_times.rule(gap) is None
    np.testing.assert_array_equal(gap["time"], np.roll(times.held["time"], -300))


def test_zarr_gives_lazy_times_back(opened, tmp_path):
    cube = opened(duration_s=seconds(2), seed=5)
    part = cube.isel(time=slice(1000, 30000))
    back = io.open_tod(io.write_zarr(part, tmp_path / "part.zarr", progress=False))
    assert sample_times.rule(back).first == back.attrs["start_sample"] == 1000
    np.testing.assert_array_equal(back["time"], part["time"])
    np.testing.assert_array_equal(back["tod"], part["tod"])
    thin = cube.isel(time=slice(None, None, 2))
    with pytest.raises(CrabError, match="gaps and mixed rates are not allowed"):
        io.write_zarr(thin, tmp_path / "thin.zarr", progress=False)
