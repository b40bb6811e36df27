"""Others' TODs: each format comes back as the cube it was; each fault is found and explained."""

import itertools
import json
import re
from pathlib import Path

import h5py
import litebird_sim as lbs
import numpy as np
import pytest
import xarray as xr
import yaml
from astropy.time import Time

from crab import CrabError, cli, importing, io, params, paths, schema
from crab import mapping as layouts
from crab.physics import instrument, readout
from tests.conftest import make_attrs

RATE_HZ = 19.1
NAMES = [f"D{i:02d}_T" for i in range(4)]
KEY = ("others", "litebird_2032", "test")
SLOPE_W_PER_K = np.array([1.1e-13, 1.3e-13, 1.7e-13, 1.9e-13])


def others() -> dict:
    """A mission of params.yaml without a Monte Carlo of its own."""
    row = {"channel": "B1", "y_mm": 0.0, "pol_angle_rad": 0.0, "net_ukrts": 40.0}
    row |= {"bandcenter_ghz": 140.0, "bandwidth_ghz": 42.0}
    return {
        "title": "another group's bolometers",
        "instrument": {
            "kind": "table",
            "wafer": "W1",
            "detectors": [
                {"name": name, "pixel": i // 2, "x_mm": 4.0 * i, **row}
                for i, name in enumerate(NAMES)
            ],
        },
        "sampling_rate_hz": RATE_HZ,
        "internal_rate_hz": RATE_HZ,
        "hwp_rpm": None,
        "effort": 1.0,
        "geometry": None,
        "wafer_thermal": None,
        "sensor": None,
    }


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder whose params.yaml has the mission `others`."""
    raw = yaml.safe_load((paths.root() / "params.yaml").read_text())
    raw["missions"]["others"] = others()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.setenv("CRAB_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def ours(project) -> xr.Dataset:
    """A cube of ours with parts: 600 samples of noise of 0.1 fW, heat of 0.3 fW and two spikes."""
    rng = np.random.default_rng(7)
    parts = {
        "tod_wafer": rng.standard_normal((4, 600)) * 3e-16,
        "tod_direct": np.zeros((4, 600)),
        "tod_noise": rng.standard_normal((4, 600)) * 1e-16,
    }
    parts["tod_direct"][[1, 3], [100, 400]] = -5e-14
    parts = {name: values.astype(np.float32) for name, values in parts.items()}
    tod = sum(values.astype(float) for values in parts.values())
    detectors = instrument.detectors(params.load().missions["others"])
    attrs = make_attrs(mission="others", seed=7)
    return schema.make_cube({"tod": tod, **parts}, detectors, RATE_HZ, attrs, start_sample=382)


def layout(**changes) -> dict:
    given = {
        "data": "signal",
        "unit": "W",
        "power_convention": "joule",
        "sampling_rate_hz": RATE_HZ,
        "detectors": NAMES,
        "physics_list": "another code",
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


def foreign(project, name="theirs.npz", **arrays):
    path = project / name
    np.savez(path, **arrays)
    return path


def read(files, **changes):
    return importing.read(files, layout(**changes), *KEY)


def same(found, ours, rtol=0.0):
    for name in ("tod", *(p for p in schema.PARTS if p in found)):
        np.testing.assert_allclose(found[name].values, ours[name].values, rtol=rtol, atol=0)
    for name in ("detector", "time", *schema.DETECTOR_COORDS):
        np.testing.assert_array_equal(found[name].values, ours[name].values)


# Round trips


def test_npz_comes_back_exactly(project, ours):
    path = foreign(project, signal=ours.tod.values, name_list=np.array(NAMES))
    found = read(path, detectors="name_list", start_sample=382, seed=7)
    same(found, ours)
    assert found.attrs["seed"] == 7 and found.attrs["physics_list"] == "another code"
    assert found.attrs["phi_mv"] == params.load().environments["litebird_2032"].phi_mv
    assert found.attrs["mission"] == "others"
    assert read(path).attrs["seed"] == -1


def test_other_dims_units_order_and_parts(project, ours):
    """Time first, in fW, detectors backwards, with the three parts: rounded once each way."""
    backwards = ours.isel(detector=slice(None, None, -1))
    arrays = {name: (backwards[name].values.astype(float) * 1e15).T for name in ours.data_vars}
    path = foreign(project, **arrays)
    found = read(
        path,
        data="tod",
        dims=["time", "detector"],
        unit="fW",
        parts={p: p for p in schema.PARTS},
        detectors=NAMES[::-1],
        start_sample=382,
    )
    same(found, ours, rtol=2e-7)


def test_our_own_netcdf_comes_back_exactly(project, ours):
    path = io.write(ours, project / "ours.nc")
    found = read(
        path,
        data="tod",
        unit=None,  # the file says W
        sampling_rate_hz=None,
        time={"name": "time"},  # and s
        detectors="detector",
        parts={p: p for p in schema.PARTS},
        start_sample=382,
    )
    same(found, ours)


def test_hdf5_in_groups_with_a_float32_clock(project, ours):
    path = project / "run.h5"
    with h5py.File(path, "w") as file:
        file["run1/signal"] = ours.tod.values
        file["run1/signal"].attrs["units"] = "W"
        file["run1/t"] = (ours.time.values * 1e3).astype(np.float32)
        file["names"] = np.array(NAMES, dtype="S")
    found = read(
        path,
        data="run1/signal",
        unit=None,
        sampling_rate_hz=None,
        time={"name": "run1/t", "unit": "ms"},
        detectors="names",
        start_sample=382,
    )
    same(found, ours)


def test_unit_of_the_file_is_checked_and_may_be_overruled(project, ours):
    path = project / "theirs.h5"
    with h5py.File(path, "w") as file:
        file["signal"] = ours.tod.values
        file["signal"].attrs["units"] = "ADU"
    with pytest.raises(CrabError, match=r"theirs\.h5: unit = 'ADU': set unit in the mapping"):
        read(path, unit=None)
    found = read(path)
    np.testing.assert_array_equal(found.tod.values, ours.tod.values)
    assert "unit W by the mapping, 'ADU' by the file" in found.attrs["history"]


def test_one_of_several_realisations(project, ours):
    path = foreign(project, signal=np.stack([ours.tod.values * 2, ours.tod.values]))
    dims = ["realisation", "detector", "time"]
    same(read(path, dims=dims, realisation=1, start_sample=382), ours)
    with pytest.raises(CrabError, match=r"realisation = None: .* one of the 2"):
        read(path, dims=dims)


def observations(project, kelvin, edges, start=0.0, rate_hz=RATE_HZ, shift_s=0.0):
    """Files that litebird_sim itself writes, one for each stretch between `edges`."""
    made = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        since_s = low / RATE_HZ + (shift_s if number else 0.0)
        begin = start + since_s
        if isinstance(start, Time):
            begin = Time(start.mjd, since_s / 86400, format="mjd")
        detectors = [
            lbs.DetectorInfo(
                name=n, bandcenter_ghz=140.0, bandwidth_ghz=42.0, quat=np.array([0.0, 0, 0, 1])
            )
            for n in NAMES
        ]
        obs = lbs.Observation(
            detectors=[d.__dict__ for d in detectors],
            n_samples_global=high - low,
            start_time_global=begin,
            sampling_rate_hz=rate_hz,
            comm=lbs.MPI_COMM_WORLD,
        )
        obs.tod[:] = kelvin[:, low:high]
        for i in range(len(NAMES)):
            obs.quat[i] = lbs.RotQuaternion(quats=np.array([0.0, 0, 0, 1]))
        made.append(obs)
    return lbs.write_list_of_observations(made, path=project)


LBS = {
    "format": "litebird_sim",
    "data": "tod",
    "unit": None,
    "power_convention": None,
    "sampling_rate_hz": None,
    "detectors": None,
    "columns": {"power_per_kelvin_w": SLOPE_W_PER_K.tolist()},
}


@pytest.mark.parametrize("start", [0.0, Time("2032-04-01T00:00:00")], ids=["seconds", "mjd"])
def test_litebird_sim_observations_in_kelvin(project, ours, start):
    """Written by litebird_sim from `readout.to_kelvin_cmb`: equal to float32 rounding."""
    optical = ours.assign_attrs(power_convention="optical_equivalent")
    optical = optical.assign_coords(power_per_kelvin_w=("detector", SLOPE_W_PER_K))
    kelvin = readout.to_kelvin_cmb(optical)
    files = observations(project, kelvin.values, [0, 250, 600], start)
    found = read(files, **LBS, start_sample=382)
    same(found, ours, rtol=2e-7)
    assert found.attrs["power_convention"] == "optical_equivalent"
    np.testing.assert_allclose(readout.to_kelvin_cmb(found), kelvin, rtol=2e-7)


def test_power_per_kelvin_of_a_mission_with_a_sensor(project, ours):
    """Needs no column: the sensor's efficiency and the bands give it."""
    settings = params.load()
    craft = settings.missions["litebird_lft"]
    detectors = instrument.detectors(settings.missions["others"])
    slope = readout.power_per_kelvin_w(140.0, 42.0, craft.sensor.optical_efficiency)
    path = foreign(project, signal=ours.tod.values.astype(float) / slope * 1e6)
    given = layout(unit="uK_CMB", power_convention=None, start_sample=382)
    key = ("litebird_lft", *KEY[1:])
    same(importing.read(path, given, *key, detectors=detectors), ours, rtol=2e-7)


def test_files_are_joined_in_time_and_fill_nan_on_request(project, ours):
    tod = ours.tod.values.copy()
    tod[2, 300:302] = np.nan
    time_s = ours.time.values
    files = [
        foreign(project, "a.npz", signal=tod[:, :200], t=time_s[:200]),
        foreign(project, "b.npz", signal=tod[:, 200:], t=time_s[200:]),
    ]
    same_clock = {"time": {"name": "t", "unit": "s"}, "sampling_rate_hz": None}
    found = read(files, **same_clock, nan="interpolate", start_sample=382)
    wanted = ours.tod.values.copy()
    wanted[2, 300:302] = np.interp([1, 2], [0, 3], tod[2, [299, 302]])
    np.testing.assert_allclose(found.tod.values, wanted, rtol=2e-7)
    assert "2 NaN samples interpolated" in found.attrs["history"]
    with pytest.raises(CrabError, match=r"2 samples of 1 detectors are NaN, the first of"):
        read(files, **same_clock)


# Faults of the samples


def damaged(values, rows, columns, value):
    out = values.copy()
    out[rows, columns] = value
    return out


@pytest.mark.parametrize(
    ("damage", "changes", "message"),
    [
        (lambda t: damaged(t, 1, 50, np.nan), {}, r"1 samples .* NaN.* D01_T at .*sample 50"),
        (lambda t: damaged(t, 1, 50, np.inf), {"nan": "interpolate"}, "are infinite, the first"),
        (
            lambda t: damaged(t, 1, slice(None), np.nan),
            {"nan": "interpolate"},
            "D01_T is all NaN",
        ),
        (lambda t: t * 1e12, {}, r"unit = 'W': .*scatter by .* typical are 3e-19 to 3e-13 W"),
        (lambda t: t * 1e15, {}, r"as pW or fW it would fit"),
        (lambda t: t * 1e18, {"unit": "K_CMB", "columns": {"power_per_kelvin_w": 1e-13}}, "K_CMB"),
        (lambda t: t * 0, {}, "more than half of the samples are equal"),
        (lambda t: t.astype(float) + 1e-9, {}, "take the operating point off"),
        (lambda t: t[0], {}, r"shape \(600,\): dims = .* needs 2"),
        (lambda t: t.T, {}, "dims may be the other way round|600 detectors"),
        (lambda t: t[:3], {}, "has 3 detectors .* names 4"),
        (lambda t: t[:, :0], {}, "holds no samples"),
        (lambda t: t.astype(str), {}, "type <U.*: allowed are real numbers"),
        (lambda t: t + 1j, {}, "type complex.*: allowed are real numbers"),
    ],
)
def test_faults_of_samples(project, ours, damage, changes, message):
    path = foreign(project, signal=damage(ours.tod.values))
    with pytest.raises(CrabError, match=message) as caught:
        read(path, **changes)
    assert "theirs.npz" in str(caught.value) or "signal" in str(caught.value)


def test_any_level_is_taken_on_request(project, ours):
    path = foreign(project, signal=ours.tod.values * 1e6)
    found = read(path, level="accept", start_sample=382)
    np.testing.assert_array_equal(found.tod.values, (ours.tod.values * 1e6).astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": None}, r"unit = None: set unit in the mapping; allowed are W, pW"),
        ({"power_convention": None}, "power_convention = null: needs joule"),
        ({"unit": "K_CMB"}, "power_convention = 'joule': allowed for a TOD in K_CMB"),
        (
            {"unit": "K_CMB", "power_convention": None},
            r"columns\.power_per_kelvin_w .*missing: .* mission others has no sensor",
        ),
        ({"sampling_rate_hz": None}, "sampling_rate_hz: missing"),
        ({"sampling_rate_hz": 31.0}, r"sampling rate = 31 Hz: mission others has 19.1 Hz"),
        ({"sampling_rate_hz": 19.1 * 1.0002}, r"equal within 0.0001"),
        ({"detectors": None}, "detectors = null: needs the names"),
        ({"detectors": [*NAMES[:3], NAMES[0]]}, "detector D00_T appears more than once"),
        (
            {"detectors": [*NAMES[:3], "D3_T"]},
            "detector 'D3_T' is unknown to mission others: did you mean D03_T",
        ),
        ({"data": "sgnal"}, "no dataset 'sgnal': it has signal; did you mean 'signal'"),
        ({"phi_mv": 1.0}, "phi_mv = 1.0: environment litebird_2032 has "),
        ({"columns": {"x_mm": [1.0, 2.0]}}, r"columns\.x_mm: shape \(2,\)"),
        ({"columns": {"x_mm": ["a"] * 4}}, r"columns\.x_mm = .*: allowed is numbers"),
        ({"parts": {"tod_noise": "signal", "tod_wafer": "signal"}}, "parts must add up"),
    ],
)
def test_faults_of_the_description(project, ours, changes, message):
    path = foreign(project, signal=ours.tod.values)
    with pytest.raises(CrabError, match=message):
        read(path, **changes)


def test_absent_detectors_are_named(project, ours):
    path = foreign(project, signal=ours.tod.values[:3])
    with pytest.raises(CrabError, match="1 of the 4 detectors of mission others are absent: D03_T"):
        read(path, detectors=NAMES[:3])


def test_columns_replace_the_table(project, ours):
    path = foreign(project, signal=ours.tod.values, place=np.arange(4.0)[::-1])
    columns = {"x_mm": "place", "channel": ["B2"] * 4, "net_ukrts": 33.0}
    found = read(path, columns=columns, detectors=NAMES)
    np.testing.assert_array_equal(found.x_mm, [3, 2, 1, 0])
    assert set(found.channel.values) == {"B2"} and set(found.net_ukrts.values) == {33.0}


# Faults of time


@pytest.mark.parametrize(
    ("clock", "message"),
    [
        (
            lambda t: np.where(np.arange(600) < 400, t, t + 191 / RATE_HZ),
            r"sample 399 \(t = .*\): gap: 191 samples \(10 s\) are missing",
        ),
        (
            lambda t: np.where(np.arange(600) < 400, t, t - 20 / RATE_HZ),
            "sample 399 .*: overlap: the next sample is 20 samples too early",
        ),
        (
            lambda t: np.where(np.arange(600) < 400, t, t[400] + (t - t[400]) * 19.1 / 31),
            r"sample 400 .*: mixed sampling rates: 19.1 Hz for most samples, 31 Hz here",
        ),
        (
            lambda t: np.where(np.arange(600) < 300, t, t[300] + (t - t[300]) * 1.005),
            r"sample 300 .*: mixed sampling rates: 19.1 Hz before, 19\.00",
        ),
        (lambda t: t * 19.1 / 31, "sampling rate = 31 Hz: mission others has 19.1 Hz"),
        (lambda t: t[::-1], "times do not increase"),
        (lambda t: t[:-1], "needs one number for each of the 600 samples"),
        (lambda t: np.where(np.arange(600) == 9, np.nan, t), "sample 9 .*time is nan"),
        (lambda t: (t + 1e9).astype(np.float32), "too coarse for steps of"),
    ],
)
def test_faults_of_the_time_axis(project, ours, clock, message):
    path = foreign(project, signal=ours.tod.values, t=clock(np.arange(600) / RATE_HZ))
    with pytest.raises(CrabError, match=message):
        read(path, time={"name": "t", "unit": "s"}, sampling_rate_hz=None)


def test_stated_rate_and_time_axis_must_agree(project, ours):
    path = foreign(project, signal=ours.tod.values, t=np.arange(600) / RATE_HZ)
    with pytest.raises(CrabError, match=r"sampling_rate_hz = 20: its times have 19.1 Hz"):
        read(path, time={"name": "t", "unit": "s"}, sampling_rate_hz=20.0)
    with pytest.raises(CrabError, match=r"t: unit = '': set time\.unit"):
        read(path, time={"name": "t"})


def test_many_gaps_are_counted(project, ours):
    lost = np.cumsum(np.isin(np.arange(600), [100, 200, 300, 400, 500])) * 7
    path = foreign(project, signal=ours.tod.values, t=(np.arange(600) + lost) / RATE_HZ)
    with pytest.raises(CrabError, match="5 gaps in all, 35 samples missing"):
        read(path, time={"name": "t", "unit": "s"}, sampling_rate_hz=None)


def test_gaps_and_overlaps_between_observations(project, ours):
    kelvin = ours.tod.values / SLOPE_W_PER_K[:, None]
    files = observations(project, kelvin, [0, 250, 600], shift_s=40 / RATE_HZ)
    with pytest.raises(CrabError, match=r"0000\.h5, sample 249 .*: gap: 40 samples"):
        read(files, **LBS)
    with pytest.raises(CrabError, match=r"0001\.h5, sample 349 .*: overlap: .* order of time"):
        read(files[::-1], **LBS)


def test_mixed_rates_between_files(project, ours):
    kelvin = ours.tod.values / SLOPE_W_PER_K[:, None]
    (first,) = observations(project, kelvin, [0, 600])
    first = first.rename(project / "first.h5")
    (second,) = observations(project, kelvin, [0, 600], rate_hz=31.0)
    with pytest.raises(CrabError, match=r"mixed sampling rates: 31 Hz here, 19.1 Hz in first.h5"):
        read([first, second], **LBS)


# Faults of files and of the mapping


def test_broken_files_are_named(project, ours):
    path = foreign(project, signal=ours.tod.values)
    whole = path.read_bytes()
    for name, content, message in (
        ("short.npz", whole[:-500], "not a readable npz file .*truncated"),
        ("zero.npz", b"", r"the file is empty \(0 bytes\)"),
    ):
        (project / name).write_bytes(content)
        with pytest.raises(CrabError, match=message):
            read(project / name)
    with pytest.raises(CrabError, match=r"none\.npz: no such file"):
        read(project / "none.npz")
    with pytest.raises(CrabError, match=r"theirs\.dat: format = null: needs one of"):
        read(path.rename(project / "theirs.dat"))
    np.savez(project / "objects.npz", signal=np.array([{}]))
    with pytest.raises(CrabError, match="Python objects"):
        read(project / "objects.npz")
    for name in ("cut.nc", "cut.h5"):
        image = io.write(ours, project / name).read_bytes()
        (project / name).write_bytes(image[:3000])
        with pytest.raises(CrabError, match=rf"{name}: not a readable .* truncated"):
            read(project / name, data="tod")
    io.write(ours, project / "plain.h5")
    with pytest.raises(CrabError, match="so litebird_sim did not write it"):
        read(project / "plain.h5", **LBS)


def test_each_fault_of_a_mapping_is_named(project, ours):
    path = foreign(project, signal=ours.tod.values)
    file = project / "mapping.yaml"
    bad = layout(unit="Watt", detectorz=NAMES, time={"nam": "t"}, dims=["time", "time"])
    del bad["physics_list"]
    file.write_text(yaml.safe_dump(bad))
    with pytest.raises(CrabError) as caught:
        importing.read(path, file, *KEY)
    text = str(caught.value)
    for part in (
        f"{file}: unit = 'Watt': Input should be 'W', 'pW'",
        "detectorz = [",
        "unknown key; did you mean 'detectors'?",
        "time.nam = 't': unknown key; did you mean 'name'?",
        "time.name: missing; add it",
        "physics_list: missing; add it",
        "dims = ['time', 'time']",
    ):
        assert part in text
    file.write_text("a: [1,\n")
    with pytest.raises(CrabError, match="not valid YAML"):
        importing.read(path, file, *KEY)
    with pytest.raises(CrabError, match="no such file"):
        importing.read(path, project / "none.yaml", *KEY)


def test_unknown_mission_environment_and_split(project, ours):
    path = foreign(project, signal=ours.tod.values)
    for key, message in (
        (("other", *KEY[1:]), "mission = 'other': .*did you mean 'others'"),
        (("others", "mars", "test"), "environment = 'mars'"),
        (("others", "litebird_2032", "tset"), "split = 'tset': .*did you mean 'test'"),
    ):
        with pytest.raises(CrabError, match=message):
            importing.read(path, layout(), *key)


# Truth


def hits(project, **changes):
    columns = {
        "t": [100 / RATE_HZ, 3.0, 400 / RATE_HZ],
        "deposit_ev": [1e5, 3e5, 2e5],
        "detector_index": [2, -1, 0],
        "direct_deposit_ev": [2e3, 0.0, 5e3],
        **changes,
    }
    np.savez(project / "hits.npz", **{k: np.array(v) for k, v in columns.items()})
    return {"file": "hits.npz", "columns": {"time_s": "t"}}


def test_truth_is_sorted_and_follows_the_order_of_the_mission(project, ours):
    """Detectors backwards in the file: its index 2 is the mission's 1, its 0 the mission's 3."""
    path = foreign(project, signal=ours.tod.values[::-1])
    (project / "mapping.yaml").write_text(
        yaml.safe_dump(
            layout(truth=hits(project), detectors=NAMES[::-1], start_sample=382), sort_keys=False
        )
    )
    cube, truth = importing.read_with_truth(path, project / "mapping.yaml", *KEY)
    np.testing.assert_allclose(
        truth.time_s, 382 / RATE_HZ + np.array([3.0, *np.array([100, 400]) / RATE_HZ])
    )
    np.testing.assert_array_equal(truth.detector_index, [-1, 1, 3])
    for hit in (1, 2):
        row, time_s = int(truth.detector_index[hit]), float(truth.time_s[hit])
        spike = cube.tod.isel(detector=row).sel(time=time_s, method="nearest")
        assert spike < -4e-14


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": [1.0, 2.0, 1e4]}, "1 of 3 hits are outside the 31.41 s of the TOD"),
        ({"detector_index": [0, 1, 4]}, r"detector_index = 0 to 4: allowed are -1 \(none\) to 3"),
        ({"deposit_ev": [1.0, 2.0]}, r"deposit_ev: shape \(2,\)"),
        ({"deposit_ev": [1.0, 2.0, np.nan]}, "deposit_ev: NaN or infinite"),
    ],
)
def test_faults_of_the_truth(project, ours, changes, message):
    path = foreign(project, signal=ours.tod.values)
    truth = hits(project, **changes)
    truth["file"] = str(project / truth["file"])
    with pytest.raises(CrabError, match=message):
        read(path, truth=truth)


# The command


def command(path, mapping, *more):
    where = ("--mapping", str(mapping), "--mission", "others", "--environment", "litebird_2032")
    return cli.main(["import", str(path), *where, "--split", "test", *more])


def test_command_writes_cube_truth_and_provenance_and_loses_nothing(project, ours, capsys):
    path = foreign(project, signal=ours.tod.values)
    mapping = project / "mapping.yaml"
    mapping.write_text(yaml.safe_dump(layout(truth=hits(project), start_sample=382)))
    target, truth = paths.tod("smoke", *KEY), paths.hits("smoke", *KEY)
    assert command(path, mapping, "--check") == 0 and not target.exists()
    assert "nothing written" in capsys.readouterr().out
    assert command(path, mapping) == 0
    same(io.open_tod(target), ours)
    record = json.loads(target.with_name(target.name + ".prov.json").read_text())
    assert record["imported"] == [{"name": "theirs.npz", "sha256": importing.sha256(path)}]
    assert record["mapping"]["physics_list"] == "another code"
    older = target.read_bytes(), truth.read_bytes()

    mapping.write_text(yaml.safe_dump(layout(seed=3)))
    assert command(path, mapping) == 2
    assert "exists: --force moves it" in capsys.readouterr().err
    assert (target.read_bytes(), truth.read_bytes()) == older
    assert command(path, mapping, "--force") == 0
    assert io.open_tod(target).attrs["seed"] == 3
    # The new cube has no truth, and the old one's must not pass for it.
    assert not truth.exists()
    aside = [p.with_name(p.name + ".replaced") for p in (target, truth)]
    assert tuple(p.read_bytes() for p in aside) == older
    assert command(path, mapping, "--force") == 0
    assert target.with_name(target.name + ".replaced-2").exists()


def test_check_lists_all_faults_at_once(project, ours, capsys):
    tod = damaged(ours.tod.values * 1e15, 2, 7, np.nan)
    clock_s = (np.arange(600) + 50 * (np.arange(600) > 300)) / RATE_HZ
    path = foreign(project, signal=tod, t=clock_s)
    mapping = project / "mapping.yaml"
    given = layout(
        detectors=[*NAMES[:3], "X"], time={"name": "t", "unit": "s"}, power_convention=None, lis="x"
    )
    mapping.write_text(yaml.safe_dump(given))
    assert command(path, mapping, "--check") == 2
    text = capsys.readouterr().err
    for part in ("'X' is unknown", "power_convention = null", "lis = 'x'", "gap: 50", "are NaN"):
        assert part in text
    assert not (project / "data").exists()


def test_failed_write_brings_the_older_files_back(project, ours, monkeypatch):
    """The disk is full when the truth is written: cube, truth and record stay the old ones."""
    path = foreign(project, signal=ours.tod.values)
    truth = hits(project)
    truth["file"] = str(project / truth["file"])
    both = importing.read_with_truth(path, layout(truth=truth), *KEY)
    target, _ = importing.save(*both, "smoke", what="the first")
    older = {p: p.read_bytes() for p in project.rglob("*litebird_2032*")}
    assert len(older) == 3
    write = io.write

    def full(ds, path):
        if path != target:
            raise CrabError("no space left")
        return write(ds, path)

    monkeypatch.setattr(io, "write", full)
    with pytest.raises(CrabError, match="no space left"):
        importing.save(both[0].assign_attrs(seed=4), both[1], "smoke", force=True)
    assert {p: p.read_bytes() for p in project.rglob("*litebird_2032*")} == older


# The guide


def guide() -> str:
    # Not below `paths.root`, which is a folder of the test here.
    return (Path(__file__).parents[2] / "docs" / "bring_your_own_monte_carlo.md").read_text()


def test_the_example_of_the_guide_can_be_pasted(project, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", guide(), re.DOTALL)[0]
    mapping, mission = re.findall(r"```yaml\n(.*?)```", guide(), re.DOTALL)[:2]
    raw = yaml.safe_load((project / "params.yaml").read_text())
    raw["missions"] |= yaml.safe_load(mission)
    (project / "params.yaml").write_text(yaml.safe_dump(raw))
    (project / "mapping.yaml").write_text(mapping)
    monkeypatch.chdir(project)
    exec(code, {})
    for split in paths.SPLITS:
        where = ["--mission", "my_mission", "--environment", "litebird_2032", "--split", split]
        assert cli.main(["import", f"theirs_{split}.npz", "--mapping", "mapping.yaml", *where]) == 0
        cube = io.open_tod(paths.tod("smoke", "my_mission", "litebird_2032", split))
        with np.load(f"theirs_{split}.npz") as theirs:
            np.testing.assert_allclose(cube.tod.values, theirs["signal"].T * 1e-15, rtol=1e-7)
        assert cube.sizes == {"detector": 2, "time": 36000}


def test_the_guide_explains_every_key_and_unit():
    rows = re.findall(r"^\| (`.*?) \|", guide(), re.MULTILINE)
    explained = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert set(layouts.Mapping.model_fields) <= explained
    for unit in (*layouts.UNITS, *layouts.TIME_UNITS_S):
        assert f"`{unit}`" in guide()
