"""Cubes: what is valid passes, every kind of fault gives an error that names it."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import crab
from crab import CrabError, io, schema
from tests.conftest import make_attrs, make_detectors


def test_round_trip_keeps_values_coordinates_and_attributes(cube, tmp_path):
    path = io.write(cube, tmp_path / "cube.nc")
    xr.testing.assert_identical(crab.open_tod(path), cube)


def test_same_data_give_the_same_bytes(cube, tmp_path):
    first = io.write(cube, tmp_path / "a.nc").read_bytes()
    # HDF5 would stamp the root group with whole seconds: let the clock pass one.
    time.sleep(1.1)
    assert io.write(cube, tmp_path / "b.nc").read_bytes() == first


def test_time_starts_at_the_absolute_sample():
    cube = schema.make_cube(
        {"tod": np.zeros((3, 4))}, make_detectors(), 19.1, make_attrs(), start_sample=191
    )
    assert cube["time"].values[0] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.drop_vars("tod"), "variable 'tod' is missing"),
        (lambda c: c.assign(tod=c.tod.astype("f8").assign_attrs(units="W")), "type float64"),
        (lambda c: c.assign(tod=c.tod.assign_attrs(units="K")), "units = 'K': allowed is 'W'"),
        (lambda c: c.assign(tod=c.tod.transpose().assign_attrs(units="W")), "dimensions"),
        (lambda c: c.assign(tod=c.tod.where(c.tod < 1e-15)), "NaN or infinite"),
        (lambda c: c.drop_vars("x_mm"), "coordinate 'x_mm' is missing"),
        (lambda c: c.drop_attrs().assign_attrs(mission="x"), "attribute 'environment' is missing"),
        (lambda c: c.assign_attrs(power_convention="heat"), "power_convention = 'heat'"),
        (lambda c: c.assign_attrs(schema_version="9.0"), "schema_version = '9.0'"),
        (lambda c: c.assign_attrs(sampling_rate_hz=31.0), "gaps and mixed rates"),
        (lambda c: c.isel(time=[0, 1, 2, 7, 8]), "gaps and mixed rates"),
        (lambda c: c.isel(detector=[0, 1, 1]), "'det_01' appears more than once"),
        (lambda c: c.assign(tod_wafer=c.tod * 0.9), "parts must add up"),
    ],
)
def test_each_fault_is_named(cube, damage, message):
    broken = damage(cube)
    for name in broken:
        if "units" not in broken[name].attrs:
            broken[name].attrs["units"] = "W"
    with pytest.raises(CrabError, match=message):
        schema.validate(broken, "file.nc")


def test_parts_that_add_up_pass():
    rng = np.random.default_rng(0)
    parts = {p: rng.standard_normal((3, 100)) * 1e-15 for p in schema.PARTS}
    cube = schema.make_cube(
        {"tod": sum(parts.values()), **parts}, make_detectors(), 19.1, make_attrs()
    )
    assert set(cube.data_vars) == {"tod", *schema.PARTS}


def test_truncated_and_missing_files_are_named(cube, tmp_path):
    path = io.write(cube, tmp_path / "cube.nc")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CrabError, match=r"cube\.nc: not a readable NetCDF4 file"):
        io.open_tod(path)
    with pytest.raises(CrabError, match=r"none\.nc: no such file"):
        io.open_tod(tmp_path / "none.nc")


def test_full_disk_keeps_the_old_file(cube, tmp_path, monkeypatch):
    """The write fails half-way as it does on a full disk; the older cube must stay readable."""
    path = io.write(cube, tmp_path / "cube.nc")

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrabError, match=r"cube\.nc: could not be written: no space left"):
        io.write(cube, path)
    monkeypatch.undo()
    xr.testing.assert_identical(io.open_tod(path), cube)
    assert [p.name for p in Path(tmp_path).iterdir()] == ["cube.nc"]


def test_invalid_cube_is_not_written(cube, tmp_path):
    cube.tod.values[0, 0] = np.nan
    with pytest.raises(CrabError, match="NaN"):
        io.write(cube, tmp_path / "cube.nc")
    assert not (tmp_path / "cube.nc").exists()


def test_content_hash_follows_values_only(cube):
    assert io.content_hash(cube) == io.content_hash(cube.assign_attrs(seed=9))
    changed = cube.copy(deep=True)
    changed.tod.values[0, 0] += 1e-15
    assert io.content_hash(changed) != io.content_hash(cube)
