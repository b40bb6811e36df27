"""The TOD cube: what it holds, and the checks that every read and write goes through."""

import numpy as np
import xarray as xr

from crab import sample_times
from crab.errors import CrabError

SCHEMA_VERSION = "1.0"
CONVENTIONS = "CF-1.11, ACDD-1.3"
PARTS = ("tod_wafer", "tod_direct", "tod_noise")
POWER_CONVENTIONS = ("joule", "optical_equivalent")
DETECTOR_COORDS = ("wafer", "pixel", "channel", "x_mm", "y_mm", "pol_angle_rad", "net_ukrts")
REQUIRED_ATTRS = (
    "mission",
    "environment",
    "phi_mv",
    "lis",
    "sampling_rate_hz",
    "seed",
    "power_convention",
    "physics_list",
    "params_hash",
    "schema_version",
    "Conventions",
)
# A sum of float32 parts may differ from the float32 total by rounding only.
_PARTS_TOLERANCE = 1e-5

_LONG_NAMES = {
    "tod": "cosmic-ray background and noise",
    "tod_wafer": "response to heat of the silicon, wafer or die",
    "tod_direct": "response to direct hits on the sensor",
    "tod_noise": "photon, phonon and readout noise",
}
_COORD_ATTRS = {
    "x_mm": {"units": "mm", "long_name": "sensor's place, x"},
    "y_mm": {"units": "mm", "long_name": "sensor's place, y"},
    "pol_angle_rad": {"units": "rad", "long_name": "polarisation angle"},
    "net_ukrts": {"units": "uK s^0.5", "long_name": "noise-equivalent temperature, CMB"},
    "joule_power_w": {"units": "W", "long_name": "Joule power at the operating point"},
    "bandcenter_ghz": {"units": "GHz", "long_name": "band centre"},
    "bandwidth_ghz": {"units": "GHz", "long_name": "band width"},
}


def make_cube(
    parts: dict[str, np.ndarray],
    detectors: xr.Dataset,
    sampling_rate_hz: float,
    attrs: dict,
    start_sample: int = 0,
) -> xr.Dataset:
    """Build a valid TOD cube.

    Parameters
    ----------
    parts : dict of str to ndarray, shape (n_detector, n_time)
        ``tod`` in W, and optionally `PARTS`, which then add up to it.
    detectors : xarray.Dataset
        Detector table with dimension ``detector`` and coordinates `DETECTOR_COORDS`.
    sampling_rate_hz : float
        Sampling rate, > 0.
    attrs : dict
        Reproducible facts: `REQUIRED_ATTRS` less those that are filled in here.
    start_sample : int
        Absolute index of the first sample in the mission.

    Returns
    -------
    xarray.Dataset
        Dimensions ``(detector, time)``; ``tod*`` float32 in W; ``time`` in s, not held in memory
        if a part is on dask.

    Raises
    ------
    CrabError
        As `validate`.
    """
    n_time = np.shape(next(iter(parts.values())))[-1]
    lazy = any(hasattr(values, "dask") for values in parts.values())
    variables = {
        name: (
            ("detector", "time"),
            # Dask arrays stay as they are: to be computed when asked for.
            values if hasattr(values, "dask") else np.asarray(values, dtype=np.float32),
            {"units": "W", "long_name": _LONG_NAMES.get(name, name)},
        )
        for name, values in parts.items()
    }
    coords = {name: detectors[name] for name in detectors.coords}
    ds = xr.Dataset(variables, coords=coords)
    if lazy:
        ds = ds.assign_coords(sample_times.coordinates(start_sample, n_time, sampling_rate_hz))
    else:
        time_s = (start_sample + np.arange(n_time)) / sampling_rate_hz
        ds = ds.assign_coords(time=("time", time_s, sample_times.ATTRS))
    for name, extra in _COORD_ATTRS.items():
        if name in ds.coords:
            ds[name].attrs.update(extra)
    ds.attrs = {
        "title": "Cosmic-ray background in time-ordered data",
        "Conventions": CONVENTIONS,
        "schema_version": SCHEMA_VERSION,
        "sampling_rate_hz": float(sampling_rate_hz),
        "start_sample": int(start_sample),
        **attrs,
    }
    return validate(ds, "new cube")


def validate(ds: xr.Dataset, source: str = "cube") -> xr.Dataset:
    """Check a TOD cube against the schema.

    Parameters
    ----------
    ds : xarray.Dataset
    source : str
        What to call the cube in an error: a file name.

    Returns
    -------
    xarray.Dataset
        The same object.

    Raises
    ------
    CrabError
        For the first fault found: a missing variable, coordinate or attribute, a wrong dimension,
        type or unit, NaN or infinity, uneven time, or parts that do not add up to ``tod``.
    """
    if "tod" not in ds:
        raise CrabError(f"{source}: variable 'tod' is missing; it has {sorted(map(str, ds))}")
    for key in REQUIRED_ATTRS:
        if key not in ds.attrs:
            raise CrabError(f"{source}: attribute {key!r} is missing")
    if ds.attrs["power_convention"] not in POWER_CONVENTIONS:
        raise CrabError(
            f"{source}: power_convention = {ds.attrs['power_convention']!r}: allowed are "
            + ", ".join(POWER_CONVENTIONS)
        )
    if str(ds.attrs["schema_version"]).split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise CrabError(
            f"{source}: schema_version = {ds.attrs['schema_version']!r}: this CRAB reads "
            f"{SCHEMA_VERSION}"
        )
    for name in ("tod", *(p for p in PARTS if p in ds)):
        _check_tod(ds[name], f"{source}: {name}")
    for name in ("detector", "time", *DETECTOR_COORDS):
        if name not in ds.coords:
            raise CrabError(f"{source}: coordinate {name!r} is missing")
    names = ds["detector"].values.astype(str)
    unique, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        raise CrabError(f"{source}: detector {str(unique[counts > 1][0])!r} appears more than once")
    _check_time(ds, source)
    _check_sum(ds, source)
    return ds


def _check_tod(tod: xr.DataArray, where: str) -> None:
    if tod.dims not in (("detector", "time"), ("realisation", "detector", "time")):
        raise CrabError(
            f"{where}: dimensions {tod.dims}: allowed are ('detector', 'time'), optionally with "
            "'realisation' first"
        )
    if tod.dtype != np.float32:
        raise CrabError(f"{where}: type {tod.dtype}: allowed is float32")
    if tod.attrs.get("units") != "W":
        raise CrabError(f"{where}: units = {tod.attrs.get('units')!r}: allowed is 'W'")
    # A cube on dask is too large to be looked through here.
    if isinstance(tod.data, np.ndarray):
        bad = ~np.isfinite(tod.data)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise CrabError(
                f"{where}: {int(bad.sum())} values are NaN or infinite, the first at index {first}"
            )


def _check_time(ds: xr.Dataset, source: str) -> None:
    rate = float(ds.attrs["sampling_rate_hz"])
    if not rate > 0:
        raise CrabError(f"{source}: sampling_rate_hz = {rate}: allowed are numbers > 0")
    if ds.sizes["time"] > 1:
        times = sample_times.rule(ds)
        steps_s = np.diff(ds["time"].values) if times is None else np.array([times.step])
        worst = np.abs(steps_s * rate - 1).max()
        if not worst < 1e-3:
            raise CrabError(
                f"{source}: time steps differ from 1/sampling_rate_hz = {1 / rate:.6g} s by up to "
                f"{worst:.3g} of a sample: gaps and mixed rates are not allowed"
            )


def _check_sum(ds: xr.Dataset, source: str) -> None:
    present = [name for name in PARTS if name in ds]
    if not present or not isinstance(ds["tod"].data, np.ndarray):
        return
    total = sum(ds[name].values.astype(np.float64) for name in present)
    tod = ds["tod"].values
    scale = sum(np.abs(ds[name].values).max() for name in present)
    worst = np.abs(total - tod).max()
    if worst > _PARTS_TOLERANCE * scale:
        raise CrabError(
            f"{source}: tod differs from {' + '.join(present)} by up to {worst:.3g} W: the parts "
            "must add up to it"
        )
