"""TOD cubes of any size, opened, cut and read piece by piece in K_CMB or W."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr

from crab import io, sample_times, schema
from crab.errors import CrabError
from crab.impact import flagging
from crab.physics import readout

# Whole blocks of flags: memory holds one such piece.
_PIECE_SAMPLES = 8 * flagging.BLOCK_SAMPLES


def opened(path: str | Path) -> xr.Dataset:
    """Open a cube on dask, whatever its size.

    Parameters
    ----------
    path : path-like
        NetCDF4 file or Zarr folder.

    Returns
    -------
    xarray.Dataset
        Valid by `crab.schema`, but for NaN, which `to_litebird_sim` and `to_toast` look for.

    Raises
    ------
    CrabError
        If it is missing, truncated, not finished, or no valid cube.
    """
    path = Path(path)
    if not path.is_file():
        return io.open_tod(path)
    try:
        ds = xr.open_dataset(path, engine="h5netcdf", chunks={})
        ds = ds.assign_coords({name: ds[name].load() for name in ds.coords})
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CrabError(f"{path}: not a readable NetCDF4 file ({error})") from error
    return schema.validate(ds, str(path))


def stretch(
    cube: xr.Dataset, start_s: float | None = None, duration_s: float | None = None
) -> xr.Dataset:
    """Part of a cube by times of the mission.

    Parameters
    ----------
    cube : xarray.Dataset
    start_s : float, optional
        Since the mission's start; default: where the cube begins.
    duration_s : float, optional
        Default: to the cube's end.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    CrabError
        If the cube does not hold all of it, or there is nothing in it.
    """
    rate_hz, n_time = float(cube.attrs["sampling_rate_hz"]), cube.sizes["time"]
    first = first_sample(cube)
    low = 0 if start_s is None else round(start_s * rate_hz) - first
    high = n_time if duration_s is None else low + round(duration_s * rate_hz)
    if not 0 <= low < high <= n_time:
        held_h, asked_h = (
            [(first + sample) / rate_hz / 3600 for sample in ends]
            for ends in ((0, n_time), (low, high))
        )
        raise CrabError(
            f"hours {asked_h[0]:.6g} to {asked_h[1]:.6g} of the mission: the cube holds hours "
            f"{held_h[0]:.6g} to {held_h[1]:.6g}: allowed are stretches of it, of a sample at least"
        )
    part = cube.isel(time=slice(low, high))
    return part.assign_attrs(start_sample=first + low)


def kelvin(cube: xr.Dataset, variable: str = "tod") -> xr.DataArray:
    """TOD or one of its parts in K_CMB, whatever the cube's convention: hits positive.

    Parameters
    ----------
    cube : xarray.Dataset
        With coordinate ``power_per_kelvin_w``, and ``joule_gain`` if in the joule convention.
    variable : str

    Returns
    -------
    xarray.DataArray
        float32.

    Raises
    ------
    CrabError
        If a coordinate is missing.
    """
    return readout.to_kelvin_cmb(optical(cube, variable), variable)


def optical(cube: xr.Dataset, variable: str) -> xr.Dataset:
    """One variable of a cube in optical-equivalent power: hits are positive."""
    ds = cube[[variable]].assign_attrs(cube.attrs)
    if cube.attrs["power_convention"] == "joule":
        ds = readout.to_optical_equivalent(ds)
    return ds


def pieces(first: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Ends of the pieces of a stretch of a cube; they are cut at fixed places of the mission."""
    begin = (first + low) // _PIECE_SAMPLES * _PIECE_SAMPLES - first
    inner = range(begin + _PIECE_SAMPLES, high, _PIECE_SAMPLES)
    yield from pairwise([low, *inner, high])


def samples(cube: xr.Dataset, name: str, low: int, high: int, convert: Callable) -> np.ndarray:
    """Samples of a stretch, float64; refused if one is no number."""
    values = np.asarray(convert(cube.isel(time=slice(low, high)), name).values, dtype=float)
    bad = ~np.isfinite(values)
    if bad.any():
        row, sample = np.argwhere(bad)[0]
        detector = cube["detector"].values[row]
        raise CrabError(
            f"{name}: {int(bad.sum())} samples from {low} to {high} of the cube are NaN or "
            f"infinite, the first at {low + sample} of detector {detector}: allowed are numbers"
        )
    return values


def first_sample(cube: xr.Dataset) -> int:
    """Absolute index of a cube's first sample, by its times: those are cut with it."""
    times = sample_times.rule(cube)
    if times is not None:
        return times.first
    return round(float(cube["time"].values[0]) * float(cube.attrs["sampling_rate_hz"]))


def check_dims(cube: xr.Dataset) -> None:
    """Refuse a cube of several realisations."""
    if cube["tod"].dims != ("detector", "time"):
        raise CrabError(
            f"tod: dimensions {cube['tod'].dims}: allowed is one realisation of "
            "('detector', 'time'): cube.isel(realisation=0)"
        )


def flags_of(cube: xr.Dataset, name: str, low: int, high: int, threshold: float) -> np.ndarray:
    """Flags of a stretch of a cube that do not depend on where it was cut."""
    first = first_sample(cube)
    begin, end = flagging.reach(first + low, first + high)
    begin, end = max(begin - first, 0), min(end - first, cube.sizes["time"])
    tod = cube[name].isel(time=slice(begin, end)).values
    mask, _ = flagging.flag(tod, threshold, start_sample=first + begin)
    return mask[:, low - begin : high - begin]
