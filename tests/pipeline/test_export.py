"""Cubes as files of litebird_sim and TOAST, read back by what reads them there."""

import json

import litebird_sim as lbs
import numpy as np
import pytest
import xarray as xr
from astropy import units
from astropy.time import Time
from scipy import signal
from scipy.interpolate import interp1d

import crab
from crab import CrabError, importing, io, params, schema
from crab.impact import export, flagging
from crab.physics import montecarlo, readout
from tests.conftest import make_attrs
from tests.physics import synthetic
from tests.pipeline import injected
from tests.pipeline.injected import MISSION, RATE_HZ, SKY
from tests.pipeline.test_docs import blocks

TAU_S = 2e-3
# Energies of the planted hits, in J: absorbed optical power times time.
ENERGY_J = np.array([2e-16, 5e-16, 9e-16])


def planted(parts: bool = True, start_sample: int = 0) -> xr.Dataset:
    """Correlated noise of 0.1 fW on 12 detectors, and one hit of each energy in each of them."""
    table = injected.detectors()
    n_det, n_time = table.sizes["detector"], 20_000
    rng = np.random.default_rng(4)
    common, own = rng.standard_normal(n_time), rng.standard_normal((n_det, n_time))
    quiet = 1e-16 * (0.8 * common + 0.6 * own)
    direct = np.zeros((n_det, n_time))
    for row in range(n_det):
        direct[row, 100 + 37 * row + 6000 * np.arange(3)] = ENERGY_J * RATE_HZ
    gain = table["joule_gain"].item()
    values = {"tod": gain * (quiet + direct)}
    if parts:
        values |= {"tod_wafer": gain * quiet, "tod_direct": gain * direct}
    return schema.make_cube(values, table, RATE_HZ, make_attrs(), start_sample)


def toast_integral_k_s(row: np.ndarray, grid_hz: float, rate_hz: float) -> float:
    """Integral of a direct hit as TOAST 3.0.6 draws it: a grid of 0.15 s, resampled (Fourier)."""
    n_high, n_low = round(0.15 * grid_hz), round(0.15 * rate_hz)
    t_ms = np.linspace(0, 150, n_high)
    pulse = row[0] + row[1] * np.exp(-t_ms / row[2])
    return signal.resample(pulse, n_low).sum() / rate_hz


@pytest.mark.parametrize("parts", [True, False])
@pytest.mark.parametrize("unit", ["K_CMB", "W"])
def test_toast_gets_noise_correlation_and_energy(tmp_path, unit, parts):
    """Deviation and correlation as planted (0.64), pulses with their energy in each detector."""
    cube = planted(parts)
    crfile = export.to_toast(cube, tmp_path / "toast", unit=unit, time_constant_s=TAU_S)
    assert "detector" in crfile.name
    for index, name in enumerate(cube["detector"].values):
        with np.load(str(crfile).replace("detector", f"det{index}")) as data:
            per = cube["power_per_kelvin_w"].values[index] if unit == "K_CMB" else 1.0
            assert data["detector"] == name
            assert data["unit"] == unit
            assert data["low_noise"] * per == pytest.approx([0, 1e-16], rel=0.03, abs=3e-18)
            matrix = data["correlation_matrix"]
            assert matrix.shape == (12, 12)
            off = matrix[~np.eye(12, dtype=bool)]
            assert off == pytest.approx(0.64, abs=5 * (1 - 0.64**2) / np.sqrt(20_000))
            hits = data["direct_hits"][::100]  # between them are others
            energy = [toast_integral_k_s(hit, *data["sampling_rate"], RATE_HZ) for hit in hits]
            expected = np.repeat(ENERGY_J, 12) / per
            # Noise of 0.1 fW in some six flagged samples of a cube without parts.
            noise = 0 if parts else 5 * 1e-16 * np.sqrt(6) / RATE_HZ / per
            assert energy == pytest.approx(expected, rel=1e-5, abs=noise)
            assert data["event_rate_hz"] == pytest.approx(3 * RATE_HZ / 20_000)


def test_time_constant_is_that_of_the_missions_sensor(tmp_path):
    """33 ms over 1 + loop gain: some 2.3 ms (Irwin & Hilton, tau_0/(1 + L))."""
    crfile = export.to_toast(planted(), tmp_path / "toast")
    with np.load(str(crfile).replace("detector", "det0")) as data:
        assert data["direct_hits"][0, 2] == pytest.approx(2.3, rel=0.05)


def toast_draws(rows: np.ndarray) -> np.ndarray:
    """Inverse of the cumulative histogram that TOAST 3.0.6 draws a parameter from."""
    edges = np.linspace(*np.quantile(rows, [0.025, 0.975]), 30)
    counts, _ = np.histogram(rows, edges)
    inverse = interp1d(
        np.cumsum(counts) / counts.sum(), (edges[:-1] + edges[1:]) / 2, fill_value="extrapolate"
    )
    return inverse(np.linspace(0.001, 0.999, 1000))


@pytest.mark.parametrize("energies", [[2.0], [2.0, 9.0], [1.0, 1.0, 1.1, 40.0]])
def test_toast_can_draw_from_few_pulses(tmp_path, energies):
    """An empty bin of its histogram becomes NaN in the TOD."""
    cube = planted()
    direct = np.zeros(cube["tod"].shape)
    places = 100 + 500 * np.arange(len(energies))
    direct[3, places] = -1e-16 * RATE_HZ * np.array(energies)
    parts = {"tod_wafer": cube["tod_wafer"].values, "tod_direct": direct}
    parts["tod"] = sum(parts.values())
    table = injected.detectors()
    cube = schema.make_cube(parts, table, RATE_HZ, make_attrs())
    crfile = export.to_toast(cube, tmp_path / "toast", unit="W", time_constant_s=TAU_S)
    with np.load(str(crfile).replace("detector", "det0")) as data:
        for column in data["direct_hits"].T:
            drawn = toast_draws(column)
            assert np.isfinite(drawn).all()
            assert drawn.max() <= column.max() * (1 + 1e-9)
        n_hits = data["event_rate_hz"] * 12 * 20_000 / RATE_HZ
        assert n_hits == pytest.approx(len(energies))


def test_toast_itself_draws_from_the_files(tmp_path):
    """What `InjectCosmicRays` makes in K: deviation, and integrals of hits as planted."""
    pytest.importorskip("toast")
    from toast.ops import InjectCosmicRays
    from toast.tests.helpers import create_satellite_data

    data = create_satellite_data(
        None, sample_rate=RATE_HZ * units.Hz, obs_time=1 * units.hour, flagged_pixels=False
    )
    cube = planted().isel(detector=slice(0, 2))
    crfile = export.to_toast(cube, tmp_path / "toast", time_constant_s=TAU_S)
    kind = {"crfile": str(crfile), "inject_direct_hits": True, "eventrate": 0.02}
    InjectCosmicRays(det_data="rays", **kind).apply(data)
    for ob in data.obs:
        for index, name in enumerate(ob.local_detectors[:2]):
            watts = ob.detdata["rays"][name] * cube["power_per_kelvin_w"].values[index]
            sigma = np.median(np.abs(watts)) / 0.6745
            assert sigma == pytest.approx(1e-16, rel=0.05)
            peaks = np.flatnonzero(watts > 12e-16)
            starts = peaks[np.diff(peaks, prepend=-9) > 3]
            energy = np.array([watts[k : k + 3].sum() / RATE_HZ for k in starts])
            assert len(energy) > 30
            # Some hits overlap, and TOAST extrapolates at the ends: not the extremes.
            assert np.median(energy) == pytest.approx(np.median(ENERGY_J), rel=0.3)
            assert np.quantile(energy, 0.9) < ENERGY_J.max()


@pytest.mark.parametrize("start", [1000.0, Time("2025-04-01T00:00:00", scale="utc")])
def test_litebird_sim_reads_its_files(tmp_path, start):
    cube = planted(start_sample=1910)
    files = export.to_litebird_sim(
        cube,
        tmp_path / "obs",
        mission_start=start,
        n_files=3,
        variables=("tod", "tod_wafer"),
        gzip=True,
    )
    assert len(files) == 3
    read = lbs.read_list_of_observations(files, tod_fields=["tod", "tod_wafer"])
    for name in ("tod", "tod_wafer"):
        tod = np.concatenate([getattr(obs, name) for obs in read], axis=1)
        watts = -cube[name].values.astype(float) * 11 / 10
        expected = watts / cube["power_per_kelvin_w"].values[:, None]
        assert np.allclose(tod, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        assert tod.dtype == np.float32
    mask, _ = flagging.flag(cube["tod"].values, 5.0, start_sample=1910)
    flags = np.concatenate([obs.local_flags for obs in read], axis=1)
    assert np.array_equal(flags, mask)
    since = [obs.start_time - start for obs in read]
    since_s = [s.to_value("s") if hasattr(s, "to_value") else s for s in since]
    # A modified Julian date in float64 is good to a microsecond.
    assert since_s == pytest.approx([(1910 + n) / RATE_HZ for n in (0, 6666, 13_333)], abs=1e-5)
    assert read[0].name.tolist() == cube["detector"].values.tolist()
    for key in ("wafer", "channel", "pixel", "net_ukrts", "pol_angle_rad", "bandcenter_ghz"):
        assert getattr(read[0], key).tolist() == cube[key].values.tolist(), key
    assert read[0].sampling_rate_hz == RATE_HZ
    assert read[0].tod_list[0].units == lbs.Units.K_CMB


def test_attributes_travel_along(tmp_path):
    import h5py

    cube = planted()
    (file,) = export.to_litebird_sim(cube, tmp_path / "obs")
    with h5py.File(file) as opened:
        facts = json.loads(opened.attrs["crab"])
    assert facts["environment"] == SKY
    assert facts["power_convention"] == "joule"  # of the cube it came from
    assert set(facts) == set(cube.attrs)


def test_exported_and_imported_again(tmp_path):
    """`crab import` gives the cube back, in optical-equivalent power, to float32 rounding."""
    settings = params.load()
    cube, _ = montecarlo.simulate(
        synthetic.library(
            settings.missions[MISSION], settings.environments[SKY], n_events=400, split="test"
        ),
        settings.missions[MISSION],
        settings.environments[SKY],
        duration_s=30,
        mission_name=MISSION,
        environment_name=SKY,
        seed=1,
        split="test",
        progress=False,
    )
    files = export.to_litebird_sim(cube, tmp_path / "obs", n_files=2, flags=False)
    mapping = {"format": "litebird_sim", "physics_list": "none: synthetic"}
    back = importing.read(files, mapping, MISSION, SKY, "test")
    expected = readout.to_optical_equivalent(cube)["tod"].values
    assert np.allclose(back["tod"], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cube, path: export.to_toast(cube, path, unit="K_RJ"), "unit = 'K_RJ'"),
        (lambda cube, path: export.to_toast(cube, path / "detectors"), "without that word"),
        (lambda cube, path: export.to_toast(cube, path.parent), "exists already"),
        (lambda cube, path: export.to_litebird_sim(cube, path.parent), "exists already"),
        (lambda cube, path: export.to_litebird_sim(cube, path, n_files=0), "n_files = 0"),
        (
            lambda cube, path: export.to_litebird_sim(cube, path, variables=("tod_noise",)),
            "variables = 'tod_noise': the cube has tod",
        ),
        (
            lambda cube, path: export.to_litebird_sim(cube.drop_vars("power_per_kelvin_w"), path),
            "'power_per_kelvin_w' is missing",
        ),
        (
            lambda cube, path: export.to_litebird_sim(cube.drop_vars("bandwidth_ghz"), path),
            "'bandwidth_ghz': litebird_sim cannot read",
        ),
        (
            lambda cube, path: export.to_toast(cube.drop_vars("joule_gain"), path),
            "'joule_gain' is missing",
        ),
    ],
)
def test_refused_and_nothing_left_behind(tmp_path, call, message):
    with pytest.raises(CrabError, match=message):
        call(planted(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_examples_of_the_page_run(tmp_path, monkeypatch):
    *_, toast, files = blocks("docs/inject.md", "python")
    io.write(planted(), tmp_path / "data/tod/smoke/litebird_lft-litebird_2032-test.nc")
    monkeypatch.chdir(tmp_path)
    space: dict = {"lbs": lbs}
    exec(toast, space)
    exec(files, space)
    assert len(space["observations"]) == 4
    assert sorted(p.name for p in space["crfile"].parent.iterdir())[0] == "crab_det0.npz"
    cube = crab.open_tod(tmp_path / "data/tod/smoke/litebird_lft-litebird_2032-test.nc")
    tod = np.concatenate([obs.tod for obs in space["observations"]], axis=1)
    assert np.array_equal(tod, export.kelvin(cube).values)
