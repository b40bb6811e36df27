"""Cubes as files of litebird_sim and TOAST, read back by what reads them there."""

import errno
import json
import os
import tracemalloc

import litebird_sim as lbs
import numpy as np
import pytest
import xarray as xr
from astropy import units
from astropy.time import Time
from scipy import signal
from scipy.interpolate import interp1d

import crab
from crab import CrabError, cli, importing, io, params, paths, schema
from crab.impact import cubes, export, flagging, toast_statistics
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


def test_statistics_do_not_depend_on_the_pieces(tmp_path, monkeypatch):
    """Pulses that go on in the next piece are one; moments are those of the whole."""
    for parts in (True, False):
        cube = planted(parts)
        found = []
        for length in (8 * 8192, 8192, 700):
            if not parts and length == 700:
                continue  # flags need whole blocks
            monkeypatch.setattr(cubes, "_PIECE_SAMPLES", length)
            crfile = export.to_toast(cube, tmp_path / f"{parts}{length}", progress=False)
            with np.load(str(crfile).replace("detector", "det3")) as data:
                found.append({key: data[key] for key in data})
        for other in found[1:]:
            # The level below a glitch is that of its piece, if it has to be found.
            hits = ["direct_hits"] if parts else []
            for key in ("low_noise", "correlation_matrix", "event_rate_hz", *hits):
                scale = np.abs(found[0][key]).max()
                assert np.allclose(other[key], found[0][key], rtol=1e-6, atol=1e-6 * scale), key


def test_moments_are_numpys():
    """Of rows with gaps: correlations over what both have (numpy.ma.corrcoef), and a big offset."""
    rng = np.random.default_rng(6)
    values = 1e6 + rng.standard_normal((3, 5000)) + rng.standard_normal(5000)
    valid = rng.random(values.shape) < 0.7
    moments = toast_statistics.Moments(3)
    for piece in (slice(0, 7), slice(7, 3000), slice(3000, 5000)):
        moments.add(values[:, piece], valid[:, piece])
    masked = np.ma.masked_array(values, ~valid)
    assert moments.mean() == pytest.approx(masked.mean(axis=1).data, rel=1e-14)
    assert moments.deviation() == pytest.approx(masked.std(axis=1).data, rel=1e-9)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = valid[a] & valid[b]
        expected = np.corrcoef(values[a, both], values[b, both])[0, 1]
        assert moments.correlation()[a, b] == pytest.approx(expected, rel=1e-9)


def test_a_pulse_that_never_ends_is_one():
    pulses = toast_statistics.Pulses(2, 2.0)
    for _ in range(4):
        pulses.add(np.array([[1.0, 1.0], [0.0, 3.0]]), np.array([[True, True], [False, True]]))
    assert [x.tolist() for x in pulses.integrals()] == [[4.0], [1.5] * 4]


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_a_stretch_is_where_it_was(tmp_path, kind):
    """By hours of the mission: times of the observations, samples and flags' places fit."""
    cube = planted(start_sample=1910)
    if kind == "nc":
        path = io.write(cube, tmp_path / "cube.nc")
    else:
        path = io.write_zarr(cube.chunk(time=7000), tmp_path / "cube.zarr", progress=False)
    lazy = cubes.opened(path)
    assert lazy["tod"].chunks is not None
    part = cubes.stretch(lazy, start_s=200.0, duration_s=300.0)
    low = round(200 * RATE_HZ) - 1910
    assert part.attrs["start_sample"] == 3820
    assert np.array_equal(part["tod"], cube["tod"][:, low : low + 5730])
    (file,) = export.to_litebird_sim(part, tmp_path / "obs", progress=False)
    (obs,) = lbs.read_list_of_observations([file])
    assert obs.start_time == pytest.approx(200.0)
    assert np.array_equal(obs.tod, export.kelvin(cube).values[:, low : low + 5730])
    # One that was cut by its times, without a word in the attributes, too.
    (file,) = export.to_litebird_sim(
        cube.isel(time=slice(low, None)), tmp_path / "more", progress=False
    )
    assert lbs.read_list_of_observations([file])[0].start_time == pytest.approx(200.0)
    assert cubes.stretch(lazy).sizes["time"] == 20_000
    for times, message in (
        ((50.0, None), r"hours 0.0138.* the cube holds hours 0.0277778 to 0.318645"),
        ((None, 2000.0), "hours 0.0277778 to 0.58"),
        ((None, 0.0), "of a sample at least"),
        ((300.0, -10.0), "of a sample at least"),
    ):
        with pytest.raises(CrabError, match=message):
            cubes.stretch(lazy, *times)


def test_memory_does_not_grow_with_the_cube(tmp_path):
    """A cube in a file, without compression and so in one piece on the disk."""
    short = planted().isel(time=slice(0, 16_384), detector=slice(0, 4))
    peaks = {}
    for n in (8, 24):
        long = xr.concat([short] * n, "time").drop_vars("time")
        times = np.arange(n * 16_384) / RATE_HZ
        long = long[["tod"]].assign_coords(time=("time", times, {"units": "s"}))
        long.to_netcdf(tmp_path / f"{n}.nc", engine="h5netcdf")
        cube = cubes.opened(tmp_path / f"{n}.nc")
        size = cube["tod"].nbytes
        del long, times
        for name, write in (
            ("toast", lambda cube, path: export.to_toast(cube, path)),
            ("lbs", lambda cube, path: export.to_litebird_sim(cube, path, n_files=n // 2)),  # noqa: B023
        ):
            tracemalloc.start()
            write(cube, tmp_path / f"{name}-{n}")
            peaks[name, n] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    for name in ("toast", "lbs"):
        assert peaks[name, 24] < 1.3 * peaks[name, 8]
    assert size == 24 * 16_384 * 4 * 4


def test_command_writes_observations(tmp_path, capsys, monkeypatch):
    """A mission store of the Monte Carlo, by the commands alone, read by litebird_sim."""
    settings = params.load()
    made = synthetic.library(
        settings.missions[MISSION], settings.environments[SKY], n_events=400, split="test"
    )
    library = io.write(made, tmp_path / "deposits.nc")
    monkeypatch.setattr(paths, "deposits", lambda profile, mission, split: library)
    store, folder = tmp_path / "hours.zarr", tmp_path / "obs"
    words = ["generate", "--generator", "monte_carlo", "--hours", "0.5", "--output", str(store)]
    assert cli.main([*words, "--chunk-hours", "0.1", "--start-hours", "1"]) == 0
    words = ["export", str(store), "--format", "litebird_sim", "--output", str(folder)]
    words += ["--start-hours", "1.1", "--hours", "0.3", "--file-hours", "0.1"]
    capsys.readouterr()
    assert cli.main(words) == 0
    out = capsys.readouterr()
    assert out.out.strip() == f"{folder}: 3 files"
    assert "export: 100%" in out.err
    files = sorted(folder.iterdir())
    observations = lbs.read_list_of_observations(files)
    assert [obs.start_time for obs in observations] == pytest.approx([3960, 4320, 4680], abs=0.03)
    whole = crab.open_tod(store)
    low = round(360 * RATE_HZ)
    n_samples = round(1080 * RATE_HZ)
    tod = np.concatenate([obs.tod for obs in observations], axis=1)
    assert np.array_equal(tod, export.kelvin(whole).values[:, low : low + n_samples])
    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err
    for more, message in (
        (["--hours", "9"], "the cube holds hours 1 to 1.5"),
        (["--file-hours", "0"], "file-hours = 0.0: allowed are numbers > 0"),
        (["--variables", "tod_wafer"], "variables = 'tod_wafer': the cube has tod"),
    ):
        assert cli.main([*words[:-1], "0.1", "--output", str(tmp_path / "no"), *more]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "none.nc"), *words[2:]]) == 2
    assert "none.nc: no such file" in capsys.readouterr().err
    (tmp_path / "bad.nc").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert cli.main(["export", str(tmp_path / "bad.nc"), *words[2:]]) == 2
    assert "bad.nc: not a readable NetCDF4 file" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_command_writes_statistics_for_toast(tmp_path, capsys):
    """The keys of `to_toast`, read back as TOAST does: by numpy, by the place of a detector."""
    path = io.write(planted(start_sample=1910), tmp_path / "cube.nc")
    folder = tmp_path / "toast"
    words = ["export", str(path), "--format", "toast", "--output", str(folder)]
    assert cli.main(words) == 0
    out = capsys.readouterr()
    crfile = out.out.strip()
    assert "statistics: 100%" in out.err
    assert crfile == str(folder / "crab_detector.npz")
    assert len(list(folder.iterdir())) == 12
    for index, name in enumerate(planted()["detector"].values):
        with np.load(crfile.replace("detector", f"det{index}")) as data:
            kinds = {"low_noise": (2,), "correlation_matrix": (12, 12), "sampling_rate": (1,)}
            assert {key: data[key].shape for key in kinds} == kinds
            assert data["direct_hits"].shape[1] == 3
            assert (data["detector"], data["unit"]) == (name, "K_CMB")
            assert data["event_rate_hz"] == pytest.approx(3 * RATE_HZ / 20_000)
    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*what, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lbs, "write_list_of_observations", full)
    with pytest.raises(CrabError, match="no space left on the disk; nothing was kept"):
        export.to_litebird_sim(planted(), tmp_path / "obs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [export.to_litebird_sim, export.to_toast])
def test_what_is_no_cube_of_numbers_is_refused(tmp_path, write):
    cube = planted(parts=False)
    several = cube.assign(tod=cube["tod"].expand_dims(realisation=2))
    with pytest.raises(CrabError, match=r"allowed is one realisation .*isel\(realisation=0\)"):
        write(several, tmp_path / "out")
    cube["tod"][3, 777] = np.nan
    with pytest.raises(CrabError, match="the first at 777 of detector 000_001_007_UB_140_B"):
        write(cube, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


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
